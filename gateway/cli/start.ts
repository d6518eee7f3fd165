/** `hanse start` */
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { loadConfig } from '../config.ts'
import { openLog } from '../log.ts'
import { startGateway } from '../main.ts'
import { type Command, configOptions, exitCodes } from './command.ts'
import { folderOf, takeOver } from './orthanc-config/options.ts'
import { readOrthancConfig } from './orthanc-config/read.ts'

export const start: Command = {
  name: 'start',
  summary: 'Run the gateway until it is stopped (Ctrl-C, SIGTERM).',
  options: {
    ...configOptions,
    'orthanc-config': {
      type: 'string',
      value: 'FILE',
      help: 'configuration of an Orthanc to be taken over: see deploy/ORTHANC.md',
    },
  },
  details: 'Settings come from the configuration file and the environment: hanse config check --help lists them.',
  async run(args, io) {
    const [file, data] = [args.text('config'), args.text('data')]
    const orthanc = args.text('orthanc-config') ?? io.env['HANSE_ORTHANC_CONFIG']
    const takenOver = orthanc === undefined ? undefined : loadOrthancConfig(resolve(io.cwd, orthanc), io.env)
    const { config, warnings } = loadConfig({
      env: io.env,
      cwd: io.cwd,
      ...(takenOver && { base: takenOver.taken.config }),
      ...(file !== undefined && { file }),
      ...(data !== undefined && { data }),
    })
    const log = openLog({ level: config.log.level, pretty: io.interactive })
    for (const warning of warnings) log.warn({}, warning)
    if (takenOver && takenOver.ignored.length > 0) {
      log.warn(
        { options: takenOver.ignored.join(', ') },
        'these options of Orthanc have no effect, see deploy/ORTHANC.md',
      )
    }
    const gateway = await startGateway(config, log, takenOver?.taken)
    try {
      if (io.interactive) {
        const { http, dicom, federation } = gateway.listeners
        io.note(`${config.site.name} is ready`)
        io.note(`  API          ${http.url}`)
        io.note(`  DICOM        ${dicom.aeTitle}@${dicom.host}:${dicom.port}`)
        if (dicom.tlsPort !== undefined) io.note(`  DICOM TLS    ${dicom.aeTitle}@${dicom.host}:${dicom.tlsPort}`)
        io.note(`  federation   ${federation.url}`)
        io.note(`  data         ${config.data}`)
        io.note('Ctrl-C stops it')
      }
      if (!io.signal.aborted) {
        // Nothing else keeps the answer waiting: a listener on the signal does not hold the process by itself.
        await new Promise<void>(resolve => io.signal.addEventListener('abort', () => resolve(), { once: true }))
      }
      log.info({}, 'stopping')
    } finally {
      await gateway.close()
    }
    log.info({}, 'stopped')
    return exitCodes.ok
  },
}

/** @throws GatewayError CONFIG_INVALID */
function loadOrthancConfig(path: string, env: Readonly<Record<string, string | undefined>>) {
  const options = readOrthancConfig(path, env)
  return takeOver(options, folderOf(path, statSync(path).isFile()))
}

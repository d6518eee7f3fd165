/** `hanse start` */
import { loadConfig } from '../config.ts'
import { openLog } from '../log.ts'
import { startGateway } from '../main.ts'
import { type Command, configOptions, exitCodes } from './command.ts'

export const start: Command = {
  name: 'start',
  summary: 'Run the gateway until it is stopped (Ctrl-C, SIGTERM).',
  options: configOptions,
  details: 'Settings come from the configuration file and the environment: hanse config check --help lists them.',
  async run(args, io) {
    const [file, data] = [args.text('config'), args.text('data')]
    const { config, warnings } = loadConfig({
      env: io.env,
      cwd: io.cwd,
      ...(file !== undefined && { file }),
      ...(data !== undefined && { data }),
    })
    const log = openLog({ level: config.log.level, pretty: io.interactive })
    for (const warning of warnings) log.warn({}, warning)
    const gateway = await startGateway(config, log)
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

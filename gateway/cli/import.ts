/** `hanse import orthanc` */
import { resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { readSecret } from '../config.ts'
import { field, items, number } from './answer.ts'
import { openClient } from './client.ts'
import { type Command, configOptions, connectionOptions, exitCodes, jsonOption, UsageError } from './command.ts'

const pollMs = 500

export const importOrthanc: Command = {
  name: 'import orthanc',
  summary: 'Take over what an Orthanc holds; again goes on where it stopped.',
  options: {
    url: { type: 'string', value: 'URL', help: 'a running Orthanc, such as http://localhost:8042' },
    user: { type: 'string', value: 'NAME', help: 'user name there' },
    'password-file': {
      type: 'string',
      value: 'FILE',
      help: 'file with the password there',
    },
    storage: {
      type: 'string',
      value: 'DIR',
      help: 'storage folder of a stopped Orthanc with its index, on the machine of the gateway',
    },
    ...jsonOption,
    gateway: {
      ...connectionOptions.url,
      help: 'address of the gateway, where it is another than the configuration says',
    },
    'token-file': connectionOptions['token-file'],
    ...configOptions,
  },
  details:
    "Files are verified; with them come users' metadata and attachments, labels, protection, and when and from whom " +
    'an instance was received. Nothing that is taken over is routed. Exit 1 when not everything could be taken. ' +
    'Example: hanse import orthanc --url http://localhost:8042 --user admin --password-file secret',
  async run(args, io) {
    const [url, user, storage] = [args.text('url'), args.text('user'), args.text('storage')]
    if ((url === undefined) === (storage === undefined)) throw new UsageError('expected one of --url and --storage')
    const file = args.text('password-file')
    const password = file === undefined ? undefined : readSecret(resolve(io.cwd, file))
    const client = openClient({ ...args, text: name => args.text(name === 'url' ? 'gateway' : name) }, io)
    let state = await client.call('POST', '/imports', {
      ...(url !== undefined && { url }),
      ...(storage !== undefined && { storage: resolve(io.cwd, storage) }),
      ...(user !== undefined && { user }),
      ...(password !== undefined && { password }),
    })
    const id = field(state, 'id')
    let told = ''
    while (field(state, 'state') === 'running') {
      const line = countsOf(state)
      if (line !== told) io.note(line)
      told = line
      await delay(pollMs, undefined, { signal: io.signal })
      state = await client.call('GET', `/imports/${id}`)
    }
    if (args.flag('json')) io.print(JSON.stringify(state, null, 2))
    else {
      const reason = field(state, 'error') === '-' ? '' : `: ${field(state, 'error')}`
      io.print(`import ${id} is ${field(state, 'state')}, ${countsOf(state)}${reason}`)
    }
    if (number(state, 'failed') > 0) {
      const { problems } = Object(await client.call('GET', `/imports/${id}/problems`))
      for (const problem of items(problems)) io.note(`  ${field(problem, 'item')}: ${field(problem, 'problem')}`)
    }
    return field(state, 'state') === 'done' && number(state, 'failed') === 0 ? exitCodes.ok : exitCodes.failed
  },
}

const countsOf = (state: unknown): string =>
  `${number(state, 'imported')} taken over, ${number(state, 'failed')} failed, ` +
  `${number(state, 'annotated')} with metadata, labels or attachments`

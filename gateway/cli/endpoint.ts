/** `hanse endpoint ...` */
import { readFileSync } from 'node:fs'
import { basename, resolve } from 'node:path'
import { isObject } from '../decode.ts'
import { field, items } from './answer.ts'
import { type Client, openClient } from './client.ts'
import { type Args, type Command, commonOptions, exitCodes, type Io, UsageError } from './command.ts'
import { table } from './table.ts'

const one = { operands: 'NAME', arity: { min: 1, max: 1 } } as const

const placeOf = (args: Args): string => `/endpoints/${encodeURIComponent(args.operands[0] ?? '')}`

export const endpointList: Command = {
  name: 'endpoint list',
  summary: 'List the endpoints of third parties.',
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('GET', '/endpoints')
    const rows = items(answer, 'endpoints').map(entry =>
      ['name', 'kind', 'state', 'profile', 'reason', 'description'].map(key => field(entry, key)),
    )
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else
      io.print(
        rows.length === 0
          ? 'no endpoints are set up'
          : table(['name', 'kind', 'state', 'profile', 'why', 'description'], rows),
      )
    return exitCodes.ok
  },
}

export const endpointShow: Command = {
  name: 'endpoint show',
  summary: 'Show how an endpoint is set up; credentials are never shown.',
  ...one,
  options: commonOptions,
  async run(args, io) {
    io.print(JSON.stringify(await openClient(args, io).call('GET', placeOf(args)), null, 2))
    return exitCodes.ok
  },
}

/** Options that become settings, with the name that the API gives them. */
const settingOptions = {
  host: 'host',
  port: 'port',
  user: 'user',
  root: 'root',
  server: 'url',
  'server-tls': 'tls',
  aet: 'aeTitle',
  bucket: 'bucket',
  region: 'region',
  'access-key': 'accessKeyId',
  'host-key': 'hostKey',
} as const
const secretOptions = {
  'password-file': 'password',
  'key-file': 'privateKey',
  'passphrase-file': 'passphrase',
  'secret-key-file': 'secretAccessKey',
  'bearer-file': 'token',
  'client-cert-file': 'clientCertificate',
  'client-key-file': 'clientKey',
  'age-identity-file': 'ageIdentity',
  'proxy-password-file': 'proxyPassword',
} as const

export const endpointAdd: Command = {
  name: 'endpoint add',
  summary: 'Set up an endpoint of a third party, or change what is given of it.',
  ...one,
  options: {
    kind: { type: 'string', value: 'KIND', help: 'sftp, ftp, folder, s3, dimse, stow, orthanc or hand' },
    host: { type: 'string', value: 'HOST', help: 'its host name or address' },
    port: { type: 'string', value: 'PORT', help: 'where it listens (default: that of its kind)' },
    user: { type: 'string', value: 'NAME', help: 'as whom to log in' },
    root: { type: 'string', value: 'FOLDER', help: 'folder below which everything is put' },
    server: { type: 'string', value: 'URL', help: 'stow, orthanc: root of its service; s3: its endpoint' },
    'server-tls': { type: 'string', value: 'HOW', help: 'ftp: explicit (default), implicit or none' },
    aet: { type: 'string', value: 'AETITLE', help: 'dimse: its AE title' },
    bucket: { type: 'string', value: 'NAME', help: 's3: the bucket' },
    region: { type: 'string', value: 'NAME', help: 's3: its region' },
    'access-key': { type: 'string', value: 'ID', help: 's3: the access key id' },
    'host-key': { type: 'string', value: 'SHA256:…', help: 'sftp: its host key, where you know it from the operator' },
    'password-file': { type: 'string', value: 'FILE', help: 'file with the password' },
    'key-file': { type: 'string', value: 'FILE', help: 'sftp: file with the private key' },
    'passphrase-file': { type: 'string', value: 'FILE', help: 'sftp: file with the passphrase of the key' },
    'secret-key-file': { type: 'string', value: 'FILE', help: 's3: file with the secret access key' },
    'bearer-file': { type: 'string', value: 'FILE', help: 'stow, orthanc: file with a bearer token' },
    'client-cert-file': { type: 'string', value: 'FILE', help: 'our certificate for it, PEM' },
    'client-key-file': { type: 'string', value: 'FILE', help: 'the key of that certificate, PEM' },
    'age-identity-file': { type: 'string', value: 'FILE', help: 'opens age packages that arrive there' },
    proxy: { type: 'string', value: 'URL', help: 'http://, https:// or socks5:// proxy on the way; - for none' },
    'proxy-user': { type: 'string', value: 'NAME', help: 'as whom to log in to the proxy' },
    'proxy-password-file': { type: 'string', value: 'FILE', help: 'file with the password for the proxy' },
    inbound: { type: 'string', value: 'FOLDER', help: 'look for arriving files in this folder; - for no more' },
    template: { type: 'string', value: 'PATH', help: 'such as {protocol}/{site}/{subject}/{visit}/' },
    profile: { type: 'string', value: 'NAME', help: 'de-identification profile of sends that name none' },
    settings: { type: 'string', value: 'FILE', help: 'JSON as the API takes it; options above win' },
    description: { type: 'string', value: 'TEXT', help: 'for people' },
    ...commonOptions,
  },
  details: [
    'An SFTP server is given nothing before its host key is confirmed: hanse endpoint confirm.',
    'Example: hanse endpoint add CRO --kind sftp --host sftp.cro.example --user site42 --key-file id_ed25519 --profile trial',
  ].join('\n'),
  async run(args, io) {
    const client = openClient(args, io)
    const name = args.operands[0] ?? ''
    const known = items(await client.call('GET', '/endpoints'), 'endpoints').find(
      entry => isObject(entry) && entry['name'] === name,
    )
    const answer = await client.call('PUT', placeOf(args), bodyOf(args, io, isObject(known) ? known : {}))
    await show(answer, client, args, io)
    return exitCodes.ok
  },
}

export const endpointConfirm: Command = {
  name: 'endpoint confirm',
  summary: 'Show the host key of an SFTP server, or confirm it by its fingerprint.',
  operands: 'NAME [FINGERPRINT]',
  arity: { min: 1, max: 2 },
  options: commonOptions,
  details: 'Compare the fingerprint with what the operator of the server told you by another way.',
  async run(args, io) {
    const client = openClient(args, io)
    const fingerprint = args.operands[1]
    const answer =
      fingerprint === undefined
        ? await client.call('POST', `${placeOf(args)}/host-key`)
        : await client.call('POST', `${placeOf(args)}/confirm`, { fingerprint })
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else if (fingerprint !== undefined) io.print(`${args.operands[0]} is ${field(answer, 'state')}`)
    else sayKey(answer, io)
    return exitCodes.ok
  },
}

export const endpointTest: Command = {
  name: 'endpoint test',
  summary: 'Try an endpoint step by step: connection, login, write, rename, delete, room, speed; and say what to fix.',
  ...one,
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('POST', `${placeOf(args)}/test`)
    const steps = items(answer, 'steps')
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else
      for (const step of steps) {
        io.print(
          `${field(step, 'ok') === 'true' ? 'ok    ' : 'FAILED'}  ${field(step, 'step')}: ${field(step, 'detail')}`,
        )
        if (field(step, 'fix') !== '-') io.print(`        ${field(step, 'fix')}`)
      }
    return steps.every(step => field(step, 'ok') === 'true') ? exitCodes.ok : exitCodes.failed
  },
}

export const endpointStop = action(
  'stop',
  'Send nothing more to an endpoint until it is resumed; what is on its way waits.',
)
export const endpointResume = action('resume', 'Send to a stopped endpoint again.')

export const endpointRemove: Command = {
  name: 'endpoint remove',
  summary: 'Remove an endpoint and its credentials.',
  ...one,
  options: commonOptions,
  async run(args, io) {
    await openClient(args, io).call('DELETE', placeOf(args))
    io.note(`${args.operands[0]} is removed`)
    return exitCodes.ok
  },
}

export const endpointAcknowledge: Command = {
  name: 'endpoint acknowledge',
  summary: "Attach a recipient's confirmation to a delivery, such as that of a web portal.",
  operands: 'TRANSFER',
  arity: { min: 1, max: 1 },
  options: {
    file: { type: 'string', value: 'CONFIRMATION', help: 'the document, as the portal gave it' },
    rejected: { type: 'string', value: 'REASON', help: 'the recipient does not accept it, and why' },
    ...commonOptions,
  },
  async run(args, io) {
    const file = args.text('file')
    if (file === undefined) throw new UsageError('--file: expected the confirmation')
    const rejected = args.text('rejected')
    const answer = await openClient(args, io).call('POST', `/endpoints/acknowledgements/${args.operands[0]}`, {
      outcome: rejected === undefined ? 'accepted' : 'rejected',
      ...(rejected !== undefined && { reason: rejected }),
      file: { name: basename(file), base64: readBytes(file, io).toString('base64') },
    })
    io.print(
      args.flag('json')
        ? JSON.stringify(answer, null, 2)
        : `transfer ${field(answer, 'id')} is ${field(answer, 'state')}`,
    )
    return exitCodes.ok
  },
}

function action(verb: 'stop' | 'resume', summary: string): Command {
  return {
    name: `endpoint ${verb}`,
    summary,
    ...one,
    options: {
      ...(verb === 'stop' && { reason: { type: 'string', value: 'TEXT', help: 'why' } as const }),
      ...commonOptions,
    },
    async run(args, io) {
      const reason = args.text('reason')
      const answer = await openClient(args, io).call('POST', `${placeOf(args)}/${verb}`, {
        ...(reason !== undefined && { reason }),
      })
      io.print(args.flag('json') ? JSON.stringify(answer, null, 2) : `${args.operands[0]} is ${field(answer, 'state')}`)
      return exitCodes.ok
    },
  }
}

/** What the options say, over what is known, in the words of the API. */
function bodyOf(args: Args, io: Io, known: Record<string, unknown>): Record<string, unknown> {
  const given = parts(args.text('settings'), io)
  const kind = args.text('kind') ?? given['kind'] ?? known['kind']
  const settings: Record<string, unknown> = { ...objectOf(known['settings']), ...objectOf(given['settings']) }
  for (const [option, key] of Object.entries(settingOptions)) {
    const value = args.text(option)
    if (value !== undefined) settings[kind === 's3' && option === 'server' ? 'endpoint' : key] = numberOf(option, value)
  }
  const [proxy, proxyUser] = [args.text('proxy'), args.text('proxy-user')]
  if (proxy === '-') delete settings['proxy']
  else if (proxy !== undefined) settings['proxy'] = { url: proxy, ...(proxyUser !== undefined && { user: proxyUser }) }
  if (kind === 'stow' || kind === 'orthanc') {
    const { user: username, ...rest } = settings
    return assemble(args, io, known, {
      ...given,
      kind,
      settings: { ...rest, ...(username !== undefined && { username }) },
    })
  }
  return assemble(args, io, known, { ...given, kind, settings })
}

function assemble(
  args: Args,
  io: Io,
  known: Record<string, unknown>,
  given: Record<string, unknown>,
): Record<string, unknown> {
  const secrets: Record<string, unknown> = { ...objectOf(given['secrets']) }
  for (const [option, key] of Object.entries(secretOptions)) {
    const file = args.text(option)
    if (file !== undefined) secrets[key] = withoutLineEnd(readBytes(file, io).toString('utf8'), key)
  }
  const kept = Object.fromEntries(
    ['packaging', 'rules', 'acknowledgement', 'inbound', 'profile', 'description']
      .filter(key => known[key] !== null && known[key] !== undefined)
      .map(key => [key, known[key]]),
  )
  const template = args.text('template')
  const body = { ...kept, ...given, secrets }
  const packaging = objectOf(Object(body)['packaging'])
  const [profile, description, inbound] = [args.text('profile'), args.text('description'), args.text('inbound')]
  return {
    ...body,
    ...(inbound !== undefined && inboundOf(inbound, Object(body)['inbound'])),
    ...(template !== undefined && {
      packaging: { ...packaging, names: { ...objectOf(packaging['names']), template } },
    }),
    ...(profile !== undefined && { profile }),
    ...(description !== undefined && { description }),
  }
}

const inboundOf = (folder: string, known: unknown) =>
  folder === '-' ? { inbound: undefined } : { inbound: { ...objectOf(known), folder } }

const objectOf = (value: unknown): Record<string, unknown> => (isObject(value) ? value : {})

function numberOf(option: string, value: string): string | number {
  if (option !== 'port') return value
  if (!/^[1-9]\d{0,4}$/.test(value)) throw new UsageError('--port: expected a number from 1')
  return Number(value)
}

/** Keys end with a line end, passwords do not. */
const withoutLineEnd = (text: string, key: string): string => (key === 'privateKey' ? text : text.replace(/\r?\n$/, ''))

function parts(file: string | undefined, io: Io): Record<string, unknown> {
  if (file === undefined) return {}
  try {
    return objectOf(JSON.parse(readBytes(file, io).toString('utf8')))
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(`--settings: ${file} is no JSON`)
  }
}

function readBytes(file: string, io: Io): Buffer {
  try {
    return readFileSync(resolve(io.cwd, file))
  } catch {
    throw new UsageError(`cannot read ${file}`)
  }
}

async function show(answer: unknown, client: Client, args: Args, io: Io): Promise<void> {
  const name = args.operands[0] ?? ''
  if (args.flag('json')) return io.print(JSON.stringify(answer, null, 2))
  io.print(`${name} is ${field(answer, 'state')}`)
  if (field(answer, 'state') !== 'unconfirmed') return
  sayKey(await client.call('POST', `${placeOf(args)}/host-key`), io)
}

function sayKey(answer: unknown, io: Io): void {
  const shown = field(answer, 'shownPin')
  io.print(`The server shows the host key ${shown}`)
  io.print(`When its operator confirms that: hanse endpoint confirm ${field(answer, 'name')} ${shown}`)
}

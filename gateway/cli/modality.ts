/** `hanse modality ...` */
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { isObject } from '../decode.ts'
import { field, items } from './answer.ts'
import { openClient } from './client.ts'
import { type Args, type Command, commonOptions, exitCodes, type Io, UsageError } from './command.ts'
import { table } from './table.ts'

export const modalityList: Command = {
  name: 'modality list',
  summary: 'List the modalities and archives that talk DICOM to this gateway.',
  options: commonOptions,
  async run(args, io) {
    show(await openClient(args, io).call('GET', '/modalities'), args.flag('json'), io)
    return exitCodes.ok
  },
}

export const modalityAdd: Command = {
  name: 'modality add',
  summary: 'Register a modality, or change what is given of it; effective at once.',
  operands: 'NAME',
  arity: { min: 1, max: 1 },
  options: {
    aet: { type: 'string', value: 'AETITLE', help: 'its AE title (default: NAME)' },
    host: { type: 'string', value: 'HOST', help: 'address or name it calls from (default: anywhere) and is called at' },
    port: { type: 'string', value: 'PORT', help: 'where it listens, if it is to be called' },
    allow: {
      type: 'string',
      value: 'LIST',
      help: 'echo,store,find,move,get,commit,worklist,mpps or all (default: all; without --host or certificate echo,store)',
    },
    description: { type: 'string', value: 'TEXT', help: 'for people' },
    'stable-age': { type: 'string', value: 'SECONDS', help: 'quiet time after which its studies are complete' },
    zone: { type: 'string', value: 'ZONE', help: 'inside (default) or outside: the network of another organization' },
    tls: { type: 'string', value: 'HOW', help: 'call it by TLS: verify, any (takes every certificate) or off' },
    servername: { type: 'string', value: 'NAME', help: 'name in its certificate, if that is not the host' },
    ca: { type: 'string', value: 'FILE', help: 'authorities that may have issued its certificate (PEM)' },
    certificate: { type: 'string', value: 'FILE', help: 'its certificate (PEM) or the SHA-256 of it, hex' },
    'certificate-name': {
      type: 'string',
      value: 'NAME',
      help: 'common name in the certificate that it presents',
    },
    charset: { type: 'string', value: 'TERM', help: 'Specific Character Set for text sent to it' },
    'transfer-syntaxes': { type: 'string', value: 'UIDS', help: 'those that it wants, best first, with commas' },
    transcoding: { type: 'string', value: 'HOW', help: 'on (default) or off' },
    associations: { type: 'string', value: 'COUNT', help: 'at a time, at most' },
    idle: { type: 'string', value: 'SECONDS', help: 'silence until its association ends' },
    timeout: { type: 'string', value: 'SECONDS', help: 'how long its answers are waited for' },
    ...commonOptions,
  },
  details: [
    'An empty value removes a setting: --host "".',
    'Examples: hanse modality add CT_1 --host 10.1.2.3 --stable-age 120',
    '          hanse modality add PACS --host pacs.example --port 2762 --tls verify --ca hospital-ca.pem',
  ].join('\n'),
  async run(args, io) {
    const name = args.operands[0] ?? ''
    const client = openClient(args, io)
    const known = items(await client.call('GET', '/modalities'), 'modalities')
    const before = known.find(entry => isObject(entry) && entry['name'] === name)
    const changed = withoutNulls({ ...(isObject(before) ? before : {}), ...changesOf(args, io, before) })
    const answer = await client.call('PUT', `/modalities/${encodeURIComponent(name)}`, changed)
    show(answer, args.flag('json'), io)
    return exitCodes.ok
  },
}

export const modalityRemove: Command = {
  name: 'modality remove',
  summary: 'Remove a modality; its next association is refused unless unknown callers are served.',
  operands: 'NAME',
  arity: { min: 1, max: 1 },
  options: commonOptions,
  async run(args, io) {
    const path = `/modalities/${encodeURIComponent(args.operands[0] ?? '')}`
    show(await openClient(args, io).call('DELETE', path), args.flag('json'), io)
    return exitCodes.ok
  },
}

export const modalityEcho: Command = {
  name: 'modality echo',
  summary: 'Ask a modality whether it answers (C-ECHO).',
  operands: 'NAME',
  arity: { min: 1, max: 1 },
  options: commonOptions,
  async run(args, io) {
    const name = args.operands[0] ?? ''
    const answer = await openClient(args, io).call('POST', `/modalities/${encodeURIComponent(name)}/echo`)
    const status = field(answer, 'status')
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else if (status === '0') io.print(`${name} answers, after ${field(answer, 'tookMs')} ms`)
    else io.print(`${name} answers with status ${status}`)
    return status === '0' ? exitCodes.ok : exitCodes.failed
  },
}

const all = ['echo', 'store', 'find', 'move', 'get', 'commit', 'worklist', 'mpps']

/** What the options say, in the words of the API; null removes. */
function changesOf(args: Args, io: Io, before: unknown): Record<string, unknown> {
  const [allow, ca, certificate, tls] = [
    args.text('allow'),
    args.text('ca'),
    args.text('certificate'),
    args.text('tls'),
  ]
  const syntaxes = args.text('transfer-syntaxes')
  const transcoding = choice(args, 'transcoding', ['on', 'off'])
  const how = choice(args, 'tls', ['verify', 'any', 'off'])
  const [servername, zone] = [args.text('servername'), choice(args, 'zone', ['inside', 'outside'])]
  const isByTls = how === 'off' ? false : tls !== undefined || servername !== undefined || ca !== undefined
  const tlsBefore = isObject(before) && isObject(before['tls']) ? before['tls'] : {}
  const limits = {
    associations: count(args, 'associations'),
    idleSeconds: count(args, 'idle'),
    timeoutSeconds: count(args, 'timeout'),
  }
  return defined({
    aeTitle: args.text('aet'),
    host: textOrNull(args, 'host'),
    port: count(args, 'port'),
    description: textOrNull(args, 'description'),
    stableAgeSeconds: count(args, 'stable-age'),
    zone,
    permissions: allow === undefined ? undefined : allow === 'all' ? all : split(allow),
    tls:
      how === 'off'
        ? null
        : isByTls
          ? withoutNulls({
              ...tlsBefore,
              ...defined({
                verify: how === undefined ? undefined : how === 'verify',
                servername: textOrNull(args, 'servername'),
                ca: ca === undefined ? undefined : ca === '' ? null : readPem(ca, io),
              }),
            })
          : undefined,
    certificateFingerprint: certificate === undefined ? undefined : certificate === '' ? null : pin(certificate, io),
    certificateName: textOrNull(args, 'certificate-name'),
    charset: textOrNull(args, 'charset'),
    transferSyntaxes: syntaxes === undefined ? undefined : split(syntaxes),
    allowTranscoding: transcoding === undefined ? undefined : transcoding === 'on',
    limits: Object.values(limits).every(value => value === undefined)
      ? undefined
      : withoutNulls({
          ...(isObject(before) && isObject(before['limits']) ? before['limits'] : {}),
          ...defined(limits),
        }),
  })
}

const split = (list: string): string[] => list.split(',').filter(part => part !== '')

const defined = (values: Record<string, unknown>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined))

/** As the API takes it: absent instead of null. */
function withoutNulls(values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(values)
      .filter(([key, value]) => value !== null && key !== 'name')
      .map(([key, value]) => [key, isObject(value) ? withoutNulls(value) : value]),
  )
}

function textOrNull(args: Args, option: string): string | null | undefined {
  const value = args.text(option)
  return value === '' ? null : value
}

function count(args: Args, option: string): number | null | undefined {
  const value = args.text(option)
  if (value === undefined || value === '') return value === '' ? null : undefined
  if (!/^[1-9]\d{0,5}$/.test(value)) throw new UsageError(`--${option}: expected a number from 1`)
  return Number(value)
}

function choice(args: Args, option: string, values: readonly string[]): string | undefined {
  const value = args.text(option)
  if (value !== undefined && !values.includes(value))
    throw new UsageError(`--${option}: expected ${values.join(' or ')}`)
  return value
}

/** A fingerprint as it is, or that of a certificate file. */
function pin(value: string, io: Io): string {
  if (/^([0-9a-f]{2}:?){32}$/i.test(value)) return value
  const content = readPem(value, io)
  try {
    return new X509Certificate(content).fingerprint256
  } catch {
    throw new UsageError('--certificate: expected a certificate in PEM, or its SHA-256 in hex')
  }
}

function readPem(file: string, io: Io): string {
  try {
    return readFileSync(resolve(io.cwd, file), 'utf8').trim()
  } catch {
    throw new UsageError(`cannot read ${file}`)
  }
}

function show(answer: unknown, asJson: boolean, io: Io): void {
  if (asJson) {
    io.print(JSON.stringify(answer, null, 2))
    return
  }
  const rows = items(answer, 'modalities').map(entry => [
    ...['name', 'aeTitle', 'host', 'port'].map(key => field(entry, key)),
    field(entry, 'tls') === '-' ? '-' : 'yes',
    items(entry, 'permissions').join(','),
    ...['stableAgeSeconds', 'description'].map(key => field(entry, key)),
  ])
  const header = ['name', 'AE title', 'host', 'port', 'TLS', 'allowed', 'stable age (s)', 'description']
  io.print(rows.length === 0 ? 'no modalities are registered' : table(header, rows))
}

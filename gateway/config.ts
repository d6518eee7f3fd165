/**
 * The boot configuration: one typed value from a JSON file and environment overrides. It holds what
 * is needed to start; modalities, peers, policy and limits that change at run time live in the
 * database. Secrets are named by file path only. `config.schema.json` describes the file for editors;
 * a test keeps the two in agreement.
 */

import { readFileSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import {
  boolean,
  type Decoder,
  decode,
  describe,
  integer,
  isObject,
  list,
  type ObjectValue,
  object,
  oneOf,
  optional,
  type Problem,
  record,
  text,
} from './decode.ts'
import { encodingNames } from './dicom/charset.ts'
import { GatewayError } from './errors.ts'

const GiB = 1024 ** 3

/** Where unknown calling AE titles may come from. */
export type UnknownCallers = 'refuse' | 'loopback' | 'all'

/** A section may be left out: its fields then take their defaults. */
const section = <S extends Parameters<typeof object>[0]>(shape: S): Decoder<ObjectValue<S>> => {
  const decoder = object(shape)
  return (raw, path, problems) => decoder(raw === undefined ? {} : raw, path, problems)
}

const host = text({ min: 1, max: 253, pattern: /^[0-9A-Za-z.:_-]+$/, expected: 'a host name or IP address' })
/** 0 lets the system choose; the actual ports are in `<data>/run/listeners.json`. */
const port = integer({ min: 0, max: 65_535 })
const filePath = text({ min: 1, max: 4096, expected: 'a file path' })
const bytes = integer({ min: 0 })
const durationMs = integer({ min: 0, max: 7 * 24 * 3_600_000 })

/** DICOM PS3.5 §6.2, VR AE: at most 16 characters, no backslash or control characters, not only spaces. */
const aeTitle = text({
  min: 1,
  max: 16,
  pattern: /^(?=.*[^ ])[ -[\]-~]+$/,
  expected: 'an AE title of 1 to 16 ASCII characters without backslash',
})

/** What peers accept as a site's name (`peers/PROTOCOL.md`, site card), and a little shorter. */
const siteName = text({
  min: 1,
  max: 64,
  pattern: /^(?! )(?!.*[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069]).*(?<! )$/u,
  expected: 'a name of 1 to 64 visible characters',
})

/** Where DICOMweb is served, without a slash at the end. */
const webPath = text({
  min: 2,
  max: 200,
  pattern:
    /^(?!\/(?:api|patients|studies|series|instances|system|modalities|peers|tools)(?:\/|$))(?:\/[A-Za-z0-9._~-]+)+$/,
  expected: 'a path such as /dicom-web that no other route has',
})

const uid = text({ min: 3, max: 64, pattern: /^(0|[1-9]\d*)(\.(0|[1-9]\d*))+$/, expected: 'a DICOM UID' })

/** A URL of one of the schemes, without login, query or fragment. */
const url = (
  schemes: readonly string[],
  options: { readonly path?: 'refuse' | 'allow'; readonly user?: 'allow' } = {},
): Decoder<string> => {
  const expected = `${schemes.map(scheme => `${scheme}:`).join(' or ')} URL`
  const plain = text({ min: 1, max: 2048, expected })
  return (raw, path, problems) => {
    const value = plain(raw, path, problems)
    if (value === undefined) return undefined
    const parsed = URL.canParse(value) ? new URL(value) : undefined
    if (!parsed || !schemes.includes(parsed.protocol.slice(0, -1))) {
      // The value is not quoted back: it may hold a password.
      problems.add(path, `expected ${expected}`)
      return undefined
    }
    if (parsed.password || (parsed.username && options.user !== 'allow')) {
      problems.add(path, 'expected no password in the URL: put it in a file and name the file')
      return undefined
    }
    if (options.path !== 'allow' && (parsed.pathname.length > 1 || parsed.search || parsed.hash)) {
      problems.add(path, `expected ${expected} without path or query`)
      return undefined
    }
    return value
  }
}

const shape = {
  $schema: optional(text({ max: 2048 })),
  data: optional(filePath, './data'),
  site: section({
    name: optional(siteName, 'Hanse site'),
    ownIssuers: optional(
      list(text({ min: 1, max: 64, expected: 'an issuer of 1 to 64 characters' }), { max: 100 }),
      [],
    ),
  }),
  http: section({
    host: optional(host, '127.0.0.1'),
    port: optional(port, 8042),
    publicUrl: optional(url(['http', 'https'])),
    /** Sites whose pages may use DICOMweb in a browser. */
    corsOrigins: optional(list(url(['http', 'https']), { max: 32 }), []),
    tls: optional(object({ certificateFile: filePath, keyFile: filePath })),
  }),
  dicomweb: section({
    path: optional(webPath, '/dicom-web'),
    /** Other servers by name; what is outside of the hospital is sent nothing but transfers. */
    servers: optional(
      record(
        object({
          url: url(['http', 'https'], { path: 'allow' }),
          zone: optional(oneOf('inside', 'outside'), 'outside'),
          loginFile: optional(filePath),
          tokenFile: optional(filePath),
          caFile: optional(filePath),
          certificateFile: optional(filePath),
          keyFile: optional(filePath),
        }),
        { max: 64 },
      ),
      {},
    ),
  }),
  dicom: section({
    host: optional(host, '127.0.0.1'),
    port: optional(port, 4242),
    aeTitle: optional(aeTitle, 'HANSE'),
    unknownCallers: optional(oneOf('refuse', 'loopback', 'all'), 'loopback'),
    /** What text without Specific Character Set is read as: Orthanc's name for the encoding. */
    defaultEncoding: optional(oneOf(...encodingNames), 'Latin1'),
    privateSopClasses: optional(list(uid, { max: 1000 }), []),
    /** Without a port there is no TLS listener; certificate and authorities are also those with which we call. */
    tls: section({
      port: optional(port),
      certificateFile: optional(filePath),
      keyFile: optional(filePath),
      caFile: optional(filePath),
      clientCertificates: optional(oneOf('required', 'optional', 'off'), 'required'),
    }),
  }),
  federation: section({
    host: optional(host, '127.0.0.1'),
    port: optional(port, 8443),
    publicUrl: optional(url(['https'])),
  }),
  database: section({
    url: optional(url(['postgres', 'postgresql'], { path: 'allow', user: 'allow' })),
    passwordFile: optional(filePath),
    poolSize: optional(integer({ min: 2, max: 200 }), 16),
  }),
  log: section({ level: optional(oneOf('debug', 'info', 'warn', 'error', 'silent'), 'info') }),
  proxy: optional(object({ url: url(['http', 'https']), loginFile: optional(filePath) })),
  storage: section({
    lowWatermarkBytes: optional(bytes),
    resumeBytes: optional(bytes),
  }),
  policy: section({ twoPersons: optional(boolean, true) }),
  studies: section({ stableAgeMs: optional(durationMs, 60_000) }),
  /** What Orthanc's configuration says of its API: CheckRevisions, UserMetadata, UserContentType. */
  orthanc: section({
    checkRevisions: optional(boolean, false),
    overwriteInstances: optional(boolean, false),
    /** Of JPEG, 1 to 100: where a request names a transfer syntax that loses something. */
    lossyTranscodingQuality: optional(integer({ min: 1, max: 100 }), 90),
    logExportedResources: optional(boolean, false),
    userMetadata: optional(record(integer({ min: 1024, max: 65_535 }), { max: 1000 }), {}),
    userContentTypes: optional(record(integer({ min: 1024, max: 65_535 }), { max: 1000 }), {}),
    dictionary: optional(
      record(object({ vr: text({ max: 2 }), name: text({ min: 1, max: 128 }), creator: text({ min: 1, max: 64 }) }), {
        max: 10_000,
      }),
      {},
    ),
    mediaArchiveSize: optional(integer({ min: 0, max: 10_000 })),
    queryRetrieveSize: optional(integer({ min: 1, max: 10_000 }), 100),
    limitFindResults: optional(integer({ min: 0, max: 10_000_000 }), 0),
    limitFindInstances: optional(integer({ min: 0, max: 10_000_000 }), 0),
  }),
  worklist: section({ folder: optional(filePath) }),
  /** Folders, such as drives, below which users may have discs read. */
  discs: section({ folders: optional(list(filePath, { max: 32 }), []) }),
  /** Without a port there is no HL7 listener. */
  hl7: section({
    host: optional(host, '127.0.0.1'),
    port: optional(port),
    tls: optional(object({ certificateFile: filePath, keyFile: filePath, clientCaFile: optional(filePath) })),
    stations: optional(record(list(aeTitle, { max: 32 }), { max: 64 }), {}),
  }),
  limits: section({
    instanceBytes: optional(integer({ min: 1024 }), 16 * GiB),
    associations: optional(integer({ min: 1, max: 10_000 }), 1000),
    associationsPerAddress: optional(integer({ min: 1, max: 10_000 }), 250),
    associationsPerAe: optional(integer({ min: 1, max: 10_000 }), 750),
    uploads: optional(integer({ min: 1, max: 1000 }), 32),
    jobs: optional(integer({ min: 1, max: 64 }), 2),
    jobsHistory: optional(integer({ min: 0, max: 10_000 }), 100),
  }),
}

const fileDecoder = object(shape)

/** The configuration after defaults, with absolute paths. Ports may be 0. */
export type Config = Omit<ObjectValue<typeof shape>, '$schema'>

interface Variable {
  /** Path in the file that the variable overrides. */
  readonly path: string
  readonly kind: 'text' | 'number' | 'boolean'
  readonly help: string
}

/** Every environment variable that overrides the file. */
export const variables: Readonly<Record<string, Variable>> = {
  HANSE_DATA: { path: 'data', kind: 'text', help: 'data directory' },
  HANSE_SITE_NAME: { path: 'site.name', kind: 'text', help: 'name that peers see' },
  HANSE_HTTP_HOST: { path: 'http.host', kind: 'text', help: 'address of the HTTP listener' },
  HANSE_HTTP_PORT: { path: 'http.port', kind: 'number', help: 'port of the HTTP listener' },
  HANSE_HTTP_PUBLIC_URL: { path: 'http.publicUrl', kind: 'text', help: 'URL under which users reach the HTTP API' },
  HANSE_DICOMWEB_PATH: { path: 'dicomweb.path', kind: 'text', help: 'path under which DICOMweb is served' },
  HANSE_DICOM_HOST: { path: 'dicom.host', kind: 'text', help: 'address of the DICOM listener' },
  HANSE_DICOM_PORT: { path: 'dicom.port', kind: 'number', help: 'port of the DICOM listener' },
  HANSE_AE_TITLE: { path: 'dicom.aeTitle', kind: 'text', help: 'our AE title' },
  HANSE_DICOM_UNKNOWN_CALLERS: {
    path: 'dicom.unknownCallers',
    kind: 'text',
    help: 'who may send without being registered: refuse, loopback or all',
  },
  HANSE_DICOM_DEFAULT_ENCODING: {
    path: 'dicom.defaultEncoding',
    kind: 'text',
    help: 'encoding of text without a character set (default: Latin1)',
  },
  HANSE_DICOM_TLS_PORT: {
    path: 'dicom.tls.port',
    kind: 'number',
    help: 'port of the DICOM TLS listener (usual: 2762); without it there is none',
  },
  HANSE_DICOM_TLS_CERTIFICATE_FILE: {
    path: 'dicom.tls.certificateFile',
    kind: 'text',
    help: 'our certificate chain for DICOM TLS (PEM), instead of one from the own authority',
  },
  HANSE_DICOM_TLS_KEY_FILE: { path: 'dicom.tls.keyFile', kind: 'text', help: 'its key (PEM)' },
  HANSE_DICOM_TLS_CA_FILE: {
    path: 'dicom.tls.caFile',
    kind: 'text',
    help: 'authorities whose certificates modalities may have (PEM)',
  },
  HANSE_DICOM_TLS_CLIENT_CERTIFICATES: {
    path: 'dicom.tls.clientCertificates',
    kind: 'text',
    help: 'must callers by TLS present a certificate: required, optional or off',
  },
  HANSE_FEDERATION_HOST: { path: 'federation.host', kind: 'text', help: 'address of the federation listener' },
  HANSE_FEDERATION_PORT: { path: 'federation.port', kind: 'number', help: 'port of the federation listener' },
  HANSE_PUBLIC_URL: { path: 'federation.publicUrl', kind: 'text', help: 'https URL under which peers reach us' },
  HANSE_DATABASE_URL: { path: 'database.url', kind: 'text', help: 'PostgreSQL server, instead of the private one' },
  HANSE_DATABASE_PASSWORD_FILE: { path: 'database.passwordFile', kind: 'text', help: 'file with its password' },
  HANSE_LOG_LEVEL: { path: 'log.level', kind: 'text', help: 'debug, info, warn, error or silent' },
  HANSE_PROXY_URL: { path: 'proxy.url', kind: 'text', help: 'outbound HTTP CONNECT proxy' },
  HANSE_PROXY_LOGIN_FILE: { path: 'proxy.loginFile', kind: 'text', help: 'file with user:password for the proxy' },
  HANSE_LOW_WATERMARK_BYTES: {
    path: 'storage.lowWatermarkBytes',
    kind: 'number',
    help: 'free space below which nothing is received',
  },
  HANSE_POLICY_TWO_PERSONS: {
    path: 'policy.twoPersons',
    kind: 'boolean',
    help: 'false: who wrote a policy may publish it (a site with one person)',
  },
  HANSE_STABLE_AGE_MS: {
    path: 'studies.stableAgeMs',
    kind: 'number',
    help: 'quiet time after which a study is complete',
  },
  HANSE_WORKLIST_FOLDER: {
    path: 'worklist.folder',
    kind: 'text',
    help: 'folder of worklist files (.wl and DICOM JSON) that is followed',
  },
  HANSE_HL7_HOST: { path: 'hl7.host', kind: 'text', help: 'address of the HL7 listener' },
  HANSE_HL7_PORT: {
    path: 'hl7.port',
    kind: 'number',
    help: 'port of the HL7 listener for orders (usual: 2575); without it there is none',
  },
}

/** Variables that name something other than a setting of the file. */
export const otherVariables: Readonly<Record<string, string>> = {
  HANSE_CONFIG: 'configuration file (default: `config.json` in the data directory, if there is one)',
  HANSE_ORTHANC_CONFIG: 'for `hanse start`: configuration of an Orthanc that is taken over, see deploy/ORTHANC.md',
  HANSE_POSTGRES_BIN: 'directory with the PostgreSQL programs for the private database',
  HANSE_URL: 'for the command line: the gateway to talk to',
  HANSE_TOKEN_FILE: 'for the command line: file with a token for that gateway',
}

export interface ConfigSource {
  /** Configuration file; a file named here must exist. Default: HANSE_CONFIG, else `<data>/config.json` if it is there. */
  readonly file?: string
  /** Settings like a file's that are weaker than the file, such as those of an Orthanc that is moved in from. */
  readonly base?: Readonly<Record<string, unknown>>
  /** Data directory of the command line; stronger than file and environment. */
  readonly data?: string
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly cwd?: string
}

/** A configuration, the file it came from, and things that are odd but not wrong. */
export interface LoadedConfig {
  readonly config: Config
  readonly file: string | undefined
  readonly warnings: readonly string[]
}

/**
 * Reads the configuration.
 *
 * @throws GatewayError CONFIG_INVALID with every problem and its path; a value from the environment
 *   is named by its variable
 */
export function loadConfig(source: ConfigSource = {}): LoadedConfig {
  const result = checkConfig(source)
  if (!result.ok) throw new GatewayError('CONFIG_INVALID', describe(result.problems))
  return result.value
}

/** Like `loadConfig`, with the problems as a value. */
export function checkConfig(
  source: ConfigSource = {},
): { ok: true; value: LoadedConfig } | { ok: false; problems: readonly Problem[] } {
  const env = source.env ?? process.env
  const cwd = source.cwd ?? process.cwd()
  const file = configFile(source, env, cwd)
  const read = file ? readJson(file) : { ok: true as const, value: {} }
  if (!read.ok) return { ok: false, problems: [read.problem] }
  if (!isObject(read.value)) return { ok: false, problems: [{ path: file ?? '', message: 'expected a JSON object' }] }

  const raw = merged(source.base ?? {}, structuredClone(read.value))
  const names = override(raw, env)
  if (source.data !== undefined) {
    raw['data'] = source.data
    names.set('data', '--data')
  }
  const decoded = decode(fileDecoder, raw)
  const named = (problem: Problem): Problem => ({ ...problem, path: names.get(problem.path) ?? problem.path })
  if (!decoded.ok) return { ok: false, problems: decoded.problems.map(named) }

  const base = (path: string): string => (names.has(path) || !file ? cwd : dirname(file))
  const config = absolute(decoded.value, base)
  const problems = crossCheck(config).map(named)
  if (problems.length > 0) return { ok: false, problems }
  return { ok: true, value: { config, file, warnings: unknownVariables(env) } }
}

/**
 * Reads a secret from its file: the first line, without its line end.
 *
 * @throws GatewayError CONFIG_INVALID when it cannot be read or is empty; the message holds the path only
 */
export function readSecret(path: string): string {
  let content: string
  try {
    content = readFileSync(path, 'utf8')
  } catch (cause) {
    throw new GatewayError('CONFIG_INVALID', `cannot read the secret file ${path}`, { cause })
  }
  const secret = content.split(/\r?\n/, 1)[0] ?? ''
  if (secret === '') throw new GatewayError('CONFIG_INVALID', `the secret file ${path} is empty`)
  return secret
}

function configFile(
  source: ConfigSource,
  env: Readonly<Record<string, string | undefined>>,
  cwd: string,
): string | undefined {
  const named = source.file ?? env['HANSE_CONFIG']
  if (named) return resolve(cwd, named)
  const usual = join(resolve(cwd, source.data ?? env['HANSE_DATA'] ?? './data'), 'config.json')
  return isFile(usual) ? usual : undefined
}

/** `strong` over `weak`, section by section. */
function merged(
  weak: Readonly<Record<string, unknown>>,
  strong: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const out: Record<string, unknown> = structuredClone({ ...weak, ...strong })
  for (const [name, section] of Object.entries(weak)) {
    const other = strong[name]
    if (isObject(section) && isObject(other)) out[name] = structuredClone({ ...section, ...other })
  }
  return out
}

function readJson(file: string): { ok: true; value: unknown } | { ok: false; problem: Problem } {
  let content: string
  try {
    content = readFileSync(file, 'utf8')
  } catch (cause) {
    const reason = isObject(cause) && typeof cause['code'] === 'string' ? cause['code'] : 'error'
    return { ok: false, problem: { path: file, message: `cannot read the configuration file (${reason})` } }
  }
  try {
    return { ok: true, value: JSON.parse(content) }
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : 'not JSON'
    return { ok: false, problem: { path: file, message: `expected JSON: ${message}` } }
  }
}

/** Writes the environment's values into `raw`; returns which path came from which variable. */
function override(
  raw: Record<string, unknown>,
  env: Readonly<Record<string, string | undefined>>,
): Map<string, string> {
  const names = new Map<string, string>()
  for (const [name, variable] of Object.entries(variables)) {
    const value = env[name]
    if (value === undefined || value === '') continue
    const keys = variable.path.split('.')
    const last = keys.pop() ?? ''
    let target = raw
    for (const key of keys) {
      const next = target[key]
      const inner = isObject(next) ? next : {}
      target[key] = inner
      target = inner
    }
    target[last] = fromText(variable.kind, value)
    names.set(variable.path, name)
  }
  // A proxy login alone leaves `proxy.url` missing: name the variable that is missing.
  if (names.has('proxy.loginFile')) names.set('proxy.url', 'HANSE_PROXY_URL')
  return names
}

/** What is not of the kind stays text, for the decoder to refuse. */
function fromText(kind: Variable['kind'], value: string): unknown {
  if (kind === 'number' && /^\d{1,16}$/.test(value)) return Number(value)
  return kind === 'boolean' && (value === 'true' || value === 'false') ? value === 'true' : value
}

function absolute(value: ObjectValue<typeof shape>, base: (path: string) => string): Config {
  const { $schema: _, ...rest } = value
  const { tls, ...http } = rest.http
  const { passwordFile, ...database } = rest.database
  const { proxy } = rest
  const { tls: dicomTls } = rest.dicom
  const { tls: hl7Tls } = rest.hl7
  return {
    ...rest,
    data: resolve(base('data'), rest.data),
    // One spelling, the one that peers and browsers compare with.
    federation: { ...rest.federation, publicUrl: originOf(rest.federation.publicUrl) },
    http: {
      ...http,
      publicUrl: originOf(http.publicUrl),
      corsOrigins: http.corsOrigins.map(origin => new URL(origin).origin),
      tls: tls && {
        certificateFile: resolve(base('http.tls'), tls.certificateFile),
        keyFile: resolve(base('http.tls'), tls.keyFile),
      },
    },
    dicom: {
      ...rest.dicom,
      tls: {
        ...dicomTls,
        certificateFile:
          dicomTls.certificateFile && resolve(base('dicom.tls.certificateFile'), dicomTls.certificateFile),
        keyFile: dicomTls.keyFile && resolve(base('dicom.tls.keyFile'), dicomTls.keyFile),
        caFile: dicomTls.caFile && resolve(base('dicom.tls.caFile'), dicomTls.caFile),
      },
    },
    dicomweb: {
      ...rest.dicomweb,
      servers: Object.fromEntries(
        Object.entries(rest.dicomweb.servers).map(([name, server]) => [
          name,
          {
            ...server,
            url: server.url.replace(/\/+$/, ''),
            loginFile: server.loginFile && resolve(base('dicomweb.servers'), server.loginFile),
            tokenFile: server.tokenFile && resolve(base('dicomweb.servers'), server.tokenFile),
            caFile: server.caFile && resolve(base('dicomweb.servers'), server.caFile),
            certificateFile: server.certificateFile && resolve(base('dicomweb.servers'), server.certificateFile),
            keyFile: server.keyFile && resolve(base('dicomweb.servers'), server.keyFile),
          },
        ]),
      ),
    },
    worklist: { folder: rest.worklist.folder && resolve(base('worklist.folder'), rest.worklist.folder) },
    discs: { folders: rest.discs.folders.map(folder => resolve(base('discs.folders'), folder)) },
    hl7: {
      ...rest.hl7,
      tls: hl7Tls && {
        certificateFile: resolve(base('hl7.tls'), hl7Tls.certificateFile),
        keyFile: resolve(base('hl7.tls'), hl7Tls.keyFile),
        clientCaFile: hl7Tls.clientCaFile && resolve(base('hl7.tls'), hl7Tls.clientCaFile),
      },
    },
    database: {
      ...database,
      passwordFile: passwordFile && resolve(base('database.passwordFile'), passwordFile),
    },
    proxy: proxy && {
      ...proxy,
      loginFile: proxy.loginFile && resolve(base('proxy.loginFile'), proxy.loginFile),
    },
  }
}

const originOf = (url: string | undefined): string | undefined => (url === undefined ? undefined : new URL(url).origin)

function crossCheck(config: Config): Problem[] {
  const problems: Problem[] = []
  const { storage, database, http, dicom, federation, hl7 } = config
  const { lowWatermarkBytes, resumeBytes } = storage
  if (resumeBytes !== undefined && (lowWatermarkBytes === undefined || resumeBytes < lowWatermarkBytes)) {
    problems.push({ path: 'storage.resumeBytes', message: 'expected at least storage.lowWatermarkBytes' })
  }
  if (database.passwordFile && !database.url) {
    problems.push({ path: 'database.passwordFile', message: 'expected database.url beside it' })
  }
  if (dicom.tls.certificateFile && !dicom.tls.keyFile) {
    problems.push({ path: 'dicom.tls.keyFile', message: 'expected the key of dicom.tls.certificateFile' })
  }
  if (dicom.tls.keyFile && !dicom.tls.certificateFile) {
    problems.push({ path: 'dicom.tls.certificateFile', message: 'expected the certificate of dicom.tls.keyFile' })
  }
  const used = new Map<number, string>()
  for (const [path, value] of Object.entries({
    'http.port': http.port,
    'dicom.port': dicom.port,
    ...(dicom.tls.port !== undefined && { 'dicom.tls.port': dicom.tls.port }),
    'federation.port': federation.port,
    ...(hl7.port !== undefined && { 'hl7.port': hl7.port }),
  })) {
    const other = used.get(value)
    if (value !== 0 && other) problems.push({ path, message: `expected a port of its own, ${value} is ${other}'s` })
    used.set(value, path)
  }
  const files: Record<string, string | undefined> = {
    'http.tls.certificateFile': http.tls?.certificateFile,
    'http.tls.keyFile': http.tls?.keyFile,
    'dicom.tls.certificateFile': dicom.tls.certificateFile,
    'dicom.tls.keyFile': dicom.tls.keyFile,
    'dicom.tls.caFile': dicom.tls.caFile,
    'hl7.tls.certificateFile': hl7.tls?.certificateFile,
    'hl7.tls.keyFile': hl7.tls?.keyFile,
    'hl7.tls.clientCaFile': hl7.tls?.clientCaFile,
    'database.passwordFile': database.passwordFile,
    'proxy.loginFile': config.proxy?.loginFile,
    ...Object.fromEntries(
      Object.entries(config.dicomweb.servers).flatMap(([name, server]) =>
        (['loginFile', 'tokenFile', 'caFile', 'certificateFile', 'keyFile'] as const).map(key => [
          `dicomweb.servers.${name}.${key}`,
          server[key],
        ]),
      ),
    ),
  }
  for (const [path, file] of Object.entries(files)) {
    if (file && !isFile(file)) problems.push({ path, message: `expected a readable file, got "${file}"` })
  }
  return problems
}

function unknownVariables(env: Readonly<Record<string, string | undefined>>): string[] {
  return Object.keys(env)
    .filter(name => name.startsWith('HANSE_'))
    .filter(name => !Object.hasOwn(variables, name) && !Object.hasOwn(otherVariables, name))
    .map(name => `${name}: no such setting, ignored`)
}

function isFile(path: string): boolean {
  try {
    return statSync(path).isFile()
  } catch {
    return false
  }
}

/** What becomes of each option of Orthanc's configuration (version 1.10): one table, which also makes deploy/ORTHANC.md. */
import { dirname, resolve } from 'node:path'
import { isObject } from '../../decode.ts'
import { GatewayError } from '../../errors.ts'

/** What Orthanc's configuration says, in our terms. */
export interface TakenOver {
  /** Like our configuration file: weaker than that and the environment. */
  readonly config: Record<string, unknown>
  /** For the registry of modalities, by symbolic name, in Orthanc's spelling. */
  readonly modalities: Readonly<Record<string, unknown>>
  /** For the registry of REST peers. */
  readonly peers: Readonly<Record<string, unknown>>
  /** Passwords by user name; undefined when nobody is authenticated by one. */
  readonly users: Readonly<Record<string, string>> | undefined
}

interface Draft {
  readonly config: Record<string, unknown>
  readonly options: Readonly<Record<string, unknown>>
  /** Relative paths start here. */
  readonly folder: string
}

interface Applied {
  /** What it becomes here. */
  readonly becomes: string
  /** What it must be. */
  readonly expected: string
  /** False for a value of another type. */
  apply(value: unknown, draft: Draft): boolean
}

/** An option of one type. */
function optionOf<T>(expected: string, isOne: (value: unknown) => value is T) {
  return (becomes: string, apply: (value: T, draft: Draft) => void): Applied => ({
    becomes,
    expected,
    apply(value, draft) {
      if (!isOne(value)) return false
      apply(value, draft)
      return true
    },
  })
}

const number = optionOf('a whole number', (value): value is number => Number.isSafeInteger(value))
const text = optionOf('a text', value => typeof value === 'string')
const flag = optionOf('true or false', value => typeof value === 'boolean')
const map = optionOf('an object', isObject)

const into =
  (path: string) =>
  (value: unknown, draft: Draft): void =>
    set(draft.config, path, value)
const elsewhere = (): void => undefined

/** Options that have a meaning here. */
export const appliedOptions: Readonly<Record<string, Applied>> = {
  Name: text('`site.name`', into('site.name')),
  DefaultEncoding: text('`dicom.defaultEncoding`', into('dicom.defaultEncoding')),
  HttpPort: number('`http.port`', into('http.port')),
  RemoteAccessAllowed: flag('`http.host`: every address, or this machine only', (value, { config }) =>
    set(config, 'http.host', value ? '0.0.0.0' : '127.0.0.1'),
  ),
  SslEnabled: flag('`http.tls`, with SslCertificate', (value, { config, options, folder }) => {
    const { SslCertificate } = options
    if (!value || typeof SslCertificate !== 'string') return
    const file = resolve(folder, SslCertificate)
    set(config, 'http.tls', { certificateFile: file, keyFile: file })
  }),
  SslCertificate: text('see SslEnabled', elsewhere),
  DicomPort: number('`dicom.port`', into('dicom.port')),
  DicomAet: text('`dicom.aeTitle`', into('dicom.aeTitle')),
  DicomServerEnabled: flag('`dicom.host`: every address, or this machine only', (value, { config }) =>
    set(config, 'dicom.host', value ? '0.0.0.0' : '127.0.0.1'),
  ),
  DicomAlwaysAllowStore: flag('`dicom.unknownCallers`: all, or refuse', (value, { config }) =>
    set(config, 'dicom.unknownCallers', value ? 'all' : 'refuse'),
  ),
  DicomModalities: map('registered modalities, updated at each start', elsewhere),
  OrthancPeers: map(
    'registered `/peers`, updated at each start, outside of the hospital unless `Zone` says inside or it is on this machine',
    elsewhere,
  ),
  AuthenticationEnabled: flag(
    'false: RegisteredUsers are not taken over; nobody is let in without a token then',
    elsewhere,
  ),
  RegisteredUsers: map('users by password (Basic) on the Orthanc and DICOMweb routes, kept as scrypt', elsewhere),
  StableAge: number('`studies.stableAgeMs`', (seconds, { config }) =>
    set(config, 'studies.stableAgeMs', seconds * 1000),
  ),
  ConcurrentJobs: number('`limits.jobs`; 0 is the default', (value, { config }) => {
    if (value > 0) set(config, 'limits.jobs', Math.min(value, 64))
  }),
  JobsHistorySize: number('`limits.jobsHistory`', into('limits.jobsHistory')),
  QueryRetrieveSize: number('`orthanc.queryRetrieveSize`', into('orthanc.queryRetrieveSize')),
  LimitFindResults: number('`orthanc.limitFindResults`', into('orthanc.limitFindResults')),
  LimitFindInstances: number('`orthanc.limitFindInstances`', into('orthanc.limitFindInstances')),
  CheckRevisions: flag('`orthanc.checkRevisions`', into('orthanc.checkRevisions')),
  DicomLossyTranscodingQuality: number(
    '`orthanc.lossyTranscodingQuality`: where a request names a transfer syntax that loses something',
    into('orthanc.lossyTranscodingQuality'),
  ),
  LogExportedResources: flag('`orthanc.logExportedResources`', into('orthanc.logExportedResources')),
  Dictionary: map(
    '`orthanc.dictionary`: names of private elements; those without a creator are left out',
    (value, { config }) => set(config, 'orthanc.dictionary', privateNames(value)),
  ),
  MediaArchiveSize: number('`orthanc.mediaArchiveSize`', into('orthanc.mediaArchiveSize')),
  OverwriteInstances: flag('`orthanc.overwriteInstances`', into('orthanc.overwriteInstances')),
  UserMetadata: map('`orthanc.userMetadata`', into('orthanc.userMetadata')),
  UserContentType: map('`orthanc.userContentTypes`', (value, { config }) =>
    set(config, 'orthanc.userContentTypes', contentTypes(value)),
  ),
}

/** Options without effect that nobody need be told of: here it is so anyway. */
export const metOptions: Readonly<Record<string, string>> = {
  CaseSensitivePN: 'names are compared without case and accents',
  CheckRevision: 'see CheckRevisions',
  DeidentifyLogs: 'logs never hold patient data',
  DicomAlwaysAllowEcho: 'unknown callers may always verify, unless they are refused',
  DicomModalitiesInDatabase: 'modalities are in the database',
  DicomThreadsCount: 'associations are not bound to threads',
  HttpCompressionEnabled: 'files are sent as they are',
  HttpDescribeErrors: 'errors are problem documents',
  HttpServerEnabled: 'the API is always there',
  HttpThreadsCount: 'requests are not bound to threads',
  KeepAlive: 'connections are kept',
  LoadPrivateDictionary: 'private elements are kept as they are',
  MetricsEnabled: '`/metrics`',
  OrthancPeersInDatabase: 'peers are in the database',
  SaveJobs: 'jobs are in the database',
  StoreDicom: 'instances are kept as received',
  StoreMD5ForAttachments: 'files are kept under their SHA-256',
  SyncStorageArea: 'what was acknowledged is durable',
  SynchronousCMove: 'C-MOVE answers when it has ended',
  SynchronousZipStream: 'archives are streamed',
  TcpNoDelay: 'set',
  TranscodeDicomProtocol: 'each modality has `AllowTranscoding`',
}

/** Options without an equivalent, and why; they are named in one warning. */
export const ignoredOptions: Readonly<Record<string, string>> = {
  AcceptedTransferSyntaxes: 'every transfer syntax is taken',
  DefaultPrivateCreator: 'private elements come from their creators only',
  DicomAlwaysAllowFind: 'who asks must be registered',
  DicomAlwaysAllowFindWorklist: 'who asks must be registered',
  DicomAlwaysAllowGet: 'who asks must be registered',
  DicomAlwaysAllowMove: 'who asks must be registered',
  DicomAssociationCloseDelay: 'associations end with their work',
  DicomCheckCalledAet: 'the called title is not compared',
  DicomCheckModalityHost: 'a modality that is registered with a host is always compared with it',
  DicomEchoChecksFind: 'ask for `CheckFind` where it is wanted',
  DicomScpTimeout: 'each modality has `limits.idleSeconds`',
  DicomScuPreferredTransferSyntax: 'each modality has `transferSyntaxes`',
  DicomScuTimeout: 'each modality has `Timeout`',
  DicomTlsCertificate: 'see DicomTlsEnabled',
  DicomTlsEnabled: '`dicom.tls` is a listener of its own, on a port of its own',
  DicomTlsPrivateKey: 'see DicomTlsEnabled',
  DicomTlsRemoteCertificateRequired: 'see DicomTlsEnabled',
  DicomTlsTrustedCertificates: 'see DicomTlsEnabled',
  ExecuteLuaEnabled: 'there are no scripts',
  HttpProxy: '`proxy.url` is for peers',
  HttpRequestTimeout: 'each peer has `Timeout`',
  HttpTimeout: 'each peer has `Timeout`',
  HttpVerbose: 'see `log.level`',
  HttpsCACertificates: 'the system’s authorities are trusted',
  HttpsVerifyPeers: 'certificates are always verified',
  IndexDirectory: 'see `hanse import orthanc --storage`',
  IngestTranscoding: 'bytes are kept as received',
  LuaScripts: 'there are no scripts',
  MaximumPatientCount: 'nothing is recycled',
  MaximumStorageCacheSize: 'files asked for again are kept in 128 MiB of memory',
  MaximumStorageSize: 'nothing is recycled; `storage.lowWatermarkBytes` refuses instead',
  OrthancExplorerEnabled: 'there is no such interface',
  Plugins: 'there are no plug-ins',
  StorageAccessOnFind: 'the index has all attributes',
  StorageCommitmentReportsSize: 'reports are kept a week',
  StorageCompression: 'files are kept as received',
  StorageDirectory: 'see `hanse import orthanc --storage`',
  TemporaryDirectory: 'temporary files are in the data directory',
  UnknownSopClassAccepted: '`dicom.privateSopClasses` names those that are taken',
  WebDavDeleteAllowed: 'there is no WebDAV',
  WebDavEnabled: 'there is no WebDAV',
  WebDavUploadAllowed: 'there is no WebDAV',
  BuiltinDecoderTranscoderOrder: 'there are no plug-ins',
  DeidentifyLogsDicomVersion: 'logs never hold patient data',
  IngestTranscodingOfCompressed: 'bytes are kept as received',
  IngestTranscodingOfUncompressed: 'bytes are kept as received',
  MallocArenaMax: 'memory is managed otherwise',
  MaximumPduLength: 'PDUs are as long as both sides allow',
  SslMinimumProtocolVersion: 'TLS 1.2 at least',
  SslTrustedClientCertificates: 'callers present tokens or passwords',
  SslVerifyPeers: 'callers present tokens or passwords',
  StrictAetComparison: 'titles are compared strictly',
  ZipLoaderThreads: 'archives are streamed',
}

/**
 * Takes over what has a meaning here.
 *
 * @param folder  of the file, for relative paths
 * @returns what was taken over, and the names of the options that were not
 * @throws GatewayError CONFIG_INVALID with every option that has a value of another type
 */
export function takeOver(
  options: Readonly<Record<string, unknown>>,
  folder: string,
): { readonly taken: TakenOver; readonly ignored: readonly string[] } {
  const draft: Draft = { config: {}, options, folder }
  const problems: string[] = []
  const ignored: string[] = []
  for (const [name, value] of Object.entries(options)) {
    const applied = Object.hasOwn(appliedOptions, name) ? appliedOptions[name] : undefined
    if (applied) {
      if (!applied.apply(value, draft)) problems.push(`${name}: expected ${applied.expected}`)
    } else if (!Object.hasOwn(metOptions, name)) ignored.push(name)
  }
  const users = usersOf(options, problems)
  if (problems.length > 0) throw new GatewayError('CONFIG_INVALID', problems.join('; '))
  const { DicomModalities: modalities, OrthancPeers: peers } = options
  return {
    taken: {
      config: draft.config,
      modalities: isObject(modalities) ? modalities : {},
      peers: isObject(peers) ? peers : {},
      users,
    },
    ignored: ignored.sort(),
  }
}

/** As Orthanc decides: by default there are users where others than this machine are let in. */
function usersOf(
  options: Readonly<Record<string, unknown>>,
  problems: string[],
): Readonly<Record<string, string>> | undefined {
  const { AuthenticationEnabled, RemoteAccessAllowed = false, RegisteredUsers = {} } = options
  if (!(AuthenticationEnabled ?? RemoteAccessAllowed) || !isObject(RegisteredUsers)) return undefined
  const users: [string, string][] = []
  for (const [name, password] of Object.entries(RegisteredUsers)) {
    if (typeof password === 'string' && /^[^:\p{Cc}]{1,64}$/u.test(name)) users.push([name, password])
    else problems.push('RegisteredUsers: expected passwords by user name')
  }
  return Object.fromEntries(users)
}

/** A list of VR, name, multiplicity twice, and the creator of a private element. */
function privateNames(given: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  return Object.fromEntries(
    Object.entries(given).flatMap(([tag, entry]) => {
      const [vr, name, , , creator = ''] = Array.isArray(entry) ? entry : []
      return typeof creator === 'string' && creator !== '' ? [[tag, { vr, name, creator }]] : []
    }),
  )
}

function contentTypes(given: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  // A list names a media type as well; the number is what counts.
  return Object.fromEntries(
    Object.entries(given).map(([name, value]) => [name, Array.isArray(value) ? value[0] : value]),
  )
}

function set(target: Record<string, unknown>, path: string, value: unknown): void {
  const [section = '', key] = path.split('.')
  if (key === undefined) target[section] = value
  else {
    const inner = target[section]
    target[section] = { ...(isObject(inner) ? inner : {}), [key]: value }
  }
}

/** The folder of a configuration file or folder of files. */
export const folderOf = (path: string, isFile: boolean): string => (isFile ? dirname(path) : path)

/** The text of deploy/ORTHANC.md. */
export function describeOptions(): string {
  const rows = (table: Readonly<Record<string, string>>): string[] =>
    Object.entries(table)
      .toSorted(([one], [other]) => (one < other ? -1 : 1))
      .map(([name, meaning]) => `- \`${name}\`: ${meaning}`)
  const becomes = Object.fromEntries(Object.entries(appliedOptions).map(([name, applied]) => [name, applied.becomes]))
  return [
    '# Moving in from Orthanc: the configuration',
    '',
    '`hanse start --orthanc-config orthanc.json` reads the configuration of an Orthanc (a file, or a folder of files; comments',
    'and environment variables as there). What it sets is weaker than the configuration file and the environment. This list is made by',
    '`node scripts/generate-orthanc-options.ts` from the table that is applied.',
    '',
    '## Applied',
    '',
    ...rows(becomes),
    '',
    '## So anyway',
    '',
    ...rows(metOptions),
    '',
    '## Ignored, named in one warning',
    '',
    ...rows(ignoredOptions),
    '- every option that is not in this list',
    '',
  ].join('\n')
}

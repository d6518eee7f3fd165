/** Orthanc's two spellings of a modality: a list, and an object. */
import { boolean, type Decoder, decode, describe, integer, list, object, oneOf, optional, text } from '../../decode.ts'
import { GatewayError } from '../../errors.ts'
import type { Modality, ModalityInput, ModalityService } from '../../services/modality.ts'

/** Ports are written as numbers and as texts. */
const port: Decoder<number> = (raw, path, problems) =>
  integer({ min: 1, max: 65_535 })(
    typeof raw === 'string' && /^[1-9]\d{0,4}$/.test(raw) ? Number(raw) : raw,
    path,
    problems,
  )

/** Orthanc's names; those after the fifth are obsolete and mean the first. */
const manufacturers = [
  ...(['Generic', 'GenericNoWildcardInDates', 'GenericNoUniversalWildcard', 'GE', 'Vitrea'] as const),
  ...(['AgfaImpax', 'ClearCanvas', 'Dcm4Chee', 'EFilm2', 'MedInria', 'StoreScp', 'Synapse', 'SyngoVia'] as const),
] as const

const objectForm = object(
  {
    AET: text({ max: 16 }),
    Host: text({ max: 253 }),
    Port: port,
    Manufacturer: optional(oneOf(...manufacturers)),
    AllowEcho: optional(boolean, true),
    AllowStore: optional(boolean, true),
    AllowFind: optional(boolean, true),
    AllowFindWorklist: optional(boolean),
    AllowMove: optional(boolean, true),
    AllowGet: optional(boolean, true),
    AllowNAction: optional(boolean),
    AllowStorageCommitment: optional(boolean),
    AllowTranscoding: optional(boolean, true),
    UseDicomTls: optional(boolean),
    Timeout: optional(integer({ min: 0, max: 3_600 })),
  },
  { unknown: 'keep' },
)
const listItem: Decoder<string | number> = (raw, path, problems) => {
  if (typeof raw === 'string' || typeof raw === 'number') return raw
  problems.add(path, 'expected a text or a number', raw)
  return undefined
}
const listForm = list(listItem, { min: 3, max: 4 })

/**
 * Reads what Orthanc's clients PUT; what Orthanc has no word for stays as it was registered.
 *
 * @throws GatewayError BAD_REQUEST
 */
export function readForm(raw: unknown, name: string, before: Modality | undefined): ModalityInput {
  const given = decode(objectForm, Array.isArray(raw) ? fromList(raw) : raw)
  if (!given.ok) throw new GatewayError('BAD_REQUEST', describe(given.problems))
  const { value } = given
  const allowed: readonly (readonly [ModalityService, boolean | undefined])[] = [
    ['echo', value.AllowEcho],
    ['store', value.AllowStore],
    ['find', value.AllowFind],
    ['move', value.AllowMove],
    ['get', value.AllowGet],
    ['commit', value.AllowStorageCommitment ?? value.AllowNAction ?? true],
    ['worklist', value.AllowFindWorklist ?? value.AllowFind],
    ['mpps', value.AllowNAction ?? true],
  ]
  const usesTls = value.UseDicomTls ?? before?.tls !== undefined
  const timeout = value.Timeout === 0 ? undefined : value.Timeout
  return {
    ...before,
    name,
    aeTitle: value.AET,
    host: value.Host,
    port: value.Port,
    manufacturer: value.Manufacturer,
    permissions: allowed.filter(([, isAllowed]) => isAllowed).map(([service]) => service),
    allowTranscoding: value.AllowTranscoding,
    tls: usesTls ? (before?.tls ?? {}) : undefined,
    ...(timeout !== undefined && { limits: { ...before?.limits, timeoutSeconds: timeout } }),
  }
}

function fromList(raw: readonly unknown[]): object {
  const given = decode(listForm, raw)
  if (!given.ok) throw new GatewayError('BAD_REQUEST', describe(given.problems))
  const [aet, host, port, manufacturer] = given.value
  return { AET: aet, Host: host, Port: port, ...(manufacturer !== undefined && { Manufacturer: manufacturer }) }
}

/** A registration as Orthanc describes one. */
export function writeForm(entry: Modality): Record<string, string | number | boolean> {
  const may = (service: ModalityService): boolean => entry.permissions.includes(service)
  return {
    AET: entry.aeTitle,
    AllowEcho: may('echo'),
    AllowEventReport: may('commit'),
    AllowFind: may('find'),
    AllowFindWorklist: may('worklist'),
    AllowGet: may('get'),
    AllowMove: may('move'),
    AllowNAction: may('commit'),
    AllowStore: may('store'),
    AllowTranscoding: entry.allowTranscoding,
    Host: entry.host ?? '',
    Manufacturer: entry.manufacturer ?? 'Generic',
    Port: entry.port ?? 0,
    Timeout: entry.limits?.timeoutSeconds ?? 0,
    UseDicomTls: entry.tls !== undefined,
  }
}

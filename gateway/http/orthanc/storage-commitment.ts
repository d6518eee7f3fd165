/** Storage commitment as Orthanc's API has it: asked of a modality, read by its transaction UID. */

import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { GatewayError } from '../../errors.ts'
import type { Commitments } from '../../services/commitment.ts'
import { removeCommitted } from '../../services/commitment-list.ts'
import { findReferences } from '../../services/commitment-resources.ts'
import {
  type CommitmentRow,
  failureReason,
  findAsked,
  type InstanceReference,
  loadReport,
} from '../../services/commitment-rows.ts'
import type { Modalities } from '../../services/modalities.ts'
import { readAnyBodyAsJson } from './json-body.ts'

/** What the routes need. */
export interface StorageCommitmentServices {
  readonly db: Db
  readonly commitments: Pick<Commitments, 'ask'>
  readonly modalities: Pick<Modalities, 'find' | 'target'>
}

const tags = ['Orthanc']
const id = { type: 'string', minLength: 1, maxLength: 64 } as const
const params = { type: 'object', properties: { id }, required: ['id'] } as const
/** What is no UID is asked for as well: the modality says that it has no such instance. */
const uid = { type: 'string', pattern: '^[\\x21-\\x5b\\x5d-\\x7e]{1,64}$' } as const
/** The most instances that one call names. */
const mostInstances = 100_000
const lifetimeMs = 7 * 24 * 3_600_000

interface AskBody {
  readonly DicomInstances?: readonly (
    | { readonly SOPClassUID: string; readonly SOPInstanceUID: string }
    | readonly [string, string]
  )[]
  readonly Resources?: readonly string[]
}

/** Registers the routes. */
export function storageCommitmentRoutes(app: FastifyInstance, services: StorageCommitmentServices): void {
  const { db, commitments, modalities } = services

  /** @throws GatewayError NOT_FOUND */
  const load = async (transactionUid: string): Promise<CommitmentRow> => {
    const row = await findAsked(db.kysely, transactionUid)
    if (!row) throw new GatewayError('NOT_FOUND', 'no such storage commitment')
    return row
  }

  app.register(async scope => {
    readAnyBodyAsJson(scope)
    scope.post<{ Params: { id: string } }>(
      '/storage-commitment/:id/remove',
      { schema: { tags, summary: 'Remove the instances here that a modality has committed to', params } },
      async request => {
        await removeCommitted(db, request.principal, await load(request.params.id))
        return {}
      },
    )
    scope.post<{ Params: { id: string }; Body: AskBody }>(
      '/modalities/:id/storage-commitment',
      {
        schema: {
          tags,
          summary: 'Ask a modality for storage commitment; at most 2,000 instances in one call',
          params,
          body: {
            type: 'object',
            properties: {
              DicomInstances: {
                type: 'array',
                maxItems: mostInstances,
                items: {
                  anyOf: [
                    {
                      type: 'object',
                      properties: { SOPClassUID: uid, SOPInstanceUID: uid },
                      required: ['SOPClassUID', 'SOPInstanceUID'],
                    },
                    { type: 'array', items: uid, minItems: 2, maxItems: 2 },
                  ],
                },
              },
              Resources: { type: 'array', maxItems: mostInstances, items: id },
              Timeout: {
                type: 'number',
                minimum: 0,
                description: "Taken as Orthanc does, but the modality's own limit counts",
              },
            },
          },
        },
      },
      async request => {
        const { name } = modalities.target(request.params.id)
        const { DicomInstances = [], Resources = [] } = request.body
        const instances: InstanceReference[] = [
          ...DicomInstances.map(referenceOf),
          ...(await findReferences(db, Resources)),
        ]
        if (instances.length === 0)
          throw new GatewayError('BAD_REQUEST', 'expected instances in DicomInstances or Resources')
        const transactionUid = await requestCommitment({ db, commitments }, name, instances)
        return { ID: transactionUid, Path: `/storage-commitment/${transactionUid}` }
      },
    )
  })

  app.get<{ Params: { id: string } }>(
    '/storage-commitment/:id',
    { schema: { tags, summary: 'What a modality answered', params } },
    async request => {
      const row = await load(request.params.id)
      const isAnswered = row.state === 'committed' || row.state === 'failed'
      const report = isAnswered ? await loadReport(db.kysely, row) : { committed: [], failed: [] }
      return {
        Failures: report.failed.map(item => ({
          ...named(item),
          FailureReason: item.reason,
          Description: descriptionOf(item.reason),
        })),
        RemoteAET: modalities.find(row.aeTitle)?.aeTitle.trim() ?? row.aeTitle,
        Status: isAnswered ? (row.state === 'committed' ? 'Success' : 'Failure') : 'Pending',
        Success: report.committed.map(named),
      }
    },
  )
}

const named = ({ sopClassUid, sopInstanceUid }: InstanceReference) => ({
  SOPClassUID: sopClassUid,
  SOPInstanceUID: sopInstanceUid,
})

/** In the words of PS3.3 §C.14.1.1. */
const descriptions: Readonly<Record<number, string>> = {
  [failureReason.processingFailure]: 'A general failure in processing the operation was encountered',
  [failureReason.noSuchInstance]:
    'One or more of the elements in the Referenced SOP Instance Sequence was not available',
  [failureReason.resourceLimitation]:
    'The SCP does not currently have enough resources to store the requested SOP Instances',
  [failureReason.classNotSupported]: 'The SOP Class of an instance is not supported by the SCP',
  [failureReason.classInstanceConflict]: 'The SOP Class of an instance is not the one registered for it at the SCP',
  [failureReason.duplicateTransaction]: 'The Transaction UID of the request is already in use',
}

const descriptionOf = (reason: number): string => descriptions[reason] ?? 'Unknown failure reason'

/**
 * Asks a registered modality to commit to instances; answers the transaction UID.
 *
 * @throws GatewayError TOO_LARGE
 */
export async function requestCommitment(
  { db, commitments }: Pick<StorageCommitmentServices, 'db' | 'commitments'>,
  name: string,
  instances: readonly InstanceReference[],
): Promise<string> {
  return await db.inTransaction(async tx => {
    const wish = { aeTitle: name, instances, expiresAt: new Date(Date.now() + lifetimeMs) }
    const asked = await commitments.ask(tx, wish)
    if (asked.length > 1) throw new GatewayError('TOO_LARGE', 'expected at most 2000 instances')
    const row = asked[0] === undefined ? undefined : await findAsked(tx, { id: asked[0] })
    return row?.transactionUid ?? ''
  })
}

/** An object, or a pair of class and instance. */
function referenceOf(item: NonNullable<AskBody['DicomInstances']>[number]): InstanceReference {
  if ('SOPClassUID' in item) return { sopClassUid: item.SOPClassUID, sopInstanceUid: item.SOPInstanceUID }
  const [sopClassUid, sopInstanceUid] = item
  return { sopClassUid, sopInstanceUid }
}

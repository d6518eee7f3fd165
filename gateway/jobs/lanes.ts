/**
 * The lanes of the job queue: what a job of each carries. One job per study or transfer, never per
 * instance. Ids only: rows of the queue are read by people who must not see patient data.
 */
import { type Decoder, integer, object, oneOf, optional, text } from '../decode.ts'

/** Lane by name, and the data of its jobs. */
export interface Jobs {
  /** A study is complete: which transfers does the active policy want, of all of it or of what came from peers? */
  'evaluate-study': { readonly study: number; readonly part?: 'imported' | undefined }
  /** Carry one outbound transfer on, from whatever state it is in. */
  deliver: { readonly transfer: string }
  /** Verify and import one inbound transfer whose bytes are complete. */
  'commit-inbound': { readonly transfer: string }
  /** Verify what a peer asks us to commit to. */
  'verify-commitment': { readonly commitment: string }
  /** Carry a storage commitment on: tell its requestor, or ask the archive. */
  'carry-commitment': { readonly commitment: string }
  /** Carry one transfer to an archive on, from whatever state it is in. */
  archive: { readonly transfer: string }
  /** Carry one transfer to an endpoint of a third party on, from whatever state it is in. */
  'deliver-endpoint': { readonly transfer: string }
  /** Look for what has arrived at an endpoint. */
  'poll-endpoint': { readonly endpoint: string }
  /** Remove what a finished or abandoned transfer left on disk. */
  'clean-transfer': { readonly transfer: string }
  /** Retrieve from a registered node, or send to one. */
  'modality-job': { readonly job: string }
  /** Run one job of the gateway's own: a modification, an archive. */
  'background-job': { readonly job: string }
  /** Look for priors of a study that has arrived. */
  'prefetch-priors': { readonly study: number }
  /** Ask a peer for what it was sent, until it has decided. */
  recall: { readonly recall: string }
  /** Carry a dry run of a policy on. */
  'dry-run': { readonly run: string }
}

export type Lane = keyof Jobs

const transfer = object({ transfer: text({ min: 1, max: 64, expected: 'a transfer id' }) })
const commitment = object({ commitment: text({ min: 1, max: 64, expected: 'a commitment id' }) })

/** Decoders of the lanes' data: what comes back from the database is read, not believed. */
export const lanes: { readonly [L in Lane]: Decoder<Jobs[L]> } = {
  'evaluate-study': object({ study: integer({ min: 1 }), part: optional(oneOf('imported')) }),
  deliver: transfer,
  'commit-inbound': transfer,
  'verify-commitment': commitment,
  'carry-commitment': commitment,
  archive: transfer,
  'deliver-endpoint': transfer,
  'poll-endpoint': object({ endpoint: text({ min: 1, max: 64, expected: 'the name of an endpoint' }) }),
  'clean-transfer': transfer,
  'modality-job': object({ job: text({ min: 1, max: 64, expected: 'a job id' }) }),
  'background-job': object({ job: text({ min: 1, max: 64, expected: 'a job id' }) }),
  'prefetch-priors': object({ study: integer({ min: 1 }) }),
  recall: object({ recall: text({ min: 1, max: 64, expected: 'the id of a recall' }) }),
  'dry-run': object({ run: text({ min: 1, max: 64, expected: 'the id of a dry run' }) }),
}

export const laneNames: readonly Lane[] = Object.keys(lanes).filter((name): name is Lane => Object.hasOwn(lanes, name))

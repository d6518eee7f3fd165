/** The site's audit log as the rest of the gateway uses it: sequenced, signed with the site's key, verified. */

import { type SignatureContext, verify as verifySignature } from '../../peers/envelope.ts'
import type { SiteKeys } from '../../peers/keys.ts'
import { authorize } from '../../policy/authorize.ts'
import { type Checkpoint, loadCheckpoint } from '../audit/checkpoint.ts'
import { auditLogUsed } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import { type NoteKey, namedType, noteKey, noteSigner } from '../audit/note.ts'
import { startSequencer } from '../audit/sequencer.ts'
import { type AuditReport, verifyAudit } from '../audit/verify.ts'
import type { Db } from '../db/db.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'

export interface AuditLog {
  /** The newest signed tree head over everything committed so far. */
  checkpoint(): Promise<Checkpoint>
  latest(): Promise<Checkpoint | undefined>
  /** Reads the whole log; that is an event too. */
  verify(principal: Principal): Promise<AuditReport>
  close(): Promise<void>
}

/** Domain of checkpoint signatures; the signed bytes are DSSE's encoding of context and note text. */
const context: SignatureContext = 'application/vnd.hanse.audit-checkpoint.v1+json'
const signatureType = namedType('hanse-dsse-ed25519')

/** The log's name: first line of its checkpoints and name of its keys. */
const originOf = (siteId: string): string => `hanse/${siteId}`

/** The keys that checkpoints of a site verify with: its current one and those it had before. */
export function checkpointKeys(siteId: string, signingKeys: readonly Uint8Array[]): NoteKey[] {
  return signingKeys.map(publicKey =>
    noteKey({
      name: originOf(siteId),
      publicKey,
      type: signatureType,
      verify: (text, signature) => verifySignature(context, publicKey, text, signature),
    }),
  )
}

/** All signing keys a site has had. */
export function signingKeysOf(keys: Pick<SiteKeys, 'signingKey' | 'formerKeys'>): Uint8Array[] {
  return [keys.signingKey, ...keys.formerKeys.filter(former => former.use === 'sign').map(former => former.key)]
}

/** Starts the sequencer. */
export function openAuditLog(options: { db: Db; log: Log; keys: SiteKeys }): AuditLog {
  const { db, log, keys } = options
  const signer = noteSigner({
    name: originOf(keys.siteId),
    publicKey: keys.signingKey,
    type: signatureType,
    sign: text => keys.sign(context, text),
  })
  const sequencer = startSequencer({ db, log, signer })
  return {
    checkpoint: () => sequencer.checkpoint(),
    latest: () => loadCheckpoint(db),
    async verify(principal) {
      authorize(principal, 'audit.read')
      await db.inTransaction(tx =>
        appendAudit(tx, auditLogUsed({ participants: [{ userId: principal.id, requestor: true }] })),
      )
      const report = await verifyAudit(db, checkpointKeys(keys.siteId, signingKeysOf(keys)))
      // Only a log that holds is signed again: a new head must not vouch for a forged one.
      if (report.ok) await sequencer.checkpoint()
      return report
    },
    close: () => sequencer.close(),
  }
}

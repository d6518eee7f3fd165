/** Synthetic audit events and a signing key for the audit tests. */
import { generateKeyPairSync, sign } from 'node:crypto'
import { type AuditEvent, instancesTransferred } from '../../gateway/audit/event.ts'
import { appendAudits } from '../../gateway/audit/log.ts'
import { type NoteKey, type NoteSigner, noteKey, noteSigner } from '../../gateway/audit/note.ts'
import type { Db } from '../../gateway/db/db.ts'

/** A key pair named as a log. */
export function testSigner(name = 'hanse/test/audit'): { signer: NoteSigner; key: NoteKey } {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const raw = Buffer.from(publicKey.export({ format: 'jwk' }).x ?? '', 'base64url')
  return {
    signer: noteSigner({ name, publicKey: raw, sign: text => sign(null, text, privateKey) }),
    key: noteKey({ name, publicKey: raw }),
  }
}

/** An event about study `1.2.<n>`. */
export function event(n: number): AuditEvent {
  return instancesTransferred({
    action: 'C',
    source: { userId: 'CT1' },
    destination: { userId: 'HANSE' },
    objects: [
      { kind: 'study', studyInstanceUid: `1.2.${n}` },
      { kind: 'patient', patientId: `TEST-${n}` },
    ],
  })
}

/** Appends `count` events in one transaction; their ids. */
export async function appendEvents(db: Db, count: number): Promise<number[]> {
  const before = (await db.pool.query('select coalesce(max(id), 0) as id from audit_events')).rows[0].id
  const events = Array.from({ length: count }, (_, n) => event(n))
  await db.inTransaction(tx => appendAudits(tx, events))
  const { rows } = await db.pool.query('select id from audit_events where id > $1 order by id', [before])
  return rows.map(row => row.id)
}

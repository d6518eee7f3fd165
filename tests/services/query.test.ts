import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from 'kysely'
import type { DicomJson } from '../../gateway/dicom/json.ts'
import { matchKeys } from '../../gateway/dicom/matching.ts'
import { openQuery } from '../../gateway/services/query.ts'
import { testDatabase } from '../support/database.ts'
import { caller } from '../support/principals.ts'

const principal = caller('WORKSTATION', { address: '10.0.0.1' })
const byName: DicomJson = { '00100010': { vr: 'PN', Value: [{ Alphabetic: 'SECRET*' }] } }

test('a query is an audit event that is there before its first match, and names no values', async t => {
  const db = await testDatabase(t)
  const events = async (): Promise<string[]> => {
    const { rows } = await sql<{ payload: string }>`
      select payload from audit_events where payload like '%"110112"%' order by id
    `.execute(db.kysely)
    return rows.map(row => row.payload)
  }
  await sql`
    with p as (
      insert into patients (patient_id, orthanc_id, name_folded) values ('1', 'p', 'secret^name') returning id
    )
    insert into studies (patient, study_instance_uid, orthanc_id, name_folded, attributes)
    select id, '1.2.3', 's', 'secret^name', ${JSON.stringify(byName).replace('*', '^NAME')}::jsonb from p
  `.execute(db.kysely)
  const query = openQuery({ db })
  const options = { returned: new Set<number>() }

  for await (const matches of query.find(principal, { level: 'study', keys: matchKeys(byName) }, options)) {
    assert.deepEqual(
      matches.map(match => match.orthancId),
      ['s'],
    )
    assert.equal((await events()).length, 1)
  }
  for await (const _ of query.find(principal, { level: 'instance', keys: matchKeys(byName) }, options)) assert.fail()

  const recorded = await events()
  assert.equal(recorded.length, 2)
  for (const payload of recorded) {
    assert.match(payload, /WORKSTATION/)
    assert.match(payload, /00100010/)
    assert.doesNotMatch(payload, /secret/i)
  }
})

import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { ingestStore } from '../../gateway/dimse/ingest-sink.ts'
import { openIngest } from '../../gateway/services/ingest.ts'
import { testBlobs } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { associate, datasetOffsetOf, responseOf, sampleFile, startScp, storeCommand, storeMessage } from './fixture.ts'

async function startGateway(t: TestContext) {
  const db = await testDatabase(t)
  const blobs = await testBlobs(t)
  const ingest = openIngest({ db, blobs, dueAt: () => undefined })
  const { port } = await startScp(t, { store: ingestStore(ingest) })
  const count = async () => Number((await db.pool.query('select count(*) as n from instances')).rows[0].n)
  return { db, blobs, port, count }
}

test('a C-STORE becomes an instance whose blob holds the data set as sent, and a repeat is a success', async t => {
  const { db, blobs, port, count } = await startGateway(t)
  const peer = await associate(t, port)
  const { bytes, datasetOffset } = sampleFile({ sopInstanceUid: '1.2.3.4' })
  const dataset = bytes.subarray(datasetOffset)

  for (let repeat = 0; repeat < 2; repeat += 1) {
    peer.write(storeMessage(1, storeCommand(), dataset))
    assert.equal(responseOf(await peer.read()).get(0x0900), 0x0000)
  }

  assert.equal(await count(), 1)
  const { rows } = await db.pool.query('select file_sha256 from instances')
  const blob = await blobs.open(rows[0].file_sha256)
  t.after(() => blob.close())
  const file = Buffer.from(await blob.read(0, blob.sizeBytes))
  assert.deepEqual(file.subarray(datasetOffsetOf(file)), dataset)
})

test('a data set of another instance than the command says is refused with 0xA900', async t => {
  const { port, count } = await startGateway(t)
  const peer = await associate(t, port)
  const { bytes, datasetOffset } = sampleFile({ sopInstanceUid: '1.2.3.5' })

  peer.write(storeMessage(1, storeCommand(), bytes.subarray(datasetOffset)))

  assert.equal(responseOf(await peer.read()).get(0x0900), 0xa900)
  assert.equal(await count(), 0)
})

test('a data set that is none is refused with 0xC000', async t => {
  const { port, count } = await startGateway(t)
  const peer = await associate(t, port)

  peer.write(storeMessage(1, storeCommand(), Buffer.from('no data set, but some bytes')))

  assert.equal(responseOf(await peer.read()).get(0x0900), 0xc000)
  assert.equal(await count(), 0)
})

/** Files that are broken in the ways real ones are: each gets a clear answer, and nothing else suffers. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { type OutgoingInstance, type StoreResult, storeScu } from '../../gateway/dimse/scu.ts'
import { type CorpusFile, openCorpus, transferSyntaxUids } from '../support/corpus.ts'
import { missing, run } from '../support/dcmtk.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { startBystander } from './bystander.ts'
import { assertSound, quick } from './hospitals.ts'
import { inMiB, memoryOf } from './process-memory.ts'

const skip = missing('dcmsend', 'storescu')

/** A small heap, so that what is not given back shows soon. */
const smallHeap = { NODE_OPTIONS: '--max-old-space-size=96 --max-semi-space-size=4' }

const warmUpRounds = 5
const rounds = process.env['HANSE_SOAK'] ? 1000 : 25
/** What malloc and the database client may keep from one round to another; a leak of one file a round is more. */
const allowedGrowthBytes = 24 * 1024 ** 2

/** Statuses that tell the sender what is wrong: PS3.4 Table B.2-1, and PS3.7 Annex C for a bad UID in the command. */
const clearStatuses = new Set([0x0000, 0xa900, 0xc000, 0x0106, 0x0117, 0x0122])

test('malformed files get a clear status again and again, and cost no memory', { skip }, async t => {
  const files = openCorpus(t)?.filter(file => file.isMalformed)
  if (!files) return
  const gateway = await startProcessGateway(t, 'north', { ...quick, ...smallHeap })
  const { pid } = gateway
  const stop = startBystander(gateway, 1_000_000)

  await sendRounds(gateway, files, warmUpRounds)
  const before = await memoryOf(pid)
  await sendRounds(gateway, files, rounds)
  const after = await memoryOf(pid)

  const grown = after.residentBytes - before.residentBytes
  t.diagnostic(`resident memory: ${inMiB(before.residentBytes)} MiB, then ${inMiB(after.residentBytes)} MiB`)
  assert.ok(grown < allowedGrowthBytes, `resident memory grew by ${inMiB(grown)} MiB`)
  await sendByDcmtk(t, gateway, files)
  const { rounds: served } = await stop()
  assert.ok(served > 1)
  assert.equal(gateway.pid, pid)
  assert.ok(gateway.isRunning)
  await assertSound(gateway)
})

async function sendRounds(gateway: ProcessGateway, files: readonly CorpusFile[], count: number): Promise<void> {
  const inputs = await Promise.all(files.map(async file => ({ file, bytes: await file.bytes() })))
  for (let round = 0; round < count; round += 1) {
    await Promise.all([storeAll(gateway, inputs), uploadAll(gateway, inputs)])
  }
}

interface Input {
  readonly file: CorpusFile
  readonly bytes: Buffer
}

/** Sends each file's bytes as they are: from where its data set seems to begin, and from its first byte. */
async function storeAll(gateway: ProcessGateway, inputs: readonly Input[]): Promise<void> {
  const instances = inputs.flatMap(({ file, bytes }, index) =>
    [0, Math.min(bytes.length - 2, 132 + metaBytes(bytes))].map(
      (datasetOffset): OutgoingInstance & { name: string } => ({
        name: file.name,
        sopClassUid: '1.2.840.10008.5.1.4.1.1.2',
        sopInstanceUid: sopInstanceUid(bytes) ?? `2.25.${index + 1}`,
        transferSyntaxUid: transferSyntaxUids[file.transferSyntax] ?? '1.2.840.10008.1.2.1',
        open: () => ({ source: bufferSource(bytes), datasetOffset }),
      }),
    ),
  )
  const target = { host: '127.0.0.1', port: gateway.ports.dicom, callingAe: 'BROKEN', calledAe: 'HANSE' }
  const answered: [string, StoreResult][] = []
  await storeScu(target, instances, (instance, result) => void answered.push([instance.name, result]))
  assert.equal(answered.length, instances.length)
  for (const [name, result] of answered) {
    assert.ok(result.kind === 'responded', `${name}: ${result.kind}`)
    assert.ok(clearStatuses.has(result.status), `${name}: status ${result.status.toString(16)}`)
    if (result.status !== 0x0000) assert.ok(result.comment, `${name}: an error comment`)
  }
}

/** Length of the meta group as a Part 10 file announces it; 0 where there is none. */
function metaBytes(bytes: Buffer): number {
  const isPart10 = bytes.length > 144 && bytes.toString('latin1', 128, 132) === 'DICM'
  return isPart10 && bytes.readUInt32LE(132) === 0x0000_0002 ? 12 + bytes.readUInt32LE(140) : 0
}

/** The first thing in it that looks like (0008,0018), so that some get past the comparison of UIDs. */
function sopInstanceUid(bytes: Buffer): string | undefined {
  const at = bytes.indexOf(Buffer.from([0x08, 0x00, 0x18, 0x00]))
  const text = at < 0 ? '' : bytes.toString('latin1', at + 8, at + 72)
  return /^[0-9][0-9.]{0,62}[0-9]/.exec(text)?.[0]
}

async function uploadAll(gateway: ProcessGateway, inputs: readonly Input[]): Promise<void> {
  for (const { file, bytes } of inputs) {
    const response = await fetch(`${gateway.url}/instances`, { method: 'POST', body: bytes })
    const answer: { Status?: string; code?: string; detail?: string } = JSON.parse(await response.text())
    if (response.status === 200) {
      assert.match(answer.Status ?? '', /^(Success|AlreadyStored|Conflict|Variant)$/, file.name)
      continue
    }
    assert.equal(response.status, 400, file.name)
    assert.match(response.headers.get('content-type') ?? '', /^application\/problem\+json/, file.name)
    assert.equal(answer.code, 'DICOM_UNREADABLE', file.name)
    assert.ok(answer.detail, file.name)
  }
}

/** What DCMTK can make of them; it does not send most, and ends associations in the middle of some. */
async function sendByDcmtk(t: TestContext, gateway: ProcessGateway, files: readonly CorpusFile[]): Promise<void> {
  const paths = files.map(file => file.path)
  const where = ['127.0.0.1', String(gateway.ports.dicom)]
  const options = ['-v', '-aec', 'HANSE', '--no-halt', '--read-file']
  for (const more of [['--decompress-never', '--no-uid-checks'], ['--decompress-lossy']]) {
    const { output } = await run(t, 'dcmsend', [...options, ...more, ...where, ...paths])
    assertClear(output)
  }
  assertClear((await run(t, 'storescu', [...options, ...where, ...paths])).output)
}

function assertClear(output: string): void {
  const statuses = [...output.matchAll(/Received (?:C-STORE|Store) Response \((.*)\)/g)].map(match => match[1] ?? '')
  assert.ok(statuses.length > 0, output.slice(-2000))
  for (const status of statuses)
    assert.match(status, /Success|CannotUnderstand|DataSetDoesNotMatch|SOPClassNotSupported|0x0?106/)
}

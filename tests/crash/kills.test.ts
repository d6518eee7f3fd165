/**
 * Random kills while a modality sends studies to A and A carries them to B: nothing acknowledged is
 * lost, nothing is shown in part, little is sent twice, everything arrives.
 *
 * `HANSE_SOAK=1` makes it 30 kills over 2,000 instances of 526 KB; `HANSE_SEED` chooses the kills.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { onEnd } from '../support/cleanup.ts'
import { keepRunning, type ProcessGateway } from '../support/process-gateway.ts'
import { startPair } from '../support/process-pair.ts'
import { until } from '../support/until.ts'
import { planStudy, type Study, sendStudy } from './modality.ts'
import { observe } from './observer.ts'
import { assertHolds, assertSound, transfersOf, untilReceipted } from './verify.ts'

const isSoak = process.env['HANSE_SOAK'] === '1'
const scale = isSoak
  ? { kills: 30, studies: 20, instances: 100, rows: 512, deadlineMs: 1_800_000 }
  : { kills: 6, studies: 10, instances: 24, rows: 200, deadlineMs: 240_000 }
/** Between two exposures, so that the first studies are carried while the last ones are still sent. */
const exposureMs = 20
const seed = Number(process.env['HANSE_SEED'] ?? 20_261_122)

/** Transfers that A carries to one peer at a time, and ranges of each on their way (`gateway/services/outbound.ts`, `peers/carrier-opener.ts`). */
const openRanges = 2 * 6
const rangeBytes = 4 * 1024 * 1024

test(`${scale.kills} random kills during ingest and transfer lose nothing, show nothing in part, repeat little`, async t => {
  const studies = Array.from({ length: scale.studies }, (_, index) => planStudy(index + 1, scale.instances, scale.rows))
  const totalBytes = studies.reduce((sum, study) => sum + study.sizeBytes, 0)
  const { a, b, wire } = await startPair(t, { wholeStudy: scale.instances })
  const observer = observe(t, b, studies)
  const keepers = [keepRunning(t, a), keepRunning(t, b)]
  let stored = 0
  const progress = (): number => stored / (scale.studies * scale.instances) + Math.min(1, wire.sentBytes / totalBytes)

  const sending = sendAll(t, a, studies, () => stored++)
  const kills = await killAtRandom({ a, b, progress })
  const repeats = await sending
  await Promise.all(keepers.map(keeper => keeper.release()))
  const transfers = await untilReceipted(a, studies, scale.deadlineMs)
  await observer.stop()

  t.diagnostic(`seed ${seed}: ${kills.join(', ')}`)
  const sentBytes = transfers.reduce((sum, each) => sum + each.bytesSent, 0)
  t.diagnostic(
    `${observer.looks} looks at B, ${repeats} instances sent again to A, ` +
      `${megabytes(totalBytes)} of studies, ${megabytes(sentBytes)} counted by A, ${megabytes(wire.sentBytes)} on the wire`,
  )
  assert.deepEqual(
    keepers.flatMap(keeper => keeper.unexplained),
    [],
  )
  assert.deepEqual(observer.partial, [])
  assert.ok(observer.looks > 20, `looked at B only ${observer.looks} times`)
  assert.equal(transfers.length, studies.length, 'one transfer for each study')
  for (const each of transfers) assert.equal(each.objectCount, scale.instances)
  assert.deepEqual([...new Set((await transfersOf(b, 'inbound')).map(each => each.state))], ['imported'])
  const sentTwice = Math.min(rangeBytes, Math.max(...studies.map(study => study.sizeBytes))) * openRanges * kills.length
  assert.ok(sentBytes - totalBytes <= sentTwice, `${sentBytes - totalBytes} bytes were sent twice`)
  // Independent of A's own counting: TLS, headers, manifests and receipts are less than the tolerance.
  assert.ok(wire.sentBytes <= (totalBytes + sentTwice) * 1.03 + 2_000_000, `${wire.sentBytes} bytes on the wire`)
  const everything = studies.flatMap(study => study.exposures)
  for (const gateway of [a, b]) {
    await assertHolds(gateway, everything)
    await assertSound(gateway)
  }
})

/** Two associations at a time, each with studies of its own. */
async function sendAll(
  t: TestContext,
  gateway: ProcessGateway,
  studies: readonly Study[],
  onStored: () => void,
): Promise<number> {
  const waiting = [...studies]
  const ending = new AbortController()
  onEnd(t, () => ending.abort())
  let repeats = 0
  const lane = async (): Promise<void> => {
    for (let study = waiting.shift(); study; study = waiting.shift()) {
      const stored = async (): Promise<void> => {
        onStored()
        await delay(exposureMs)
      }
      repeats += (await sendStudy(gateway, study, { onStored: stored, signal: ending.signal })).repeats
    }
  }
  await Promise.all([lane(), lane()])
  return repeats
}

/**
 * Kills at random amounts of progress (1 for everything stored, 1 for everything carried), so that a
 * slow machine is hit as often as a fast one; what was killed.
 */
async function killAtRandom(options: {
  a: ProcessGateway
  b: ProcessGateway
  progress: () => number
}): Promise<string[]> {
  const { a, b, progress } = options
  const random = seeded(seed)
  const moments = Array.from({ length: scale.kills }, () => 0.05 + random() * 1.85).sort((x, y) => x - y)
  const targets = deck(random, scale.kills, ['A', 'B', 'PostgreSQL of A', 'PostgreSQL of B'])
  const done: string[] = []
  for (const [index, moment] of moments.entries()) {
    const target = targets[index] ?? 'A'
    const end = Date.now() + scale.deadlineMs
    while (progress() < moment) {
      if (Date.now() > end) throw new Error(`no progress beyond ${progress().toFixed(2)} after ${done.join(', ')}`)
      await delay(5)
    }
    const gateway = target.endsWith('A') ? a : b
    const at = progress().toFixed(2)
    if (target.startsWith('PostgreSQL')) await until(target, 120_000, () => gateway.killDatabase())
    else {
      await until(target, 120_000, () => gateway.isRunning)
      await gateway.kill('SIGKILL')
    }
    done.push(`${target} at ${at}`)
  }
  return done
}

/** `count` cards of shuffled decks: each target comes about equally often. */
function deck(random: () => number, count: number, targets: readonly string[]): string[] {
  const cards: string[] = []
  while (cards.length < count) {
    const left = [...targets]
    while (left.length > 0) cards.push(...left.splice(Math.floor(random() * left.length), 1))
  }
  return cards.slice(0, count)
}

/** Mulberry32: small, and the same everywhere. */
function seeded(start: number): () => number {
  let state = start >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`

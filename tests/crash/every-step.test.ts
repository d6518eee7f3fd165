/**
 * One study on its way from A to B, and at each durable step the gateway that takes it is killed:
 * once before the step is committed, once after, before it is told.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { ProcessGateway } from '../support/process-gateway.ts'
import { startPair } from '../support/process-pair.ts'
import { planStudy, sendStudy } from './modality.ts'
import { observe } from './observer.ts'
import { type Hold, holdAfterCommit, holdBefore, type Point } from './stopping-point.ts'
import { assertHolds, assertSound, transfersOf, untilReceipted } from './verify.ts'

interface Step extends Point {
  readonly name: string
  readonly site: 'A' | 'B'
}

const steps: readonly Step[] = [
  { name: 'to be evaluated', site: 'A', table: 'pgboss.job', when: `new.name = 'evaluate-study'` },
  { name: 'planned', site: 'A', table: 'transfer_steps', when: `new.step = 'planned'` },
  { name: 'signed', site: 'A', table: 'transfer_steps', when: `new.step = 'signed'` },
  { name: 'accepted', site: 'B', table: 'transfer_steps', when: `new.step = 'accepted'` },
  { name: 'known as accepted', site: 'A', table: 'transfer_steps', when: `new.step = 'accepted'` },
  { name: 'a range received', site: 'B', table: 'inbound_transfers', when: 'new.bytes_received > 0' },
  { name: 'complete', site: 'B', table: 'transfer_steps', when: `new.step = 'complete'` },
  { name: 'imported', site: 'B', table: 'transfer_steps', when: `new.step = 'imported'` },
  { name: 'receipted', site: 'A', table: 'transfer_steps', when: `new.step = 'receipted'` },
]
const studySize = 12

test('a study whose carriers are killed at every step, before and after it is durable, arrives once and whole', async t => {
  const { a, b } = await startPair(t, { wholeStudy: studySize })
  const study = planStudy(1, studySize, 256)
  const observer = observe(t, b, [study])
  const siteOf = ({ site }: Step): ProcessGateway => (site === 'A' ? a : b)
  const points = steps.flatMap(step => [
    { step, name: `${step.name}, before its commit`, hold: () => holdBefore(t, siteOf(step), step) },
    { step, name: `${step.name}, after its commit`, hold: () => holdAfterCommit(t, siteOf(step), step) },
  ])

  let held: Hold | undefined = await points[0]?.hold()
  await sendStudy(a, study)
  for (const [index, { step, name }] of points.entries()) {
    const begin = Date.now()
    const gateway = siteOf(step)
    await held?.reached()
    await gateway.kill('SIGKILL')
    await held?.release()
    // While the gateway is dead: it must not run past its next step.
    held = await points[index + 1]?.hold()
    await gateway.start()
    void tryNow(a)
    t.diagnostic(`${name}: ${Date.now() - begin} ms`)
  }
  await untilReceipted(a, [study], 120_000)
  await observer.stop()

  assert.deepEqual(observer.partial, [])
  assert.equal((await transfersOf(a, 'outbound')).length, 1)
  assert.deepEqual(
    (await transfersOf(b, 'inbound')).map(each => each.state),
    ['imported'],
  )
  for (const gateway of [a, b]) {
    await assertHolds(gateway, study.exposures)
    await assertSound(gateway)
  }
})

/**
 * A person at A presses "retry", because the pauses between attempts are not what is tested. Not waited
 * for: the row may be locked by what stands at the next point already.
 */
async function tryNow(a: ProcessGateway): Promise<void> {
  try {
    for (const { id } of await transfersOf(a, 'outbound')) await a.api('POST', `/api/v1/transfers/${id}/retry`)
  } catch {
    // killed meanwhile, or receipted
  }
}

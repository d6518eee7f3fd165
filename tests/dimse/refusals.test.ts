import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RefusalReports } from '../../gateway/dimse/refusals.ts'
import type { Refusal } from '../../gateway/dimse/scp.ts'
import { openLog } from '../../gateway/log.ts'

const denial = { rejection: { result: 1, source: 1, reason: 3 }, reason: 'unknown-caller', message: 'refused' } as const
const peer = { callingAe: 'CT1', calledAe: 'HANSE', remoteAddress: '10.0.0.1' }

test('equal refusals are reported once a minute with the number in between, others at once', () => {
  const reported: Refusal[] = []
  const reports = new RefusalReports(openLog({ level: 'silent' }), refusal => reported.push(refusal))

  for (let second = 0; second < 120; second += 1) reports.report(peer, denial, second * 1_000)
  reports.report({ ...peer, callingAe: 'CT2' }, denial, 120_000)

  assert.deepEqual(
    reported.map(({ callingAe, repeats }) => [callingAe, repeats]),
    [
      ['CT1', 0],
      ['CT1', 59],
      ['CT2', 0],
    ],
  )
})

test('callers that change their title all the time do not fill the memory', () => {
  let count = 0
  const reports = new RefusalReports(openLog({ level: 'silent' }), () => {
    count += 1
  })

  for (let index = 0; index < 5_000; index += 1) reports.report({ ...peer, callingAe: `X${index}` }, denial, 0)
  reports.report({ ...peer, callingAe: 'X4999' }, denial, 1)
  reports.report({ ...peer, callingAe: 'X0' }, denial, 1)

  assert.equal(count, 5_001)
})

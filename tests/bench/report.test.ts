import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Measurement, median, type WorkloadResult } from './measure.ts'
import { ratiosOf, renderJson, renderTable } from './report.ts'

const run = (perSecond: number, cpuMsPerInstance: number): Measurement => ({
  perSecond,
  cpuMsPerInstance,
  peakTreeBytes: 200_000_000,
  peakProcessBytes: 150_000_000,
})
const result: WorkloadResult = {
  name: 'CT',
  unit: 'instances/s',
  series: [
    { target: 'hanse', durable: 'all', runs: [run(300, 2), run(100, 9), run(200, 3)] },
    { target: 'orthanc', durable: 'file', runs: [run(100, 6)] },
    { target: 'storescp', durable: 'nothing', runs: [] },
  ],
}

test('the median of an even number of values is the mean of the middle two', () => {
  assert.equal(median([4, 1, 3, 2]), 2.5)
  assert.equal(median([3, 1, 2]), 2)
  assert.ok(Number.isNaN(median([])))
})

test('ratios are ours to theirs, of medians, and leave out what did not run', () => {
  assert.deepEqual(ratiosOf(result), [{ to: 'orthanc', perSecond: 2, cpu: 0.5 }])
})

test('the table has the ratios first', () => {
  const lines = renderTable([result]).split('\n')

  assert.equal(lines[1], '  against orthanc: 2.00 x instances/s, 0.50 x CPU')
  assert.match(lines[3] ?? '', /^ {2}hanse +200 +3\.00 +200 \(150\) +all$/)
})

test('the JSON has medians and every run', () => {
  const parsed: unknown = JSON.parse(renderJson([result], { date: '', processors: 2, versions: {} }))

  assert.deepEqual(Object(parsed).workloads[0].targets[0].median, run(200, 3))
  assert.equal(Object(parsed).workloads[0].targets[0].runs.length, 3)
})

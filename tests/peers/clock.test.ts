import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { openClockWatch, parseHttpDate } from '../../peers/clock.ts'

const minuteMs = 60_000
const now = Date.parse('2026-06-01T12:00:00Z')
const b = { id: 'b', name: 'Hospital B' }
const drift = (side: string, message: RegExp) => (error: unknown) => {
  assert.ok(isGatewayError(error, 'PEER_CLOCK_DRIFT'))
  assert.equal(error.context['wrongSide'], side)
  assert.match(error.message, message)
  return true
}
const openWatch = (notBefore = now - 86_400_000) => openClockWatch({ notBefore, clock: () => now })

test('five minutes either way are tolerated, a second more is not', () => {
  const watch = openWatch()

  watch.check(b, now + 5 * minuteMs)
  watch.check(b, now - 5 * minuteMs)

  assert.throws(() => watch.check(b, now + 5 * minuteMs + 1000), drift('unknown', /is 5 minutes ahead of this site’s/))
  assert.throws(() => watch.check(b, now - 5 * minuteMs - 1000), drift('unknown', /is 5 minutes behind this site’s/))
  assert.equal(watch.offset('b'), -5 * minuteMs - 1000)
})

test('other peers that agree with us make the peer’s clock the wrong one', () => {
  const watch = openWatch()
  watch.check({ id: 'c', name: 'C' }, now + 1000)
  watch.check({ id: 'd', name: 'D' }, now - 2000)

  assert.throws(
    () => watch.check(b, now - 3 * 60 * minuteMs),
    drift(
      'theirs',
      /3 hours behind this site’s; Hospital B’s seems wrong, as the clocks of 2 other peers agree with this site/,
    ),
  )
})

test('other peers that agree with the peer make ours the wrong one', () => {
  const watch = openWatch()
  assert.throws(() => watch.check({ id: 'c', name: 'C' }, now + 31 * minuteMs), isGatewayError)

  assert.throws(
    () => watch.check(b, now + 30 * minuteMs),
    drift(
      'ours',
      /30 minutes ahead of this site’s; this site’s seems wrong, as the clock of another peer agrees with that one/,
    ),
  )
})

test('a clock that shows a time before its own keys were made is the wrong one', () => {
  const watch = openWatch(now + 10 * minuteMs)

  assert.throws(() => watch.check(b, now + 10 * minuteMs), drift('ours', /before this site’s own keys were made/))
})

test('a signed message may be old, but not from the future', () => {
  const watch = openWatch()

  watch.checkCreated(b, now - 90 * 86_400_000)
  watch.checkCreated(b, now + 4 * minuteMs)

  assert.throws(() => watch.checkCreated(b, now + 3 * 86_400_000), drift('unknown', /3 days ahead of/))
})

test('only the preferred form of an HTTP date is read', () => {
  assert.equal(parseHttpDate('Mon, 01 Jun 2026 12:00:00 GMT'), now)
  for (const header of [
    undefined,
    '',
    'Monday, 01-Jun-26 12:00:00 GMT',
    '2026-06-01',
    '1',
    'Mon, 99 Jun 2026 12:00:00 GMT',
  ]) {
    assert.equal(parseHttpDate(header), undefined)
  }
})

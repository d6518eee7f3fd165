/** Times of day at which an endpoint is given anything. */
import type { EndpointRules } from './endpoint.ts'

/**
 * When the window opens again; undefined while it is open, or when there is none. In the time zone of this machine.
 *
 * @param window  over midnight where `until` is not after `from`
 */
export function nextOpening(window: EndpointRules['window'], now: Date): Date | undefined {
  if (window === undefined) return undefined
  const [from, until] = [minutesOf(window.from), minutesOf(window.until)]
  const at = now.getHours() * 60 + now.getMinutes()
  const isOpen = from < until ? at >= from && at < until : at >= from || at < until
  if (isOpen) return undefined
  const opening = new Date(now)
  opening.setHours(Math.floor(from / 60), from % 60, 0, 0)
  if (opening <= now) opening.setDate(opening.getDate() + 1)
  return opening
}

function minutesOf(time: string): number {
  const [hours = 0, minutes = 0] = time.split(':').map(Number)
  return hours * 60 + minutes
}

/** When something is decided, as facts for conditions: in the gateway's own time zone (`TZ`). */
import type { Facts } from '../../policy/conditions.ts'

const weekdays = ['sunday', 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday'] as const

/** `EvaluationDate` as YYYYMMDD, `EvaluationTime` as HHMMSS, `EvaluationWeekday` as an English word. */
export function timeFacts(at: Date): Facts {
  const two = (value: number): string => String(value).padStart(2, '0')
  return {
    EvaluationDate: [`${at.getFullYear()}${two(at.getMonth() + 1)}${two(at.getDate())}`],
    EvaluationTime: [`${two(at.getHours())}${two(at.getMinutes())}${two(at.getSeconds())}`],
    EvaluationWeekday: [weekdays[at.getDay()] ?? ''],
  }
}

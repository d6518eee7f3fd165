/** New UIDs of a job: the same for the same old one, so that series and studies stay together and a repeated run makes the same. */
import { createHmac } from 'node:crypto'

/**
 * @param seed  of the job, secret: who has it can tell which UID came of which
 * @returns `2.25.` and a number of 128 bits (PS3.5 §B.2)
 */
export function derivedUid(seed: string, level: string, uid: string): string {
  const digest = createHmac('sha256', seed).update(`${level}\n${uid}`).digest().subarray(0, 16)
  digest[6] = ((digest[6] ?? 0) & 0x0f) | 0x80 // an UUID of version 8, RFC 9562 §5.8
  digest[8] = ((digest[8] ?? 0) & 0x3f) | 0x80
  return `2.25.${BigInt(`0x${digest.toString('hex')}`)}`
}

/**
 * What is made of a project key: UIDs, date offsets, pseudonyms. Keyed, so that nobody without the key can recompute
 * or join them; functions of the value, so that every node and every later object gives the same. One recipient, one
 * project, one key: two recipients have nothing in common.
 */
import { createHmac } from 'node:crypto'
import type { Profile } from './profile.ts'

/** A patient as a domain knows one: the same ID of two issuers is two subjects. */
export interface Subject {
  readonly issuer: string
  readonly id: string
}

/** Bytes of a project key. */
export const projectKeyBytes = 32

/** Pseudonyms of a lookup table: by issuer and ID; undefined for a subject that it does not have. */
export type PseudonymLookup = (subject: Subject) => string | undefined

const maxRemembered = 50_000

/** Derives the replacements of one project under the scopes of a profile. */
export class Project {
  readonly #key: Uint8Array
  readonly #profile: Pick<Profile, 'scopes' | 'dates' | 'pseudonym'>
  readonly #lookup: PseudonymLookup | undefined
  readonly #uids = new Map<string, string>()

  /** @param key  32 bytes, secret */
  constructor(
    key: Uint8Array,
    profile: Pick<Profile, 'scopes' | 'dates' | 'pseudonym'>,
    lookup: PseudonymLookup | undefined = undefined,
  ) {
    if (key.length !== projectKeyBytes) throw new RangeError(`expected a key of ${projectKeyBytes} bytes`)
    this.#key = Uint8Array.from(key)
    this.#profile = profile
    this.#lookup = lookup
  }

  /**
   * The UID that stands for another: `2.25.` and a UUID of version 8 (RFC 9562 §5.8) made of a keyed digest, at most 44
   * characters (PS3.5 §B.2).
   */
  uid(original: string): string {
    const known = this.#uids.get(original)
    if (known !== undefined) return known
    const digest = this.#digest('uid', this.#profile.scopes.uids, original).subarray(0, 16)
    digest[6] = ((digest[6] ?? 0) & 0x0f) | 0x80
    digest[8] = ((digest[8] ?? 0) & 0x3f) | 0x80
    const uid = `2.25.${BigInt(`0x${digest.toString('hex')}`)}`
    if (this.#uids.size >= maxRemembered) this.#uids.clear()
    this.#uids.set(original, uid)
    return uid
  }

  /** Days by which a subject's dates move, always back in time: no date comes to lie in the future. */
  offsetDays(subject: Subject): number {
    const { minDays, maxDays } = this.#profile.dates
    const digest = this.#digest('dates', this.#profile.scopes.dates, subjectText(subject))
    const span = BigInt(maxDays - minDays + 1)
    return -(minDays + Number(digest.readBigUInt64BE(0) % span))
  }

  /**
   * The subject's pseudonym: 16 characters of base 32, 80 bits, so that two subjects of one project do not meet; empty
   * when the profile wants none. A pseudonym of the table comes first; undefined when the table lacks a subject that
   * the profile looks up or numbers.
   */
  pseudonym(subject: Subject): string | undefined {
    const { kind, prefix = 'P-' } = this.#profile.pseudonym
    if (kind === 'none') return ''
    const known = this.#lookup?.(subject)
    if (known !== undefined || kind !== 'keyed') return known
    const digest = this.#digest('pseudonym', this.#profile.scopes.pseudonyms, subjectText(subject))
    let text = ''
    for (let bits = digest.readBigUInt64BE(0) * 65_536n + BigInt(digest.readUInt16BE(8)); text.length < 16; bits >>= 5n)
      text += alphabet[Number(bits & 31n)]
    return prefix + text
  }

  #digest(purpose: string, scope: string | undefined, value: string): Buffer {
    return createHmac('sha256', this.#key)
      .update(JSON.stringify([purpose, scope ?? 'project', value]))
      .digest()
  }
}

/** Crockford's: no letter that is read as a digit. */
const alphabet = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'

function subjectText({ issuer, id }: Subject): string {
  return JSON.stringify([issuer, id])
}

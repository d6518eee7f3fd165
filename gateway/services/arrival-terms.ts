/** How arriving files are looked for at an endpoint, as it is set. */
import { integer, list, type ObjectValue, object, oneOf, optional, text } from '../decode.ts'

const folder = text({
  max: 500,
  pattern: /^(?!\/)(?!.*(?:^|\/)\.\.?(?:\/|$))(?!.*\/\/)[^\p{Cc}\\]*$/u,
  expected: 'a folder below the root, without ..',
})
const gibibyte = 1_073_741_824

/** Reads the settings; `{ "folder": "in" }` is enough. */
export const inboundTerms = object({
  /** Below the endpoint's root, and all folders in it; empty for the root itself. */
  folder,
  everySeconds: optional(integer({ min: 5, max: 86_400 }), 300),
  /** Of the names of files; `*` for any characters, `?` for one. */
  pattern: optional(
    text({ min: 1, max: 255, pattern: /^(?!(?:[^*]*\*){6})[^/\p{Cc}]+$/u, expected: 'a name with at most five *' }),
    '*',
  ),
  /** `stable`: its size and time stay as they are for so long; `done`: `NAME.done` or `.done` lies beside it. */
  ready: optional(oneOf('stable', 'done'), 'stable'),
  stableSeconds: optional(integer({ min: 1, max: 86_400 }), 60),
  /** What is done there with what was taken; what was not taken is left where it is. */
  after: optional(oneOf('leave', 'delete', 'move'), 'leave'),
  /** Where `move` puts it, below the endpoint's root. */
  moveTo: optional(folder, 'taken'),
  /** Keys of senders, base64: nothing is taken that none of them has signed. */
  signers: optional(
    list(text({ pattern: /^[A-Za-z0-9+/]{43}=$/, expected: 'a signing key of 32 bytes in base64' }), { max: 100 }),
    [],
  ),
  purpose: optional(
    text({ min: 1, max: 64, pattern: /^[a-z][a-z0-9-]*$/, expected: 'a purpose such as treatment' }),
    'treatment',
  ),
  /** Whose patients they are; default the endpoint's own, so that two 12345 stay two people. Empty: the site's. */
  issuer: optional(text({ max: 64, pattern: /^[^\p{Cc}]*$/u, expected: 'a name' })),
  /** Of one look. */
  mostFiles: optional(integer({ min: 1, max: 100_000 }), 10_000),
  mostBytes: optional(integer({ min: 1 }), 100 * gibibyte),
  /** Of one file, packed or not, and of all that it holds. */
  mostFileBytes: optional(integer({ min: 1 }), 20 * gibibyte),
})

export type InboundTerms = ObjectValue<{ terms: typeof inboundTerms }>['terms']

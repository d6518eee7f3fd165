/**
 * Reject and abort reasons in words, for logs and errors (PS3.8 Tables 9-21 and 9-26).
 */

const rejectReasons: Readonly<Record<string, string>> = {
  '1.1': 'no reason given',
  '1.2': 'application context name not supported',
  '1.3': 'calling AE title not recognized',
  '1.7': 'called AE title not recognized',
  '2.1': 'no reason given',
  '2.2': 'protocol version not supported',
  '3.1': 'temporary congestion',
  '3.2': 'local limit exceeded',
}

const abortReasons: Readonly<Record<number, string>> = {
  0: 'reason not specified',
  1: 'unrecognized PDU',
  2: 'unexpected PDU',
  4: 'unrecognized PDU parameter',
  5: 'unexpected PDU parameter',
  6: 'invalid PDU parameter value',
}

/** Describes the body of an A-ASSOCIATE-RJ (result, source, reason from its second byte on). */
export function describeRejection(body: Buffer): string {
  const [, result, source, reason] = body
  const words = rejectReasons[`${source}.${reason}`] ?? `source ${source}, reason ${reason}`
  return result === 2 ? `${words} (transient)` : words
}

/** Describes the body of an A-ABORT (source and reason in its last two bytes). */
export function describeAbort(body: Buffer): string {
  const [, , source, reason] = body
  if (source === 0) return 'by its user'
  return abortReasons[reason ?? 0] ?? `reason ${reason}`
}

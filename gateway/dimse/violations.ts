/** Breaches of the protocol by the A-ABORT reason that they are answered with (PS3.8 §9.3.8). */
import { abortReason, type Violation } from './pdu.ts'

export function unrecognizedPdu(): Violation {
  return { reason: abortReason.unrecognizedPdu, message: 'unknown PDU type' }
}

/** A PDU that must not come now. */
export function unexpectedPdu(message: string): Violation {
  return { reason: abortReason.unexpectedPdu, message }
}

/** A presentation data value that must not come now. */
export function unexpectedParameter(message: string): Violation {
  return { reason: abortReason.unexpectedParameter, message }
}

/** A length or a value that is out of bounds. */
export function invalidParameter(message: string): Violation {
  return { reason: abortReason.invalidParameter, message }
}

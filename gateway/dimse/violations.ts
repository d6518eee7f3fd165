/** Breaches of the protocol by the A-ABORT reason that they are answered with (PS3.8 §9.3.8). */
import { abortReason, type Violation } from './pdu.ts'

/** The first byte of a TLS handshake record (RFC 8446 §5.1): no PDU type, but the usual mistake in a configuration. */
const tlsHandshake = 0x16

/** A PDU of this type is not known. */
export function unrecognizedPdu(type: number): Violation {
  const message = type === tlsHandshake ? 'TLS on the port for plain DICOM' : 'unknown PDU type'
  return { reason: abortReason.unrecognizedPdu, message }
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

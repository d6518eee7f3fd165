/** Unique identifiers: their form, the registered ones, and the transfer syntaxes. */
import { randomUUID } from 'node:crypto'
import { GatewayError } from '../errors.ts'
import type { Encoding } from './dataset.ts'
import { uidLines } from './uid.data.ts'

declare const uidBrand: unique symbol

/** A DICOM UID: at most 64 characters, digits and dots, no leading zero in a component (PS3.5 §9.1). */
export type Uid = string & { readonly [uidBrand]: true }

/** How a transfer syntax encodes a data set (PS3.5 Annex A). */
export interface TransferSyntax extends Encoding {
  readonly uid: Uid
  readonly name: string
  /** The data set as a whole is a deflate stream (PS3.5 §A.5). */
  readonly deflated: boolean
  /** Pixel data is a sequence of fragments (PS3.5 §A.4). */
  readonly encapsulated: boolean
}

const uidForm = /^(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*$/

/** True for the form of PS3.5 §9.1. */
export function isUid(text: string): text is Uid {
  return text.length <= 64 && uidForm.test(text)
}

/** A new UID: `2.25.` and a random UUID as a number (PS3.5 §B.2). */
export function newUid(): Uid {
  return toUid(`2.25.${BigInt(`0x${randomUUID().replaceAll('-', '')}`)}`)
}

/**
 * The text as a UID, without the padding of its encoding.
 * Leading zeros in components are tolerated: devices in the field write them and the value must survive unchanged.
 *
 * @throws GatewayError DICOM_UNREADABLE
 */
export function toUid(text: string, what = 'UID'): Uid {
  const trimmed = text.replace(/[\0 ]+$/, '').replace(/^ +/, '')
  if (!isUidLike(trimmed)) {
    throw new GatewayError('DICOM_UNREADABLE', `expected a ${what} of digits and dots, at most 64 characters`, {
      context: { length: trimmed.length },
    })
  }
  return trimmed
}

function isUidLike(text: string): text is Uid {
  return text.length <= 64 && /^[0-9]+(?:\.[0-9]+)*$/.test(text)
}

/** The name that PS3.6 registers for a UID. */
export function uidName(uid: string): string | undefined {
  return registered.get(uid)?.name
}

/** The encoding of a registered transfer syntax; undefined for private and unknown ones. */
export function transferSyntax(uid: string): TransferSyntax | undefined {
  return transferSyntaxes.get(uid)
}

export const implicitVrLittleEndian = '1.2.840.10008.1.2'
export const explicitVrLittleEndian = '1.2.840.10008.1.2.1'
export const deflatedExplicitVrLittleEndian = '1.2.840.10008.1.2.1.99'
export const explicitVrBigEndian = '1.2.840.10008.1.2.2'

interface Registered {
  readonly kind: string
  readonly name: string
}

const registered: ReadonlyMap<string, Registered> = new Map(
  uidLines.split('\n').map(line => {
    const [uid = '', kind = ''] = line.split(' ', 2)
    return [uid, { kind, name: line.slice(uid.length + kind.length + 2) }]
  }),
)

/** Uncompressed and deflated syntaxes, and those that only refer to pixel data, hold no fragments. */
const nativeSyntaxes: ReadonlySet<string> = new Set([
  implicitVrLittleEndian,
  explicitVrLittleEndian,
  deflatedExplicitVrLittleEndian,
  explicitVrBigEndian,
  '1.2.840.10008.1.2.4.94',
  '1.2.840.10008.1.2.4.95',
  '1.2.840.10008.1.2.4.204',
  '1.2.840.10008.1.2.4.205',
  '1.2.840.10008.1.20',
])

const deflatedSyntaxes: ReadonlySet<string> = new Set([
  deflatedExplicitVrLittleEndian,
  '1.2.840.10008.1.2.4.95',
  '1.2.840.10008.1.2.4.205',
])

/** Every transfer syntax of PS3.6 by UID, retired ones included. */
export const transferSyntaxes: ReadonlyMap<string, TransferSyntax> = new Map(
  [...registered].filter(([, { kind }]) => kind.startsWith('T')).map(([uid, { name }]) => [uid, encodingOf(uid, name)]),
)

/**
 * Every storage SOP class of PS3.6 by UID, retired ones included: PS3.4 §B.5, and the non-patient objects of PS3.4
 * Annex GG (hanging protocols, palettes, implant templates), which have no study.
 */
export const storageSopClasses: ReadonlyMap<string, string> = new Map(
  [...registered]
    .filter(([uid, { kind, name }]) => kind.startsWith('C') && isStorage(uid, name))
    .map(([uid, { name }]) => [uid, name]),
)

function isStorage(uid: string, name: string): boolean {
  // Not the Print (5.1.1) and Storage Commitment (1.20) classes, and not the media directory (1.3.10).
  return /\bStorage\b/.test(name) && uid.startsWith('1.2.840.10008.5.1.4.')
}

function encodingOf(uid: string, name: string): TransferSyntax {
  return {
    uid: toUid(uid),
    name,
    explicitVr: uid !== implicitVrLittleEndian && uid !== '1.2.840.10008.1.20',
    bigEndian: uid === explicitVrBigEndian,
    deflated: deflatedSyntaxes.has(uid),
    encapsulated: !nativeSyntaxes.has(uid),
  }
}

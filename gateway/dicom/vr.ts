/** Value representations, DICOM PS3.5 §6.2, and what each means for encoding. */

/** What a VR says about the bytes of a value. */
interface VrFacts {
  /** `text`: decoded by Specific Character Set; `ascii`: default repertoire; others are binary. */
  readonly kind: 'text' | 'ascii' | 'binary' | 'sequence'
  /** Explicit VR writes two reserved bytes and a 32-bit length (PS3.5 §7.1.2). */
  readonly longLength: boolean
  /** Bytes of one number, 1 when bytes are not swapped between byte orders. */
  readonly unitBytes: number
  /** Values are separated by a backslash. */
  readonly multiValued: boolean
}

const facts = (kind: VrFacts['kind'], options: { long?: true; unit?: number; single?: true } = {}): VrFacts => ({
  kind,
  longLength: options.long ?? false,
  unitBytes: options.unit ?? 1,
  multiValued: (kind === 'text' || kind === 'ascii') && options.single !== true,
})

const vrTable = {
  AE: facts('ascii'),
  AS: facts('ascii'),
  AT: facts('binary', { unit: 2 }),
  CS: facts('ascii'),
  DA: facts('ascii'),
  DS: facts('ascii'),
  DT: facts('ascii'),
  FD: facts('binary', { unit: 8 }),
  FL: facts('binary', { unit: 4 }),
  IS: facts('ascii'),
  LO: facts('text'),
  LT: facts('text', { single: true }),
  OB: facts('binary', { long: true }),
  OD: facts('binary', { long: true, unit: 8 }),
  OF: facts('binary', { long: true, unit: 4 }),
  OL: facts('binary', { long: true, unit: 4 }),
  OV: facts('binary', { long: true, unit: 8 }),
  OW: facts('binary', { long: true, unit: 2 }),
  PN: facts('text'),
  SH: facts('text'),
  SL: facts('binary', { unit: 4 }),
  SQ: facts('sequence', { long: true }),
  SS: facts('binary', { unit: 2 }),
  ST: facts('text', { single: true }),
  SV: facts('binary', { long: true, unit: 8 }),
  TM: facts('ascii'),
  UC: facts('text', { long: true }),
  UI: facts('ascii'),
  UL: facts('binary', { unit: 4 }),
  UN: facts('binary', { long: true }),
  UR: facts('ascii', { long: true, single: true }),
  US: facts('binary', { unit: 2 }),
  UT: facts('text', { long: true, single: true }),
  UV: facts('binary', { long: true, unit: 8 }),
} as const satisfies Record<string, VrFacts>

/** A value representation of PS3.5 Table 6.2-1. */
export type Vr = keyof typeof vrTable

/** VRs whose value is bulk bytes or words, carried as BulkDataURI or InlineBinary in DICOM JSON. */
export type BulkVr = 'OB' | 'OD' | 'OF' | 'OL' | 'OV' | 'OW' | 'UN'

/** True for the two letters of a VR of the standard. */
export function isVr(text: string): text is Vr {
  return Object.hasOwn(vrTable, text)
}

/** What the VR says about the bytes of a value. */
export function vrFacts(vr: Vr): VrFacts {
  return vrTable[vr]
}

/** True for VRs whose values are opaque bytes or words. */
export function isBulkVr(vr: Vr): vr is BulkVr {
  return vr === 'UN' || vr.startsWith('O')
}

/** The least and the greatest value of an integer VR; undefined for other VRs. */
export function integerRange(vr: Vr): readonly [least: bigint, greatest: bigint] | undefined {
  return integerRanges[vr]
}

const integerRanges: Readonly<Partial<Record<Vr, readonly [bigint, bigint]>>> = {
  US: [0n, 0xffffn],
  SS: [-0x8000n, 0x7fffn],
  UL: [0n, 0xffffffffn],
  SL: [-0x80000000n, 0x7fffffffn],
  UV: [0n, 0xffffffffffffffffn],
  SV: [-0x8000000000000000n, 0x7fffffffffffffffn],
  AT: [0n, 0xffffffffn],
}

/** The VR of two bytes, by their code `first << 8 | second`; undefined when they are no VR. */
export function vrOfCode(code: number): Vr | undefined {
  return vrCodes.get(code)
}

const vrCodes: ReadonlyMap<number, Vr> = new Map(
  Object.keys(vrTable)
    .filter(isVr)
    .map(vr => [(vr.charCodeAt(0) << 8) | vr.charCodeAt(1), vr]),
)

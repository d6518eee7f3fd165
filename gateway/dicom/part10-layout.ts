/**
 * Where the parts of a file are: preamble, File Meta Information, data set (PS3.10 §7), and how the data set is
 * encoded. Files without preamble, prefix or meta are common; then the first bytes tell the encoding.
 */
import { GatewayError, isGatewayError } from '../errors.ts'
import type { ByteSource } from './byte-source.ts'
import { type Dataset, type Encoding, stringOf } from './dataset.ts'
import { DatasetBuilder } from './dataset-builder.ts'
import { entryOf } from './dictionary.ts'
import { type WalkStart, type Window, walk } from './element-walker.ts'
import { explicitVrBigEndian, explicitVrLittleEndian, implicitVrLittleEndian, transferSyntax } from './uid.ts'
import { vrOfCode } from './vr.ts'

/** The parts of a Part 10 file, and of data sets stored without one or the other. */
export interface Part10Layout {
  /** Bytes before the prefix `DICM`: 128, or 0 where there is no preamble. */
  readonly preambleBytes: number
  /** Group 2, empty where there is none. */
  readonly meta: Dataset
  readonly datasetOffset: number
  /** As declared; where nothing is declared, the syntax that the bytes show. */
  readonly transferSyntaxUid: string
  /** As the bytes show, which may differ from what is declared. */
  readonly encoding: Encoding
  readonly isDeflated: boolean
  /** The bytes at hand, for the walk that follows. */
  readonly window: Window
}

const headBytes = 32_768
const maxMetaBytes = 65_536
const prefix = 0x4449434d

/**
 * Finds the parts of a file.
 *
 * @throws GatewayError DICOM_UNREADABLE when the bytes are no DICOM data set
 */
export async function findLayout(source: ByteSource): Promise<Part10Layout> {
  const bytes = await source.read(0, headBytes)
  const window = { offset: 0, bytes }
  const prefixAt =
    bytes.length >= 132 && uint32(bytes, 128) === prefix ? 128 : uint32(bytes, 0) === prefix ? 0 : undefined
  const metaOffset = prefixAt === undefined ? 0 : prefixAt + 4
  const metaEncoding = encodingOfMeta(bytes, metaOffset)
  const preambleBytes = prefixAt ?? 0
  if (metaEncoding === undefined) {
    const syntax = await detectSyntax(source, window, metaOffset, prefixAt === undefined ? {} : { isDicom: true })
    return { preambleBytes, meta: emptyDataset, datasetOffset: metaOffset, window, ...syntax }
  }
  const { meta, end } = await readMeta(source, window, metaOffset, metaEncoding)
  const declared = stringOf(meta, 0x00020010)
  const syntax = await detectSyntax(source, window, end, { declared, isDicom: true })
  return { preambleBytes, meta, datasetOffset: end, window, ...syntax }
}

/**
 * How the data set at `offset` is encoded: as declared where the first element bears that out, else as the bytes show.
 *
 * @param isDicom  a prefix or file meta was there, so that odd first elements are read all the same
 * @throws GatewayError DICOM_UNREADABLE when they show nothing
 */
export async function detectSyntax(
  source: ByteSource,
  window: Window,
  offset: number,
  { declared, isDicom = false }: { readonly declared?: string | undefined; readonly isDicom?: boolean },
): Promise<Pick<Part10Layout, 'transferSyntaxUid' | 'encoding' | 'isDeflated'>> {
  const syntax = declared === undefined ? undefined : transferSyntax(declared)
  if (declared !== undefined && syntax?.deflated) {
    return { transferSyntaxUid: declared, encoding: syntax, isDeflated: true }
  }
  const at = offset - window.offset
  const isAtHand = at >= 0 && at + 12 <= window.bytes.length
  const first = isAtHand ? window.bytes.subarray(at, at + 12) : await source.read(offset, 12)
  if (first.length === 0) {
    // Nothing behind the meta: an empty data set, in whatever was declared.
    if (declared === undefined) throw notDicom()
    return { transferSyntaxUid: declared, encoding: syntax ?? encodings.explicitLittle, isDeflated: false }
  }
  const shown = encodingShown(first, source.sizeBytes - offset, syntax)
  if (shown === undefined) {
    // What calls itself DICOM is read as declared, or as the default syntax, and fails there if it is something else.
    if (!isDicom && declared === undefined) throw notDicom()
    const { explicitVr, bigEndian } = syntax ?? encodings.implicitLittle
    return {
      transferSyntaxUid: declared ?? implicitVrLittleEndian,
      encoding: { explicitVr, bigEndian },
      isDeflated: false,
    }
  }
  return { transferSyntaxUid: declared ?? syntaxOf(shown), encoding: shown, isDeflated: false }
}

const emptyDataset: Dataset = new DatasetBuilder(
  () => 'stop',
  bytes => bytes,
).dataset

const encodings = {
  implicitLittle: { explicitVr: false, bigEndian: false },
  explicitLittle: { explicitVr: true, bigEndian: false },
  explicitBig: { explicitVr: true, bigEndian: true },
} as const satisfies Record<string, Encoding>

function encodingOfMeta(bytes: Uint8Array, at: number): Encoding | undefined {
  if (bytes.length < at + 8) return undefined
  const first = uint32(bytes, at) >>> 16
  if (first !== 0x0200 && first !== 0x0002) return undefined
  const bigEndian = first === 0x0002
  const isExplicit = vrOfCode(uint32(bytes, at + 4) >>> 16) !== undefined
  if (bigEndian) return isExplicit ? encodings.explicitBig : undefined
  return isExplicit ? encodings.explicitLittle : encodings.implicitLittle
}

/**
 * Group 2 ends where its group length says, or, where that is missing or wrong, where another group begins. A deflated
 * data set may begin with any bytes, those of group 2 among them, so the group length goes first.
 */
async function readMeta(
  source: ByteSource,
  window: Window,
  offset: number,
  encoding: Encoding,
): Promise<{ meta: Dataset; end: number }> {
  const declaredEnd = declaredMetaEnd(window.bytes, offset, encoding)
  if (declaredEnd !== undefined) {
    const declared = await walkMeta(source, { offset, encoding, window, end: declaredEnd }).catch(ignoreUnreadable)
    const isFollowedByMeta = encodingOfMeta(window.bytes, declaredEnd) !== undefined
    if (declared !== undefined && declared.end === declaredEnd) {
      if (!isFollowedByMeta || transferSyntax(stringOf(declared.meta, 0x00020010) ?? '')?.deflated) return declared
    }
  }
  return walkMeta(source, { offset, encoding, window })
}

async function walkMeta(source: ByteSource, start: WalkStart): Promise<{ meta: Dataset; end: number }> {
  const builder = new DatasetBuilder(
    ({ tag, length, offset }) => {
      if (tag >>> 16 !== 2) return 'stop'
      if (offset + length - start.offset <= maxMetaBytes) return 'value'
      throw new GatewayError('DICOM_LIMIT', 'file meta information is larger than allowed', {
        context: { maxBytes: maxMetaBytes },
      })
    },
    bytes => bytes,
  )
  const end = await walk(source, start, builder)
  return { meta: builder.dataset, end }
}

function declaredMetaEnd(bytes: Uint8Array, at: number, { explicitVr, bigEndian }: Encoding): number | undefined {
  if (bytes.length < at + 12) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const isGroupLength = view.getUint16(at, !bigEndian) === 2 && view.getUint16(at + 2, !bigEndian) === 0
  const length = explicitVr ? view.getUint16(at + 6, !bigEndian) : view.getUint32(at + 4, !bigEndian)
  return isGroupLength && length === 4 ? at + 12 + view.getUint32(at + 8, !bigEndian) : undefined
}

function ignoreUnreadable(error: unknown): undefined {
  if (!isGatewayError(error, 'DICOM_UNREADABLE') && !isGatewayError(error, 'DICOM_LIMIT')) throw error
}

/** The encoding that the first element of a data set shows; the declared one where it fits. */
function encodingShown(first: Uint8Array, sizeBytes: number, declared: Encoding | undefined): Encoding | undefined {
  const candidates = [encodings.explicitLittle, encodings.explicitBig, encodings.implicitLittle]
  const fitting = candidates.filter(candidate => fits(first, sizeBytes, candidate))
  const same = fitting.find(
    ({ explicitVr, bigEndian }) => explicitVr === declared?.explicitVr && bigEndian === declared.bigEndian,
  )
  return same ?? fitting[0]
}

function fits(first: Uint8Array, sizeBytes: number, encoding: Encoding): boolean {
  if (first.length < 8) return false
  const view = new DataView(first.buffer, first.byteOffset, first.byteLength)
  const little = !encoding.bigEndian
  const group = view.getUint16(0, little)
  const tag = ((group << 16) | view.getUint16(2, little)) >>> 0
  // Data sets begin with low groups: 0008 of nearly all, 0004 of a DICOMDIR, 0010 or 0020 of stripped ones.
  if (group < 4 || group > 0x7fe0) return false
  const vr = vrOfCode(view.getUint16(4, false))
  if (encoding.explicitVr) {
    const entry = entryOf(tag)
    return vr !== undefined && (group <= 0x28 || entry?.vrs.includes(vr) === true)
  }
  // The letters of a VR read as a length are at least 16,000 and, with a short length behind, mostly far beyond the file.
  const length = view.getUint32(4, little)
  const isKnown = entryOf(tag) !== undefined || (tag & 0xffff) === 0
  return (
    isKnown &&
    (length === 0xffffffff || 8 + length <= sizeBytes) &&
    (vr === undefined || entryOf(tag)?.vrs.includes(vr) !== true)
  )
}

function syntaxOf(encoding: Encoding): string {
  if (!encoding.explicitVr) return implicitVrLittleEndian
  return encoding.bigEndian ? explicitVrBigEndian : explicitVrLittleEndian
}

function uint32(bytes: Uint8Array, at: number): number {
  return (
    (((bytes[at] ?? 0) << 24) | ((bytes[at + 1] ?? 0) << 16) | ((bytes[at + 2] ?? 0) << 8) | (bytes[at + 3] ?? 0)) >>> 0
  )
}

function notDicom(): GatewayError {
  return new GatewayError('DICOM_UNREADABLE', 'cannot read DICOM: expected a data set, found other bytes')
}

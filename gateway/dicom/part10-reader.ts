/** Reads a whole DICOM file into elements with byte offsets; large values stay in the source as ranges. */
import type { ByteSource } from './byte-source.ts'
import type { Dataset, Encoding } from './dataset.ts'
import { DatasetBuilder } from './dataset-builder.ts'
import type { WalkLimits } from './element-visitor.ts'
import { walk } from './element-walker.ts'
import { inflateSource } from './inflate-source.ts'
import { findLayout } from './part10-layout.ts'
import type { Tag } from './tag.ts'

/** A file as read. */
export interface Part10 {
  /** 128 bytes as found, or empty. */
  readonly preamble: Uint8Array
  /** Group 2; empty where there is none. */
  readonly meta: Dataset
  /** As declared; where nothing is declared, the syntax that the bytes show. */
  readonly transferSyntaxUid: string
  readonly datasetOffset: number
  /** As the bytes show, which may differ from what is declared. */
  readonly encoding: Encoding
  /** Offsets in `dataset` then count in the inflated data set. */
  readonly isDeflated: boolean
  readonly dataset: Dataset
}

export interface ReadOptions {
  /** Ends before the first top-level element with this tag or a higher one. */
  readonly stopBefore?: Tag
  /** Longer values stay in the source; default 64 KiB. */
  readonly maxValueBytes?: number
  /** Values are kept up to this total, those after it stay in the source; default 64 MiB. */
  readonly maxTotalBytes?: number
  /** A deflated data set may not inflate beyond this; default 4 GiB. */
  readonly maxInflatedBytes?: number
  /** Default: 64 levels, 500,000 elements. */
  readonly limits?: WalkLimits
}

/**
 * Reads a Part 10 file, or a data set stored without preamble or file meta. Values are copies: the source may be closed.
 *
 * @throws GatewayError DICOM_UNREADABLE when the bytes are no DICOM or end early, DICOM_LIMIT when a bound is exceeded
 */
export async function readPart10(source: ByteSource, options: ReadOptions = {}): Promise<Part10> {
  const { meta, preambleBytes, transferSyntaxUid, datasetOffset, encoding, isDeflated, window } =
    await findLayout(source)
  const { maxInflatedBytes = 4_294_967_296, limits = { maxDepth: 64, maxElements: 500_000 } } = options
  const builder = wholeBuilder(options)
  if (isDeflated) {
    await using inflated = inflateSource(source, datasetOffset, maxInflatedBytes)
    await walk(inflated, { offset: 0, encoding }, builder, limits)
  } else await walk(source, { offset: datasetOffset, encoding, window }, builder, limits)
  const preamble = Buffer.from(window.bytes.subarray(0, preambleBytes))
  const { dataset } = builder
  return { preamble, meta, transferSyntaxUid, datasetOffset, encoding, isDeflated, dataset }
}

function wholeBuilder({ stopBefore, maxValueBytes = 65_536, maxTotalBytes = 67_108_864 }: ReadOptions): DatasetBuilder {
  let leftBytes = maxTotalBytes
  return new DatasetBuilder(
    ({ tag, length }, depth, holdsItems) => {
      if (depth === 0 && stopBefore !== undefined && tag >= stopBefore) return 'stop'
      if (holdsItems) return 'enter'
      if (length > maxValueBytes || length > leftBytes) return 'skip'
      leftBytes -= length
      return 'value'
    },
    bytes => Buffer.from(bytes),
  )
}

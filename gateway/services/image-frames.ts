/**
 * Frames of stored instances, one by one: as they are stored, decompressed, or compressed anew. Where the frames of an
 * object are is remembered: its bytes are named by their digest, so that they cannot change.
 */
import { explicitVrLittleEndian } from '../dicom/uid.ts'
import { GatewayError } from '../errors.ts'
import { type Frame, framesOf, readFrame } from '../pixels/frames.ts'
import { datasetSource, type PixelElement, type PixelLayout, readPixelLayout } from '../pixels/layout.ts'
import type { Pixels } from '../pixels/pixels.ts'
import type { Retrieve, ReusingSource } from './retrieve.ts'
import type { PlannedInstance } from './retrieve-plan.ts'

/** The frames of one open instance; it must be closed. */
export interface OpenFrames {
  readonly count: number
  /** The transfer syntax that `read` gives. */
  readonly transferSyntaxUid: string
  /** Frame `index` from 0. @throws GatewayError NOT_FOUND, PIXELS_UNREADABLE, TRANSCODE_UNSUPPORTED, … */
  read(index: number): Promise<Uint8Array>
  close(): Promise<void>
}

/** What is known of an object's frames without its pixels. */
export interface FrameFacts {
  readonly count: number
  readonly isEncapsulated: boolean
  readonly storedSyntaxUid: string
}

/** Reads frames. */
export interface ImageFrames {
  /** @throws GatewayError NOT_FOUND for an object without pixel data */
  facts(instance: PlannedInstance): Promise<FrameFacts>
  /**
   * @param form  `stored` as they are, `native` decompressed, or the transfer syntax to compress them in
   * @throws GatewayError NOT_FOUND, TRANSCODE_UNSUPPORTED and what the codecs throw
   */
  open(
    instance: PlannedInstance,
    form: 'stored' | 'native' | { readonly uid: string },
    signal: AbortSignal,
  ): Promise<OpenFrames>
}

interface Known {
  readonly layout: PixelLayout
  readonly pixels: PixelElement
  /** Empty for native pixel data. */
  readonly frames: readonly Frame[]
}

/** Bounds what is remembered. */
const maxKnown = 64
const maxKnownFrames = 200_000
const maxFrameBytes = 268_435_456

/** Opens frames of what `retrieve` opens. */
export function openImageFrames(options: {
  readonly retrieve: Pick<Retrieve, 'openDataset'>
  readonly pixels: Pick<Pixels, 'decodeFrame' | 'transcode'>
}): ImageFrames {
  const { retrieve, pixels } = options
  const known = new Map<string, Known>()
  let knownFrames = 0

  async function knownOf(instance: PlannedInstance, source: ReusingSource): Promise<Known> {
    const name = instance.fileSha256.toString('hex')
    const before = known.get(name)
    const found = before ?? (await examine(source))
    if (before) known.delete(name)
    else knownFrames += found.frames.length
    known.set(name, found)
    for (const [oldest, { frames }] of known) {
      if (known.size <= maxKnown && knownFrames <= maxKnownFrames) break
      known.delete(oldest)
      knownFrames -= frames.length
    }
    return found
  }

  async function withSource<T>(
    instance: PlannedInstance,
    use: (source: ReusingSource) => Promise<T>,
  ): Promise<{ value: T; close: () => Promise<void> }> {
    const stored = await retrieve.openDataset(instance)
    const close = async (): Promise<void> => {
      await stored.close()
      stored.onFlushed()
    }
    try {
      return { value: await use(stored.source), close }
    } catch (error) {
      await close()
      throw error
    }
  }

  return {
    async facts(instance) {
      const { value, close } = await withSource(instance, source => knownOf(instance, source))
      await close()
      const { pixels: element, layout } = value
      const isEncapsulated = element.fragments !== undefined
      const storedSyntaxUid = isEncapsulated ? layout.transferSyntaxUid : explicitVrLittleEndian
      return { count: element.frames, isEncapsulated, storedSyntaxUid }
    },

    async open(instance, form, signal) {
      if (typeof form === 'object') {
        const made = await withSource(instance, source =>
          pixels.transcode(source, instance.transferSyntaxUid, form.uid, signal),
        )
        await made.close()
        try {
          const source = made.value.open()
          const found = await examine(source)
          return {
            count: found.pixels.frames,
            transferSyntaxUid: form.uid,
            read: index => readStored(source, found, index),
            close: () => made.value.close(),
          }
        } catch (error) {
          await made.value.close()
          throw error
        }
      }
      const { value, close } = await withSource(instance, async source => ({
        source,
        found: await knownOf(instance, source),
      }))
      const { source, found } = value
      const isStored = form === 'stored' && found.pixels.fragments !== undefined
      return {
        count: found.pixels.frames,
        transferSyntaxUid: isStored ? found.layout.transferSyntaxUid : explicitVrLittleEndian,
        read: async index =>
          isStored
            ? await readStored(source, found, index)
            : (await pixels.decodeFrame(source, found.layout, index, signal)).samples,
        close,
      }
    },
  }
}

async function examine(source: ReusingSource): Promise<Known> {
  const layout = await readPixelLayout(source)
  const { pixels } = layout
  if (!pixels) throw new GatewayError('NOT_FOUND', 'the instance has no pixel data')
  const dataset = datasetSource(source, layout)
  try {
    return { layout, pixels, frames: pixels.fragments === undefined ? [] : await framesOf(dataset, pixels) }
  } finally {
    await dataset[Symbol.asyncDispose]?.()
  }
}

async function readStored(source: ReusingSource, { layout, frames }: Known, index: number): Promise<Uint8Array> {
  const frame = frames[index]
  if (!frame) throw new GatewayError('NOT_FOUND', 'there is no such frame')
  const dataset = datasetSource(source, layout)
  try {
    return await readFrame(dataset, frame, maxFrameBytes)
  } finally {
    await dataset[Symbol.asyncDispose]?.()
  }
}

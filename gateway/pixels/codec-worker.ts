/** The entry of a codec thread. Nothing is thrown across threads, where errors lose their class. */
import { move, transferableSymbol, valueSymbol } from 'piscina'
import { GatewayError } from '../errors.ts'
import { type FrameTask, nativeFrame, recodeFrame } from './codec.ts'
import { type CompiledCodecs, compileCodecs, type NativeCodecs, startCodecs } from './native-codecs.ts'
import { drawPicture } from './picture.ts'

/** The answer of a codec thread. */
export type FrameAnswer =
  | { readonly kind: 'done'; readonly bytes: Uint8Array }
  | {
      readonly kind: 'failed'
      readonly code: FrameFailure
      readonly message: string
      /** What the codec said. */
      readonly reason?: string
    }

/** What a codec may say of a frame. */
export type FrameFailure = 'PIXELS_UNREADABLE' | 'TRANSCODE_UNSUPPORTED' | 'PICTURE_UNSUPPORTED'

const failures = ['TRANSCODE_UNSUPPORTED', 'PICTURE_UNSUPPORTED'] as const

/** More memory is not kept for the next frame. */
const keptBytes = 536_870_912

// State of the thread, whose only module this is.
let compiled: CompiledCodecs | undefined
let kept: { readonly object: number; readonly codecs: NativeCodecs } | undefined

/** The codecs for an object: those that its frame before had, or new ones. */
function codecsFor(object: number): NativeCodecs {
  if (kept?.object !== object) {
    compiled ??= compileCodecs()
    kept = { object, codecs: startCodecs(compiled) }
  }
  return kept.codecs
}

/** Does one task. The bytes of the answer are moved to the other thread, not copied. */
export async function work(task: FrameTask): Promise<unknown> {
  const answer = await answerTo(task)
  if (answer.kind === 'failed') return answer
  return move({ [transferableSymbol]: answer.bytes.buffer, [valueSymbol]: answer })
}

async function answerTo(task: FrameTask): Promise<FrameAnswer> {
  const codecs = (): NativeCodecs => codecsFor(task.object)
  try {
    const { picture, native } = task
    const bytes = picture ? await drawPicture(nativeFrame(task, codecs), native, picture) : recodeFrame(task, codecs)
    if ((kept?.codecs.memoryBytes() ?? 0) > keptBytes) kept = undefined
    return { kind: 'done', bytes: bytes.byteLength === bytes.buffer.byteLength ? bytes : new Uint8Array(bytes) }
  } catch (error) {
    kept = undefined
    if (!(error instanceof GatewayError)) {
      const reason = error instanceof Error ? error.message.slice(0, 200) : 'unknown'
      return { kind: 'failed', code: 'PIXELS_UNREADABLE', message: 'cannot decode frame: its codec refuses it', reason }
    }
    return {
      kind: 'failed',
      code: failures.find(code => code === error.code) ?? 'PIXELS_UNREADABLE',
      message: error.message,
    }
  }
}

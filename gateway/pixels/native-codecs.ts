/**
 * The codecs of dcmjs-codecs, which are C and C++ libraries compiled to WebAssembly: libjpeg (8, 12 and 16 bits),
 * CharLS, OpenJPEG, OpenJPH, libjxl. Its JavaScript is not used: it would bring all of dcmjs into each thread, and could
 * not go on after an error, which leaves the libraries in the middle of their work.
 */
import { readFileSync } from 'node:fs'
import type { ImageFormat } from './image.ts'

/** The functions that decode and encode one frame. */
export type CodecName = 'Jpeg' | 'JpegLs' | 'Jpeg2000' | 'HtJpeg2000' | 'JpegXl'

/** How the samples are laid out outside of the code stream; by pixel, never by plane. */
export interface Samples
  extends Pick<ImageFormat, 'rows' | 'columns' | 'samplesPerPixel' | 'bitsAllocated' | 'bitsStored' | 'isSigned'> {
  /** JPEG 2000 transforms the colors of what is RGB. */
  readonly isRgb: boolean
}

/** How much an encoder may lose. */
export interface Loss {
  /** Of JPEG, 1 to 100, as libjpeg scales its quantization tables. */
  readonly quality: number
  /** Of JPEG-LS: by how much a sample may differ (NEAR of ITU-T T.87). */
  readonly near: number
}

/** Codecs with a memory of their own. After an error they are unusable. */
export interface NativeCodecs {
  /** @throws Error what the library says */
  decode(codec: CodecName, bytes: Uint8Array, samples: Samples): Uint8Array
  /** Without loss, unless some is allowed. @throws Error what the library says */
  encode(codec: CodecName, bytes: Uint8Array, samples: Samples, loss?: Loss): Uint8Array
  /** What the memory has grown to. */
  memoryBytes(): number
}

/** What of WebAssembly is used; the types of Node.js do not have it. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array) => CompiledCodecs
  readonly Memory: new (limits: { initial: number }) => Memory
  readonly Instance: new (
    module: CompiledCodecs,
    imports: object,
  ) => { readonly exports: Readonly<Record<string, unknown>> }
}
declare const compiledBrand: unique symbol

/** Codecs without a memory. */
export interface CompiledCodecs {
  readonly [compiledBrand]: true
}

interface Memory {
  readonly buffer: ArrayBuffer
}

/** Compiles the codecs; takes some 30 ms. */
export function compileCodecs(): CompiledCodecs {
  const file = new URL('dcmjs-native-codecs.wasm', import.meta.resolve('dcmjs-codecs'))
  return new WebAssembly.Module(readFileSync(file))
}

/** Codecs in a new memory; takes some 5 ms. */
export function startCodecs(module: CompiledCodecs): NativeCodecs {
  const host = new Host()
  const { exports } = new WebAssembly.Instance(module, host.imports())
  const { memory } = exports
  if (!(memory instanceof WebAssembly.Memory)) throw new Error('expected codecs with a memory')
  host.memory = memory
  const call = (name: string, ...args: number[]): number => {
    const method = exports[name]
    if (typeof method !== 'function') throw new Error(`expected codecs with a function ${name}`)
    const result: unknown = Reflect.apply(method, undefined, args)
    return Number(result ?? 0) >>> 0
  }
  call('_initialize')

  const context = (samples: Samples): number => {
    const pointer = call('CreateCodecsContext')
    call('SetRows', pointer, samples.rows)
    call('SetColumns', pointer, samples.columns)
    call('SetSamplesPerPixel', pointer, samples.samplesPerPixel)
    call('SetBitsAllocated', pointer, samples.bitsAllocated)
    call('SetBitsStored', pointer, samples.bitsStored)
    call('SetPixelRepresentation', pointer, samples.isSigned ? 1 : 0)
    call('SetPlanarConfiguration', pointer, 0)
    call('SetPhotometricInterpretation', pointer, samples.isRgb ? photometric.rgb : photometric.monochrome2)
    return pointer
  }
  const put = (which: 'Encoded' | 'Decoded', pointer: number, bytes: Uint8Array): void => {
    call(`Set${which}BufferSize`, pointer, bytes.length)
    new Uint8Array(memory.buffer).set(bytes, call(`Get${which}Buffer`, pointer))
  }
  const get = (which: 'Encoded' | 'Decoded', pointer: number): Uint8Array => {
    const at = call(`Get${which}Buffer`, pointer)
    return new Uint8Array(memory.buffer).slice(at, at + call(`Get${which}BufferSize`, pointer))
  }

  return {
    decode(codec, bytes, samples) {
      host.isCutShort = false
      const pointer = context(samples)
      put('Encoded', pointer, bytes)
      const parameters = call('CreateDecoderParameters')
      call('SetConvertColorspaceToRgb', parameters, 0)
      call(`Decode${codec}`, pointer, parameters)
      // libjpeg fills up what is missing with grey, and only warns.
      if (host.isCutShort) throw new Error('the code stream ends early')
      const decoded = get('Decoded', pointer)
      call('ReleaseDecoderParameters', parameters)
      call('ReleaseCodecsContext', pointer)
      return decoded
    },
    encode(codec, bytes, samples, loss) {
      const pointer = context(samples)
      put('Decoded', pointer, bytes)
      const parameters = call('CreateEncoderParameters')
      call('SetLossy', parameters, loss === undefined ? 0 : 1)
      if (loss !== undefined) {
        call('SetQuality', parameters, loss.quality)
        call('SetSmoothingFactor', parameters, 0)
        call('SetSampleFactor', parameters, halfColor)
      }
      call('SetPredictor', parameters, 1)
      call('SetPointTransform', parameters, 0)
      call('SetAllowedLossyError', parameters, loss?.near ?? 0)
      call('SetProgressionOrder', parameters, resolutionFirst)
      call('SetRate', parameters, 0)
      call('SetAllowMct', parameters, 1)
      call(`Encode${codec}`, pointer, parameters)
      const encoded = get('Encoded', pointer)
      call('ReleaseEncoderParameters', parameters)
      call('ReleaseCodecsContext', pointer)
      return encoded
    },
    memoryBytes: () => memory.buffer.byteLength,
  }
}

/** Their numbers of photometric interpretations; only RGB makes a difference. */
const photometric = { monochrome2: 1, rgb: 3 } as const

/** 4:2:2: one pair of color samples for two pixels of a row, as YBR_FULL_422 has it. */
const halfColor = 1

/** RPCL, which the RPCL syntaxes of HTJ2K want and the others allow (PS3.5 §A.4.4, §A.4.6). */
const resolutionFirst = 2

/** What the codecs ask of the world outside: next to nothing. */
class Host {
  memory: Memory | undefined
  isCutShort = false

  imports(): object {
    return {
      env: {
        onCodecsException: (pointer: number, length: number) => {
          throw new Error(this.#text(pointer, length))
        },
        onCodecsInfo: (pointer: number, length: number) => {
          this.isCutShort ||= /premature end/i.test(this.#text(pointer, length))
        },
        onCodecsTrace: () => {},
        emscripten_notify_memory_growth: () => {},
      },
      wasi_snapshot_preview1: {
        proc_exit: (code: number) => {
          throw new Error(`codec ended with ${code}`)
        },
        clock_time_get: (_clock: number, _precision: bigint, pointer: number) => {
          this.#view().setBigUint64(pointer, 0n, true)
          return 0
        },
        environ_sizes_get: (count: number, size: number) => {
          this.#view().setUint32(count, 0, true)
          this.#view().setUint32(size, 0, true)
          return 0
        },
        environ_get: () => 0,
        fd_write: (_fd: number, list: number, count: number, written: number) => {
          const view = this.#view()
          let total = 0
          for (let i = 0; i < count; i++) total += view.getUint32(list + 8 * i + 4, true)
          view.setUint32(written, total, true)
          return 0
        },
        fd_seek: () => 0,
        fd_close: () => 0,
      },
    }
  }

  #view(): DataView {
    return new DataView(this.memory?.buffer ?? new ArrayBuffer(0))
  }

  #text(pointer: number, length: number): string {
    return Buffer.from(this.memory?.buffer ?? new ArrayBuffer(0), pointer, length).toString('latin1')
  }
}

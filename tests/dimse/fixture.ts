/**
 * An SCP that writes data sets to files, instances to send to it, and a raw peer that speaks PDUs
 * by hand, so that it can speak them wrongly.
 */
import { open, readdir, rm } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { decode, describe } from '../../gateway/decode.ts'
import { openScp } from '../../gateway/dimse/listener.ts'
import type { Refusal, Scp, ScpOptions, StoreRequest, StoreService } from '../../gateway/dimse/scp.ts'
import { openLog } from '../../gateway/log.ts'
import { type Modality, type ModalityInput, modalityInput, modalityServices } from '../../gateway/services/modality.ts'
import type { Caller, Identity } from '../../gateway/services/modality-caller.ts'
import { temporaryDir } from '../support/blobs.ts'
import { rights } from '../support/principals.ts'

export const ctImageStorage = '1.2.840.10008.5.1.4.1.1.2'
export const verification = '1.2.840.10008.1.1'
export const implicitLittleEndian = '1.2.840.10008.1.2'
export const explicitLittleEndian = '1.2.840.10008.1.2.1'
export const jpegBaseline = '1.2.840.10008.1.2.4.50'

/** A data set that the file store took. */
export interface Received {
  readonly request: StoreRequest
  readonly path: string
}

/** A store that writes each data set to a file of its own, removed when discarded. */
export async function fileStore(directory: string): Promise<{ service: StoreService; received: Received[] }> {
  const received: Received[] = []
  let count = 0
  const service: StoreService = {
    async begin(request) {
      count += 1
      const path = join(directory, `${count}.dataset`)
      const file = await open(path, 'w')
      return {
        async write(chunks) {
          await file.writev(chunks)
        },
        async finish() {
          await file.close()
          received.push({ request, path })
          return { status: 0x0000 }
        },
        async discard() {
          await file.close().catch(() => undefined)
          await rm(path, { force: true })
        },
      }
    },
  }
  return { service, received }
}

export interface TestScp {
  readonly scp: Scp
  readonly port: number
  readonly directory: string
  readonly received: Received[]
  readonly refusals: Refusal[]
  /** Files that are staged or stored. */
  files(): Promise<string[]>
}

/** Starts an SCP on a free port; closed when the test ends. */
export async function startScp(t: TestContext, options: Partial<ScpOptions> = {}): Promise<TestScp> {
  const directory = await temporaryDir(t)
  const { service, received } = await fileStore(directory)
  const refusals: Refusal[] = []
  const scp = await openScp({
    rights,
    host: '127.0.0.1',
    port: 0,
    aeTitle: 'HANSE',
    store: service,
    onRefused: refusal => refusals.push(refusal),
    poisonBuffers: true,
    ...(options.unknownCallers === undefined && { identifyCaller: everybody }),
    log: openLog({ level: 'silent' }),
    ...options,
  })
  t.after(() => scp.close({ graceMs: 0 }))
  return { scp, port: scp.address.port, directory, received, refusals, files: () => readdir(directory) }
}

/** For `identifyCaller`: only this AE title is registered, with all permissions unless told otherwise. */
export function registered(aeTitle: string, entry: Partial<ModalityInput> = {}): (caller: Caller) => Promise<Identity> {
  const modality = registration({ permissions: modalityServices, ...entry, aeTitle })
  return async ({ callingAe }) => (callingAe === aeTitle ? { kind: 'registered', modality } : { kind: 'unknown' })
}

/** For `identifyCaller`: everybody is registered, with all permissions. */
export async function everybody({ callingAe }: Caller): Promise<Identity> {
  return { kind: 'registered', modality: registration({ aeTitle: callingAe, permissions: modalityServices }) }
}

function registration(entry: ModalityInput): Modality {
  const decoded = decode(modalityInput, entry)
  if (!decoded.ok) throw new Error(describe(decoded.problems))
  return decoded.value
}

/** A presentation context as a raw peer proposes it. */
export interface RawContext {
  readonly id: number
  readonly abstractSyntax: string
  readonly transferSyntaxes: readonly string[]
}

/** An A-ASSOCIATE-RQ. `items` are put after the application context as they are. */
export function associateRequest(
  contexts: readonly RawContext[],
  options: { callingAe?: string; calledAe?: string; maxPduLength?: number; items?: readonly Buffer[] } = {},
): Buffer {
  const maxPdu = Buffer.alloc(4)
  maxPdu.writeUInt32BE(options.maxPduLength ?? 16_384)
  const fixed = Buffer.alloc(68)
  fixed.writeUInt16BE(1, 0)
  fixed.write((options.calledAe ?? 'HANSE').padEnd(16), 4, 'latin1')
  fixed.write((options.callingAe ?? 'RAW').padEnd(16), 20, 'latin1')
  return pdu(0x01, [
    fixed,
    item(0x10, Buffer.from('1.2.840.10008.3.1.1.1')),
    ...(options.items ?? []),
    ...contexts.map(context =>
      item(0x20, [
        Buffer.from([context.id, 0, 0, 0]),
        item(0x30, Buffer.from(context.abstractSyntax)),
        ...context.transferSyntaxes.map(uid => item(0x40, Buffer.from(uid))),
      ]),
    ),
    item(0x50, [item(0x51, maxPdu), item(0x52, Buffer.from('1.2.3'))]),
  ])
}

/** An association item with its four header bytes. */
export function item(type: number, value: Buffer | readonly Buffer[]): Buffer {
  const body = Buffer.isBuffer(value) ? value : Buffer.concat([...value])
  const header = Buffer.from([type, 0, 0, 0])
  header.writeUInt16BE(body.length, 2)
  return Buffer.concat([header, body])
}

/** A PDU with its six header bytes. */
export function pdu(type: number, parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat([...parts])
  const header = Buffer.alloc(6)
  header[0] = type
  header.writeUInt32BE(body.length, 2)
  return Buffer.concat([header, body])
}

/** A presentation data value; `control` is 1 command, 2 last, or both. */
export function pdv(contextId: number, control: number, value: Buffer): Buffer {
  const header = Buffer.alloc(6)
  header.writeUInt32BE(value.length + 2)
  header[4] = contextId
  header[5] = control
  return Buffer.concat([header, value])
}

/** A command set from its elements; numbers become US, texts UI. */
export function commandSet(elements: Readonly<Record<number, number | string>>): Buffer {
  const parts = Object.entries(elements).map(([key, value]) => {
    const bytes = typeof value === 'number' ? Buffer.alloc(2) : Buffer.from(value.length % 2 ? `${value}\0` : value)
    if (typeof value === 'number') bytes.writeUInt16LE(value)
    const header = Buffer.alloc(8)
    header.writeUInt16LE(Number(key), 2)
    header.writeUInt32LE(bytes.length, 4)
    return Buffer.concat([header, bytes])
  })
  return Buffer.concat(parts)
}

/** A C-STORE-RQ command set for CT Image Storage; undefined leaves an element out. */
export function storeCommand(changes: Readonly<Record<number, number | string | undefined>> = {}): Buffer {
  const elements: Record<number, number | string> = {}
  const all = { 2: ctImageStorage, 256: 1, 272: 7, 1792: 0, 2048: 0, 4096: '1.2.3.4', ...changes }
  for (const [key, value] of Object.entries(all)) if (value !== undefined) elements[Number(key)] = value
  return commandSet(elements)
}

/** A whole C-STORE message in the P-DATA-TF PDUs of its two parts. */
export function storeMessage(contextId: number, command: Buffer, dataset: Buffer): Buffer {
  return Buffer.concat([pdu(0x04, [pdv(contextId, 3, command)]), pdu(0x04, [pdv(contextId, 2, dataset)])])
}

/** A PDU as received. */
export interface RawPdu {
  readonly type: number
  readonly body: Buffer
}

/** A peer that writes bytes and reads PDUs. */
export class RawPeer {
  readonly socket: Socket
  #buffered = Buffer.alloc(0)
  #isClosed = false
  #wake: (() => void) | undefined
  /** How often the other side wrote, as far as segments tell. */
  chunks = 0

  constructor(socket: Socket) {
    this.socket = socket
    socket.on('data', (chunk: Buffer) => {
      this.chunks += 1
      this.#buffered = Buffer.concat([this.#buffered, chunk])
      this.#wake?.()
    })
    socket.on('error', () => undefined)
    socket.on('close', () => {
      this.#isClosed = true
      this.#wake?.()
    })
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  write(bytes: Buffer): void {
    this.socket.write(bytes)
  }

  /** The next PDU; undefined when the connection is closed before one. */
  async read(deadlineMs = 30_000): Promise<RawPdu | undefined> {
    const deadline = AbortSignal.timeout(deadlineMs)
    for (;;) {
      const length = this.#buffered.length < 6 ? undefined : this.#buffered.readUInt32BE(2)
      if (length !== undefined && this.#buffered.length >= 6 + length) {
        const found = { type: this.#buffered.readUInt8(0), body: this.#buffered.subarray(6, 6 + length) }
        this.#buffered = this.#buffered.subarray(6 + length)
        return found
      }
      if (this.#isClosed) return undefined
      await this.#changed(deadline)
    }
  }

  /** Waits until the other side has closed the connection. */
  async closed(deadlineMs = 30_000): Promise<void> {
    const deadline = AbortSignal.timeout(deadlineMs)
    while (!this.#isClosed) await this.#changed(deadline)
  }

  async #changed(deadline: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#wake = resolve
    const expire = (): void => reject(new Error('the peer did not answer in time'))
    deadline.addEventListener('abort', expire, { once: true })
    await promise
    deadline.removeEventListener('abort', expire)
  }
}

/** Connects a raw peer; destroyed when the test ends. */
export async function connectRaw(t: TestContext, port: number): Promise<RawPeer> {
  const socket = connect({ host: '127.0.0.1', port, noDelay: true })
  t.after(() => socket.destroy())
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  socket.once('connect', resolve)
  socket.once('error', reject)
  await promise
  return new RawPeer(socket)
}

/** Connects a raw peer and opens an association with one CT context, id 1, unless told otherwise. */
export async function associate(t: TestContext, port: number, contexts?: readonly RawContext[]): Promise<RawPeer> {
  const peer = await connectRaw(t, port)
  peer.write(
    associateRequest(contexts ?? [{ id: 1, abstractSyntax: ctImageStorage, transferSyntaxes: [explicitLittleEndian] }]),
  )
  const answer = await peer.read()
  if (answer?.type !== 0x02) throw new Error(`expected an acceptance, got PDU type ${answer?.type}`)
  return peer
}

/** The elements of a response's command set: numbers of two bytes as numbers, others as text. */
export function responseOf(received: RawPdu | undefined): Map<number, number | string> {
  if (received?.type !== 0x04) throw new Error(`expected a response, got PDU type ${received?.type}`)
  const elements = new Map<number, number | string>()
  const bytes = received.body.subarray(6)
  for (let offset = 0; offset < bytes.length; ) {
    const length = bytes.readUInt32LE(offset + 4)
    const value = bytes.subarray(offset + 8, offset + 8 + length)
    elements.set(
      bytes.readUInt16LE(offset + 2),
      length === 2 ? value.readUInt16LE() : value.toString('latin1').replace(/[\0 ]+$/, ''),
    )
    offset += 8 + length
  }
  return elements
}

/** A small CT Image Storage instance as a Part 10 file in Explicit VR Little Endian; 8 or 16 bits a pixel. */
export function sampleFile(options: { sopInstanceUid: string; rows?: number; bits?: 8 | 16; tail?: Buffer }): {
  bytes: Buffer
  datasetOffset: number
} {
  const { sopInstanceUid, rows = 64, bits = 16 } = options
  const pixels = Buffer.alloc((rows * rows * bits) / 8)
  for (let index = 0; index < pixels.length; index += 1)
    pixels[index] = (index * 7 + (index >> 7)) & (bits === 8 || index % 2 === 0 ? 0xff : 0x0f)
  const meta = [
    element(0x0002, 0x0001, 'OB', Buffer.from([0, 1])),
    element(0x0002, 0x0002, 'UI', ctImageStorage),
    element(0x0002, 0x0003, 'UI', sopInstanceUid),
    element(0x0002, 0x0010, 'UI', explicitLittleEndian),
    element(0x0002, 0x0012, 'UI', '1.2.3.4'),
  ]
  const head = Buffer.concat([
    Buffer.alloc(128),
    Buffer.from('DICM'),
    element(0x0002, 0x0000, 'UL', uint(Buffer.concat(meta).length, 4)),
    ...meta,
  ])
  const dataset = [
    element(0x0008, 0x0016, 'UI', ctImageStorage),
    element(0x0008, 0x0018, 'UI', sopInstanceUid),
    element(0x0008, 0x0060, 'CS', 'CT'),
    element(0x0010, 0x0010, 'PN', 'TEST^DIMSE'),
    element(0x0010, 0x0020, 'LO', 'TEST-1'),
    element(0x0020, 0x000d, 'UI', '1.2.826.0.1.3680043.10.1'),
    element(0x0020, 0x000e, 'UI', '1.2.826.0.1.3680043.10.1.1'),
    element(0x0028, 0x0002, 'US', uint(1, 2)),
    element(0x0028, 0x0004, 'CS', 'MONOCHROME2'),
    element(0x0028, 0x0010, 'US', uint(rows, 2)),
    element(0x0028, 0x0011, 'US', uint(rows, 2)),
    element(0x0028, 0x0100, 'US', uint(bits, 2)),
    element(0x0028, 0x0101, 'US', uint(bits === 8 ? 8 : 12, 2)),
    element(0x0028, 0x0102, 'US', uint(bits === 8 ? 7 : 11, 2)),
    element(0x0028, 0x0103, 'US', uint(0, 2)),
    element(0x7fe0, 0x0010, bits === 8 ? 'OB' : 'OW', pixels),
  ]
  return { bytes: Buffer.concat([head, ...dataset]), datasetOffset: head.length }
}

function element(group: number, number: number, vr: string, value: string | Buffer): Buffer {
  const pad = vr === 'UI' || vr === 'OB' ? '\0' : ' '
  const raw = typeof value === 'string' ? Buffer.from(value, 'latin1') : value
  const bytes = raw.length % 2 === 0 ? raw : Buffer.concat([raw, Buffer.from(pad)])
  const long = vr === 'OB' || vr === 'OW'
  const header = Buffer.alloc(long ? 12 : 8)
  header.writeUInt16LE(group, 0)
  header.writeUInt16LE(number, 2)
  header.write(vr, 4, 'latin1')
  if (long) header.writeUInt32LE(bytes.length, 8)
  else header.writeUInt16LE(bytes.length, 6)
  return Buffer.concat([header, bytes])
}

function uint(value: number, length: 2 | 4): Buffer {
  const bytes = Buffer.alloc(length)
  bytes.writeUIntLE(value, 0, length)
  return bytes
}

/** Where the data set of a Part 10 file begins: after the group length's end of group 0002. */
export function datasetOffsetOf(file: Buffer): number {
  if (file.toString('latin1', 128, 132) !== 'DICM') throw new Error('not a Part 10 file')
  return 144 + file.readUInt32LE(140)
}

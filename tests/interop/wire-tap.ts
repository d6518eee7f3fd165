/**
 * A relay between a sender and a gateway that notes what really went over the wire: the data set of
 * each C-STORE as reassembled from its P-DATA-TF PDUs (PS3.8 §9.3.5 and Annex E), its transfer
 * syntax, and the status that came back. On purpose without the gateway's own PDU code.
 */
import { createHash, type Hash } from 'node:crypto'
import { connect, createServer, type Socket } from 'node:net'
import type { TestContext } from 'node:test'

/** One C-STORE as it was on the wire. */
export interface TappedStore {
  readonly callingAe: string
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  readonly transferSyntaxUid: string
  readonly sizeBytes: number
  /** SHA-256 of the data set, hex. */
  readonly dataset: string
  /** The response's; undefined when none came. */
  status: number | undefined
}

export interface WireTap {
  readonly port: number
  readonly stores: TappedStore[]
}

/** Relays to `port` on this machine; ends with the test. */
export async function startWireTap(t: TestContext, port: number): Promise<WireTap> {
  const stores: TappedStore[] = []
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true }, sender => {
    const gateway = connect({ host: '127.0.0.1', port, noDelay: true })
    const association = new TappedAssociation(stores)
    relay(sender, gateway, chunk => association.requested.take(chunk))
    relay(gateway, sender, chunk => association.answered.take(chunk))
    for (const socket of [sender, gateway]) {
      sockets.add(socket)
      socket.once('close', () => sockets.delete(socket))
    }
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise(resolve => server.close(resolve))
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return { port: address.port, stores }
}

function relay(from: Socket, to: Socket, note: (chunk: Buffer) => void): void {
  from.on('data', chunk => {
    note(chunk)
    if (!to.write(chunk)) from.pause()
  })
  to.on('drain', () => from.resume())
  from.on('end', () => to.end())
  from.on('error', () => to.destroy())
  from.on('close', () => to.end())
}

interface OpenStore {
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  readonly transferSyntaxUid: string
  readonly hash: Hash
  sizeBytes: number
}

/** Both directions of one association. C-STOREs are answered in order, one at a time. */
class TappedAssociation {
  readonly requested = new PduSplitter((type, body) => this.#request(type, body))
  readonly answered = new PduSplitter((type, body) => this.#answer(type, body))
  readonly #stores: TappedStore[]
  readonly #syntaxes = new Map<number, string>()
  #callingAe = ''
  #command = Buffer.alloc(0)
  #response = Buffer.alloc(0)
  #open: OpenStore | undefined
  #unanswered: TappedStore[] = []

  constructor(stores: TappedStore[]) {
    this.#stores = stores
  }

  #request(type: number, body: Buffer): void {
    if (type === 0x01) this.#callingAe = body.toString('latin1', 20, 36).trim()
    if (type !== 0x04) return
    for (const { contextId, isCommand, isLast, value } of values(body)) {
      if (isCommand) {
        this.#command = Buffer.concat([this.#command, value])
        if (isLast) this.#begin(contextId)
      } else if (this.#open) {
        this.#open.hash.update(value)
        this.#open.sizeBytes += value.length
        if (isLast) this.#end(this.#open)
      }
    }
  }

  #begin(contextId: number): void {
    const command = elements(this.#command)
    this.#command = Buffer.alloc(0)
    if (command.get(0x0100)?.readUInt16LE() !== 0x0001) return
    this.#open = {
      sopClassUid: uid(command.get(0x0002)),
      sopInstanceUid: uid(command.get(0x1000)),
      transferSyntaxUid: this.#syntaxes.get(contextId) ?? '',
      hash: createHash('sha256'),
      sizeBytes: 0,
    }
  }

  #end({ hash, ...store }: OpenStore): void {
    this.#open = undefined
    const tapped = { ...store, callingAe: this.#callingAe, dataset: hash.digest('hex'), status: undefined }
    this.#stores.push(tapped)
    this.#unanswered.push(tapped)
  }

  #answer(type: number, body: Buffer): void {
    if (type === 0x02) for (const [id, syntax] of acceptedSyntaxes(body)) this.#syntaxes.set(id, syntax)
    if (type !== 0x04) return
    for (const { isLast, value } of values(body)) {
      this.#response = Buffer.concat([this.#response, value])
      if (!isLast) continue
      const status = elements(this.#response).get(0x0900)?.readUInt16LE()
      this.#response = Buffer.alloc(0)
      const store = this.#unanswered.shift()
      if (store) store.status = status
    }
  }
}

/** Cuts a stream into PDUs. */
class PduSplitter {
  readonly #onPdu: (type: number, body: Buffer) => void
  #held: Buffer[] = []
  #heldBytes = 0

  constructor(onPdu: (type: number, body: Buffer) => void) {
    this.#onPdu = onPdu
  }

  take(chunk: Buffer): void {
    this.#held.push(chunk)
    this.#heldBytes += chunk.length
    for (;;) {
      const head = this.#held[0]
      if (!head || this.#heldBytes < 6) return
      const joined = head.length >= 6 ? head : Buffer.concat(this.#held)
      const end = 6 + joined.readUInt32BE(2)
      if (this.#heldBytes < end) {
        if (joined !== head) this.#held = [joined]
        return
      }
      const whole = joined.length >= end ? joined : Buffer.concat(this.#held)
      this.#onPdu(whole.readUInt8(0), whole.subarray(6, end))
      const consumedParts = whole === head ? 1 : this.#held.length
      this.#held = [whole.subarray(end), ...this.#held.slice(consumedParts)].filter(part => part.length > 0)
      this.#heldBytes -= end
    }
  }
}

function* values(body: Buffer): Generator<{ contextId: number; isCommand: boolean; isLast: boolean; value: Buffer }> {
  for (let at = 0; at < body.length; ) {
    const length = body.readUInt32BE(at)
    const control = body.readUInt8(at + 5)
    const value = body.subarray(at + 6, at + 4 + length)
    yield { contextId: body.readUInt8(at + 4), isCommand: (control & 1) !== 0, isLast: (control & 2) !== 0, value }
    at += 4 + length
  }
}

/** A command set is in implicit VR little endian; all its elements are of group 0000. */
function elements(bytes: Buffer): Map<number, Buffer> {
  const found = new Map<number, Buffer>()
  for (let at = 0; at + 8 <= bytes.length; ) {
    const end = at + 8 + bytes.readUInt32LE(at + 4)
    found.set(bytes.readUInt16LE(at + 2), bytes.subarray(at + 8, end))
    at = end
  }
  return found
}

function acceptedSyntaxes(body: Buffer): [number, string][] {
  const found: [number, string][] = []
  for (let at = 68; at + 4 <= body.length; ) {
    const end = at + 4 + body.readUInt16BE(at + 2)
    const isAcceptedContext = body.readUInt8(at) === 0x21 && body.readUInt8(at + 6) === 0
    if (isAcceptedContext) found.push([body.readUInt8(at + 4), uid(body.subarray(at + 12, end))])
    at = end
  }
  return found
}

const uid = (value: Buffer | undefined): string => (value?.toString('latin1') ?? '').replace(/[\0 ]+$/, '')

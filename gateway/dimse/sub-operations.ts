/** The account of sub-operations: of a C-MOVE, a C-GET, or a send of ours (PS3.4 §C.4.2.1, Table C.4-2). */
import { encodeDataset } from '../dicom/part10-writer.ts'
import type { StoreResult } from './outgoing.ts'
import type { ServiceChannel, ServiceResponse } from './service.ts'
import { isStored, status } from './status.ts'

/** Pending responses come at most this often; with each sub-operation they would cost more than small instances. */
const pendingEveryMs = 500
/** A value of UI has a length of 16 bits in Explicit VR (PS3.5 §7.1.2). */
const maxListBytes = 65_534

/** Counts of a response. */
type Counts = NonNullable<ServiceResponse['counts']>

/** Counts sub-operations and tells the requester, where there is one. */
export class SubOperations {
  readonly #total: number
  readonly #channel: Pick<ServiceChannel, 'send'> | undefined
  #completed = 0
  #failed = 0
  #warning = 0
  readonly #failedUids: string[] = []
  #failedBytes = 0
  #toldAt = Number.NEGATIVE_INFINITY

  constructor(total: number, channel?: Pick<ServiceChannel, 'send'>) {
    this.#total = total
    this.#channel = channel
  }

  /** How many have a result. */
  get counted(): number {
    return this.#completed + this.#failed + this.#warning
  }

  get remaining(): number {
    return this.#total - this.counted
  }

  get counts(): { readonly completed: number; readonly failed: number; readonly warning: number } {
    return { completed: this.#completed, failed: this.#failed, warning: this.#warning }
  }

  /** Counts what became of an instance; true when it arrived. */
  count(sopInstanceUid: string, result: StoreResult): boolean {
    if (result.kind === 'responded' && isStored(result.status)) {
      if (result.status === status.success) this.#completed += 1
      else this.#warning += 1
      return true
    }
    this.fail(sopInstanceUid)
    return false
  }

  /** Counts an instance that was not sent. */
  fail(sopInstanceUid: string): void {
    this.#failed += 1
    this.#failedBytes += sopInstanceUid.length + 1
    if (this.#failedBytes <= maxListBytes) this.#failedUids.push(sopInstanceUid)
  }

  /** Counts instances that are gone since they were planned, whose UIDs nobody knows any more. */
  countRest(): void {
    this.#failed += Math.max(0, this.remaining)
  }

  /** Sends a pending response when the last one is some time ago; waits until the socket has room. */
  async tell(): Promise<void> {
    const now = performance.now()
    if (now - this.#toldAt < pendingEveryMs) return
    this.#toldAt = now
    await this.#channel?.send({ status: status.pending, counts: this.#told({ remaining: this.remaining }) })
  }

  /** How it ended: everything arrived, nothing did, or something in between. */
  end(): { readonly status: number; readonly failedSopInstanceUids: readonly string[] } {
    const hasArrived = this.#completed > 0 || this.#warning > 0
    const isWhole = this.#failed === 0 && this.#warning === 0
    const partly = hasArrived ? status.subOperationsFailed : status.cannotPerformSubOperations
    return { status: isWhole ? status.success : partly, failedSopInstanceUids: this.#failedUids }
  }

  /** The final response, which names what failed. */
  final(transferSyntaxUid: string, how: { readonly isCancelled: boolean }): ServiceResponse {
    const list = this.#list(transferSyntaxUid)
    if (how.isCancelled && this.remaining > 0) {
      return { status: status.cancel, counts: this.#told({ remaining: this.remaining }), ...list }
    }
    const { status: code } = this.end()
    const counts = this.#told({})
    if (code === status.success) return { status: code, counts }
    return { status: code, comment: `${this.#failed} of ${this.#total} sub-operations failed`, counts, ...list }
  }

  /** The numbers have 16 bits; what is more is told as their largest. */
  #told({ remaining }: { readonly remaining?: number }): Counts {
    const most = (count: number): number => Math.min(count, 0xffff)
    return {
      ...(remaining !== undefined && { remaining: most(remaining) }),
      completed: most(this.#completed),
      failed: most(this.#failed),
      warning: most(this.#warning),
    }
  }

  /** Failed SOP Instance UID List (0008,0058). */
  #list(transferSyntaxUid: string): { dataset?: Uint8Array } {
    if (this.#failedUids.length === 0) return {}
    return { dataset: encodeDataset([{ tag: 0x00080058, value: this.#failedUids }], transferSyntaxUid) }
  }
}

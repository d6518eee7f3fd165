/**
 * The presentation contexts of an association that we request: what we propose and what the peer took
 * (PS3.8 §9.3.2.2, roles PS3.7 §D.3.3.4).
 */
import { GatewayError } from '../errors.ts'
import type { AssociateAccept } from './pdu.ts'
import type { Association } from './upper-layer.ts'

/** A SOP class in one transfer syntax. */
export interface Proposal {
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
}

/** A presentation context to propose: the peer chooses one of its transfer syntaxes. */
export interface ContextProposal {
  readonly sopClassUid: string
  /** The preferred one first. */
  readonly transferSyntaxUids: readonly string[]
  /** Our role for the SOP class where it is not the SCU's alone: `scp` receives the instances of a C-GET. */
  readonly role?: 'scp' | 'both'
}

/** Presentation contexts of one association: the odd ids of one byte. */
export const maxContexts = 128

/** What was proposed on one association, and what of it the peer accepts. */
export class RequestedContexts {
  readonly #proposed = new Map<number, ContextProposal>()
  readonly #accepted = new Map<number, Proposal>()
  readonly #ids = new Map<string, number>()

  /** Writes the proposals, at most 128, into the library's object. */
  propose(association: Association, proposals: readonly ContextProposal[]): void {
    if (proposals.length > maxContexts) {
      throw new GatewayError('BAD_REQUEST', `expected at most ${maxContexts} presentation contexts`)
    }
    const withRole = new Set<string>()
    for (const proposal of proposals) {
      const id = association.addPresentationContext(proposal.sopClassUid)
      for (const uid of proposal.transferSyntaxUids) association.addTransferSyntaxToPresentationContext(id, uid)
      this.#proposed.set(id, proposal)
      // One role item for each SOP class, however many contexts it has.
      if (proposal.role === undefined || withRole.has(proposal.sopClassUid)) continue
      withRole.add(proposal.sopClassUid)
      const context = association.getPresentationContext(id)
      context.setUserRole(proposal.role === 'both')
      context.setProviderRole(true)
    }
  }

  /** Takes the peer's answer; a transfer syntax that was not proposed counts as a refusal. */
  take(answer: AssociateAccept): void {
    for (const { id, result, transferSyntaxUid } of answer.contexts) {
      const proposal = this.#proposed.get(id)
      if (result !== 0 || !proposal?.transferSyntaxUids.includes(transferSyntaxUid)) continue
      const accepted = { sopClassUid: proposal.sopClassUid, transferSyntaxUid }
      this.#accepted.set(id, accepted)
      if (!this.#ids.has(keyOf(accepted))) this.#ids.set(keyOf(accepted), id)
    }
  }

  /** The context of an id; undefined when it is not accepted. */
  get(id: number): Proposal | undefined {
    return this.#accepted.get(id)
  }

  /** True where the peer takes this class in this transfer syntax. */
  accepts(proposal: Proposal): boolean {
    return this.#ids.has(keyOf(proposal))
  }

  /** The transfer syntaxes in which the peer takes a SOP class, in the order of the contexts. */
  syntaxesOf(sopClassUid: string): string[] {
    const found = [...this.#accepted.values()].filter(context => context.sopClassUid === sopClassUid)
    return [...new Set(found.map(context => context.transferSyntaxUid))]
  }

  /** @throws GatewayError ASSOCIATION_REFUSED when the peer does not take it */
  idOf(proposal: Proposal): number {
    const id = this.#ids.get(keyOf(proposal))
    if (id === undefined) throw new GatewayError('ASSOCIATION_REFUSED', 'presentation context was not accepted')
    return id
  }
}

/** One text for a class in a transfer syntax. */
export function keyOf(proposal: Proposal): string {
  return `${proposal.sopClassUid} ${proposal.transferSyntaxUid}`
}

/** The context that proposes one transfer syntax only. */
export function contextOf({ sopClassUid, transferSyntaxUid }: Proposal): ContextProposal {
  return { sopClassUid, transferSyntaxUids: [transferSyntaxUid] }
}

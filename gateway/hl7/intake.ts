/** Takes HL7 orders into the worklist and answers them. */
import { randomUUID } from 'node:crypto'
import { errorLine, isGatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Rights } from '../principal.ts'
import type { Worklist } from '../services/worklist.ts'
import { type AcknowledgementCode, acknowledge, type Refusal } from './acknowledgement.ts'
import { OrderProblem } from './elements.ts'
import type { Hl7Service } from './listener.ts'
import { component, findSegment, type Message, parseHeader, parseMessage } from './message.ts'
import { type OrderDefaults, ordersOf } from './orders.ts'

export interface IntakeOptions {
  readonly worklist: Pick<Worklist, 'apply'>
  /** What `hl7.orders`, the role of all senders, permits. */
  readonly rights: Rights
  /** Scheduled stations by modality, for orders that name none. */
  readonly stations: OrderDefaults['stations']
  readonly log: Log
  readonly clock?: () => Date
}

/** The service behind the listener: accepted is what has been committed. */
export function openIntake(options: IntakeOptions): Hl7Service {
  const { worklist, rights, stations, clock = () => new Date() } = options
  const log = options.log.child({ part: 'hl7' })

  return {
    answer: async (bytes, { address }) => {
      const header = parseHeader(bytes)
      if (!header) return undefined
      const now = clock()
      const reply = (code: AcknowledgementCode, refusal?: Refusal): Buffer =>
        acknowledge(header, { code, refusal }, { id: randomUUID().slice(0, 20), at: now })
      try {
        const message = parseMessage(bytes)
        if (component(header, header.segments[0], 10) === '')
          throw new OrderProblem('101', 'MSH-10: expected a message control id', 'AR')
        const sender = { id: senderOf(message), address, roles: ['hl7.orders'], rights }
        await worklist.apply(sender, await ordersOf(message, { stations, now }))
        return reply('AA')
      } catch (error) {
        const { code, refusal } = refusalOf(error)
        const level = refusal.condition === '207' ? 'error' : 'warn'
        log[level]({ address, code, condition: refusal.condition, cause: causeOf(error) }, 'an HL7 order was refused')
        return reply(code, refusal)
      }
    },
  }
}

/** The sending application and facility, as the audit log names them. */
function senderOf(message: Message): string {
  const msh = findSegment(message, 'MSH')
  return `hl7:${[component(message, msh, 3), component(message, msh, 4)].join('@').slice(0, 64)}`
}

function refusalOf(error: unknown): { code: 'AE' | 'AR'; refusal: Refusal } {
  if (error instanceof OrderProblem) return { code: error.code, refusal: error.refusal }
  if (isGatewayError(error, 'NOT_FOUND')) return { code: 'AE', refusal: { condition: '204', text: error.message } }
  if (isGatewayError(error, 'BAD_REQUEST') || isGatewayError(error, 'TOO_LARGE'))
    return { code: 'AE', refusal: { condition: '102', text: error.message } }
  // Not the message's fault: the sender is to try again.
  return { code: 'AR', refusal: { condition: '207', text: 'the order could not be stored now' } }
}

/** What an error of ours says holds nothing of the message; what others say may. */
function causeOf(error: unknown): string {
  return error instanceof OrderProblem || isGatewayError(error) ? error.message : errorLine(error)
}

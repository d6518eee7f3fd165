/** What is wrong with a request, before its data set is looked at. */
import { type Command, commandField } from './command.ts'
import type { AcceptedContext } from './contexts.ts'
import { type Outcome, status } from './status.ts'

/**
 * The answer to a request as far as the command set decides it: success means for a C-STORE that
 * its data set is to be stored, and for a service that its handler is to be asked.
 */
export function checkRequest(command: Command, context: AcceptedContext): Outcome {
  const { service } = context
  if (command.commandField === commandField.storeRequest && service === 'storage') return checkStore(command, context)
  const isEcho = command.commandField === commandField.echoRequest && service === 'verification'
  const isServed = typeof service === 'object' && service.commandFields.includes(command.commandField)
  if (!isEcho && !isServed) return { status: status.unrecognizedOperation }
  if (isEcho || command.sopClassUid === undefined || command.sopClassUid === context.abstractSyntaxUid) {
    return { status: status.success }
  }
  return { status: status.sopClassNotSupported, comment: 'SOP class differs from the presentation context' }
}

/** PS3.4 §B.2.2 and PS3.7 §9.1.1: what a C-STORE-RQ must hold, and that it fits its context. */
export function checkStore(command: Command, context: { readonly abstractSyntaxUid: string }): Outcome {
  const { sopClassUid, sopInstanceUid } = command
  if (sopClassUid === undefined) return { status: status.missingAttribute, comment: 'no affected SOP class UID' }
  if (sopInstanceUid === undefined) return { status: status.missingAttribute, comment: 'no affected SOP instance UID' }
  if (sopClassUid !== context.abstractSyntaxUid) {
    return { status: status.sopClassNotSupported, comment: 'SOP class differs from the presentation context' }
  }
  // Leading zeros in components are tolerated: devices in the field write them.
  if (!/^[0-9.]{1,64}$/.test(sopInstanceUid)) {
    return { status: status.invalidAttributeValue, comment: 'affected SOP instance UID is not a UID' }
  }
  if (!command.hasDataSet) return { status: status.cannotUnderstand, comment: 'no data set' }
  return { status: status.success }
}

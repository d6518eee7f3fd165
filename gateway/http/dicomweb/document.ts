/** Encapsulated documents as themselves: what is rendered of one is the document (DICOM PS3.18 §8.7.4). */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError } from '../../errors.ts'
import type { Rendering } from '../../services/rendering.ts'
import type { RetrievePlan } from '../../services/retrieve-plan.ts'
import { sendFile } from '../send-file.ts'

/** Media type of the documents that are sent. */
export const pdfType = 'application/pdf'
const encapsulatedPdf = '1.2.840.10008.5.1.4.1.1.104.1'

/** Is what is to be retrieved one document? */
export const isPdf = ({ instanceCount, kinds }: RetrievePlan): boolean =>
  instanceCount === 1 && kinds[0]?.sopClassUid === encapsulatedPdf

/** Sends the document, to be shown in the page. @throws GatewayError NOT_FOUND when the instance holds none */
export async function sendPdf(
  rendering: Rendering,
  plan: RetrievePlan,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  for await (const { orthancId, sopInstanceUid } of plan.instances()) {
    const { blob, fileSha256 } = await rendering.openPdf(request.principal, orthancId)
    const sha256 = fileSha256.toString('hex')
    return await sendFile(request, reply, blob, {
      ...{ sha256, type: pdfType, filename: `${sopInstanceUid}.pdf` },
      isShown: true,
    })
  }
  throw new GatewayError('NOT_FOUND', 'no such instance')
}

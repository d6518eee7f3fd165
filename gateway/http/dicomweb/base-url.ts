/** Where the service is for the client that asks: its URLs stand in answers. */
import type { FastifyRequest } from 'fastify'

/** The service's place. */
export interface ServicePlace {
  /** Path under which DICOMweb is served, such as `/dicom-web`. */
  readonly path: string
  /** URL under which users reach this listener, where one is configured. */
  readonly publicUrl: string | undefined
}

/** The service's URL without a slash at the end: the configured one, else the one that the client used. */
export function baseUrlOf(request: FastifyRequest, { path, publicUrl }: ServicePlace): string {
  if (publicUrl !== undefined) return `${publicUrl.replace(/\/$/, '')}${path}`
  const host = request.headers.host ?? ''
  return /^[A-Za-z0-9.:[\]_-]{1,255}$/.test(host) ? `${request.protocol}://${host}${path}` : path
}

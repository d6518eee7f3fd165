import { GatewayError } from '../errors.ts'

/** The error for an image that cannot be had as the picture that was asked for. */
export function unsupportedPicture(why: string): GatewayError {
  return new GatewayError('PICTURE_UNSUPPORTED', `cannot draw the image: ${why}`)
}

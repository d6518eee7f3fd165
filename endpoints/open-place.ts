/** Opens places of every kind. */
import type { FileStore } from './file-store.ts'
import { openFolder } from './folder.ts'
import { openFtp } from './ftp.ts'
import type { Place, PlaceSecrets } from './place.ts'
import { openS3 } from './s3.ts'
import { openSftp } from './sftp.ts'

/**
 * Connects and logs in; must be closed. One connection does one thing after the other.
 *
 * @throws GatewayError ENDPOINT_UNREACHABLE, ENDPOINT_LOGIN, ENDPOINT_HOST_KEY, ENDPOINT_DENIED, ENDPOINT_PROTOCOL
 */
export async function openFileStore(place: Place, secrets: PlaceSecrets, signal: AbortSignal): Promise<FileStore> {
  switch (place.kind) {
    case 'sftp':
      return await openSftp(place, secrets, signal)
    case 'ftp':
      return await openFtp(place, secrets, signal)
    case 'folder':
      return await openFolder(place)
    case 's3':
      return openS3(place, secrets)
  }
}

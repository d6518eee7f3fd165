/** Credentials of endpoints: sealed with a key that is a file beside the database, and bound to whom they are for. */
import { lockBytes, unlockBytes } from '../../peers/sodium.ts'
import { decode, object, optional, text } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import type { EndpointSecrets } from './endpoint.ts'
import { ensureSecretFile, readSecretFile } from './secret-file.ts'

/** Seals and opens. */
export interface EndpointVault {
  /** @throws GatewayError PROJECT_KEY when the key's file is damaged, STORAGE_FULL, STORAGE_IO */
  seal(target: string, secrets: EndpointSecrets): Promise<Buffer>
  /** @throws GatewayError STATE_CONFLICT when they were sealed by another key, or for somebody else */
  open(target: string, sealed: Uint8Array): Promise<EndpointSecrets>
}

const format = 'hanse-endpoint-key-1'
const secret = optional(text({ min: 1, max: 100_000 }))
const shape = object({
  target: text(),
  secrets: object({
    password: secret,
    privateKey: secret,
    passphrase: secret,
    secretAccessKey: secret,
    jumpPassword: secret,
    jumpPrivateKey: secret,
    token: secret,
    clientCertificate: secret,
    clientKey: secret,
    ageIdentity: secret,
    proxyPassword: secret,
  }),
})

/** @param keyPath  made when there is none and a secret is to be sealed */
export function openEndpointVault(keyPath: string): EndpointVault {
  return {
    async seal(target, secrets) {
      const key = await ensureSecretFile(keyPath, format)
      return Buffer.from(lockBytes(Buffer.from(JSON.stringify({ target, secrets })), key))
    },
    async open(target, sealed) {
      const key = await readSecretFile(keyPath, format)
      const bytes = key && unlockBytes(sealed, key)
      const found = bytes && decode(shape, JSON.parse(Buffer.from(bytes).toString('utf8')))
      if (!found?.ok || found.value.target !== target)
        throw new GatewayError('STATE_CONFLICT', 'the credentials of the endpoint cannot be opened: set them again')
      return Object.fromEntries(Object.entries(found.value.secrets).filter(([, value]) => value !== undefined))
    },
  }
}

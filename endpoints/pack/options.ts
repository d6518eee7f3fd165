/** How an endpoint wants its deliveries packed, as it is set for the endpoint. */
import { boolean, type Decoder, isObject, list, object, oneOf, optional, text } from '../../gateway/decode.ts'
import { isAgeRecipient } from './age.ts'
import { type NameRules, nameRules, tellsPackagesApart } from './names.ts'
import { readEncryptionKeys } from './openpgp.ts'

/** Who can open the packages. */
export type Encryption =
  | { readonly kind: 'none' }
  /** X25519 recipients, `age1…`. */
  | { readonly kind: 'age'; readonly recipients: readonly string[] }
  /** Armored public keys. */
  | { readonly kind: 'openpgp'; readonly keys: readonly string[] }

export interface PackOptions {
  /** What one package holds. */
  readonly unit: 'file' | 'series' | 'study'
  /** `folder` is a DICOM File-set with its DICOMDIR, or the plain file where the unit is one. */
  readonly container: 'folder' | 'zip'
  /** Of ZIP files; what is compressed already is always stored. */
  readonly compression: 'stored' | 'deflate'
  readonly encryption: Encryption
  readonly manifest: { readonly csv: boolean; readonly json: boolean }
  /** The signed de-identification certificate, where the delivery has one. */
  readonly certificate: boolean
  /** A last file that says that the delivery is whole. */
  readonly done: boolean
  readonly names: NameRules
}

const ageRecipient: Decoder<string> = (raw, path, problems) => {
  if (typeof raw === 'string' && isAgeRecipient(raw)) return raw
  problems.add(path, 'expected an X25519 recipient of age, which begins with age1')
  return undefined
}

const encryptionKinds = {
  none: object({ kind: oneOf('none') }),
  age: object({ kind: oneOf('age'), recipients: list(ageRecipient, { min: 1, max: 32 }) }),
  openpgp: object({
    kind: oneOf('openpgp'),
    keys: list(
      text({ max: 65_536, pattern: /^\s*-----BEGIN PGP PUBLIC KEY BLOCK-----/, expected: 'an armored public key' }),
      { min: 1, max: 32 },
    ),
  }),
} as const

const encryption: Decoder<Encryption> = (raw, path, problems) => {
  const kind = oneOf('none', 'age', 'openpgp')(isObject(raw) ? raw['kind'] : undefined, `${path}.kind`, problems)
  return kind && encryptionKinds[kind](raw, path, problems)
}

const defaultNames: NameRules = { template: '', case: 'keep', padding: 3, maxLength: 120, charset: 'portable' }

const shape = object({
  unit: optional(oneOf('file', 'series', 'study'), 'study'),
  container: optional(oneOf('folder', 'zip'), 'folder'),
  compression: optional(oneOf('stored', 'deflate'), 'stored'),
  encryption: optional(encryption, { kind: 'none' }),
  manifest: optional(object({ csv: optional(boolean, true), json: optional(boolean, true) }), {
    csv: true,
    json: true,
  }),
  certificate: optional(boolean, true),
  done: optional(boolean, true),
  names: optional(nameRules, defaultNames),
})

/** Reads options; `{}` is a File-set for each study with manifests, certificate and `.done`, in the clear. */
export const packOptions: Decoder<PackOptions> = (raw, path, problems) => {
  const options = shape(raw, path, problems)
  if (options === undefined || options.unit === 'study' || tellsPackagesApart(options.names)) return options
  problems.add(`${path}.names.template`, 'expected {number} or {uid} in the name of packages: there are several')
  return undefined
}

/**
 * Looks whether the packages can be encrypted, before options are kept: a decoder cannot wait for that.
 *
 * @throws GatewayError BAD_REQUEST for an OpenPGP key that cannot be read, cannot encrypt or has expired
 */
export async function checkEncryption({ encryption }: Pick<PackOptions, 'encryption'>): Promise<void> {
  if (encryption.kind === 'openpgp') await readEncryptionKeys(encryption.keys)
}

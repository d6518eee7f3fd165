/** Sites and manifests for tests of the transfer formats; deterministic. */
import { createHash } from 'node:crypto'
import { keyId, type Signer, signWith } from '../../peers/envelope.ts'
import type { Manifest, ManifestObject } from '../../peers/manifest.ts'
import { signingKeyPair } from '../../peers/sodium.ts'

/** A site that can sign, made from one byte. */
export function testSite(seed: number): Signer & { readonly siteId: string } {
  const pair = signingKeyPair(new Uint8Array(32).fill(seed))
  return {
    siteId: keyId(pair.publicKey),
    signingKey: pair.publicKey,
    sign: (context, bytes) => signWith(pair.privateKey, context, bytes),
  }
}

export const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex')

/** An object of a manifest, made from its number. */
export function testObject(number: number, change: Partial<ManifestObject> = {}): ManifestObject {
  return {
    sopInstanceUid: `1.2.826.0.1.3680043.10.1.${number + 1}`,
    sopClassUid: '1.2.840.10008.5.1.4.1.1.2',
    transferSyntaxUid: '1.2.840.10008.1.2.1',
    study: 0,
    sizeBytes: 1000 + number,
    sha256: digestOf(`object ${number}`),
    ...change,
  }
}

/** A manifest of `count` objects, valid unless changed. */
export function testManifest(from: string, to: string, count = 2, change: Partial<Manifest> = {}): Manifest {
  return {
    from,
    to,
    created: new Date('2026-05-04T10:00:00.000Z'),
    expires: new Date('2026-05-11T10:00:00.000Z'),
    priority: 'normal',
    purpose: 'treatment',
    policy: { version: 3, sha256: digestOf('policy') },
    rule: 'ct to b',
    profile: 'as-is',
    studies: [{ studyInstanceUid: '1.2.826.0.1.3680043.10.2.1', instances: count, basis: 'timer' }],
    objects: Array.from({ length: count }, (_, number) => testObject(number)),
    attachments: [],
    nonce: Buffer.alloc(32, 7).toString('base64'),
    ...change,
  }
}

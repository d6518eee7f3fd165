/** Prepared objects and jobs for tests of packages. */
import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import type { TestContext } from 'node:test'
import { generateX25519Identity, identityToRecipient } from 'age-encryption'
import { packOptions } from '../../endpoints/pack/options.ts'
import type { PackJob } from '../../endpoints/pack/pack.ts'
import type { PackageFile, PreparedObject } from '../../endpoints/package.ts'
import { decode } from '../../gateway/decode.ts'
import { run, runOk } from './dcmtk.ts'
import { type BuildOptions, buildInstance, seededUid } from './dicom-builder.ts'
import { testSite } from './offers.ts'

export const noSignal = new AbortController().signal

/** Writes an instance into a folder, as the outbox holds it. */
export async function prepared(dir: string, options: BuildOptions): Promise<PreparedObject> {
  const built = buildInstance(options)
  const path = join(dir, built.sopInstanceUid)
  await writeFile(path, built.bytes)
  const { studyInstanceUid, seriesInstanceUid, sopInstanceUid, sopClassUid, transferSyntaxUid } = built
  return {
    ...{ studyInstanceUid, seriesInstanceUid, sopInstanceUid, sopClassUid, transferSyntaxUid, path },
    modality: options.modality ?? 'CT',
    size: built.bytes.length,
    sha256: createHash('sha256').update(built.bytes).digest('hex'),
  }
}

/** A study of two series, three and two instances. */
export async function preparedStudy(dir: string, seed = 1, change: BuildOptions = {}): Promise<PreparedObject[]> {
  const study = { studyInstanceUid: seededUid('study', seed), patientId: `SUBJ-${seed}`, patientName: `SUBJ-${seed}` }
  const objects: PreparedObject[] = []
  for (let n = 0; n < 5; n++) {
    const series = seededUid('series', seed * 10 + (n < 3 ? 1 : 2))
    const modality = n < 3 ? 'CT' : 'MR'
    objects.push(
      await prepared(dir, { ...study, seriesInstanceUid: series, seed: seed * 100 + n, modality, ...change }),
    )
  }
  return objects
}

/** A job with options as JSON has them. */
export function packJob(options: unknown, change: Partial<PackJob> = {}): PackJob {
  const decoded = decode(packOptions, options)
  if (!decoded.ok) throw new Error(JSON.stringify(decoded.problems))
  return {
    options: decoded.value,
    fields: { protocol: 'PROT-1', site: '001', subject: 'SUBJ-1', visit: 'V1' },
    created: new Date('2026-03-04T05:06:08Z'),
    site: testSite(7),
    certificate: Buffer.from('{"a":"certificate"}'),
    ...change,
  }
}

/** Writes a delivery as an endpoint would hold it. */
export async function deliver(files: readonly PackageFile[], dir: string): Promise<void> {
  for (const file of files) {
    const path = join(dir, file.name)
    await mkdir(join(path, '..'), { recursive: true })
    await writeFile(path, file.open(0))
  }
}

/** All of a file. */
export async function bytesOf(file: PackageFile | undefined): Promise<Buffer> {
  if (file === undefined) throw new Error('there is no such file')
  return await buffer(file.open(0))
}

/** A new recipient of age packages. */
export async function newIdentity(): Promise<{ identity: string; recipient: string }> {
  const identity = await generateX25519Identity()
  return { identity, recipient: await identityToRecipient(identity) }
}

/** A key of GnuPG in a home of its own below `dir`, with its public half. */
export async function openpgpKey(t: TestContext, dir: string): Promise<{ home: string; armored: string }> {
  const home = join(dir, 'gnupg')
  await mkdir(home, { mode: 0o700 })
  const user = 'TEST Recipient <test@example.org>'
  const gpg = ['--homedir', home, '--batch']
  await runOk(t, 'gpg', [...gpg, '--passphrase', '', '--quick-gen-key', user, 'default', 'default'])
  t.after(() => run(t, 'gpgconf', ['--homedir', home, '--kill', 'all']))
  return { home, armored: await runOk(t, 'gpg', [...gpg, '--armor', '--export']) }
}

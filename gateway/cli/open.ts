/** `hanse open`: unpacks and verifies a received delivery, without a gateway. */
import { readFileSync } from 'node:fs'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { readPrivateKeys } from '../../endpoints/pack/openpgp.ts'
import { openCard } from '../../peers/card.ts'
import { keyId, type SigningKey } from '../../peers/envelope.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import { type Args, type Command, exitCodes, type Io, UsageError } from './command.ts'
import { type Delivery, type ReceivedFile, readDelivery } from './open/delivery.ts'
import { type Identities, type UnpackOptions, unpack } from './open/unpack.ts'
import { counted } from './table.ts'

export const openDelivery: Command = {
  name: 'open',
  summary: 'Unpack and verify a delivery that was received from a Hanse gateway, without a gateway.',
  operands: 'PACKAGE...',
  arity: { min: 1, max: 10_000 },
  options: {
    out: { type: 'string', value: 'DIR', help: 'folder for what the packages hold; made when it is not there' },
    identity: {
      type: 'string',
      value: 'FILE',
      help: 'for encrypted packages: age identities, or an OpenPGP private key',
    },
    signer: { type: 'string', value: 'CARD|KEY', help: "the sender's site card, or its signing key in base64" },
    unsigned: { type: 'boolean', help: 'open what has no manifest; only encryption and checksums are verified' },
  },
  details: [
    'PACKAGE is the folder of a delivery, or a file in it. Sizes and digests are compared with the signature in',
    'manifest.sig; what is damaged, missing or was never signed is not written. Packages for OpenPGP are verified',
    'and left to gpg -d when no private key without a passphrase is given. endpoints/PACKAGES.md describes deliveries.',
    '',
    'Exit 0 when all of it was verified and written; 1 when something was damaged, missing or refused, and what was',
    'whole is written all the same; 2 for wrong arguments, a card or identity that cannot be read; 130 interrupted.',
    'Without --signer nothing says whose signature it is: the key is printed, compare it with what the sender tells.',
    'Example: hanse open delivery/ --out study --identity age.key --signer sender.card',
  ].join('\n'),
  async run(args, io) {
    const out = args.text('out')
    if (out === undefined) throw new UsageError('--out is required')
    const trust = trustOf(args, io)
    const identities = await identitiesOf(args, io)
    const deliveries: Delivery[] = []
    for (const place of args.operands) deliveries.push(await readDelivery(resolve(io.cwd, place), trust))
    const files = deliveries.flatMap(delivery => delivery.files)
    if (identities.age.length === 0 && files.some(({ name }) => /\.age$/i.test(name)))
      throw new UsageError('the packages are encrypted with age: name your identity file with --identity')
    const target = resolve(io.cwd, out)
    await mkdir(target, { recursive: true })
    const stage = await mkdtemp(join(target, '.hanse-open-'))
    try {
      const failed = await unpackAll(files, { out: target, stage, identities, signal: io.signal }, io)
      tellSigners(deliveries, trust, io)
      return failed > 0 ? exitCodes.failed : exitCodes.ok
    } finally {
      await rm(stage, { recursive: true, force: true })
    }
  },
}

type Trust = readonly SigningKey[] | 'anybody' | 'unsigned'

/** Opens each file; what fails is told and does not hold up the others. Gives the number of failures. */
async function unpackAll(files: readonly ReceivedFile[], options: UnpackOptions, io: Io): Promise<number> {
  let [failed, objects] = [0, 0]
  for (const file of files) {
    try {
      const { place, isSealed, objects: held } = await unpack(file, options)
      objects += held
      io.print(`ok: ${file.name}${isSealed ? ', open it with gpg -d' : ''} -> ${place}`)
    } catch (error) {
      io.signal.throwIfAborted()
      failed++
      io.print(`failed: ${file.name}: ${reasonOf(error)}`)
    }
  }
  io.print(`${counted(files.length - failed, 'file')} verified, ${counted(objects, 'object')}, ${failed} failed`)
  return failed
}

function reasonOf(error: unknown): string {
  if (isGatewayError(error)) return error.message
  if (error instanceof Error && 'code' in error && typeof error.code === 'string')
    return error.code === 'ENOENT' ? 'it is missing' : `it cannot be read or written (${error.code})`
  throw error
}

function tellSigners(deliveries: readonly Delivery[], trust: Trust, io: Io): void {
  for (const { statement, others } of deliveries) {
    for (const name of others) io.note(`not part of the delivery, left alone: ${name}`)
    if (statement === undefined) {
      io.note('unsigned: nothing says who sent this, or that nothing is missing')
      continue
    }
    const { from, created, signingKey } = statement
    io.print(`signed by site ${from} on ${created.toISOString()}`)
    if (trust === 'anybody')
      io.note(
        `whose key that is was not checked (no --signer): ${Buffer.from(signingKey).toString('base64')}, id ${keyId(signingKey)}`,
      )
  }
}

// ---- arguments --------------------------------------------------------------------------------------

function trustOf(args: Args, io: Io): Trust {
  const signer = args.text('signer')
  if (args.flag('unsigned')) {
    if (signer !== undefined) throw new UsageError('--unsigned: expected without --signer')
    return 'unsigned'
  }
  return signer === undefined ? 'anybody' : signerKeys(signer, io)
}

/** The keys of a site card, replaced ones included, or the one that is given in base64. */
function signerKeys(signer: string, io: Io): readonly SigningKey[] {
  const given = keyOf(signer)
  if (given !== undefined) return [given]
  const bytes = readInput(signer, io, '--signer')
  const inFile = keyOf(bytes.toString('utf8').trim())
  if (inFile !== undefined) return [inFile]
  try {
    const { card } = openCard(bytes, Date.now())
    return [card.signingKey, ...card.keyHistory.filter(({ use }) => use === 'sign').map(({ key }) => key)]
  } catch (error) {
    if (error instanceof GatewayError) throw new UsageError(`--signer: ${error.message}`)
    throw error
  }
}

function keyOf(text: string): SigningKey | undefined {
  return /^[A-Za-z0-9+/]{43}=$/.test(text) ? Buffer.from(text, 'base64') : undefined
}

async function identitiesOf(args: Args, io: Io): Promise<Identities> {
  const name = args.text('identity')
  if (name === undefined) return { age: [], openpgp: [] }
  const text = readInput(name, io, '--identity').toString('utf8')
  if (text.includes('-----BEGIN PGP PRIVATE KEY BLOCK-----')) {
    await readPrivateKeys([text]).catch((error: unknown) => {
      throw isGatewayError(error) ? new UsageError(`--identity: ${error.message}`) : error
    })
    return { age: [], openpgp: [text] }
  }
  const age = text.match(/^AGE-SECRET-KEY-1[0-9A-Z]{58}(?=\s*$)/gm) ?? []
  if (age.length > 0) return { age, openpgp: [] }
  throw new UsageError(
    `--identity: ${name} holds no AGE-SECRET-KEY-1…; one with a passphrase is opened with age -d first`,
  )
}

function readInput(name: string, io: Io, option: string): Buffer {
  try {
    return readFileSync(resolve(io.cwd, name))
  } catch {
    throw new UsageError(`${option}: ${name} cannot be read`)
  }
}

/**
 * De-identifies instances: reads, decides, rewrites, writes, verifies. One function, one outcome: a verified output, or
 * the reason why there is none. Whatever goes wrong, at whatever step, holds the instance.
 *
 * Pure: bytes in, bytes out; the same input, profile and key give the same output.
 */
import { createHash } from 'node:crypto'
import type { ByteSource } from '../../gateway/dicom/byte-source.ts'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { ActionTable } from './action.ts'
import { type Certificate, certificateOf } from './certificate.ts'
import { type Held, HoldError } from './hold.ts'
import { addIdentifiers, collectIdentifiers, type Identifiers, noIdentifiers } from './identifiers.ts'
import { type Instance, readInstance } from './instance.ts'
import { marks, methodCodesOf } from './marks.ts'
import { Output } from './output.ts'
import { outputFile } from './output-file.ts'
import { CompressedPixelsError, type PixelPlan, planPixels } from './pixel-plan.ts'
import { datesOf, type Profile } from './profile.ts'
import { Project, type PseudonymLookup, type Subject } from './project.ts'
import { type RewriteRecord, rewriteTop } from './rewrite.ts'
import { Scrubber } from './scrub.ts'
import { verifyOutput } from './verify.ts'

/** The steps, in order; the observer is told before each. */
export const steps = ['read', 'classify', 'identify', 'pixels', 'rewrite', 'write', 'verify', 'certify'] as const
export type Step = (typeof steps)[number]

/** Decodes compressed pixels, so that regions can be blanked in them, and encodes them again. */
export interface PixelCodec {
  /**
   * The same instance as Part 10 with native pixels, losslessly decoded; undefined where the syntax is not handled.
   * The source is the caller's until the result is closed.
   */
  decode(source: ByteSource): Promise<ClosableSource | undefined>
  /** An instance with native pixels in another transfer syntax, without loss; undefined where that cannot be. */
  encode(source: ByteSource, transferSyntaxUid: string): Promise<ClosableSource | undefined>
}

/** A source with a lifetime. */
export type ClosableSource = ByteSource & AsyncDisposable

/** Keeps the output somewhere until it is verified, and gives it back for reading. What it is given later takes its place. */
export type Spool = (chunks: AsyncIterable<Uint8Array>) => Promise<ByteSource>

/** What the caller knows beyond the instance. */
export interface RunOptions {
  /** Identifiers of the study's other instances, by its UID, to be taken out of this one's text as well. */
  readonly knownOfStudy?: (studyUid: string) => Identifiers | undefined
  /** The subject, where the caller knows the issuer better than the instance does. */
  readonly subject?: Subject
  /** SHA-256 of the source, hex, where it is known already. */
  readonly sourceSha256?: string
  readonly codec?: PixelCodec
  /** Told before each step; what it throws holds the instance. */
  readonly onStep?: (step: Step) => void
  /** Told of every element and what became of it. */
  readonly note?: NonNullable<RewriteRecord['note']>
}

/** A verified output. */
export interface Done {
  readonly kind: 'done'
  readonly output: ByteSource
  readonly certificate: Certificate
}

/** De-identifies instances under one profile for one project. */
export class Deidentifier {
  readonly profile: Profile
  readonly #table: ActionTable
  readonly #project: Project
  #scrubber: { readonly key: string; readonly scrubber: Scrubber } | undefined

  /** @param key  the project key, 32 bytes, secret */
  constructor(profile: Profile, key: Uint8Array, lookup: PseudonymLookup | undefined = undefined) {
    this.profile = profile
    this.#table = new ActionTable(profile)
    this.#project = new Project(key, profile, lookup)
  }

  /** The identifiers of an instance, for `knownOfStudy`, and whose it is; undefined for what cannot be read. */
  async identifiersOf(
    source: ByteSource,
  ): Promise<{ studyUid: string; identifiers: Identifiers; subject: Subject } | undefined> {
    try {
      const instance = await readInstance(source, this.profile)
      const { studyUid, subject } = instance
      return { studyUid, subject, identifiers: this.#collect(instance) }
    } catch {
      // It will be held when its turn comes, with the reason.
      return undefined
    }
  }

  /** De-identifies one instance; never throws. */
  async run(source: ByteSource, spool: Spool, options: RunOptions = {}): Promise<Done | Held> {
    try {
      return await this.#run(source, spool, options)
    } catch (error) {
      return heldBy(error)
    }
  }

  async #run(source: ByteSource, spool: Spool, options: RunOptions): Promise<Done> {
    const { codec } = options
    try {
      return await this.#runOnce(source, spool, options)
    } catch (error) {
      if (!(error instanceof CompressedPixelsError) || codec === undefined) throw error
      const decoded = await codec.decode(source)
      if (decoded === undefined) throw error
      await using native = decoded
      const sourceSha256 = options.sourceSha256 ?? (await digestOf(source))
      const { transferSyntaxUid } = error
      const encodedSpool: Spool = async chunks => {
        const blanked = await spool(chunks)
        await using encoded = await codec.encode(blanked, transferSyntaxUid)
        return encoded === undefined ? blanked : await spool(chunksOf(encoded))
      }
      return await this.#runOnce(native, encodedSpool, { ...options, sourceSha256 })
    }
  }

  async #runOnce(source: ByteSource, spool: Spool, options: RunOptions): Promise<Done> {
    const { onStep } = options
    onStep?.('read')
    const instance = await readInstance(source, this.profile, () => onStep?.('classify'))
    const { dataset, encoding, transferSyntaxUid, sopClassUid } = instance
    onStep?.('identify')
    const identifiers = this.#collect(instance)
    const known = options.knownOfStudy?.(instance.studyUid)
    if (known !== undefined) addIdentifiers(identifiers, known)
    const subject = options.subject ?? instance.subject
    const pseudonym = this.#project.pseudonym(subject)
    if (pseudonym === undefined)
      throw new HoldError('no-pseudonym', 'the lookup table has no pseudonym for this subject', {
        tag: 0x00100020,
        rule: 'pseudonym by lookup',
      })
    onStep?.('pixels')
    const pixels = await planPixels(source, dataset, encoding, transferSyntaxUid, this.profile, sopClassUid)
    onStep?.('rewrite')
    const offsetDays = this.#project.offsetDays(subject)
    const record: RewriteRecord = { counts: new Map(), uids: new Map(), dates: new Set(), note: options.note }
    const content = new Output()
    rewriteTop(
      dataset,
      encoding,
      marks(this.profile, pixels, pseudonym),
      {
        profile: this.profile,
        table: this.#table,
        project: this.#project,
        scrubber: this.#scrubberFor(identifiers),
        sopClassUid,
        offsetDays,
        pseudonym,
        hasContentReferences: instance.hasContentReferences,
        record,
        pixels: pixels.put,
      },
      content,
    )
    onStep?.('write')
    const sopInstanceUid = record.uids.get(instance.sopInstanceUid) ?? instance.sopInstanceUid
    const output = await spool(outputFile(source, instance, sopInstanceUid, content.parts))
    onStep?.('verify')
    const findings = await verifyOutput(output, {
      profile: this.profile,
      identifiers,
      record,
      pseudonym,
      sopInstanceUid,
      pixels,
    })
    const [finding] = findings
    if (finding !== undefined)
      throw new HoldError(
        'verification',
        `the verification of the output found ${findings.length} fault(s): ${finding.rule}`,
        finding,
      )
    onStep?.('certify')
    const sourceSha256 = options.sourceSha256 ?? (await digestOf(source))
    return {
      kind: 'done',
      output,
      certificate: this.#certify(
        instance,
        output,
        sopInstanceUid,
        sourceSha256,
        await digestOf(output),
        record,
        pixels,
      ),
    }
  }

  #certify(
    { sopClassUid, studyUid }: Instance,
    { sizeBytes }: ByteSource,
    sopInstanceUid: string,
    sourceSha256: string,
    outputSha256: string,
    record: RewriteRecord,
    pixels: PixelPlan,
  ): Certificate {
    const methods = methodCodesOf(this.profile, pixels)
    return certificateOf(this.profile, {
      sopClassUid,
      sopInstanceUid,
      studyInstanceUid: record.uids.get(studyUid) ?? studyUid,
      sourceSha256,
      outputSha256,
      outputBytes: sizeBytes,
      counts: Object.fromEntries([...record.counts].sort(([a], [b]) => (a < b ? -1 : 1))),
      pixels: { outcome: pixels.outcome, rule: pixels.rule, regions: pixels.regions },
      methods,
    })
  }

  #collect({ dataset, sopClassUid }: Instance): Identifiers {
    const isKept = (action: string): boolean => action === 'keep' || action === 'echo'
    return collectIdentifiers(
      dataset,
      ({ tag, vr }) => isKept(this.#table.decide(tag, vr, sopClassUid).action),
      noIdentifiers(),
    )
  }

  /** Instances of one study mostly have the same identifiers. */
  #scrubberFor(identifiers: Identifiers): Scrubber {
    const key = JSON.stringify([[...identifiers.names], [...identifiers.ids], [...identifiers.birthDates]])
    if (this.#scrubber?.key !== key) {
      const dates = datesOf(this.profile) === 'kept' ? 'kept' : 'removed'
      this.#scrubber = { key, scrubber: new Scrubber(identifiers, { dates }) }
    }
    return this.#scrubber.scrubber
  }
}

/** Keeps the output in memory: for instances whose size is bounded by the caller. */
export const memorySpool: Spool = async chunks => {
  const parts: Uint8Array[] = []
  for await (const chunk of chunks) parts.push(chunk)
  return bufferSource(Buffer.concat(parts))
}

const readBytes = 1_048_576

async function digestOf(source: ByteSource): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of chunksOf(source)) hash.update(chunk)
  return hash.digest('hex')
}

async function* chunksOf(source: ByteSource): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < source.sizeBytes; at += readBytes) yield await source.read(at, readBytes)
}

function heldBy(error: unknown): Held {
  if (error instanceof HoldError) return error.held
  if (isGatewayError(error, 'DICOM_LIMIT')) return new HoldError('too-large', error.message).held
  if (isGatewayError(error, 'DICOM_UNREADABLE')) return new HoldError('unreadable', error.message).held
  if (isGatewayError(error, 'PIXELS_UNREADABLE')) return new HoldError('pixels-unsupported', error.message).held
  // The message of an unknown error may quote a value.
  const name = isGatewayError(error) ? error.code : error instanceof Error ? error.name : typeof error
  return new HoldError('internal', `the engine failed: ${name}`).held
}

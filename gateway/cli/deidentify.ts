/** `hanse deidentify`: files and folders, without a gateway. */
import { randomBytes } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { finished } from 'node:stream/promises'
import { Deidentifier, type Done, type PixelCodec } from '../../policy/deid/engine.ts'
import type { Held } from '../../policy/deid/hold.ts'
import { addIdentifiers, type Identifiers, noIdentifiers } from '../../policy/deid/identifiers.ts'
import { basicWith, presetNames, presetProfile } from '../../policy/deid/presets.ts'
import { decodeProfile, type Profile } from '../../policy/deid/profile.ts'
import { projectKeyBytes } from '../../policy/deid/project.ts'
import { type ByteSource, bufferSource } from '../dicom/byte-source.ts'
import { isGatewayError } from '../errors.ts'
import { openPixels, type Pixels } from '../pixels/pixels.ts'
import { nativePixels } from '../services/native-pixels.ts'
import { type Args, type Command, exitCodes, type Io, UsageError } from './command.ts'
import { inputFiles, openInput, refuseOverlap } from './deidentify/inputs.ts'
import { maxMemoryBytes, openDraft, type Written } from './deidentify/output-folder.ts'
import { createProjectKey, readJson, readProjectKey, readPseudonyms } from './deidentify/project-file.ts'
import { counted } from './table.ts'

export const deidentify: Command = {
  name: 'deidentify',
  summary: 'De-identify DICOM files and folders by DICOM PS3.15 Annex E, without a gateway.',
  operands: 'IN...',
  arity: { min: 1, max: 10_000 },
  options: {
    profile: {
      type: 'string',
      value: 'NAME|FILE',
      help: `${presetNames.join(', ')}, basic+OPTION, or a profile document`,
    },
    out: { type: 'string', value: 'DIR', help: 'folder for the output; STUDY/INSTANCE.dcm by the new UIDs' },
    project: {
      type: 'string',
      value: 'KEYFILE',
      help: 'key of the project: the same key, the same UIDs, dates, pseudonyms',
    },
    'new-key': { type: 'boolean', help: 'make KEYFILE with a new key first' },
    pseudonyms: {
      type: 'string',
      value: 'CSV',
      help: 'ISSUER,PATIENTID,PSEUDONYM lines, for profiles that look them up',
    },
    report: { type: 'string', value: 'FILE', help: 'one JSON line per file: its certificate, or why it was held' },
  },
  details: [
    'Exit 1 when a file was held: nothing of it is written. The report names source files; keep it where they are.',
    'policy/PROFILES.md describes profiles and options.',
    'Example: hanse deidentify --profile trial --project trial.key --new-key --out out ct/',
  ].join('\n'),
  async run(args, io) {
    const profile = loadProfile(required(args, 'profile'), io)
    const out = resolve(io.cwd, required(args, 'out'))
    const key = loadKey(args, io)
    const table = args.text('pseudonyms')
    const needsTable = profile.pseudonym.kind === 'lookup' || profile.pseudonym.kind === 'sequential'
    if (needsTable !== (table !== undefined))
      throw new UsageError('--pseudonyms: expected with a profile that looks pseudonyms up, and only then')
    await mkdir(out, { recursive: true })
    await refuseOverlap(args.operands, out, io.cwd)
    const engine = new Deidentifier(
      profile,
      key,
      table === undefined ? undefined : readPseudonyms(resolve(io.cwd, table)),
    )
    await using report = openReport(args.text('report'), io)
    await using pixels = new LazyPixels(join(out, `.hanse-spool-${process.pid}`))
    const codec = nativePixels(() => pixels.open(), io.signal)
    return await deidentifyAll(args.operands, { engine, out, report, codec, io, written: new Map() })
  },
}

interface Run {
  readonly engine: Deidentifier
  readonly out: string
  readonly report: Report
  readonly codec: PixelCodec
  readonly written: Written
  readonly io: Io
}

/** Codec threads, started when a compressed image has text to be blanked. */
class LazyPixels implements AsyncDisposable {
  readonly #dir: string
  #pixels: Promise<Pixels> | undefined

  constructor(dir: string) {
    this.#dir = dir
  }

  open(): Promise<Pixels> {
    this.#pixels ??= openPixels({ dir: this.#dir })
    return this.#pixels
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await (await this.#pixels)?.close()
    await rm(this.#dir, { recursive: true, force: true })
  }
}

/** First the identifiers of each study, so that every file is searched for those of all; then file by file. */
async function deidentifyAll(names: readonly string[], run: Run): Promise<number> {
  const { io, report } = run
  const files: string[] = []
  const byStudy = new Map<string, Identifiers>()
  for await (const path of inputFiles(names, io.cwd)) {
    io.signal.throwIfAborted()
    files.push(path)
    await collect(path, run.engine, byStudy)
    progress(io, `${files.length} files read`)
  }
  const counts = { written: 0, held: 0, skipped: 0 }
  for (const [index, path] of files.entries()) {
    io.signal.throwIfAborted()
    const outcome = await deidentifyFile(path, byStudy, run)
    counts[outcome.result]++
    await report.write({ source: path, ...outcome })
    if (outcome.result === 'held') {
      progress(io, '')
      io.print(`held: ${path}: ${outcome.reason}`)
    }
    progress(io, `${index + 1} of ${files.length} files, ${counts.held} held`)
  }
  progress(io, '')
  await report.write({ result: 'summary', profile: run.engine.profile.name, ...counts })
  const others = counts.skipped === 0 ? '' : `, ${counts.skipped} skipped that are no instances`
  io.print(`${counted(counts.written, 'file')} written, ${counts.held} held${others}`)
  return counts.held > 0 ? exitCodes.failed : exitCodes.ok
}

async function collect(path: string, engine: Deidentifier, byStudy: Map<string, Identifiers>): Promise<void> {
  using file = openInput(path)
  const found = file && (await engine.identifiersOf(file.source))
  if (found === undefined) return
  const known = byStudy.get(found.studyUid) ?? noIdentifiers()
  addIdentifiers(known, found.identifiers)
  byStudy.set(found.studyUid, known)
}

type FileOutcome =
  | { readonly result: 'written'; readonly file: string; readonly certificate: Done['certificate'] }
  | ({ readonly result: 'held' | 'skipped' } & Omit<Held, 'kind'>)

async function deidentifyFile(
  path: string,
  byStudy: ReadonlyMap<string, Identifiers>,
  { engine, out, codec, written, io }: Run,
): Promise<FileOutcome> {
  using file = openInput(path)
  if (file === undefined)
    return { result: 'held', code: 'unreadable', reason: 'cannot be opened', evidence: [], isAlert: false }
  const { sizeBytes } = file.source
  const source = sizeBytes <= maxMemoryBytes ? bufferSource(await file.source.read(0, sizeBytes)) : file.source
  await using draft = openDraft(out, written, sizeBytes)
  const outcome = await engine.run(source, draft.spool, { knownOfStudy: uid => byStudy.get(uid), codec })
  // An interruption held it; that is not what the report should say.
  io.signal.throwIfAborted()
  if (outcome.kind === 'done') {
    const { certificate, output } = outcome
    return { result: 'written', file: await draft.keep(output, certificate), certificate }
  }
  const { kind: _, ...held } = outcome
  const isNoInstance = held.code === 'directory' || (held.code === 'unreadable' && !(await hasPrefix(source)))
  return { result: isNoInstance ? 'skipped' : 'held', ...held }
}

/** What does not even begin like DICOM is some other file of the folder. */
async function hasPrefix(source: ByteSource): Promise<boolean> {
  return Buffer.from(await source.read(128, 4)).toString('latin1') === 'DICM'
}

// ---- arguments --------------------------------------------------------------------------------------

function required(args: Args, option: string): string {
  const value = args.text(option)
  if (value === undefined) throw new UsageError(`--${option} is required`)
  return value
}

function loadProfile(name: string, io: Io): Profile {
  const known = name.startsWith('basic+') ? basicWith(name.slice('basic+'.length)) : presetProfile(name)
  if (known !== undefined) return known
  if (!/[./\\]/.test(name))
    throw new UsageError(`--profile: there is no profile "${name}"; known: ${presetNames.join(', ')}`)
  try {
    return decodeProfile(readJson(resolve(io.cwd, name)))
  } catch (error) {
    if (isGatewayError(error, 'POLICY_INVALID')) throw new UsageError(`${name}: ${error.message}`)
    throw error
  }
}

function loadKey(args: Args, io: Io): Uint8Array {
  const name = args.text('project')
  if (name === undefined) {
    if (args.flag('new-key')) throw new UsageError('--new-key: expected with --project KEYFILE')
    io.note('no --project: a key for this run only, so that nothing later can be linked to this output')
    return randomBytes(projectKeyBytes)
  }
  const path = resolve(io.cwd, name)
  if (args.flag('new-key')) createProjectKey(path)
  return readProjectKey(path)
}

// ---- what people see --------------------------------------------------------------------------------

interface Report extends AsyncDisposable {
  write(entry: unknown): Promise<void>
}

function openReport(name: string | undefined, io: Io): Report {
  if (name === undefined) return { write: async () => {}, [Symbol.asyncDispose]: async () => {} }
  const stream = createWriteStream(resolve(io.cwd, name), { mode: 0o600 })
  const failed = finished(stream)
  failed.catch(() => {})
  return {
    async write(entry) {
      if (stream.errored !== null) throw new UsageError(`--report: ${name} cannot be written`)
      if (stream.write(`${JSON.stringify(entry)}\n`)) return
      const { promise, resolve: drained } = Promise.withResolvers<void>()
      stream.once('drain', () => drained())
      await Promise.race([promise, failed])
    },
    async [Symbol.asyncDispose]() {
      stream.end()
      await failed
    },
  }
}

function progress(io: Io, line: string): void {
  if (io.interactive) process.stderr.write(`\r${line.padEnd(60)}${line === '' ? '\r' : ''}`)
}

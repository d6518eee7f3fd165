/** `hanse deidentify`: files and folders, without a gateway. */
import { randomBytes } from 'node:crypto'
import { createWriteStream, rmSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { finished } from 'node:stream/promises'
import type { Certificate } from '../../policy/deid/certificate.ts'
import type { Held } from '../../policy/deid/hold.ts'
import { addIdentifiers, type Identifiers, noIdentifiers } from '../../policy/deid/identifiers.ts'
import { basicWith, presetNames, presetProfile } from '../../policy/deid/presets.ts'
import { decodeProfile, type Profile } from '../../policy/deid/profile.ts'
import { type PseudonymLookup, projectKeyBytes } from '../../policy/deid/project.ts'
import { isGatewayError } from '../errors.ts'
import { openPixels, type Pixels } from '../pixels/pixels.ts'
import { type Deidentify, openDeidentify, type Session } from '../services/deidentify.ts'
import { type FileDone, openInput } from '../services/deidentify-file.ts'
import { nativePixels } from '../services/native-pixels.ts'
import { type Args, type Command, exitCodes, type Io, required, UsageError } from './command.ts'
import { inputFiles, refuseOverlap } from './deidentify/inputs.ts'
import { keepOutput, type Written } from './deidentify/output-folder.ts'
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
    const lookup = table === undefined ? undefined : readPseudonyms(resolve(io.cwd, table))
    await using report = openReport(args.text('report'), io)
    await using pixels = new LazyPixels(join(out, `.hanse-spool-${process.pid}`))
    const threads = openDeidentify({ codec: nativePixels(() => pixels.open(), io.signal) })
    try {
      return await deidentifyAll(args.operands, { profile, key, lookup, threads, out, report, io })
    } finally {
      await threads.close()
    }
  },
}

interface Run {
  readonly profile: Profile
  readonly key: Uint8Array
  readonly lookup: PseudonymLookup | undefined
  readonly threads: Deidentify
  readonly out: string
  readonly report: Report
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
  for await (const path of inputFiles(names, io.cwd)) files.push(path)
  const sessionOf = await inspectAll(files, run)
  const written: Written = new Map()
  const counts = { written: 0, held: 0, skipped: 0 }
  let done = 0
  await inOrder(files, run, (path, place) => deidentifyOne(path, place, sessionOf(path), run), {
    async take(path, { outcome, part }) {
      const told = outcome.kind === 'done' ? keep(run, written, part, outcome.certificate) : await whyNot(path, outcome)
      counts[told.result]++
      await report.write({ source: path, ...told })
      if (told.result === 'held') {
        progress(io, '')
        io.print(`held: ${path}: ${told.reason}`)
      }
      progress(io, `${++done} of ${files.length} files, ${counts.held} held`)
    },
    drop: async ({ part }) => rmSync(part, { force: true }),
  })
  progress(io, '')
  await report.write({ result: 'summary', profile: run.profile.name, ...counts })
  const others = counts.skipped === 0 ? '' : `, ${counts.skipped} skipped that are no instances`
  io.print(`${counted(counts.written, 'file')} written, ${counts.held} held${others}`)
  return counts.held > 0 ? exitCodes.failed : exitCodes.ok
}

/** Reads what all files say of their patients; gives each file what it has in common with its study. */
async function inspectAll(files: readonly string[], run: Run): Promise<(path: string) => Session> {
  const { profile, key, lookup, threads, io } = run
  const bare: Session = { id: 'no study', profile, key }
  const studies = new Map<string, { identifiers: Identifiers; pseudonyms: Map<string, string> }>()
  const studyOf = new Map<string, string>()
  await inOrder(files, run, path => threads.inspect(bare, path), {
    async take(path, found) {
      progress(io, `${studyOf.size} files read`)
      if (found === undefined) return // it is held when its turn comes
      const study = studies.get(found.studyUid) ?? { identifiers: noIdentifiers(), pseudonyms: new Map() }
      studies.set(found.studyUid, study)
      studyOf.set(path, found.studyUid)
      addIdentifiers(study.identifiers, found.identifiers)
      const { issuer, id } = found.subject
      const pseudonym = lookup?.(found.subject)
      if (pseudonym !== undefined) study.pseudonyms.set(JSON.stringify([issuer, id]), pseudonym)
    },
    drop: async () => {},
  })
  const sessions = new Map<string, Session>()
  for (const [studyUid, { identifiers, pseudonyms }] of studies)
    sessions.set(studyUid, { ...bare, id: `study ${studyUid}`, identifiers, pseudonyms: [...pseudonyms] })
  return path => sessions.get(studyOf.get(path) ?? '') ?? bare
}

/**
 * Works on several files at a time and takes what comes of them in the order of the files. After a failure or an
 * interruption what is still under way is waited for and dropped.
 */
async function inOrder<T>(
  files: readonly string[],
  { threads, io }: Run,
  work: (path: string, place: number) => Promise<T>,
  { take, drop }: { take: (path: string, made: T) => Promise<void>; drop: (made: T) => Promise<void> },
): Promise<void> {
  const underWay: { path: string; made: Promise<T> }[] = []
  let next = 0
  try {
    for (;;) {
      io.signal.throwIfAborted()
      while (underWay.length < threads.threads * 2 && next < files.length) {
        const path = files[next] ?? ''
        const made = work(path, next++)
        made.catch(() => {}) // thrown where it is taken
        underWay.push({ path, made })
      }
      const first = underWay[0]
      if (first === undefined) return
      const made = await first.made
      // An interruption may have held it; that is not what the report should say.
      io.signal.throwIfAborted()
      underWay.shift()
      await take(first.path, made)
    }
  } finally {
    for (const { made } of underWay) await made.then(drop, () => {})
  }
}

interface Made {
  readonly outcome: FileDone | Held
  /** Where the output is until it is kept. */
  readonly part: string
}

async function deidentifyOne(path: string, place: number, session: Session, { threads, out }: Run): Promise<Made> {
  const part = join(out, `.hanse-${process.pid}-${place}.part`)
  const task = { sourcePath: path, targetPath: part, isDurable: false }
  return { outcome: await threads.run(session, task), part }
}

type Told =
  | { readonly result: 'written'; readonly file: string; readonly certificate: Certificate }
  | ({ readonly result: 'held' | 'skipped' } & Omit<Held, 'kind'>)

function keep({ out }: Run, written: Written, part: string, certificate: Certificate): Told {
  return { result: 'written', file: keepOutput(out, written, part, certificate), certificate }
}

async function whyNot(path: string, { kind: _, ...held }: Held): Promise<Told> {
  const isNoInstance = held.code === 'directory' || (held.code === 'unreadable' && !(await hasPrefix(path)))
  return { result: isNoInstance ? 'skipped' : 'held', ...held }
}

/** What does not even begin like DICOM is some other file of the folder. */
async function hasPrefix(path: string): Promise<boolean> {
  using file = openInput(path)
  return file === undefined || Buffer.from(await file.source.read(128, 4)).toString('latin1') === 'DICM'
}

// ---- arguments --------------------------------------------------------------------------------------

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

/** `hanse import disc` */
import { resolve } from 'node:path'
import { isObject } from '../decode.ts'
import type { ByteSource } from '../dicom/byte-source.ts'
import { isGatewayError } from '../errors.ts'
import { mediumFiles } from '../services/disc-files.ts'
import { type Medium, type MediumStudy, pickStudies, readMedium } from '../services/disc-studies.ts'
import { type Client, openClient, ProblemError } from './client.ts'
import {
  type Args,
  type Command,
  configOptions,
  connectionOptions,
  exitCodes,
  type Io,
  jsonOption,
  UsageError,
} from './command.ts'
import { counted, table } from './table.ts'

export const importDisc: Command = {
  name: 'import disc',
  summary: 'Store studies from a CD, DVD, stick or folder, or from the image of a disc (ISO 9660).',
  operands: 'PATH',
  arity: { min: 1, max: 1 },
  options: {
    patient: { type: 'string', value: 'ID', help: 'the studies of the patient with this ID' },
    study: { type: 'string', value: 'UID', help: 'the study with this Study Instance UID' },
    all: { type: 'boolean', help: 'all studies' },
    ...jsonOption,
    ...connectionOptions,
    ...configOptions,
  },
  details:
    'Lists what is on the medium and asks which studies to store; without a terminal, --patient, --study or --all say so.\n' +
    'Nothing on the medium is executed, links on it are not followed, and files that cannot be read are named.\n' +
    'Example: hanse import disc /media/cdrom --patient 12345',
  async run(args, io) {
    const [path = ''] = args.operands
    const medium = await readMedium(mediumFiles(resolve(io.cwd, path)), io.signal).catch((error: unknown) => {
      throw isGatewayError(error) ? new UsageError(`${path}: ${error.message}`) : error
    })
    if (!args.flag('json')) printMedium(medium, io)
    const chosen = await choose(medium, args, io)
    const client = chosen.length > 0 ? openClient(args, io) : undefined
    const outcome = client ? await store(client, chosen, io) : { stored: 0, known: 0, failed: [] }
    if (args.flag('json')) io.print(JSON.stringify(describe(medium, outcome), null, 2))
    else if (client) {
      io.print(`${counted(outcome.stored, 'instance')} stored, ${outcome.known} known before`)
      for (const { name, reason } of outcome.failed) io.note(`${name}: not stored: ${reason}`)
    }
    return outcome.failed.length + medium.unreadable.length + medium.missing.length > 0
      ? exitCodes.failed
      : exitCodes.ok
  },
}

interface Outcome {
  readonly stored: number
  /** Instances that were in the store already, with the same content or another. */
  readonly known: number
  readonly failed: readonly { readonly name: string; readonly reason: string }[]
}

function printMedium({ studies, unreadable, missing, otherFiles }: Medium, io: Io): void {
  const rows = studies.map((study, index) => [
    String(index + 1),
    study.patientId,
    study.patientName,
    study.studyDate,
    study.description,
    [...study.modalities].join(' '),
    String(study.files.length),
  ])
  const header = ['', 'patient', 'name', 'date', 'study', 'modalities', 'instances']
  if (rows.length > 0)
    io.print(
      table(
        header,
        rows.map(row => row.map(shown)),
      ),
    )
  else io.note('no studies on the medium')
  if (otherFiles > 0) io.note(`${counted(otherFiles, 'other file')} on the medium`)
  for (const { name, reason } of unreadable) io.note(`${shown(name)}: cannot be read: ${reason}`)
  for (const name of missing) io.note(`${shown(name)}: named by the DICOMDIR, not on the medium`)
}

/** Text of a medium must not steer the terminal. */
const shown = (text: string): string => text.replace(/\p{Cc}/gu, ' ')

async function choose({ studies }: Medium, args: Args, io: Io): Promise<readonly MediumStudy[]> {
  const [patient, study] = [args.text('patient'), args.text('study')]
  if (args.flag('all')) return studies
  if (patient !== undefined || study !== undefined) {
    const choice = {
      ...(patient !== undefined && { patientId: patient }),
      ...(study !== undefined && { studyInstanceUid: study }),
    }
    const found = pickStudies(studies, [choice])
    if (found.length === 0) io.note('no study on the medium is meant by that')
    return found
  }
  if (!io.interactive || studies.length === 0) return []
  const answer = await io.ask('Which of them to store? Numbers, "all", or nothing: ')
  if (answer.trim() === 'all') return studies
  const numbers = new Set(answer.split(/[\s,]+/).map(Number))
  return studies.filter((_, index) => numbers.has(index + 1))
}

async function store(client: Client, studies: readonly MediumStudy[], io: Io): Promise<Outcome> {
  let [stored, known] = [0, 0]
  const failed: { name: string; reason: string }[] = []
  for (const file of studies.flatMap(study => study.files)) {
    io.signal.throwIfAborted()
    const reading: { problem?: string } = {}
    try {
      const answer = await file.read(source => client.upload(chunksOf(source, reading)))
      if (isObject(answer) && answer['Status'] === 'Success') stored++
      else known++
    } catch (error) {
      // A scratch ends one file, not the import.
      const reason = reading.problem ?? (error instanceof ProblemError ? error.message : undefined)
      if (reason === undefined) throw error
      failed.push({ name: file.name, reason })
    }
  }
  return { stored, known, failed }
}

const chunkBytes = 1_048_576

async function* chunksOf(source: ByteSource, reading: { problem?: string }): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < source.sizeBytes; ) {
    const chunk = await source.read(at, chunkBytes).catch(() => new Uint8Array(0))
    if (chunk.length === 0) {
      reading.problem = 'the medium cannot be read there'
      throw new Error(reading.problem)
    }
    yield chunk
    at += chunk.length
  }
}

function describe({ studies, unreadable, missing, otherFiles }: Medium, outcome: Outcome): object {
  return {
    studies: studies.map(({ modalities, files, ...study }) => ({
      ...study,
      modalities: [...modalities],
      instances: files.length,
    })),
    unreadable,
    missing,
    otherFiles,
    ...outcome,
  }
}

/**
 * What is on a medium: its studies with their files, the files that cannot be read, and those that its DICOMDIR names
 * and that are not there. Every file is looked at, because directories of discs are often incomplete.
 */
import { type NamedFile, namedFiles } from '../dicom/dicomdir-read.ts'
import { type InstanceHeader, readInstanceHeader } from '../dicom/instance-header.ts'
import { isGatewayError } from '../errors.ts'
import type { MediumFile } from './disc-files.ts'

/** A study of a medium. */
export interface MediumStudy {
  readonly patientId: string
  readonly patientName: string
  readonly studyInstanceUid: string
  readonly studyDate: string
  readonly description: string
  readonly modalities: Set<string>
  readonly files: MediumFile[]
}

/** A file with what is wrong with it. */
export interface ProblemFile {
  readonly name: string
  readonly reason: string
}

/** A medium, looked through. */
export interface Medium {
  readonly studies: readonly MediumStudy[]
  /** Those that say that they are DICOM, or that the medium does not give. */
  readonly unreadable: readonly ProblemFile[]
  /** Named by a DICOMDIR, and not on the medium. */
  readonly missing: readonly string[]
  /** Viewers, reports and what else is on such a medium. */
  readonly otherFiles: number
}

/** A study or patient that somebody picked. */
export interface MediumChoice {
  readonly patientId?: string
  readonly studyInstanceUid?: string
}

/** The SOP class of a DICOMDIR in its file meta. */
const mediaStorageDirectory = /1\.2\.840\.10008\.1\.3\.10(?![\d.])/

/** Reads the header of every file. @throws GatewayError what `mediumFiles` throws; the reason of `signal` */
export async function readMedium(files: AsyncIterable<MediumFile>, signal: AbortSignal): Promise<Medium> {
  const studies = new Map<string, MediumStudy>()
  const unreadable: ProblemFile[] = []
  const present = new Set<string>()
  const named: string[] = []
  let otherFiles = 0
  for await (const file of files) {
    signal.throwIfAborted()
    present.add(comparable(file.name))
    const found = await contentOf(file)
    if ('header' in found) studyOf(studies, found.header).files.push(file)
    else if ('reason' in found) unreadable.push({ name: file.name, reason: found.reason })
    else {
      otherFiles++
      const folder = file.name.split('/').slice(0, -1)
      for (const { path } of found.names) named.push([...folder, path].join('/'))
    }
  }
  const missing = named.filter(name => !present.has(comparable(name)))
  return { studies: [...studies.values()], unreadable, missing: [...new Set(missing)], otherFiles }
}

/** The studies that were picked: those that any of the choices means, all of them without a choice. */
export const pickStudies = (studies: readonly MediumStudy[], choices: readonly MediumChoice[]): MediumStudy[] =>
  studies.filter(
    ({ patientId, studyInstanceUid }) =>
      choices.length === 0 ||
      choices.some(
        choice =>
          (choice.patientId === undefined || choice.patientId === patientId) &&
          (choice.studyInstanceUid === undefined || choice.studyInstanceUid === studyInstanceUid),
      ),
  )

/** File IDs are capitals, what mounts a disc may show small letters. */
const comparable = (name: string): string => name.toUpperCase().replace(/\.(?=\/|$)/g, '')

type Content =
  | { readonly header: InstanceHeader }
  | { readonly reason: string }
  | { readonly names: readonly NamedFile[] }

async function contentOf(file: MediumFile): Promise<Content> {
  let isDicom = false
  try {
    return await file.read(async source => {
      const start = Buffer.from(await source.read(128, 1024)).toString('latin1')
      isDicom = start.startsWith('DICM')
      if (isDicom && mediaStorageDirectory.test(start)) return { names: await namedFiles(source) }
      return start === '' ? { names: [] } : { header: await readInstanceHeader(source) }
    })
  } catch (error) {
    if (isGatewayError(error) && error.code.startsWith('DICOM_'))
      return isDicom ? { reason: error.message } : { names: [] }
    return { reason: error instanceof Error && 'code' in error ? String(error.code) : 'cannot be read' }
  }
}

function studyOf(studies: Map<string, MediumStudy>, header: InstanceHeader): MediumStudy {
  const { patientId, patientName, studyInstanceUid, studyDate = '', studyDescription = '', modality } = header
  // Two patients may share the UID of a study.
  const key = JSON.stringify([patientId, header.issuer, studyInstanceUid])
  const known = studies.get(key) ?? {
    patientId,
    patientName,
    studyInstanceUid,
    studyDate,
    description: studyDescription,
    modalities: new Set<string>(),
    files: [],
  }
  if (modality !== undefined) known.modalities.add(modality)
  studies.set(key, known)
  return known
}

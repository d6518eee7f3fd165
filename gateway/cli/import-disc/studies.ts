/** What is on a medium: its studies with their files, and the files that cannot be read. */
import { type InstanceHeader, readInstanceHeader } from '../../dicom/instance-header.ts'
import { isGatewayError } from '../../errors.ts'
import type { MediumFile } from './files.ts'

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

/** A medium, looked through. */
export interface Medium {
  readonly studies: readonly MediumStudy[]
  /** Those that say that they are DICOM, or that the medium does not give. */
  readonly unreadable: readonly { readonly name: string; readonly reason: string }[]
  /** Viewers, reports and what else is on such a medium. */
  readonly otherFiles: number
}

const mediaStorageDirectory = '1.2.840.10008.1.3.10'

/** Reads the header of every file. @throws the reason of `signal` */
export async function readMedium(files: AsyncIterable<MediumFile>, signal: AbortSignal): Promise<Medium> {
  const studies = new Map<string, MediumStudy>()
  const unreadable: { name: string; reason: string }[] = []
  let otherFiles = 0
  for await (const file of files) {
    signal.throwIfAborted()
    const header = await headerOf(file)
    if (header === 'other') otherFiles++
    else if ('reason' in header) unreadable.push({ name: file.name, reason: header.reason })
    else studyOf(studies, header).files.push(file)
  }
  return { studies: [...studies.values()], unreadable, otherFiles }
}

async function headerOf(file: MediumFile): Promise<InstanceHeader | 'other' | { readonly reason: string }> {
  let isDicom = false
  try {
    return await file.read(async source => {
      const start = Buffer.from(await source.read(128, 1024)).toString('latin1')
      isDicom = start.startsWith('DICM')
      // A DICOMDIR names the others, which are all read anyway.
      if (isDicom && start.includes(`${mediaStorageDirectory}\0`)) return 'other'
      if (start === '') return 'other'
      return await readInstanceHeader(source)
    })
  } catch (error) {
    if (isGatewayError(error) && error.code.startsWith('DICOM_')) return isDicom ? { reason: error.message } : 'other'
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

/** The instances that are sent: synthetic, made anew for each run, in one folder per sender. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { buildInstance } from '../support/dicom-builder.ts'

/** Files ready to be sent. */
export interface Corpus {
  readonly name: string
  /** Each holds its share of the files. */
  readonly folders: readonly string[]
  readonly instances: number
  readonly bytes: number
  readonly studyInstanceUids: readonly string[]
}

/** What to make. Different `seed`s give different UIDs. */
export interface CorpusPlan {
  readonly name: string
  readonly instances: number
  readonly instancesPerStudy: number
  /** 512 gives 526 KB, 64 gives 9 KB. */
  readonly rows: number
  readonly folders: number
  readonly seed: number
}

/** Writes the files of a plan below `directory`; each study lies in one folder. */
export async function makeCorpus(directory: string, plan: CorpusPlan): Promise<Corpus> {
  const folders = Array.from({ length: plan.folders }, (_, index) => join(directory, plan.name, String(index)))
  for (const folder of folders) await mkdir(folder, { recursive: true })
  const studies = new Set<string>()
  let bytes = 0
  for (let index = 0; index < plan.instances; index += 1) {
    const study = Math.floor(index / plan.instancesPerStudy)
    const instance = buildInstance({
      modality: 'CT',
      rows: plan.rows,
      cols: plan.rows,
      seed: plan.seed + index,
      instanceNumber: (index % plan.instancesPerStudy) + 1,
      studyInstanceUid: `1.2.826.0.1.3680043.10.99.${plan.seed}.${study}`,
      seriesInstanceUid: `1.2.826.0.1.3680043.10.99.${plan.seed}.${study}.1`,
      patientId: `BENCH-${study}`,
    })
    studies.add(instance.studyInstanceUid)
    bytes += instance.bytes.length
    const folder = folders[study % folders.length] ?? directory
    await writeFile(join(folder, `${index}.dcm`), instance.bytes)
  }
  return { name: plan.name, folders, instances: plan.instances, bytes, studyInstanceUids: [...studies] }
}

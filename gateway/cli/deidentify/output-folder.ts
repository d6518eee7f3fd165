/** Where de-identified files are put: whole or not at all, under names that come from the output. */
import { mkdirSync, renameSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Certificate } from '../../../policy/deid/certificate.ts'

/** What was written in this run: digest by name. */
export type Written = Map<string, string>

/** Puts a verified output in its place, and says where that is, relative to the folder. */
export function keepOutput(folder: string, written: Written, path: string, certificate: Certificate): string {
  const name = nameOf(certificate, written)
  if (!written.has(name)) mkdirSync(dirname(join(folder, name)), { recursive: true })
  renameSync(path, join(folder, name))
  written.set(name, certificate.outputSha256)
  return name
}

/** By the new UIDs; a second instance of the same UIDs with other content does not take the first one's place. */
function nameOf({ studyInstanceUid, sopInstanceUid, outputSha256 }: Certificate, written: Written): string {
  const usual = join(studyInstanceUid || 'no-study', `${sopInstanceUid}.dcm`)
  const taken = written.get(usual)
  if (taken === undefined || taken === outputSha256) return usual
  return join(dirname(usual), `${sopInstanceUid}-${outputSha256.slice(0, 12)}.dcm`)
}

/** The collection of real DICOM files that the project shares, with what is known of each. */
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'

/** One file and its row of the manifest; empty text where the manifest knows nothing. */
export interface CorpusFile {
  /** Relative to the corpus, such as `charsets/pydicom__chrArab.dcm`. */
  readonly name: string
  readonly path: string
  readonly isMalformed: boolean
  readonly modality: string
  readonly sopClass: string
  /** Short name of the manifest, such as `JPEG-Baseline`; see `transferSyntaxUids`. */
  readonly transferSyntax: string
  readonly rows: string
  readonly cols: string
  readonly frames: string
  readonly photometric: string
  readonly charset: string
  /** First 16 hex digits of the SHA-256 over the samples, then a colon and their type; single-sample images only. */
  readonly pixelSha256: string
  /** Whether DCMTK's dcmdump opens it. */
  readonly isReadByDcmtk: boolean
  bytes(): Promise<Buffer>
}

/** The manifest's short names. */
export const transferSyntaxUids: Readonly<Record<string, string>> = {
  ImplicitLE: '1.2.840.10008.1.2',
  ExplicitLE: '1.2.840.10008.1.2.1',
  DeflatedLE: '1.2.840.10008.1.2.1.99',
  ExplicitBE: '1.2.840.10008.1.2.2',
  'JPEG-Baseline': '1.2.840.10008.1.2.4.50',
  'JPEG-Extended': '1.2.840.10008.1.2.4.51',
  'JPEG-Spectral-retired': '1.2.840.10008.1.2.4.53',
  'JPEG-Progressive-retired': '1.2.840.10008.1.2.4.55',
  'JPEG-Lossless-P14': '1.2.840.10008.1.2.4.57',
  'JPEG-Lossless-SV1': '1.2.840.10008.1.2.4.70',
  'JPEG-LS-Lossless': '1.2.840.10008.1.2.4.80',
  'JPEG-LS-Near': '1.2.840.10008.1.2.4.81',
  'J2K-Lossless': '1.2.840.10008.1.2.4.90',
  J2K: '1.2.840.10008.1.2.4.91',
  'JPEGXL-Lossless': '1.2.840.10008.1.2.4.110',
  'HTJ2K-Lossless': '1.2.840.10008.1.2.4.201',
  RLE: '1.2.840.10008.1.2.5',
  'Deflated-Image-Frame': '1.2.840.10008.1.2.8.1',
}

/** Where the corpus is expected: `HANSE_CORPUS`, else `../shared/dicom` beside the project. */
export function corpusFolder(): string {
  return process.env['HANSE_CORPUS'] ?? fileURLToPath(new URL('../../../shared/dicom', import.meta.url))
}

/**
 * The files of the corpus, or undefined after `t.skip` with the reason where there is no corpus; in CI its absence is
 * a failure, so that nothing is skipped there.
 */
export function openCorpus(t: TestContext): readonly CorpusFile[] | undefined {
  const folder = corpusFolder()
  const manifest = readManifest(folder)
  if (manifest !== undefined) return manifest
  const reason = `no DICOM files in ${folder}; set HANSE_CORPUS to their folder`
  if (process.env['CI']) throw new Error(reason)
  t.skip(reason)
  return undefined
}

function readManifest(folder: string): CorpusFile[] | undefined {
  let text: string
  try {
    text = readFileSync(join(folder, 'MANIFEST.tsv'), 'utf8')
  } catch {
    return undefined
  }
  const [head = '', ...lines] = text.trimEnd().split('\n')
  const columns = head.split('\t')
  return lines.map(line => {
    const fields = line.split('\t')
    const field = (column: string): string => fields[columns.indexOf(column)] ?? ''
    const name = field('file')
    const path = join(folder, name)
    return {
      name,
      path,
      isMalformed: name.startsWith('malformed/'),
      modality: field('modality'),
      sopClass: field('sop_class'),
      transferSyntax: field('transfer_syntax'),
      rows: field('rows'),
      cols: field('cols'),
      frames: field('frames'),
      photometric: field('photometric'),
      charset: field('charset'),
      pixelSha256: field('mono_pixel_sha256_16'),
      isReadByDcmtk: field('dcmdump') === 'ok',
      bytes: () => readFile(path),
    }
  })
}

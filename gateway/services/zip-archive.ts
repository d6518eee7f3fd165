/** ZIP archives of patients, studies, series and instances, with or without a DICOMDIR, streamed. */

import { crc32 } from 'node:zlib'
import { authorize } from '../../policy/authorize.ts'
import { dataExported, requestorOf } from '../audit/event.ts'
import { appendAudits } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { DicomDirectory } from '../dicom/dicomdir.ts'
import { instanceRecord, levelRecord } from '../dicom/directory-records.ts'
import type { Level } from '../dicom/levels.ts'
import { isUid, newUid, transferSyntax } from '../dicom/uid.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Blobs } from '../store/blobs.ts'
import { ZipWriter } from '../zip/zip-writer.ts'
import type { NamedPixels } from './named-syntax.ts'
import { type ZipFile, type ZipFileOptions, ZipFiles } from './zip-files.ts'
import { instanceFile, patientFolder, seriesFolder, studyFolder, UniqueNames } from './zip-names.ts'
import { loadZipAttributes, loadZipInstances, planZip, type ZipInstance, type ZipSeries } from './zip-plan.ts'

/** What an archive is to be. */
export interface ZipOptions extends ZipFileOptions {
  /**
   * `folders` are named after patient, study and series; `media` is a File-set with a DICOMDIR, and `media-extended`
   * one whose records hold descriptions.
   */
  readonly layout: 'folders' | 'media' | 'media-extended'
}

/** A planned archive. */
export interface ZipArchive {
  readonly instanceCount: number
  /** Of the files as they are stored. */
  readonly sizeBytes: number
  /**
   * The archive, after its audit events are committed; each chunk is valid until the next one is asked for. It fails
   * where an instance cannot be had as it was stored: what was written then is no complete ZIP file.
   *
   * @throws GatewayError STORAGE_CORRUPT, STORAGE_IO, NOT_FOUND, UNAVAILABLE, TOO_LARGE; the reason of `signal`
   */
  write(signal: AbortSignal): AsyncGenerator<Uint8Array>
}

/** Makes archives. */
export interface ZipArchives {
  /**
   * @param orthancIds  of the level when it is given, else of any
   * @throws GatewayError FORBIDDEN; NOT_FOUND when one is unknown, BAD_REQUEST for an unknown transfer syntax, TOO_LARGE
   */
  plan(
    principal: Principal,
    wanted: { readonly orthancIds: readonly string[]; readonly level?: Level },
    options: ZipOptions,
  ): Promise<ZipArchive>
}

const readAheadFiles = 4
/** `IM` and six digits: a component of a File ID has eight characters (PS3.10 §8.2). */
const maxMediaInstances = 1_000_000
const auditPage = 200
const fileSetId = 'HANSE_MEDIA'

export function openZipArchives(options: {
  readonly db: Db
  readonly blobs: Pick<Blobs, 'open'>
  readonly pixels: NamedPixels
}): ZipArchives {
  const { db, blobs, pixels } = options
  const files = new ZipFiles(blobs, pixels)
  return {
    async plan(principal, { orthancIds, level }, how) {
      authorize(principal, 'study.read')
      const { transcodeTo, layout } = how
      if (transcodeTo !== undefined && (!isUid(transcodeTo) || transferSyntax(transcodeTo) === undefined)) {
        throw new GatewayError('BAD_REQUEST', 'expected a known transfer syntax to transcode to')
      }
      const series = await planZip(db, orthancIds, level)
      const instanceCount = series.reduce((sum, { instances }) => sum + instances.length, 0)
      if (layout !== 'folders' && instanceCount > maxMediaInstances) {
        throw new GatewayError('TOO_LARGE', 'too many instances for one DICOMDIR')
      }
      return {
        instanceCount,
        sizeBytes: series.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
        async *write(signal) {
          await recordExport(db, principal, series)
          const named = layout === 'folders' ? namedFiles(db, series) : mediaFiles(db, series)
          yield* zip(
            readAhead(named, file => files.open(file.instance, how, signal)),
            how,
            signal,
          )
        },
      }
    },
  }
}

/** One event for each study, before the first byte leaves. */
async function recordExport(db: Db, principal: Principal, series: readonly ZipSeries[]): Promise<void> {
  const events = [...Map.groupBy(series, ({ study }) => study).values()].flatMap(parts => {
    const [first] = parts
    if (first === undefined) return []
    const { studyInstanceUid, patientId, issuer } = first
    return dataExported({
      exporter: requestorOf(principal),
      media: { userId: 'zip' },
      objects: [
        { kind: 'patient', patientId, issuer },
        {
          kind: 'study',
          studyInstanceUid,
          sopClassUids: [...new Set(parts.flatMap(part => part.sopClassUids))],
          instanceCount: parts.reduce((sum, { instances }) => sum + instances.length, 0),
        },
      ],
    })
  })
  for (let at = 0; at < events.length; at += auditPage) {
    await db.inTransaction(tx => appendAudits(tx, events.slice(at, at + auditPage)))
  }
}

/** A file of an archive before its bytes are read. */
interface NamedFile {
  readonly name: string
  readonly instance: ZipInstance
  /** Records of the DICOMDIR that come before that of the instance. */
  readonly levels?: readonly (readonly ['patient' | 'study' | 'series', ZipInstance['attributes']])[]
}

async function* namedFiles(db: Db, series: readonly ZipSeries[]): AsyncGenerator<NamedFile> {
  const patients = new UniqueNames()
  let [studies, names] = [new UniqueNames(), new UniqueNames()]
  let [patient, study] = ['', '']
  let before: ZipSeries | undefined
  for (const one of series) {
    const attributes = await loadZipAttributes(db, one.id)
    if (one.patient !== before?.patient) {
      patient = patients.take(patientFolder(attributes.patient))
      studies = new UniqueNames()
    }
    if (one.study !== before?.study) {
      study = studies.take(studyFolder(attributes.study))
      names = new UniqueNames()
    }
    before = one
    const folder = `${patient}/${study}/${names.take(seriesFolder(attributes.series))}`
    let index = 0
    for await (const instance of loadZipInstances(db, one, 'bytes')) {
      yield { instance, name: `${folder}/${instanceFile(attributes.series, index++)}` }
    }
  }
}

async function* mediaFiles(db: Db, series: readonly ZipSeries[]): AsyncGenerator<NamedFile> {
  let index = 0
  let before: ZipSeries | undefined
  for (const one of series) {
    const attributes = await loadZipAttributes(db, one.id)
    let levels: NamedFile['levels'] = [
      ...(one.patient === before?.patient ? [] : [['patient', attributes.patient] as const]),
      ...(one.study === before?.study ? [] : [['study', attributes.study] as const]),
      ['series', attributes.series],
    ]
    before = one
    for await (const instance of loadZipInstances(db, one, 'attributes')) {
      yield { instance, name: `IMAGES/IM${index++}`, levels }
      levels = []
    }
  }
}

async function* zip(
  opened: AsyncGenerator<readonly [NamedFile, ZipFile]>,
  { layout }: ZipOptions,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const writer = new ZipWriter(new Date())
  const directory = new DicomDirectory()
  const keys = layout === 'media-extended' ? 'extended' : 'basic'
  for await (const [{ name, instance, levels }, file] of opened) {
    try {
      signal.throwIfAborted()
      yield* file.parts(writer, name)
    } finally {
      await file.close()
    }
    if (levels === undefined) continue
    for (const [level, attributes] of levels) directory.add(levelRecord(level, attributes, keys))
    const { sopClassUid } = instance
    const { sopInstanceUid, transferSyntaxUid } = file
    const path = name.split('/')
    directory.add(instanceRecord(instance.attributes, { path, sopClassUid, sopInstanceUid, transferSyntaxUid }))
  }
  if (layout !== 'folders') {
    const bytes = Buffer.concat([...directory.file(fileSetId, newUid())])
    const { length } = bytes
    yield writer.entry({
      name: 'DICOMDIR',
      method: 'stored',
      sizeBytes: length,
      compressedBytes: length,
      crc32: crc32(bytes),
    })
    yield bytes
  }
  yield* writer.end()
}

/** Opens the next files while one is written. */
async function* readAhead(
  files: AsyncGenerator<NamedFile>,
  open: (file: NamedFile) => Promise<ZipFile>,
): AsyncGenerator<readonly [NamedFile, ZipFile]> {
  const underWay: { readonly file: NamedFile; readonly opening: Promise<ZipFile> }[] = []
  let isEnded = false
  try {
    for (;;) {
      while (!isEnded && underWay.length < readAheadFiles) {
        const next = await files.next()
        if (next.done) isEnded = true
        else {
          const opening = open(next.value)
          opening.catch(() => undefined)
          underWay.push({ file: next.value, opening })
        }
      }
      const first = underWay.shift()
      if (first === undefined) return
      yield [first.file, await first.opening]
    }
  } finally {
    await files.return(undefined)
    for (const { opening } of underWay) {
      await opening.then(
        file => file.close(),
        () => undefined,
      )
    }
  }
}

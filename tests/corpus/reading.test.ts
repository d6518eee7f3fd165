import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { numbersOf, stringOf, stringsOf } from '../../gateway/dicom/dataset.ts'
import { type InstanceHeader, readInstanceHeader } from '../../gateway/dicom/instance-header.ts'
import { type Part10, readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { uidName } from '../../gateway/dicom/uid.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { type CorpusFile, openCorpus, transferSyntaxUids } from '../support/corpus.ts'

test('every file that is not malformed is read in full and agrees with the manifest', async t => {
  const files = openCorpus(t)
  if (files === undefined) return

  for (const file of files.filter(({ isMalformed }) => !isMalformed)) {
    const read = await readPart10(bufferSource(await file.bytes()))

    assert.deepEqual(described(read), expected(file), file.name)
  }
})

test('a header read agrees with a full read', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  let headers = 0

  for (const file of files) {
    const source = bufferSource(await file.bytes())
    const header = await readInstanceHeader(source).catch(onlyUnreadable)
    const full = await readPart10(source).catch(onlyUnreadable)
    if (header === undefined || full === undefined) continue
    headers++

    assert.deepEqual(identity(header), identityOf(full), file.name)
  }
  assert.ok(headers > 860, `${headers} headers`)
})

test('a header without Study Instance UID is refused with its name, or gets one of its own on request', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const palette = files.find(({ name }) => name === 'non-image/pydicom__hotiron.dcm')
  assert.ok(palette)
  const source = bufferSource(await palette.bytes())

  const refusal = await readInstanceHeader(source).catch((error: unknown) => error)
  const derived = await readInstanceHeader(source, { missingUids: 'derive' })

  assert.ok(isGatewayError(refusal, 'DICOM_UNREADABLE'))
  assert.equal(refusal.context['attribute'], 'StudyInstanceUID')
  assert.match(derived.studyInstanceUid, /^2\.25\.[0-9]+$/)
  assert.notEqual(derived.studyInstanceUid, derived.seriesInstanceUid)
})

test('malformed files give a result or a GatewayError', async t => {
  const files = openCorpus(t)
  if (files === undefined) return

  for (const file of files.filter(({ isMalformed }) => isMalformed)) {
    const source = bufferSource(await file.bytes())
    const full = await readPart10(source).catch(onlyUnreadable)
    await readInstanceHeader(source).catch(onlyUnreadable)

    if (file.isReadByDcmtk) assert.ok(full !== undefined, `${file.name} is read by dcmdump`)
  }
})

function onlyUnreadable(error: unknown): undefined {
  if (!isGatewayError(error, 'DICOM_UNREADABLE') && !isGatewayError(error, 'DICOM_LIMIT')) throw error
}

function described({ dataset, transferSyntaxUid, meta }: Part10): Record<string, unknown> {
  const sopClass = stringOf(dataset, 0x00080016) ?? ''
  return {
    modality: stringOf(dataset, 0x00080060) ?? '',
    sopClass: uidName(sopClass) ?? sopClass,
    transferSyntaxUid: stringOf(meta, 0x00020010) === undefined ? undefined : transferSyntaxUid,
    rows: numbersOf(dataset, 0x00280010).join(),
    cols: numbersOf(dataset, 0x00280011).join(),
    frames: stringOf(dataset, 0x00280008) ?? '',
    photometric: stringOf(dataset, 0x00280004) ?? '',
    charset: stringsOf(dataset, 0x00080005),
  }
}

function expected(file: CorpusFile): Record<string, unknown> {
  const { modality, rows, cols, frames, photometric } = file
  return {
    modality,
    sopClass: uidName(file.sopClass) ?? file.sopClass,
    transferSyntaxUid: transferSyntaxUids[file.transferSyntax],
    rows,
    cols,
    frames,
    photometric,
    charset: manifestList(file.charset),
  }
}

/** A single value as it is, several as `['a', 'b']`. */
function manifestList(text: string): string[] {
  if (text === '') return []
  return text.startsWith('[') ? [...text.matchAll(/'([^']*)'/g)].map(([, value = '']) => value) : [text]
}

function identity(header: InstanceHeader): Record<string, unknown> {
  const { sopClassUid, sopInstanceUid, studyInstanceUid, seriesInstanceUid, transferSyntaxUid, datasetOffset } = header
  const { patientId, patientName, modality, studyDate, accessionNumber, studyDescription, instanceNumber } = header
  return {
    sopClassUid,
    sopInstanceUid,
    studyInstanceUid,
    seriesInstanceUid,
    transferSyntaxUid,
    datasetOffset,
    patientId,
    patientName,
    modality,
    studyDate,
    accessionNumber,
    studyDescription,
    instanceNumber,
  }
}

function identityOf({ dataset, transferSyntaxUid, datasetOffset }: Part10): Record<string, unknown> {
  return {
    sopClassUid: stringOf(dataset, 0x00080016),
    sopInstanceUid: stringOf(dataset, 0x00080018),
    studyInstanceUid: stringOf(dataset, 0x0020000d),
    seriesInstanceUid: stringOf(dataset, 0x0020000e),
    transferSyntaxUid,
    datasetOffset,
    patientId: stringOf(dataset, 0x00100020) ?? '',
    patientName: stringOf(dataset, 0x00100010) ?? '',
    modality: stringOf(dataset, 0x00080060),
    studyDate: stringOf(dataset, 0x00080020),
    accessionNumber: stringOf(dataset, 0x00080050),
    studyDescription: stringOf(dataset, 0x00081030),
    instanceNumber: stringOf(dataset, 0x00200013),
  }
}

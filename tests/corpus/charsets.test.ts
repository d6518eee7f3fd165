import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { itemsOf, stringOf } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { openCorpus } from '../support/corpus.ts'

/** The names in the files, as the standard's annexes (PS3.5 H to K) and the files' authors give them. */
const names: Readonly<Record<string, string>> = {
  chrArab: 'قباني^لنزار',
  chrFren: 'Buc^Jérôme',
  chrFrenMulti: 'Buc^Jérôme',
  chrGerm: 'Äneas^Rüdiger',
  chrGreek: 'Διονυσιος',
  chrH31: 'Yamada^Tarou=山田^太郎=やまだ^たろう',
  chrH32: 'ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう',
  chrHbrw: 'שרון^דבורה',
  chrI2: 'Hong^Gildong=洪^吉洞=홍^길동',
  chrJapMulti: 'やまだ^たろう',
  chrJapMultiExplicitIR6: 'やまだ^たろう',
  chrKoreanMulti: '김희중',
  chrRuss: 'Люкceмбypг',
  chrX1: 'Wang^XiaoDong=王^小東=',
  chrX2: 'Wang^XiaoDong=王^小东=',
}

test('names in every character set of the collection are decoded', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const read: Record<string, string | undefined> = {}

  for (const file of files.filter(({ name }) => name.startsWith('charsets/') && !name.includes('SQEncoding'))) {
    const { dataset } = await readPart10(bufferSource(await file.bytes()))
    read[file.name.replace(/^charsets\/pydicom__|\.dcm$/g, '')] = stringOf(dataset, 0x00100010)
  }

  assert.deepEqual(read, names)
})

test('an item is decoded by its own character set, else by that of the data set around it', async t => {
  const files = openCorpus(t)
  if (files === undefined) return

  for (const file of files.filter(({ name }) => name.includes('chrSQEncoding'))) {
    const { dataset } = await readPart10(bufferSource(await file.bytes()))
    const [item] = itemsOf(dataset, 0x00321064)

    assert.equal(item && stringOf(item, 0x00100010), names['chrH32'], file.name)
  }
})

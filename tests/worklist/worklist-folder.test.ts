import assert from 'node:assert/strict'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { jsonText } from '../../gateway/dicom/json-read.ts'
import { openLog } from '../../gateway/log.ts'
import { openMpps } from '../../gateway/services/mpps.ts'
import { openWorklist } from '../../gateway/services/worklist.ts'
import { openWorklistFolder } from '../../gateway/services/worklist-folder.ts'
import { temporaryDir } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { caller } from '../support/principals.ts'
import { until } from '../support/until.ts'
import { worklistDocument } from './documents.ts'

const principal = caller('alice')
const log = openLog({ level: 'silent' })

test('items follow the files of a folder; a file that cannot be read is listed and keeps its items', async t => {
  const db = await testDatabase(t)
  const worklist = openWorklist({ db })
  const folder = await temporaryDir(t)
  const write = async (name: string, content: unknown): Promise<void> => {
    // As careful writers do it: whole files appear at once.
    await writeFile(join(folder, '.part'), typeof content === 'string' ? content : JSON.stringify(content))
    await rename(join(folder, '.part'), join(folder, name))
  }
  await mkdir(join(folder, 'CT_1'))
  await write('one.json', worklistDocument({ accession: 'A1' }))
  await write('CT_1/two.json', [
    worklistDocument({ accession: 'A2', stepId: 'S2', time: '11' }),
    worklistDocument({ accession: 'A3', stepId: 'S3', time: '12' }),
  ])
  await write('bad.wl', 'no DICOM')
  const accessions = async (): Promise<string> => {
    const { items } = await worklist.list(principal, { source: 'file' }, { limit: 100 })
    return items.map(item => `${jsonText(item.document, 0x00080050)} ${item.state}`).join(', ')
  }

  const first = await openWorklistFolder({ folder, worklist, log })
  assert.equal(await accessions(), 'A1 scheduled, A2 scheduled, A3 scheduled')
  assert.deepEqual(
    first.problems().map(({ path }) => path),
    ['bad.wl'],
  )

  await write('one.json', worklistDocument({ accession: 'A1b' }))
  await until('the changed file is read', 60_000, async () => (await accessions()).startsWith('A1b'))
  await write('one.json', '{ "half')
  await until('the broken file is listed', 60_000, () => first.problems().length === 2)
  assert.equal(await accessions(), 'A1b scheduled, A2 scheduled, A3 scheduled')
  await write('CT_1/two.json', [worklistDocument({ accession: 'A2', stepId: 'S2', time: '11' })])
  await until('the item that left its file is gone', 60_000, async () => !(await accessions()).includes('A3'))
  await first.close()

  const mpps = openMpps({ db })
  const begun = {
    '00080060': { vr: 'CS' as const, Value: ['CT'] },
    '00400241': { vr: 'AE' as const, Value: ['CT_1'] },
    '00400244': { vr: 'DA' as const, Value: ['20260301'] },
    '00400245': { vr: 'TM' as const, Value: ['10'] },
    '00400252': { vr: 'CS' as const, Value: ['IN PROGRESS'] },
    '00400253': { vr: 'SH' as const, Value: ['PPS1'] },
    '00400270': {
      vr: 'SQ' as const,
      Value: [
        { '0020000D': { vr: 'UI' as const, Value: ['2.25.4711'] }, '00400009': { vr: 'SH' as const, Value: ['S2'] } },
      ],
    },
  }
  await mpps.begin(principal, { sopInstanceUid: '2.25.9', callingAe: 'CT_1', document: begun })
  await rm(join(folder, 'one.json'))

  const second = await openWorklistFolder({ folder, worklist, log })
  t.after(() => second.close())
  assert.equal(await accessions(), 'A2 started')

  await rm(folder, { recursive: true })
  await second.scan()
  assert.equal(await accessions(), 'A2 started')
  assert.ok(second.problems().some(({ path }) => path === ''))
})

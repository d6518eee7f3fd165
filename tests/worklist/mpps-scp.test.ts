/** The MPPS SCP, asked by our own association. DCMTK has no tool for it. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { encodeDataset, type NewElement } from '../../gateway/dicom/part10-writer.ts'
import { explicitVrLittleEndian, implicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { openScp } from '../../gateway/dimse/listener.ts'
import { mppsService, mppsSopClass } from '../../gateway/dimse/mpps.ts'
import { openAssociation, type RequestedAssociation } from '../../gateway/dimse/scu-association.ts'
import { openLog } from '../../gateway/log.ts'
import { openMpps } from '../../gateway/services/mpps.ts'
import { everybody, fileStore } from '../dimse/fixture.ts'
import { temporaryDir } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { caller, rights } from '../support/principals.ts'

const principal = caller('alice')

async function open(t: TestContext, transferSyntaxUid: string) {
  const db = await testDatabase(t)
  const mpps = openMpps({ db })
  const { service } = await fileStore(await temporaryDir(t))
  const scp = await openScp({
    rights,
    host: '127.0.0.1',
    port: 0,
    aeTitle: 'HANSE',
    identifyCaller: everybody,
    store: service,
    services: [mppsService({ mpps })],
    log: openLog({ level: 'silent' }),
  })
  t.after(() => scp.close({ graceMs: 0 }))
  const association = await openAssociation(
    { host: '127.0.0.1', port: scp.address.port, calledAe: 'HANSE', callingAe: 'CT_1' },
    [{ sopClassUid: mppsSopClass, transferSyntaxUids: [transferSyntaxUid] }],
  )
  t.after(() => association.release())
  const ask = (field: 'create' | 'set', uid: string | undefined, elements: readonly NewElement[]) =>
    request(association, { field, uid, dataset: encodeDataset(elements, transferSyntaxUid), transferSyntaxUid })
  return { mpps, ask, db }
}

/** Sends an N-CREATE or N-SET and gives its status and comment. */
async function request(
  association: RequestedAssociation,
  options: { field: 'create' | 'set'; uid: string | undefined; dataset: Uint8Array; transferSyntaxUid: string },
) {
  const { field, uid, dataset, transferSyntaxUid } = options
  const isCreate = field === 'create'
  const response = await association.ask({
    context: { sopClassUid: mppsSopClass, transferSyntaxUid },
    // The affected SOP class and instance of N-CREATE, the requested ones of N-SET (PS3.7 §10.3.5.1, §10.3.3.1).
    command: messageId =>
      command([
        [isCreate ? 0x0002 : 0x0003, text(mppsSopClass)],
        [0x0100, short(isCreate ? 0x0140 : 0x0120)],
        [0x0110, short(messageId)],
        [0x0800, short(0x0001)],
        ...(uid === undefined ? [] : [[isCreate ? 0x1000 : 0x1001, text(uid)] as const]),
      ]),
    dataset,
  })
  return { status: response.status, comment: response.command.errorComment, errorId: response.command.errorId }
}

const short = (value: number): Buffer => Buffer.of(value & 0xff, value >>> 8)
const text = (value: string): Buffer => Buffer.from(value.length % 2 === 0 ? value : `${value}\0`, 'latin1')

function command(elements: readonly (readonly [number, Buffer])[]): Buffer {
  const header = (element: number, length: number): Buffer => {
    const bytes = Buffer.alloc(8)
    bytes.writeUInt16LE(element, 2)
    bytes.writeUInt32LE(length, 4)
    return bytes
  }
  const body = Buffer.concat(elements.flatMap(([element, value]) => [header(element, value.length), value]))
  const length = Buffer.alloc(4)
  length.writeUInt32LE(body.length)
  return Buffer.concat([header(0, 4), length, body])
}

const begun: readonly NewElement[] = [
  { tag: 0x00080005, value: 'ISO_IR 100' },
  { tag: 0x00080060, value: 'CT' },
  { tag: 0x00100010, value: 'MÜLLER^JÖRG' },
  { tag: 0x00100020, value: 'T1' },
  { tag: 0x00400241, value: 'CT_1' },
  { tag: 0x00400244, value: '20260301' },
  { tag: 0x00400245, value: '101700' },
  { tag: 0x00400252, value: 'IN PROGRESS' },
  { tag: 0x00400253, value: 'PPS1' },
  { tag: 0x00400270, items: [[{ tag: 0x0020000d, value: '2.25.1' }]] },
]

const completed: readonly NewElement[] = [
  { tag: 0x00080005, value: 'ISO_IR 192' },
  { tag: 0x00400250, value: '20260301' },
  { tag: 0x00400251, value: '103000' },
  { tag: 0x00400252, value: 'COMPLETED' },
  { tag: 0x00400254, value: 'Schädel' },
  { tag: 0x00400340, items: [[{ tag: 0x0020000e, value: '2.25.2' }]] },
]

for (const syntax of [explicitVrLittleEndian, implicitVrLittleEndian]) {
  test(`a step is created, completed, and closed to further changes in ${syntax}`, async t => {
    const { ask, mpps } = await open(t, syntax)

    assert.equal((await ask('create', '2.25.7', begun)).status, 0x0000)
    assert.equal((await ask('create', '2.25.7', begun)).status, 0x0111)
    assert.equal((await ask('set', '2.25.8', completed)).status, 0x0112)
    assert.equal((await ask('set', '2.25.7', completed)).status, 0x0000)
    assert.deepEqual(await ask('set', '2.25.7', completed), {
      status: 0x0110,
      comment: 'Performed Procedure Step Object may no longer be updated',
      errorId: 0xa710,
    })

    const { document, state } = await mpps.get(principal, '2.25.7')
    assert.equal(state, 'completed')
    // Each request's own character set was understood; the record has one.
    assert.deepEqual(document['00100010']?.Value, [{ Alphabetic: 'MÜLLER^JÖRG' }])
    assert.deepEqual(document['00400254']?.Value, ['Schädel'])
  })
}

test('a request without what it needs is answered by status and attribute', async t => {
  const { ask, mpps } = await open(t, explicitVrLittleEndian)
  const without = (tag: number): NewElement[] => begun.filter(element => element.tag !== tag)

  assert.deepEqual(await ask('create', '2.25.7', without(0x00400270)), {
    status: 0x0120,
    comment: 'missing attribute (0040,0270)',
    errorId: undefined,
  })
  assert.equal((await ask('create', '2.25.7', [...without(0x00400253), { tag: 0x00400253, value: '' }])).status, 0x0121)
  assert.equal(
    (await ask('create', '2.25.7', [...without(0x00400252), { tag: 0x00400252, value: 'COMPLETED' }])).status,
    0x0106,
  )
  assert.equal((await ask('create', 'no-uid', begun)).status, 0x0117)

  assert.equal((await ask('create', undefined, begun)).status, 0x0000)
  const [named] = await mpps.list(principal, { limit: 1 })
  assert.match(named?.sopInstanceUid ?? '', /^2\.25\.\d+$/)
})

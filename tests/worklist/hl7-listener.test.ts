import assert from 'node:assert/strict'
import { connect, type Socket } from 'node:net'
import { type TestContext, test } from 'node:test'
import { connect as tlsConnect } from 'node:tls'
import { openIntake } from '../../gateway/hl7/intake.ts'
import { type Hl7Limits, type Hl7Service, openHl7 } from '../../gateway/hl7/listener.ts'
import { frame } from '../../gateway/hl7/mllp.ts'
import { openLog } from '../../gateway/log.ts'
import { openWorklist } from '../../gateway/services/worklist.ts'
import { temporaryDir } from '../support/blobs.ts'
import { makeAuthority } from '../support/certificates.ts'
import { testDatabase } from '../support/database.ts'
import { caller, rights } from '../support/principals.ts'
import { until } from '../support/until.ts'
import { message, omi, orm } from './hl7-messages.ts'

const log = openLog({ level: 'silent' })
const principal = caller('alice')

/** A sender on a real socket; `answers` are the acknowledgements so far. */
async function sender(t: TestContext, port: number) {
  const socket: Socket = connect({ host: '127.0.0.1', port })
  t.after(() => socket.destroy())
  let text = ''
  let isClosed = false
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1')
  })
  socket.on('error', () => undefined)
  socket.on('close', () => {
    isClosed = true
  })
  const answers = (): string[] =>
    text
      .split('\x1c\r')
      .filter(answer => answer !== '')
      .map(answer => answer.replace('\x0b', ''))
  return {
    socket,
    answers,
    isClosed: () => isClosed,
    /** Sends a message and waits for its acknowledgement: MSA-1 and ERR-3. */
    async ask(segments: readonly string[]): Promise<string> {
      const before = answers().length
      socket.write(frame(message(segments)))
      const all = await until('an acknowledgement', 60_000, () => answers().length > before && answers())
      const answer = all.at(-1) ?? ''
      const [, code] = /\rMSA\|(\w\w)\|/.exec(answer) ?? []
      const [, condition = ''] = /\rERR\|\|\|(\d+)/.exec(answer) ?? []
      return `${code} ${condition}`.trim()
    },
  }
}

async function open(t: TestContext, service: Hl7Service, limits: Partial<Hl7Limits> = {}) {
  const refusals: string[] = []
  const listener = await openHl7({
    host: '127.0.0.1',
    port: 0,
    service,
    limits,
    onRefused: ({ reason }) => refusals.push(reason),
    log,
  })
  t.after(() => listener.close({ graceMs: 0 }))
  return { port: listener.address.port, refusals, listener }
}

test('orders arrive over MLLP, become items, change and are cancelled, each acknowledged', async t => {
  const db = await testDatabase(t)
  const worklist = openWorklist({ db })
  const { port } = await open(t, openIntake({ worklist, rights, stations: { CT: ['CT_1'] }, log }))
  const { ask, answers } = await sender(t, port)
  const states = async (): Promise<string[]> =>
    (await worklist.list(principal, {}, { limit: 10 })).items.map(item => `${item.externalKey} ${item.state}`).sort()

  assert.equal(await ask(orm()), 'AA')
  assert.equal(await ask(orm()), 'AA')
  assert.equal(await ask(omi()), 'AA')
  assert.deepEqual(await states(), [
    'filler F100@RIS^SPS1 scheduled',
    'filler F200@RIS^S1 scheduled',
    'filler F200@RIS^S2 scheduled',
  ])

  assert.equal(await ask(orm({ control: 'XO', start: '20260303120000' })), 'AA')
  assert.equal(await ask(orm({ control: 'CA' })), 'AA')
  assert.equal((await states())[0], 'filler F100@RIS^SPS1 cancelled')
  assert.equal(await ask(orm({ control: 'CA', filler: 'F999^RIS' })), 'AE 204')
  assert.equal(await ask(orm({ control: 'ZZ' })), 'AE 103')
  assert.equal(await ask(['MSH|^~\\&|RIS|HOSP|||||ADT^A01|M9|P|2.3.1', 'PID|']), 'AR 200')
  assert.equal(await ask(['MSH|^~\\&|RIS|HOSP|||||ORM^O01||P|2.3.1', 'PID|']), 'AR 101')

  const [first = ''] = answers()
  assert.match(first, /^MSH\|\^~\\&\|HANSE\|HOSP\|RIS\|HOSP\|\d{14}\+0000\|\|ACK\^O01\^ACK\|[^|]+\|P\|2\.3\.1/)
  assert.match(first, /\rMSA\|AA\|MSG1\r$/)
  const { payload } = await db.kysely
    .selectFrom('audit_events')
    .select('payload')
    .orderBy('id')
    .executeTakeFirstOrThrow()
  assert.match(payload ?? '', /"userId":"hl7:RIS@HOSP"/)
})

test('a database that is away is told as AR, so that the sender tries again', async t => {
  const unavailable = { apply: () => Promise.reject(new Error('away')) }
  const { port } = await open(t, openIntake({ worklist: unavailable, rights, stations: { CT: ['CT_1'] }, log }))
  const { ask } = await sender(t, port)

  assert.equal(await ask(orm()), 'AR 207')
})

test('messages that come at once are answered in their order', async t => {
  const order: string[] = []
  const { port } = await open(t, {
    answer: async bytes => {
      order.push(bytes.toString())
      return bytes
    },
  })
  const { socket, answers } = await sender(t, port)
  const many = Array.from({ length: 50 }, (_, index) => `MSH|${index}`)

  socket.write(Buffer.concat(many.map(text => frame(Buffer.from(text)))))
  await until('all answers', 60_000, () => answers().length === many.length)

  assert.deepEqual(order, many)
  assert.deepEqual(answers(), many)
})

test('senders that are no MLLP, too slow, too long or too many are closed, others go on', async t => {
  const { port, refusals } = await open(
    t,
    { answer: async bytes => bytes },
    { messageBytes: 1000, messageMs: 200, connectionsPerAddress: 4 },
  )
  const good = await sender(t, port)
  const [http, slow, long] = [await sender(t, port), await sender(t, port), await sender(t, port)]

  http.socket.write('GET / HTTP/1.1\r\n')
  await until('HTTP is closed', 60_000, () => http.isClosed())
  slow.socket.write('\x0bMSH|')
  await until('a slow one is closed', 60_000, () => slow.isClosed())
  long.socket.write(`\x0b${'M'.repeat(2000)}`)
  await until('a long one is closed', 60_000, () => long.isClosed())
  const crowd = await Promise.all(Array.from({ length: 8 }, () => sender(t, port)))
  await until('some of a crowd are closed', 60_000, () => crowd.filter(each => each.isClosed()).length === 5)

  good.socket.write(frame(Buffer.from('MSH|x')))
  await until('the good one is answered', 60_000, () => good.answers().length === 1)
  assert.deepEqual(refusals.slice(0, 3), ['not-mllp', 'slow', 'too-long'])
})

test('closing waits for the answer that is under way', async t => {
  const { promise, resolve } = Promise.withResolvers<void>()
  const asked = Promise.withResolvers<void>()
  const { port, listener } = await open(t, {
    answer: async bytes => {
      asked.resolve()
      await promise
      return bytes
    },
  })
  const { socket, answers, isClosed } = await sender(t, port)
  socket.write(frame(Buffer.from('MSH|x')))
  await asked.promise

  const closed = listener.close()
  resolve()
  await closed

  await until('the socket is closed', 60_000, isClosed)
  assert.deepEqual(answers(), ['MSH|x'])
})

test('by TLS only senders with a certificate of the authority are heard', async t => {
  const dir = await temporaryDir(t)
  const [authority, foreign] = await Promise.all([makeAuthority(dir, 'ris'), makeAuthority(dir, 'other')])
  const [ours, known, stranger] = await Promise.all([
    authority.issue('gateway'),
    authority.issue('ris'),
    foreign.issue('ris'),
  ])
  const refusals: string[] = []
  const listener = await openHl7({
    host: '127.0.0.1',
    port: 0,
    tls: {
      certificateFile: ours.certificateFile,
      keyFile: ours.keyFile,
      clientCaFile: authority.certificateFile,
    },
    service: { answer: async bytes => bytes },
    onRefused: ({ reason }) => refusals.push(reason),
    log,
  })
  t.after(() => listener.close({ graceMs: 0 }))
  const ask = async (client: { readonly certificate: string; readonly key: string } | undefined): Promise<string> => {
    const socket = tlsConnect({
      host: '127.0.0.1',
      port: listener.address.port,
      ca: authority.certificate,
      ...(client && { cert: client.certificate, key: client.key }),
    })
    t.after(() => socket.destroy())
    let text = ''
    let isOver = false
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    socket.on('error', () => undefined)
    socket.on('close', () => {
      isOver = true
    })
    socket.write(frame(Buffer.from('MSH|x')))
    await until('an answer or the end', 60_000, () => text !== '' || isOver)
    return text
  }

  assert.equal(await ask(known), frame(Buffer.from('MSH|x')).toString())
  assert.equal(await ask(stranger), '')
  assert.equal(await ask(undefined), '')
  assert.deepEqual(refusals, ['tls', 'tls'])
})

test('whatever a sender puts behind MSH is stored or refused for good, and the next message is heard', async t => {
  const db = await testDatabase(t)
  const worklist = openWorklist({ db })
  const { port } = await open(t, openIntake({ worklist, rights, stations: {}, log }))
  const { socket, answers, ask } = await sender(t, port)
  const rounds = process.env['HANSE_SOAK'] ? 5_000 : 150
  let state = 11
  const random = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }

  for (let round = 0; round < rounds; round++) {
    const bytes = message(round % 2 === 0 ? orm() : omi())
    const body = bytes.indexOf(0x0d)
    for (let change = random(10); change >= 0; change--) {
      const at = body + 1 + random(bytes.length - body - 1)
      // Not the byte that ends a frame.
      const byte = random(256)
      if (byte !== 0x1c) bytes[at] = byte
    }
    socket.write(frame(bytes))
    await until('an answer', 60_000, () => answers().length === round + 1)
  }

  const codes = answers().map(answer => /\rMSA\|(\w\w)\|/.exec(answer)?.[1] ?? answer)
  assert.ok(
    codes.every(code => code === 'AA' || code === 'AE'),
    [...new Set(codes)].join(' '),
  )
  assert.ok(codes.includes('AA') && codes.includes('AE'))
  assert.equal(await ask(orm({ stepId: 'LAST' })), 'AA')
})

import assert from 'node:assert/strict'
import { readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { openProjectKeys } from '../../gateway/services/project-keys.ts'
import { openPseudonyms } from '../../gateway/services/pseudonyms.ts'
import { openReidentification } from '../../gateway/services/reidentification.ts'
import { presetProfile } from '../../policy/deid/presets.ts'
import { testProfile } from '../deid/support.ts'
import { temporaryDir } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { caller } from '../support/principals.ts'

const anna = caller('token:anna')
const bert = caller('token:bert')
const viewer = caller('token:viewer', { roles: ['viewer'] })
const trial = presetProfile('trial') ?? testProfile()
const numbered = testProfile({ pseudonym: { kind: 'sequential', prefix: 'HAM-' } })
const looked = testProfile({ pseudonym: { kind: 'lookup' } })
const patient = { issuer: '', id: 'QZ-4711' }

async function registry(t: TestContext) {
  const db = await testDatabase(t)
  const dir = await temporaryDir(t)
  const keyPath = join(dir, 'pseudonyms.json')
  const projects = openProjectKeys({ db, dir: join(dir, 'projects') })
  const pseudonyms = openPseudonyms({ db, keyPath, projects })
  return { db, dir, keyPath, projects, pseudonyms, project: await projects.ensure('site-1', 'TRIAL-7') }
}

test('a subject keeps its pseudonym in a project; issuers, projects and recipients have others', async t => {
  const { projects, pseudonyms, project } = await registry(t)
  const [elsewhere, other] = [await projects.ensure('site-2', 'TRIAL-7'), await projects.ensure('site-1', 'TRIAL-8')]

  const of = (where: typeof project, issuer = '') => pseudonyms.resolve(where, trial, { issuer, id: patient.id })
  const all = [await of(project), await of(project, 'HOSPITAL B'), await of(elsewhere), await of(other)]

  assert.equal(await of(project), all[0])
  assert.equal(await pseudonyms.resolve(project, numbered, patient), all[0], 'what it got once it keeps')
  assert.equal(new Set(all).size, 4)
  assert.deepEqual(
    (await pseudonyms.projects(anna)).map(({ recipient, name, subjects }) => [recipient, name, subjects]),
    [
      ['site-1', 'TRIAL-7', 2],
      ['site-2', 'TRIAL-7', 1],
      ['site-1', 'TRIAL-8', 1],
    ],
  )
})

test('numbers follow one another, whoever asks at the same time, and leave out what was imported', async t => {
  const { pseudonyms, project } = await registry(t)
  await pseudonyms.import(anna, project.id, [{ subject: { issuer: '', id: 'X' }, pseudonym: 'HAM-0002' }])

  const given = await Promise.all(
    Array.from({ length: 6 }, (_, index) =>
      pseudonyms.resolve(project, numbered, { issuer: '', id: `P${Math.floor(index / 2)}` }),
    ),
  )

  assert.deepEqual([...new Set(given)].sort(), ['HAM-0001', 'HAM-0003', 'HAM-0004'])
  assert.deepEqual([given[0], given[2], given[4]], [given[1], given[3], given[5]])
})

test('a table is imported whole or not at all, and what is not in it has no pseudonym', async t => {
  const { pseudonyms, project } = await registry(t)
  const entries = [
    { subject: patient, pseudonym: 'HAM-17' },
    { subject: { issuer: 'B', id: patient.id }, pseudonym: 'HAM-18' },
  ]

  assert.deepEqual(await pseudonyms.import(anna, project.id, entries), { added: 2 })
  assert.deepEqual(await pseudonyms.import(anna, project.id, entries), { added: 0 })
  const clash = [
    { subject: { issuer: '', id: 'NEW' }, pseudonym: 'HAM-19' },
    { subject: { issuer: '', id: 'NEWER' }, pseudonym: 'HAM-17' },
  ]
  await assert.rejects(pseudonyms.import(anna, project.id, clash), { code: 'STATE_CONFLICT' })

  assert.equal(await pseudonyms.resolve(project, looked, patient), 'HAM-17')
  assert.equal(await pseudonyms.resolve(project, looked, { issuer: '', id: 'NEW' }), undefined)
})

test('the database tells nobody who is who, and files of keys are their owner’s only', async t => {
  const { db, dir, keyPath, pseudonyms, project } = await registry(t)
  const pseudonym = (await pseudonyms.resolve(project, trial, patient)) ?? ''

  const { rows } = await db.pool.query<{ text: string }>('select p::text as text from pseudonyms p')
  const text = rows.map(row => Buffer.from(row.text).toString('latin1')).join()
  for (const secret of [patient.id, pseudonym])
    for (const form of [secret, Buffer.from(secret).toString('hex')]) assert.ok(!text.includes(form))
  const [file = ''] = await readdir(join(dir, 'projects'))
  for (const path of [keyPath, join(dir, 'projects', file)]) assert.equal((await stat(path)).mode & 0o777, 0o600)
})

test('a key that is lost, damaged, another one or open to others is never made anew', async t => {
  const { db, dir, keyPath, projects, pseudonyms, project } = await registry(t)
  await pseudonyms.resolve(project, trial, patient)
  const [file = ''] = await readdir(join(dir, 'projects'))
  const path = join(dir, 'projects', file)
  const key = (seed: number) =>
    JSON.stringify({ format: 'hanse-project-key-1', key: Buffer.alloc(32, seed).toString('base64') })

  await writeFile(path, 'damaged')
  await assert.rejects(projects.load(project.id), { code: 'PROJECT_KEY', message: /damaged/ })
  await writeFile(path, key(3))
  await assert.rejects(projects.ensure('site-1', 'TRIAL-7'), { code: 'PROJECT_KEY', message: /not the one/ })
  await rm(path)
  await assert.rejects(projects.ensure('site-1', 'TRIAL-7'), { code: 'PROJECT_KEY', message: /missing/ })
  await writeFile(path, key(3), { mode: 0o644 })
  await assert.rejects(projects.load(project.id), { code: 'PROJECT_KEY', message: /open to others/ })
  await rm(keyPath)
  const later = openPseudonyms({ db, keyPath, projects })
  await assert.rejects(later.resolve(project, trial, patient), { code: 'PROJECT_KEY', message: /missing/ })
})

test('re-identification takes two people, a purpose and a reason, and leaves a trace of each step', async t => {
  const { db, pseudonyms, project } = await registry(t)
  const pseudonym = (await pseudonyms.resolve(project, trial, patient)) ?? ''
  let now = new Date()
  const reidentification = openReidentification({ db, pseudonyms, clock: () => now })
  const wish = { project: project.id, pseudonym, purpose: 'incidental-finding', why: 'a nodule that must be told' }

  const { id } = await reidentification.request(anna, wish)
  await assert.rejects(reidentification.reveal(anna, id), { code: 'FORBIDDEN' })
  await assert.rejects(reidentification.decide(anna, id, { isApproved: true, why: 'I want it' }), { code: 'FORBIDDEN' })
  const decided = await reidentification.decide(bert, id, { isApproved: true, why: 'the finding is real' })
  await assert.rejects(reidentification.reveal(bert, id), { code: 'FORBIDDEN' })
  const entries = await reidentification.reveal(anna, id)
  await assert.rejects(reidentification.decide(bert, id, { isApproved: false, why: 'changed my mind' }), {
    code: 'STATE_CONFLICT',
  })
  now = new Date(now.getTime() + 25 * 3_600_000)
  await assert.rejects(reidentification.reveal(anna, id), { code: 'FORBIDDEN' })

  assert.deepEqual([decided.state, decided.decidedBy], ['approved', 'token:bert'])
  assert.deepEqual(entries, [{ subject: patient, pseudonym }])
  const rows = await db.kysely.selectFrom('audit_events').select('payload').orderBy('id').execute()
  const events = rows.map(row => JSON.parse(row.payload ?? '{}'))
  assert.deepEqual(
    events.map(event => event.reason),
    [
      'reidentification-requested',
      'reidentification-denied',
      'reidentification-denied',
      'reidentification-approved',
      'reidentification-denied',
      'reidentification-revealed',
      'reidentification-denied',
    ],
  )
  assert.equal(events[3].detail.why, 'the finding is real')
})

test('a refused request is answered to nobody, and a whole table is asked for like one line', async t => {
  const { db, pseudonyms, project } = await registry(t)
  await pseudonyms.resolve(project, trial, patient)
  const reidentification = openReidentification({ db, pseudonyms })
  const wish = { project: project.id, pseudonym: undefined, purpose: 'trial-end', why: 'the trial has ended' }

  const refused = await reidentification.request(anna, wish)
  await reidentification.decide(bert, refused.id, { isApproved: false, why: 'not before June' })
  const granted = await reidentification.request(anna, wish)
  await reidentification.decide(bert, granted.id, { isApproved: true, why: 'it has ended indeed' })

  await assert.rejects(reidentification.reveal(anna, refused.id), { code: 'FORBIDDEN' })
  assert.equal((await reidentification.reveal(anna, granted.id)).length, 1)
  assert.deepEqual(
    (await reidentification.list(anna, { limit: 10 })).map(request => request.state),
    ['approved', 'refused'],
  )
})

test('who has no right to pseudonyms gets none, and asks for none', async t => {
  const { db, pseudonyms, project } = await registry(t)
  const reidentification = openReidentification({ db, pseudonyms })
  const wish = { project: project.id, pseudonym: undefined, purpose: 'curiosity', why: 'I would like to know' }

  const refused = { code: 'FORBIDDEN' } as const
  await assert.rejects(pseudonyms.projects(viewer), refused)
  await assert.rejects(pseudonyms.create(viewer, 'site-3', 'X'), refused)
  await assert.rejects(pseudonyms.import(viewer, project.id, []), refused)
  await assert.rejects(reidentification.list(viewer, { limit: 1 }), refused)
  await assert.rejects(reidentification.request(viewer, wish), refused)
})

/** What arrives at endpoints: taken once, whole, and only as the policy says; what cannot be taken is said file by file. */
import assert from 'node:assert/strict'
import { appendFile, chmod, mkdir, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import { openFileStore } from '../../endpoints/open-place.ts'
import { encryptAge } from '../../endpoints/pack/age.ts'
import { signStatement } from '../../endpoints/pack/statement.ts'
import { decodePlace } from '../../endpoints/place.ts'
import type { ArrivalFile } from '../../gateway/services/arrival-rows.ts'
import { openQuarantine } from '../../gateway/services/quarantine.ts'
import { packageFile } from '../endpoints/package-files.ts'
import { startCuttingProxy } from '../support/cutting-proxy.ts'
import { type BuiltInstance, buildInstance } from '../support/dicom-builder.ts'
import { type EndpointSite, endpointFolder, startEndpointSite } from '../support/endpoints.ts'
import { missingFtpd, startFtpd } from '../support/ftpd.ts'
import { testSite } from '../support/offers.ts'
import { newIdentity } from '../support/packages.ts'
import { startS3 } from '../support/s3.ts'
import { missingSshd, startSshd } from '../support/sshd.ts'
import { until } from '../support/until.ts'
import { zipOf } from '../support/zip-builder.ts'

const studyInstanceUid = '1.2.826.0.1.3680043.10.9.888'
const study = (count: number, rows = 8): BuiltInstance[] =>
  Array.from({ length: count }, (_, index) =>
    buildInstance({
      seed: index + 1,
      rows,
      cols: rows,
      patientId: '12345',
      studyInstanceUid,
      seriesInstanceUid: `${studyInstanceUid}.1`,
      sopInstanceUid: `${studyInstanceUid}.1.${index + 1}`,
    }),
  )

const policy = (rule: object = { accept: { from: ['cro'] } }) => ({
  format: 'hanse-policy-2',
  destinations: { cro: { endpoint: 'CRO' } },
  rules: [],
  incoming: [{ id: 'from-cro', when: { attribute: 'OriginEndpoint', equals: 'CRO' }, ...rule }],
})
const terms = { folder: 'in', everySeconds: 86_400, stableSeconds: 1 }

async function put(root: string, files: Readonly<Record<string, Uint8Array>>): Promise<void> {
  for (const [path, bytes] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true })
    await writeFile(join(root, path), bytes)
  }
}

const asFiles = (instances: readonly BuiltInstance[], folder: string): Record<string, Uint8Array> =>
  Object.fromEntries(instances.map(({ bytes }, index) => [`${folder}/I${index}`, bytes]))

/** A site that looks at a folder. */
async function lookingSite(t: TestContext, options: { inbound?: object; rule?: object; secrets?: object } = {}) {
  const site = await startEndpointSite(t, { policy: policy(options.rule) })
  const root = await endpointFolder(t)
  await mkdir(join(root, 'in'))
  const { inbound = {}, secrets = {} } = options
  const set = { kind: 'folder', settings: { root }, inbound: { ...terms, ...inbound }, secrets } as const
  await site.endpoints.put(site.admin, 'CRO', set)
  const arrivals = await site.openArrivals()
  return { site, root, arrivals, look: lookOf(site, arrivals) }
}

type Arrivals = Awaited<ReturnType<EndpointSite['openArrivals']>>

/** Looks again and again until the files are as they are wanted. */
const lookOf =
  (site: EndpointSite, arrivals: Arrivals) =>
  async (what: string, wanted: (files: readonly ArrivalFile[]) => boolean): Promise<readonly ArrivalFile[]> => {
    let files: readonly ArrivalFile[] = []
    let polled: Date | undefined
    return await until(what, 60_000, async () => {
      const { polledAt } = await site.endpoints.load(site.admin, 'CRO')
      files = await arrivals.list(site.admin, 'CRO', { limit: 1_000 })
      if (wanted(files)) return files
      if (polledAt?.getTime() !== polled?.getTime() || polled === undefined) await arrivals.poll(site.admin, 'CRO')
      polled = polledAt ?? new Date(0)
      return undefined
    }).catch(error => {
      throw new Error(`${String(error)}; ${JSON.stringify(files, null, 1)}`)
    })
  }

const all =
  (state: ArrivalFile['state'], count: number) =>
  (files: readonly ArrivalFile[]): boolean =>
    files.length === count && files.every(file => file.state === state)

async function stored(site: EndpointSite) {
  const { rows } = await site.db.pool.query<{ uid: string; issuer: string; origin: { kind: string } }>(
    `select i.sop_instance_uid as uid, p.issuer, i.origin from instances i join series e on e.id = i.series
       join studies s on s.id = e.study join patients p on p.id = s.patient order by 1`,
  )
  return rows
}

const imports = async (site: EndpointSite): Promise<Record<string, unknown>[]> =>
  (await site.db.pool.query<{ payload: string }>(`select payload from audit_events order by id`)).rows
    .map(({ payload }) => JSON.parse(payload))
    .filter(({ event }) => event === '110107')

test('a study in a folder is taken once: durable, with the endpoint as its origin and patients of its own', async t => {
  const { site, root, look, arrivals } = await lookingSite(t)
  await put(root, { ...asFiles(study(3), 'in/S1'), 'in/S1/readme.tmp': Buffer.from('x') })

  const files = await look('three files', all('taken', 3))

  const rows = await stored(site)
  assert.deepEqual([rows.length, rows[0]?.issuer, rows[0]?.origin.kind], [3, 'endpoint:CRO', 'endpoint'])
  assert.deepEqual(new Set(files.map(({ arrival }) => arrival)).size, 1)
  const [event, ...others] = await imports(site)
  assert.deepEqual(
    [others.length, Reflect.get(Object(event?.['detail']), 'objects'), Reflect.get(Object(event?.['detail']), 'rule')],
    [0, 3, 'from-cro'],
  )
  // The same bytes under another name, and another look, change nothing.
  await put(root, { 'in/again/I0': study(1)[0]?.bytes ?? Buffer.alloc(0) })
  await look('a file that is known', found => found.filter(({ state }) => state === 'known').length === 1)
  assert.equal((await stored(site)).length, 3)
  await until('no bytes left', 10_000, async () => (await readdir(join(site.dataDir, 'arrivals'))).length === 0)
  assert.equal((await readdir(join(root, 'in/S1'))).length, 4)
  await assert.rejects(arrivals.release(files[0]?.arrival ?? '', site.admin), { code: 'STATE_CONFLICT' })
})

test('a file that is still being written is not taken before it stays as it is', async t => {
  const { site, root, look } = await lookingSite(t, { inbound: { stableSeconds: 3 } })
  const [instance] = study(1, 64)
  assert.ok(instance)
  const path = join(root, 'in/I0')
  await writeFile(path, instance.bytes.subarray(0, 1_000))
  await look('a file that is seen', all('seen', 1))
  await appendFile(path, instance.bytes.subarray(1_000))

  const [file] = await look('the file', all('taken', 1))

  assert.equal(file?.size, instance.bytes.length)
  assert.equal((await stored(site)).length, 1)
})

test('with a mark that says so nothing is taken before it, and what was taken is moved away', async t => {
  const inbound = { ready: 'done', after: 'move', moveTo: 'in/taken' }
  const { root, look } = await lookingSite(t, { inbound })
  await put(root, { ...asFiles(study(2), 'in/S1'), 'in/single.dcm': study(3)[2]?.bytes ?? Buffer.alloc(0) })
  await look('files that wait', all('seen', 3))
  await put(root, { 'in/S1/.done': Buffer.from(''), 'in/single.dcm.done': Buffer.from('') })

  await look('three files', all('taken', 3))
  await until(
    'moved files',
    10_000,
    async () => (await readdir(join(root, 'in/taken/in')).catch(() => [])).length === 2,
  )

  assert.deepEqual((await readdir(join(root, 'in/taken/in/S1'))).sort(), ['I0', 'I1'])
  assert.deepEqual(await readdir(join(root, 'in/S1')), ['.done'])
})

test('archives and age packages are opened; what is no DICOM, a bomb, leads out or is sealed is said, and the rest is taken', async t => {
  const ours = await newIdentity()
  const others = await newIdentity()
  const secrets = { ageIdentity: `# our key\n${ours.identity}\n` }
  const { site, root, look, arrivals } = await lookingSite(t, { secrets, inbound: { mostFileBytes: 20_000_000 } })
  const [one, two, three] = study(3)
  assert.ok(one && two && three)
  const sealed = async (recipient: string): Promise<Buffer> =>
    await buffer(encryptAge(oneChunk(await zipOf({ 'a/I2': three.bytes })), [recipient]))
  const whole = await sealed(ours.recipient)
  // No library writes such names.
  const named = (await zipOf({ 'AA/AA/evil': three.bytes })).toString('latin1')
  const leadingOut = Buffer.from(named.replaceAll('AA/AA/evil', '../../evil'), 'latin1')
  const damaged = Buffer.from(whole)
  damaged[damaged.length - 20] = (damaged[damaged.length - 20] ?? 0) ^ 1
  await put(root, {
    'in/I0': one.bytes,
    'in/study.zip': await zipOf({ 'viewer/readme.txt': Buffer.from('hello'), 'IMAGES/I1': two.bytes }),
    'in/ours.zip.age': whole,
    'in/damaged.zip.age': damaged,
    'in/others.zip.age': await sealed(others.recipient),
    'in/letter.pdf': Buffer.from('%PDF-1.4 no DICOM'),
    'in/empty': Buffer.alloc(0),
    'in/cut.dcm': one.bytes.subarray(0, 200),
    'in/bomb.zip': await zipOf({ I9: Buffer.alloc(60_000_000) }, { compress: true }),
    'in/out.zip': leadingOut,
    'in/cut.zip': (await zipOf({ I1: two.bytes })).subarray(0, 300),
  })
  await writeFile(join(root, 'secret'), study(4)[3]?.bytes ?? '')
  await symlink(join(root, 'secret'), join(root, 'in/link.dcm'))
  await symlink('/etc', join(root, 'in/etc'))

  const files = await look(
    'every file',
    found => found.length === 13 && found.every(({ state }) => !['seen', 'fetching', 'fetched'].includes(state)),
  )

  const outcome = Object.fromEntries(files.map(({ path, state, errorCode }) => [path.slice(3), errorCode ?? state]))
  assert.deepEqual(outcome, {
    I0: 'taken',
    'study.zip': 'taken',
    'ours.zip.age': 'taken',
    'damaged.zip.age': 'OBJECT_DIGEST',
    'others.zip.age': 'OBJECT_DIGEST',
    'letter.pdf': 'DICOM_UNREADABLE',
    empty: 'DICOM_UNREADABLE',
    'cut.dcm': 'DICOM_UNREADABLE',
    'bomb.zip': 'DICOM_LIMIT',
    'out.zip': 'BAD_REQUEST',
    'cut.zip': 'BAD_REQUEST',
    'link.dcm': 'BAD_REQUEST',
    etc: 'BAD_REQUEST',
  })
  assert.deepEqual(
    (await stored(site)).map(({ uid }) => uid.split('.').at(-1)),
    ['1', '2', '3'],
  )
  await until('no bytes left', 10_000, async () => (await readdir(join(site.dataDir, 'arrivals'))).length === 0)
  // A person may have it tried again.
  const failed = files.find(({ path }) => path === 'in/cut.dcm')
  await arrivals.retry(site.admin, 'CRO', failed?.id ?? 0)
  await look('the file, tried again', found => found.some(({ id, state }) => id === failed?.id && state === 'failed'))
})

const oneChunk = async function* (bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}

test('what senders sign is compared: nothing unsigned, nothing changed, nobody else', async t => {
  const [sender, stranger] = [testSite(3), testSite(4)]
  const signers = [Buffer.from(sender.signingKey).toString('base64')]
  const { site, root, look } = await lookingSite(t, { inbound: { signers } })
  const instances = study(4)
  const created = new Date()
  const statement = (signer: typeof sender, names: Record<string, Uint8Array>): Uint8Array =>
    signStatement(
      Object.entries(names).map(([name, bytes]) => packageFile(name, Buffer.from(bytes))),
      { from: signer.siteId, created, signer },
    )
  const bytesOf = (index: number): Uint8Array => instances[index]?.bytes ?? Buffer.alloc(0)
  const changed = Buffer.from(bytesOf(1))
  changed[changed.length - 1] = 99
  await put(root, {
    'in/good/DICOM/I0': bytesOf(0),
    'in/good/DICOM/I1': changed,
    'in/good/DICOM/extra': bytesOf(2),
    'in/good/manifest.sig': statement(sender, { 'DICOM/I0': bytesOf(0), 'DICOM/I1': bytesOf(1) }),
    'in/stranger/I3': bytesOf(3),
    'in/stranger/manifest.sig': statement(stranger, { I3: bytesOf(3) }),
    'in/plain/I2': bytesOf(2),
  })

  const files = await look('what was signed', found => found.filter(({ errorCode }) => errorCode !== null).length === 4)

  const outcome = Object.fromEntries(files.map(({ path, state, errorCode }) => [path.slice(3), errorCode ?? state]))
  assert.deepEqual(outcome, {
    'good/DICOM/I0': 'taken',
    'good/DICOM/I1': 'OBJECT_DIGEST',
    'good/DICOM/extra': 'MANIFEST_SIGNATURE',
    'stranger/I3': 'MANIFEST_SIGNATURE',
    'plain/I2': 'OFFER_INCOMPLETE',
  })
  assert.equal((await stored(site)).length, 1)
})

test('what the policy holds waits for a person; without a rule nothing is even fetched', async t => {
  const { site, root, look, arrivals } = await lookingSite(t, {
    rule: { hold: { from: ['cro'], reason: 'a person looks' } },
  })
  const quarantine = openQuarantine({
    db: site.db,
    queue: site.queue,
    inbound: { release: async () => assert.fail('not of a peer'), reject: async () => assert.fail('not of a peer') },
    arrivals,
  })
  await put(root, { ...asFiles(study(2), 'in/S1'), 'in/S2/I2': study(3)[2]?.bytes ?? Buffer.alloc(0) })

  await look('held files', all('fetched', 3))
  const held = await until('held arrivals', 10_000, async () => {
    const found = await quarantine.list(site.admin, { limit: 10 })
    return found.length === 2 && found
  })
  assert.deepEqual([(await stored(site)).length, (await readdir(join(site.dataDir, 'arrivals'))).length], [0, 3])
  const big = held.find(({ objectCount }) => objectCount === 2)
  const small = held.find(({ objectCount }) => objectCount === 1)
  assert.deepEqual(
    [big?.direction, big?.peer, big?.reason, big?.rule],
    ['inbound', 'endpoint:CRO', 'a person looks', 'from-cro'],
  )
  await assert.rejects(site.endpoints.remove(site.admin, 'CRO'), { code: 'STATE_CONFLICT' })
  await quarantine.reject(site.admin, small?.id ?? '', 'not ours')
  await quarantine.release(site.admin, big?.id ?? '', 'it is the study that we asked for')

  await look('two files', found => found.filter(({ state }) => state === 'taken').length === 2)
  assert.equal((await stored(site)).length, 2)
  assert.equal((await quarantine.list(site.admin, { limit: 10 })).length, 0)
  await until('no bytes left', 10_000, async () => (await readdir(join(site.dataDir, 'arrivals'))).length === 0)

  const closed = await startEndpointSite(t)
  await closed.endpoints.put(closed.admin, 'CRO', { kind: 'folder', settings: { root }, inbound: terms })
  const closedArrivals = await closed.openArrivals()
  const { pollErrorCode } = await until('a look', 30_000, async () => {
    const endpoint = await closed.endpoints.load(closed.admin, 'CRO')
    return endpoint.polledAt && endpoint
  })
  assert.deepEqual(
    [pollErrorCode, await closedArrivals.list(closed.admin, 'CRO', { limit: 10 })],
    ['OFFER_REFUSED', []],
  )
})

for (const kind of ['sftp', 'ftp'] as const) {
  test(`${kind}: a study is fetched over a line that breaks, from where it was cut, once`, {
    skip: kind === 'sftp' ? missingSshd : missingFtpd,
  }, async t => {
    const site = await startEndpointSite(t, { policy: policy() })
    const server = kind === 'sftp' ? await startSshd(t) : await startFtpd(t, 'none')
    const { root } = server
    const instances = study(4, 512)
    const size = instances.reduce((sum, { bytes }) => sum + bytes.length, 0)
    await put(root, asFiles(instances, 'in/S1'))
    await put(root, { 'in/S1/.done': Buffer.from('done') })
    // Its user may be another one than who runs the test.
    await chmod(join(root, 'in/S1'), 0o777)
    let cut = 0
    // FTP opens its data connections past the line.
    const line =
      kind === 'sftp'
        ? await startCuttingProxy(t, server.port, () => (cut++ < 3 ? 400_000 : undefined), 'client')
        : { port: server.port, received: 0 }
    const where = { host: '127.0.0.1', port: line.port, user: server.user }
    const inbound = { ...terms, ready: 'done', after: 'delete' }
    await site.endpoints.put(
      site.admin,
      'CRO',
      'hostKey' in server
        ? {
            kind,
            settings: { ...where, root, hostKey: server.hostKey },
            secrets: { privateKey: server.privateKey },
            inbound,
          }
        : { kind, settings: { ...where, tls: 'none' }, secrets: { password: server.password }, inbound },
    )
    const arrivals = await site.openArrivals()

    await lookOf(site, arrivals)('four files', all('taken', 4))

    assert.equal((await stored(site)).length, 4)
    assert.equal((await imports(site)).length, 1)
    await until('deleted files', 20_000, async () => (await readdir(join(root, 'in/S1'))).join() === '.done')
    if (kind === 'sftp') assert.ok(cut >= 4 && line.received < size * 2, `${line.received} bytes for ${size}`)
  })
}

test('a study in a bucket is taken, and a file that goes before it is fetched holds nothing up', async t => {
  const site = await startEndpointSite(t, { policy: policy() })
  const { endpoint, bucket, accessKeyId, secretAccessKey } = await startS3(t)
  const settings = { endpoint, bucket, accessKeyId }
  const secrets = { secretAccessKey }
  const store = await openFileStore(decodePlace({ kind: 's3', ...settings }), secrets, new AbortController().signal)
  for (const [index, { bytes }] of study(2).entries()) {
    const source = Readable.from([bytes])
    const options = { offset: 0, size: bytes.length, onSent: () => undefined }
    await store.put(`in/I${index}`, source, options, new AbortController().signal)
  }
  const set = { kind: 's3', settings, secrets } as const
  const inbound = { ...terms, after: 'delete' }
  await assert.rejects(site.endpoints.put(site.admin, 'CRO', { ...set, inbound: { ...terms, after: 'move' } }), {
    code: 'BAD_REQUEST',
  })
  await site.endpoints.put(site.admin, 'CRO', { ...set, inbound })
  await site.db.pool.query(
    `with opened as (insert into arrivals (id, endpoint, folder, state)
                     values (gen_random_uuid(), 'CRO', 'in', 'fetching') returning id)
     insert into arriving_files (endpoint, path, size_bytes, arrival, state)
     select 'CRO', 'in/gone', 100, id, 'fetching' from opened`,
  )
  const arrivals = await site.openArrivals()

  await lookOf(site, arrivals)('two files', all('taken', 2))

  assert.equal((await stored(site)).length, 2)
  await until(
    'an empty bucket',
    20_000,
    async () => (await store.list('in', new AbortController().signal)).length === 0,
  )
  await store.close()
})

test('a gateway that is stopped in the middle goes on where it was', async t => {
  const { site, root, look, arrivals } = await lookingSite(t)
  await put(root, asFiles(study(2), 'in/S1'))
  await look('files that were taken', all('taken', 2))
  // As a killed process leaves it: the arrival open, one file here, one half.
  const bytes = await readFile(join(root, 'in/S1/I1'))
  await site.db.pool.query(`update arrivals set state = 'fetching'`)
  const { rows } = await site.db.pool.query<{ id: number; path: string }>(
    `update arriving_files set state = 'fetching' returning id, path`,
  )
  const second = rows.find(({ path }) => path.endsWith('I1'))
  await writeFile(join(site.dataDir, 'arrivals', String(second?.id)), bytes.subarray(0, 100))
  await writeFile(join(site.dataDir, 'arrivals', '4711'), 'of nobody')
  await rename(join(root, 'in/S1'), join(root, 'in/S2'))
  await rename(join(root, 'in/S2'), join(root, 'in/S1'))

  await arrivals.poll(site.admin, 'CRO')
  await look('files that are taken again', all('taken', 2))

  assert.equal((await stored(site)).length, 2)
  await rm(join(root, 'in/S1'), { recursive: true })
})

/** What arrives at an SFTP server, as an administrator sets it up, through a gateway that is killed meanwhile. */
import assert from 'node:assert/strict'
import { mkdir, readdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { temporaryDir } from '../support/blobs.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { startProcessGateway } from '../support/process-gateway.ts'
import { missingSshd, startSshd } from '../support/sshd.ts'
import { until } from '../support/until.ts'

const instances = 30
const policy = {
  format: 'hanse-policy-2',
  destinations: { partner: { endpoint: 'PARTNER' } },
  rules: [],
  incoming: [{ id: 'partner', when: { always: true }, accept: { from: ['partner'] } }],
}

interface Files {
  readonly files: readonly { readonly state: string; readonly path: string }[]
}

test('a study at an SFTP server is taken once, though the gateway is killed while it fetches', {
  skip: missingSshd,
}, async t => {
  const sshd = await startSshd(t)
  const gateway = await startProcessGateway(t, 'arrivals')
  const dir = await temporaryDir(t)
  const [key, settings] = [join(dir, 'key'), join(dir, 'settings.json')]
  await writeFile(key, sshd.privateKey)
  const inbound = { everySeconds: 5, stableSeconds: 1, ready: 'done', after: 'delete' }
  await writeFile(settings, JSON.stringify({ inbound }))
  const folder = join(sshd.root, 'in', 'S1')
  await mkdir(folder, { recursive: true })
  for (let index = 0; index < instances; index++) {
    const { bytes } = buildInstance({
      seed: index + 1,
      rows: 256,
      cols: 256,
      studyInstanceUid: '1.2.826.0.1.3680043.10.9.781',
    })
    await writeFile(join(folder, `I${index}`), bytes)
  }
  await symlink('/etc/passwd', join(folder, 'link'))
  await writeFile(join(folder, '.done'), 'done')

  await gateway.api('PUT', '/api/v1/policy', policy)
  const place = ['--host', '127.0.0.1', '--port', String(sshd.port), '--user', sshd.user, '--root', sshd.root]
  const added = await gateway.hanse(
    ...['endpoint', 'add', 'PARTNER', '--kind', 'sftp', ...place, '--key-file', key, '--host-key', sshd.hostKey],
    ...['--settings', settings, '--inbound', 'in'],
  )
  assert.equal(added.code, 0, added.output)
  const files = async (): Promise<Files['files']> =>
    (await gateway.api<Files & Record<string, unknown>>('GET', '/api/v1/endpoints/PARTNER/arrivals?limit=100')).files
  await until('files that are fetched', 60_000, async () =>
    (await files()).some(({ state }) => state === 'fetched' || state === 'taken'),
  )
  await gateway.kill('SIGKILL')
  await gateway.start()
  await until(
    'all files',
    90_000,
    async () => (await files()).filter(({ state }) => state === 'taken').length === instances,
  )

  const stored = await gateway.api<readonly string[]>('GET', '/instances')
  assert.equal(stored.length, instances)
  await until('an empty folder', 60_000, async () => (await readdir(folder)).sort().join() === '.done,link')
  await until('no bytes left', 30_000, async () => (await readdir(join(gateway.data, 'arrivals'))).length === 0)
  const listed = await gateway.hanse('endpoint', 'arrivals', 'PARTNER')
  assert.equal(listed.code, 0, listed.output)
  assert.match(listed.output, /refused .*in\/S1\/link .*only files are taken/)
  const polled = await gateway.hanse('endpoint', 'poll', 'PARTNER')
  assert.equal(polled.code, 0, polled.output)
})

import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { parseDuration, table } from '../../gateway/cli/table.ts'
import { temporaryDir } from '../support/blobs.ts'
import { hanse } from './terminal.ts'

const commands = [
  ...['start', 'demo', 'status', 'send', 'fsck', 'audit verify', 'config check', 'deidentify', 'query', 'retrieve'],
  ...['import disc', 'open'],
  ...['peer invite', 'peer accept', 'peer confirm', 'peer card', 'peer list', 'peer revoke'],
  ...['modality list', 'modality add', 'modality remove', 'modality echo'],
  ...['list', 'add', 'show', 'confirm', 'test', 'stop', 'resume', 'remove', 'acknowledge'].map(
    verb => `endpoint ${verb}`,
  ),
  ...[
    'list',
    'put',
    'show',
    'close',
    'reopen',
    'subjects',
    'declare',
    'enrol',
    'withdraw',
    'delegations',
    'delegate',
    'revoke',
  ].map(verb => `trial ${verb}`),
  ...['uploads', 'upload', 'check', 'preview', 'approve', 'send', 'cancel', 'query', 'answer', 'work', 'log'].map(
    verb => `trial ${verb}`,
  ),
  ...['worklist list', 'worklist add', 'worklist remove'],
  ...[
    'policy show',
    'policy publish',
    'policy lint',
    'policy diff',
    'policy dry-run',
    'policy history',
    'policy rollback',
    'policy explain',
  ],
  ...['token create', 'token list', 'token revoke'],
  ...['retention show', 'retention set', 'retention holds', 'retention hold', 'retention release'],
  ...['list', 'show', 'release', 'reject', 'rerun'].map(verb => `quarantine ${verb}`),
  ...['projects', 'import', 'request', 'requests', 'approve', 'refuse', 'reveal'].map(verb => `pseudonym ${verb}`),
]

test('without a command, or asked for help, all commands and the exit codes are listed', async () => {
  for (const argv of [[], ['--help'], ['help'], ['-h']]) {
    const { code, out } = await hanse(argv)
    assert.equal(code, 0)
    for (const command of commands) assert.match(out, new RegExp(`^  ${command} `, 'm'))
    assert.match(out, /Exit codes: 0 done/)
  }
})

for (const command of commands) {
  test(`hanse ${command} --help explains every option`, async () => {
    const { code, out } = await hanse([...command.split(' '), '--help'])

    assert.equal(code, 0)
    assert.match(out, new RegExp(`^Usage: hanse ${command}`))
    assert.match(out, /--help +this help/)
  })
}

test('an unknown command, option or a missing argument is exit 2 and says where help is', async () => {
  const unknown = await hanse(['stat'])
  const option = await hanse(['status', '--verbose'])
  const missing = await hanse(['send'])
  const family = await hanse(['peer'])

  assert.deepEqual([unknown.code, option.code, missing.code, family.code], [2, 2, 2, 2])
  assert.match(unknown.err, /no command "stat"/)
  assert.match(option.err, /hanse status --help/)
  assert.match(missing.err, /expected 1 argument, got 0/)
  assert.match(family.err, /peer invite/)
})

test('without a gateway the exit code is 3 and the next step is named', async t => {
  const data = await temporaryDir(t)

  const nowhere = await hanse(['status', '--data', data])
  const refused = await hanse(['status', '--check', '--url', 'http://127.0.0.1:9'])

  assert.deepEqual([nowhere.code, refused.code], [3, 3])
  assert.match(nowhere.err, /start one with "hanse start"/)
  assert.match(refused.err, /no answer from http:\/\/127\.0\.0\.1:9/)
})

test('what answers but is no gateway is named so', async t => {
  const { createServer } = await import('node:http')
  const server = createServer((_request, response) => response.end('<html>')).listen(0, '127.0.0.1')
  t.after(() => server.close())
  await new Promise(resolve => server.once('listening', resolve))
  const address = server.address()
  const port = address !== null && typeof address === 'object' ? address.port : 0

  const { code, err } = await hanse(['status', '--url', `http://127.0.0.1:${port}`])

  assert.equal(code, 3)
  assert.match(err, /does not answer like a Hanse gateway/)
})

test('config check prints the settings in use, or every problem with its place', async t => {
  const dir = await temporaryDir(t)
  const file = join(dir, 'hanse.json')
  writeFileSync(file, JSON.stringify({ dicom: { port: 11112 } }))

  const good = await hanse(['config', 'check', '--config', file, '--data', dir])
  const bad = await hanse(['config', 'check', '--config', file], {
    env: { HANSE_HTTP_PORT: 'x', HANSE_AE_TITLE: '' },
  })
  const worse = await hanse(['start', '--config', file], { env: { HANSE_HTTP_PORT: 'x', HANSE_SITE_NAME: ' ' } })

  assert.equal(good.code, 0)
  assert.equal(JSON.parse(good.out).dicom.port, 11112)
  assert.deepEqual([bad.code, worse.code], [2, 2])
  assert.match(bad.err, /HANSE_HTTP_PORT: expected a whole number/)
  assert.match(worse.err, /HANSE_HTTP_PORT[\s\S]*HANSE_SITE_NAME|HANSE_SITE_NAME[\s\S]*HANSE_HTTP_PORT/)
})

test('checks on a directory without a gateway’s data say so instead of making one', async t => {
  const data = await temporaryDir(t)

  for (const argv of [['fsck'], ['audit', 'verify']]) {
    const { code, err } = await hanse([...argv, '--data', data])
    assert.equal(code, 2)
    assert.match(err, /holds no gateway's data/)
  }
})

test('times are read with their unit, tables are aligned', () => {
  assert.deepEqual(['90s', '15m', '24h', '7d', '5', 'h', '-1h'].map(parseDuration), [
    90_000,
    900_000,
    86_400_000,
    604_800_000,
    undefined,
    undefined,
    undefined,
  ])
  assert.equal(
    table(
      ['name', 'n'],
      [
        ['a', '1'],
        ['long', '2'],
      ],
    ),
    'NAME  N\na     1\nlong  2',
  )
})

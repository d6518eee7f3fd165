/** The demo as its reader runs it, with both of its ends: everything is well, or it says what is not. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { temporaryDir } from '../support/blobs.ts'
import { corpusFolder, openCorpus } from '../support/corpus.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingSshd } from '../support/sshd.ts'

const launcher = join(import.meta.dirname, '../../gateway/hanse.mjs')

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
  /** What is left where it keeps its hospitals. */
  readonly left: readonly string[]
}

/** Runs `hanse demo` with a temporary directory of its own; `until` ends it with Ctrl-C once it is printed. */
async function demo(
  t: TestContext,
  args: readonly string[],
  options: { environment?: Record<string, string>; until?: RegExp } = {},
): Promise<Ended> {
  const dir = await temporaryDir(t)
  const env = { ...process.env, TMPDIR: dir, ...options.environment }
  const child = spawn(process.execPath, [launcher, 'demo', ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString()
    if (options.until?.test(stdout)) child.kill('SIGINT')
  })
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString()
  })
  t.after(() => child.kill('SIGINT'))
  await once(child, 'close')
  return { code: child.exitCode, stdout, stderr, left: await readdir(dir) }
}

function assertGood({ code, stdout, stderr, left }: Ended, instances: number): void {
  assert.equal(code, 0, `${stdout}\n${stderr}`)
  assert.match(stdout, /\d{6}-\d{6} on both sides/)
  for (const kind of ['accepted', 'custody', 'imported']) {
    assert.match(
      stdout,
      new RegExp(`${kind} +\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z +receipt [0-9a-f]{16}… signed by B, verified by A`),
    )
  }
  assert.match(stdout, new RegExp(`${instances} of ${instances} data sets are identical, byte for byte`))
  for (const site of ['A', 'B']) assert.match(stdout, new RegExp(`Hospital ${site} +intact, [1-9]\\d* events`))
  assert.match(stdout, /All of it arrived, unchanged, and both sides can prove it/)
  assert.deepEqual(left, [])
}

test('the demo sends a generated CT study to its end and leaves nothing', async t => {
  const ended = await demo(t, ['--once'])

  assertGood(ended, 60)
  // Elsewhere a folder takes its place, and the demo says so.
  if (!missingSshd) assert.match(ended.stdout, /host key SHA256:\S{43}, compared and confirmed/)
  assert.match(ended.stdout, /delivered, not acknowledged: 60 instances, 6\d files/)
  assert.match(ended.stdout, /none of 61 UIDs of A is in their bytes or names/)
})

test('the demo sends a real MR series', async t => {
  if (!openCorpus(t)) return
  assertGood(await demo(t, ['--once', join(corpusFolder(), 'series/mr-brain-t1w-pddl')]), 60)
})

test('files with one SOP Instance UID are told apart, and other files are left out', async t => {
  const folder = await temporaryDir(t)
  const sopInstanceUid = '2.25.1001'
  await writeFile(join(folder, 'one.dcm'), buildInstance({ seed: 1, sopInstanceUid }).bytes)
  await writeFile(join(folder, 'other.dcm'), buildInstance({ seed: 2, sopInstanceUid }).bytes)
  await writeFile(join(folder, 'more.dcm'), buildInstance({ seed: 3 }).bytes)
  await writeFile(join(folder, 'notes.txt'), 'no DICOM')

  const ended = await demo(t, ['--once', folder])

  assertGood(ended, 2)
  assert.match(ended.stdout, /left out: 1 file without a DICOM instance/)
  assert.match(ended.stdout, /1 held at A as conflicts/)
})

test('without --once both hospitals stay until Ctrl-C, which removes them', async t => {
  const ended = await demo(t, [], { until: /Ctrl-C stops and removes them/ })

  assertGood({ ...ended, left: [] }, 60)
  assert.match(ended.stdout, /curl http:\/\/127\.0\.0\.1:\d+\/studies/)
  assert.deepEqual(ended.left, [])
})

test('Ctrl-C in the middle stops and removes them', async t => {
  const { code, left } = await demo(t, ['--once'], { until: /2\. {2}Pair them/ })

  assert.equal(code, 130)
  assert.deepEqual(left, [])
})

test('a folder without DICOM files, or none at all, is told before anything starts', async t => {
  const folder = await temporaryDir(t)
  for (const [path, message] of [
    [folder, /there is no DICOM file in/],
    [join(folder, 'absent'), /cannot read the folder .*absent/],
  ] as const) {
    const { code, stdout, stderr } = await demo(t, ['--once', path])
    assert.equal(code, 2)
    assert.equal(stdout, '')
    assert.match(stderr, message)
  }
})

test('a hospital that does not start says why', async t => {
  const { code, stderr, left } = await demo(t, ['--once'], { environment: { HANSE_POSTGRES_BIN: '/nowhere' } })

  assert.equal(code, 1)
  assert.match(stderr, /no runnable postgres and initdb in \/nowhere/)
  assert.match(stderr, /hanse demo: Hospital [AB] ended while starting/)
  assert.doesNotMatch(stderr, /^ +at /m)
  assert.deepEqual(left, [])
})

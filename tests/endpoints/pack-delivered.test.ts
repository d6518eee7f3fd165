import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { deliverFiles } from '../../endpoints/delivery.ts'
import { openFolder } from '../../endpoints/folder.ts'
import { deliveryFolder } from '../../endpoints/pack/names.ts'
import { pack } from '../../endpoints/pack/pack.ts'
import { hanse } from '../cli/terminal.ts'
import { temporaryDir } from '../support/blobs.ts'
import { seededUid } from '../support/dicom-builder.ts'
import { testSite } from '../support/offers.ts'
import { newIdentity, noSignal, packJob, prepared } from '../support/packages.ts'

test('a delivery that is cut again and again arrives whole in each packaging, and is opened by its recipient', async t => {
  const [outbox, dir] = [await temporaryDir(t), await temporaryDir(t)]
  const { identity, recipient } = await newIdentity()
  await writeFile(join(dir, 'age.key'), identity)
  const signer = Buffer.from(testSite(7).signingKey).toString('base64')
  const objects = await Promise.all(
    Array.from({ length: 40 }, (_, n) => {
      const seriesInstanceUid = seededUid('series', n % 3)
      return prepared(outbox, { seed: n + 1, studyInstanceUid: seededUid('study', 1), seriesInstanceUid })
    }),
  )
  const encryption = { kind: 'age', recipients: [recipient] }
  const names = { template: '{protocol}/{site}/{subject}/{visit}/' }

  for (const [index, options] of [
    { unit: 'study', container: 'folder' },
    { unit: 'series', container: 'zip' },
    { unit: 'study', container: 'zip', encryption },
    { unit: 'series', container: 'folder', encryption },
    { unit: 'file', container: 'folder' },
  ].entries()) {
    const job = packJob({ ...options, names })
    const [root, work] = [join(dir, `root${index}`), join(dir, `work${index}`)]
    await mkdir(root)
    const folder = deliveryFolder(job.options.names, job.fields)
    const done = new Set<string>()
    let cuts = 0
    for (;;) {
      // As after a crash: packed again from what the work folder holds, until a whole run comes through.
      const files = await pack(objects, job, work, noSignal)
      const cut = new AbortController()
      let sent = 0
      const progress = {
        isDone: (name: string) => done.has(name),
        onDone: async ({ name }: { readonly name: string }) => void done.add(name),
        onSent: (bytes: number) => {
          sent += bytes
          if (cuts < 3 && sent > 60_000) cut.abort(new Error('cut'))
        },
        mayContinue: async () => true,
      }
      const open = () => openFolder({ kind: 'folder', root, can: undefined })
      const ended = await deliverFiles(open, folder, files, { parallel: 2 }, progress, cut.signal).catch(() => 'cut')
      if (ended === 'delivered') break
      cuts++
    }

    const out = join(dir, `out${index}`)
    const opened = await hanse(['open', folder, '--out', out, '--signer', signer, '--identity', join(dir, 'age.key')], {
      cwd: root,
    })

    assert.ok(cuts > 0)
    assert.deepEqual([opened.code, opened.err], [0, ''], opened.out)
    assert.match(opened.out, /40 objects, 0 failed/)
    const there = await readdir(out, { recursive: true, withFileTypes: true })
    const digests = new Set<string>()
    for (const entry of there.filter(one => one.isFile())) {
      const bytes = await readFile(join(entry.parentPath, entry.name))
      digests.add(createHash('sha256').update(bytes).digest('hex'))
    }
    for (const { sha256 } of objects) assert.ok(digests.has(sha256))
  }
})

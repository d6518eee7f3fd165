/** Run by a test on a volume of 12 MB (`argv[2]`): fills it, frees it, and prints what happened. */
import { createHash, randomBytes } from 'node:crypto'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { GatewayError } from '../../gateway/errors.ts'
import { openLog } from '../../gateway/log.ts'
import { openBlobs } from '../../gateway/store/blobs.ts'

const dir = process.argv[2] ?? ''
const log = openLog({ level: 'silent' })
const blobs = await openBlobs({ dir, log, freeSpace: { lowWatermarkBytes: 0 } })

async function store(): Promise<string> {
  try {
    const staged = await blobs.stage()
    for (let part = 0; part < 4; part += 1) await staged.append([randomBytes(300_000), randomBytes(212_000)])
    const file = await staged.finish()
    await blobs.commit(file)
    return 'stored'
  } catch (error) {
    return error instanceof GatewayError ? error.code : String(error)
  }
}

await writeFile(join(dir, 'other'), randomBytes(3_000_000))
let first = 'stored'
while (first === 'stored') first = await store()

const left = await readdir(join(dir, 'staging'), { recursive: true, withFileTypes: true })
const stagingFiles = left.filter(entry => entry.isFile()).length
let intact = true
for await (const { sha256 } of blobs.list()) {
  const digest = createHash('sha256')
    .update(await readFile(blobs.path(sha256)))
    .digest()
  if (!digest.equals(sha256)) intact = false
}
await rm(join(dir, 'other'))
const afterFreeing = await store()
process.stdout.write(JSON.stringify({ first, stagingFiles, intact, afterFreeing }))

/**
 * `npm run bench`: our gateway next to Orthanc and DCMTK's storescp in one run on one disk.
 *
 * Prints a table and writes JSON. Options: --quick (small, one round), --rounds N, --only
 * ingest|retrieve|query|transfer|deidentify|dicomweb|images|sftp, --targets hanse,orthanc,storescp,storescp+sync (needs cc), --out FILE (default bench-results.json),
 * --dir DIR (where all data are kept while it runs; default the system's temporary directory).
 */
import { spawnSync } from 'node:child_process'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { missing } from '../support/dcmtk.ts'
import { benchDeidentify } from './deidentify.ts'
import { benchDicomweb } from './dicomweb.ts'
import { gateway } from './gateway.ts'
import { benchImages } from './images.ts'
import { benchIngest } from './ingest.ts'
import type { WorkloadResult } from './measure.ts'
import { orthanc, orthancBinary } from './orthanc.ts'
import { benchQuery } from './query.ts'
import { renderJson, renderTable } from './report.ts'
import { benchRetrieve } from './retrieve.ts'
import { benchSftp } from './sftp.ts'
import { storescp, syncedStorescp } from './storescp.ts'
import { benchTransfer } from './transfer.ts'

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    only: { type: 'string' },
    targets: { type: 'string', default: 'hanse,orthanc,storescp' },
    out: { type: 'string', default: 'bench-results.json' },
    dir: { type: 'string', default: tmpdir() },
  },
})

const note = (line: string): void => console.error(line)

const absent = missing('dcmsend', 'storescp')
if (absent) {
  note(absent)
  process.exit(1)
}

const rounds = Number(values.rounds ?? (values.quick ? 1 : 3))
const names = values.targets.split(',')
const targets = [gateway, orthanc, storescp, syncedStorescp].filter(target => names.includes(target.name))
const directory = await mkdtemp(join(values.dir, 'hanse-bench-'))
// As root the database runs as another user; where that one cannot pass it would lie on another disk.
await chmod(directory, 0o755)
const results: WorkloadResult[] = []
try {
  const isWanted = (part: string): boolean => values.only === undefined || values.only === part
  if (isWanted('deidentify')) {
    const instances = values.quick ? 200 : 1_000
    results.push(await benchDeidentify(directory, names, { instances, rounds }, note))
  }
  if (isWanted('ingest')) {
    const plan = values.quick
      ? { largeInstances: 200, smallInstances: 1_000, rounds }
      : { largeInstances: 1_000, smallInstances: 5_000, rounds }
    results.push(...(await benchIngest(directory, targets, plan, note)))
  }
  if (isWanted('retrieve')) {
    const instances = values.quick ? 100 : 300
    results.push(...(await benchRetrieve(directory, names, { instances, rounds }, note)))
  }
  if (isWanted('transfer')) {
    const instances = values.quick ? 100 : 300
    results.push(await benchTransfer(directory, names, { instances, rounds }, note))
  }
  if (isWanted('query')) {
    const plan = values.quick ? { studies: 500, queries: 50, rounds } : { studies: 2_000, queries: 200, rounds }
    results.push(...(await benchQuery(directory, names, plan, note)))
  }
  if (isWanted('images')) {
    const plan = values.quick ? { instances: 60, rounds, share: 0.2 } : { instances: 300, rounds, share: 1 }
    results.push(...(await benchImages(directory, names, plan, note)))
  }
  if (isWanted('sftp')) {
    const result = await benchSftp(directory, { instances: values.quick ? 100 : 300, rounds }, note)
    if (result) results.push(result)
  }
  if (isWanted('dicomweb')) {
    const plan = values.quick
      ? { studies: 2_000, queries: 10, instances: 50, rounds }
      : { studies: 2_000, queries: 40, instances: 300, rounds }
    results.push(...(await benchDicomweb(directory, names, plan, note)))
  }
} finally {
  await rm(directory, { recursive: true, force: true, maxRetries: 5 })
}

console.log(renderTable(results))
const surroundings = {
  date: new Date().toISOString(),
  processors: availableParallelism(),
  versions: { node: process.version, orthanc: versionOf(orthancBinary()), dcmtk: versionOf('storescp') },
}
await writeFile(values.out, `${renderJson(results, surroundings)}\n`)
note(`written to ${values.out}`)

function versionOf(command: string): string {
  const { stdout } = spawnSync(command, ['--version'], { encoding: 'utf8' })
  return /\d+\.\d+(\.\d+)?/.exec(stdout ?? '')?.[0] ?? 'not installed'
}

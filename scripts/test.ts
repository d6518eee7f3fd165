/**
 * The README's test command: installs the peers that the tests talk to where it may, then runs them.
 *
 *   npm test [-- FILE...]      all tests, or the named files
 *   npm run soak               the same with long soaks and large fuzz counts
 */
import { spawnSync } from 'node:child_process'
import { globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ensureTools } from './system-tools.ts'

const args = process.argv.slice(2)
const isCi = Boolean(process.env['CI'])
if (args.includes('--soak')) process.env['HANSE_SOAK'] = '1'
const named = args.filter(arg => !arg.startsWith('--'))

const missing = ensureTools()
if (missing.length > 0 && isCi) {
  console.error(`missing in CI: ${missing.join(', ')}`)
  process.exit(1)
}

const files = named.length > 0 ? named : globSync('tests/**/*.test.ts').sort()
const scratch = mkdtempSync(join(tmpdir(), 'hanse-test-'))
const tap = join(scratch, 'results.tap')
const run = spawnSync(
  process.execPath,
  [
    '--test',
    '--test-concurrency=2',
    '--test-timeout=900000',
    '--test-reporter=spec',
    '--test-reporter-destination=stdout',
    '--test-reporter=tap',
    `--test-reporter-destination=${tap}`,
    ...files,
  ],
  { stdio: 'inherit', env: { ...process.env, TCP_NODELAY: '1' } },
)
const skipped = Number(/^# skipped (\d+)$/m.exec(readFileSync(tap, 'utf8'))?.[1] ?? 0)
rmSync(scratch, { recursive: true, force: true })

if (run.status === 0 && isCi && skipped > 0) {
  console.error(`${skipped} tests were skipped; in CI none may be`)
  process.exit(1)
}
process.exit(run.status ?? 1)

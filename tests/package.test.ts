/** What is published must run where it is installed: inside node_modules, where Node strips no types. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { buildInstance } from './support/dicom-builder.ts'

const root = join(import.meta.dirname, '..')

/** The codec threads load their entry and their WebAssembly by paths, which no import checks. */
const transcoding = `
import { readFileSync } from 'node:fs'
import { bufferSource } from 'hanse/gateway/dicom/byte-source.js'
import { openPixels } from 'hanse/gateway/pixels/pixels.js'
const dir = process.argv[2]
const pixels = await openPixels({ dir: dir + '/spool' })
const source = bufferSource(readFileSync(dir + '/image.dcm'))
const { signal } = new AbortController()
const result = await pixels.transcode(source, '1.2.840.10008.1.2.1', '1.2.840.10008.1.2.4.80', signal)
process.stdout.write(result.transferSyntaxUid)
await result.close()
await pixels.close()
`

test('the published package ships stripped JavaScript and its command runs from node_modules', t => {
  const dir = mkdtempSync(join(tmpdir(), 'hanse-package-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  execFileSync(process.execPath, [join(root, 'scripts/build-package.ts'), join(dir, 'dist')])
  const packed = execFileSync('npm', ['pack', '--json', join(dir, 'dist')], { cwd: dir, encoding: 'utf8' })
  const tarball = readdirSync(dir).find(name => name.endsWith('.tgz'))
  assert.ok(tarball, packed)

  // Installed beside the locked dependencies, as `npm install hanse` would.
  const modules = join(dir, 'site/node_modules')
  mkdirSync(join(modules, 'hanse'), { recursive: true })
  execFileSync('tar', ['-xzf', join(dir, tarball), '--strip-components=1', '-C', join(modules, 'hanse')])
  for (const name of readdirSync(join(root, 'node_modules'))) {
    if (!name.startsWith('.') && name !== 'hanse') symlinkSync(join(root, 'node_modules', name), join(modules, name))
  }
  const manifest = JSON.parse(readFileSync(join(modules, 'hanse/package.json'), 'utf8'))
  const help = spawnSync(process.execPath, [join(modules, 'hanse', manifest.bin.hanse), '--help'], { encoding: 'utf8' })

  writeFileSync(join(dir, 'image.dcm'), buildInstance().bytes)
  writeFileSync(join(dir, 'site/transcode.mjs'), transcoding)
  const threads = spawnSync(process.execPath, [join(dir, 'site/transcode.mjs'), dir], { encoding: 'utf8' })

  assert.equal(threads.stdout, '1.2.840.10008.1.2.4.80', threads.stderr)
  assert.equal(help.status, 0, help.stderr)
  assert.match(help.stdout, /start +run the gateway/)
  assert.equal(existsSync(join(modules, 'hanse/gateway/cli.ts')), false)
  assert.equal(existsSync(join(modules, 'hanse/LICENSE')), true)
})

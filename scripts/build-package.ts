/**
 * Builds what is published: the sources with their types stripped, because Node refuses type
 * stripping inside node_modules. Nothing is compiled or bundled; lines and columns stay as they are.
 *
 *   node scripts/build-package.ts [OUT]      default dist/
 */
import { cpSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { dirname, join, resolve } from 'node:path'

const root = join(import.meta.dirname, '..')
const out = resolve(process.argv[2] ?? join(root, 'dist'))

rmSync(out, { recursive: true, force: true })
for (const file of globSync(
  ['gateway/**/*.ts', 'peers/**/*.ts', 'policy/**/*.ts', 'endpoints/**/*.ts', 'certs/**/*.ts'],
  { cwd: root },
)) {
  const stripped = stripTypeScriptTypes(readFileSync(join(root, file), 'utf8'))
  const code = stripped.replaceAll(/((?:from|import)\s*\(?\s*'\.[^'\n]*)\.ts'/g, "$1.js'")
  write(file.replace(/\.ts$/, '.js'), code)
}
const kept = [
  'gateway/**/*.{mjs,json,md}',
  'peers/**/*.{json,md}',
  'policy/**/*.{json,md,conf,csv}',
  'endpoints/**/*.{json,md}',
  'deploy/**/*',
]
for (const file of [
  ...globSync(kept, { cwd: root, exclude: ['**/node_modules/**'] }),
  'README.md',
  'CHANGELOG.md',
  'LICENSE',
]) {
  mkdirSync(dirname(join(out, file)), { recursive: true })
  cpSync(join(root, file), join(out, file), { recursive: true })
}

const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const { scripts: _scripts, devDependencies: _development, ...published } = manifest
write('package.json', `${JSON.stringify({ ...published, bin: { hanse: 'gateway/hanse.mjs' } }, null, 2)}\n`)

function write(file: string, text: string): void {
  const path = join(out, file)
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text)
}

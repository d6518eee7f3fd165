/**
 * Reads every import and fails on an arrow that the layers do not allow, on a cycle, and on a
 * package imported outside its fence. The layers are those of gateway/ARCHITECTURE.md.
 */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { test } from 'node:test'

const root = join(import.meta.dirname, '..')

/** First match wins. `pure` files may not touch the database, the file system or the network. */
const layers: readonly { readonly layer: number; readonly pure?: boolean; readonly files: RegExp }[] = [
  { layer: 0, pure: true, files: /^gateway\/(dicom|zip)\// },
  { layer: 0, files: /^gateway\/(errors|decode|log|config|principal|version)\.ts$/ },
  {
    layer: 1,
    pure: true,
    files:
      /^policy\/(actions|document|conditions|decide|agreements|lint|diff|trial-protocol|protocol-check)\.ts$|^policy\/deid\//,
  },
  {
    layer: 1,
    pure: true,
    files:
      /^peers\/(manifest|manifest-decoder|manifest-message|offer|offer-state|cancel|identifying|seal|receipt|envelope|card|fields|leaves|bitmap|json|sodium|clock)\.ts$|^certs\//,
  },
  { layer: 1, files: /^gateway\/(db|store|jobs|audit|pixels)\// },
  {
    layer: 2,
    files: /^gateway\/services\/|^peers\/(carrier|carrier-opener|https-client|https-carrier|range-sender)\.ts$/,
  },
  { layer: 3, files: /^peers\/server[\w-]*\.ts$|^gateway\/(dimse|http|hl7)\// },
  { layer: 1, files: /^(policy|peers|endpoints)\// },
  { layer: 4, files: /^gateway\/(main|cli|run-files)\.ts$|^gateway\/(cli|main)\// },
]

/** Packages that only these files may import. */
const fences: Readonly<Record<string, RegExp>> = {
  'dcmjs-dimse': /^gateway\/dimse\//,
  dcmjs: /^gateway\/dimse\//,
  sharp: /^gateway\/pixels\//,
  'dcmjs-codecs': /^gateway\/pixels\//,
  piscina: /^gateway\/pixels\//,
  pg: /^gateway\/(db\/|jobs\/session)/,
  kysely: /^gateway\/(db|store|audit|jobs|services)\/|^policy\/versions|^peers\/(registry|pairing)/,
  'pg-boss': /^gateway\/jobs\//,
  casbin: /^policy\/authorize/,
  'node-forge': /^certs\//,
  'libsodium-wrappers': /^peers\/sodium\.ts$/,
  undici: /^peers\//,
  'fast-xml-parser': /^gateway\/dicom\//,
  yauzl: /^gateway\/services\/zip-upload\.ts$/,
  ssh2: /^endpoints\/sftp/,
  'basic-ftp': /^endpoints\/ftp/,
  '@aws-sdk/client-s3': /^endpoints\/s3/,
  '@aws-sdk/lib-storage': /^endpoints\/s3/,
  'age-encryption': /^endpoints\/pack/,
  openpgp: /^endpoints\/pack/,
  '@tus/server': /^gateway\/http\//,
  '@tus/file-store': /^gateway\/http\//,
  fastify: /^gateway\/http\/|^peers\/server/,
}

/** node:net only for isIP: sockets come from the others. */
const impureModules = /^node:(fs|tls|http|https|http2|dgram|child_process|worker_threads)/

interface Import {
  readonly specifier: string
  readonly target: string | undefined
  readonly typeOnly: boolean
}

const files = globSync(['gateway/**/*.ts', 'peers/**/*.ts', 'policy/**/*.ts', 'endpoints/**/*.ts', 'certs/**/*.ts'], {
  cwd: root,
}).sort()
const imports = new Map(files.map(file => [file, readImports(file)]))

function readImports(file: string): Import[] {
  const text = readFileSync(join(root, file), 'utf8')
  const out: Import[] = []
  for (const match of text.matchAll(/^(?:import|export)\s+(type\s+)?(?:[^'"`;]*?\sfrom\s+)?'([^']+)'/gm)) {
    const specifier = match[2] ?? ''
    out.push({
      specifier,
      target: specifier.startsWith('.') ? normalize(join(dirname(file), specifier)) : undefined,
      typeOnly: match[1] !== undefined,
    })
  }
  for (const match of text.matchAll(/\bimport\('([^']+)'\)/g)) {
    const specifier = match[1] ?? ''
    out.push({
      specifier,
      target: specifier.startsWith('.') ? normalize(join(dirname(file), specifier)) : undefined,
      typeOnly: false,
    })
  }
  return out
}

const layerOf = (file: string) => layers.find(entry => entry.files.test(file))

test('every source file has a layer', () => {
  assert.deepEqual(
    files.filter(file => !layerOf(file)),
    [],
  )
})

test('imports only point down the layers', () => {
  const wrong: string[] = []
  for (const [file, list] of imports) {
    const from = layerOf(file)
    for (const { target, typeOnly } of list) {
      if (!target || !from) continue
      const to = layerOf(target)
      if (!to) {
        wrong.push(`${file} -> ${target} (outside the layers)`)
        continue
      }
      const isSideways =
        from.layer === 3 && to.layer === 3 && dirname(file).split('/')[1] !== dirname(target).split('/')[1]
      if (to.layer > from.layer || isSideways || (from.pure && !typeOnly && to.layer > 0 && !to.pure))
        wrong.push(`${file} -> ${target}`)
    }
  }
  assert.deepEqual(wrong, [])
})

test('pure files touch neither database nor file system nor network', () => {
  const wrong: string[] = []
  for (const [file, list] of imports) {
    if (!layerOf(file)?.pure) continue
    for (const { specifier, typeOnly } of list)
      if (impureModules.test(specifier) && !typeOnly) wrong.push(`${file} -> ${specifier}`)
  }
  assert.deepEqual(wrong, [])
})

test('packages stay inside their fences', () => {
  const wrong: string[] = []
  for (const [file, list] of imports) {
    for (const { specifier } of list) {
      const name = specifier.startsWith('@')
        ? specifier.split('/').slice(0, 2).join('/')
        : (specifier.split('/')[0] ?? '')
      const fence = fences[name]
      if (fence && !fence.test(file)) wrong.push(`${file} -> ${specifier}`)
    }
  }
  assert.deepEqual(wrong, [])
})

test('there are no import cycles', () => {
  const state = new Map<string, 'open' | 'done'>()
  const cycles: string[] = []
  const visit = (file: string, path: readonly string[]): void => {
    if (state.get(file) === 'done') return
    if (state.get(file) === 'open') {
      cycles.push([...path.slice(path.indexOf(file)), file].join(' -> '))
      return
    }
    state.set(file, 'open')
    for (const { target, typeOnly } of imports.get(file) ?? []) if (target && !typeOnly) visit(target, [...path, file])
    state.set(file, 'done')
  }
  for (const file of files) visit(file, [])
  assert.deepEqual(cycles, [])
})

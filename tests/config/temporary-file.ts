import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A file in a directory of its own that goes away with its scope. */
export function temporaryFile(content: string): { readonly path: string } & Disposable {
  const dir = mkdtempSync(join(tmpdir(), 'hanse-file-'))
  const path = join(dir, 'file.json')
  writeFileSync(path, content)
  return { path, [Symbol.dispose]: () => rmSync(dir, { recursive: true }) }
}

/** Paths at an endpoint, and what it can do with them. */
import { GatewayError } from '../gateway/errors.ts'
import type { FileAbilities } from './file-store.ts'
import type { Limits } from './place.ts'

/** The path below a root, whose own slashes at the end do not count. @throws GatewayError ENDPOINT_UNSUPPORTED for a path that leaves it */
export function pathBelow(root: string, path: string): string {
  const parts = path.split('/').filter(part => part !== '' && part !== '.')
  if (parts.includes('..') || path.includes('\0') || path.includes('\\'))
    throw new GatewayError('ENDPOINT_UNSUPPORTED', 'a path may not leave the folder of its endpoint')
  const base = root.replace(/\/+$/, '')
  if (parts.length === 0) return root === '' ? '.' : base || '/'
  return root === '' ? parts.join('/') : `${base}/${parts.join('/')}`
}

/** The folder above; empty at the top. */
export function folderOf(path: string): string {
  return path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : ''
}

/** What a protocol can do, less what the endpoint was set not to. */
export function abilitiesOf(can: FileAbilities, limits: Limits | undefined): FileAbilities {
  return {
    resume: can.resume && limits?.resume !== false,
    rename: can.rename && limits?.rename !== false,
    list: can.list && limits?.list !== false,
    remove: can.remove && limits?.remove !== false,
  }
}

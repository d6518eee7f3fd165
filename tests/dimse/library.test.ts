import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { Socket } from 'node:net'
import { test } from 'node:test'
import dimse from 'dcmjs-dimse'

/**
 * The classes that `upper-layer.ts` and its subclasses build on, as sources: their private methods
 * are overridden or relied on. When a digest changes, read the new code: does the constructor call
 * `_wrapSocket` and set nothing else up? do the senders of association PDUs write one PDU through
 * `_sendPdu`, and no more? are contexts still kept in `presentationContexts` with the id given?
 */
const digests: Readonly<Record<string, string>> = {
  Association: 'd971afcab0e1e5d7',
  Network: 'f4d8336ecfb7a90f',
  PresentationContext: 'ec2031d859ee6c4a',
  Scp: '63d5770ca6bebcd1',
}

test('the version of dcmjs-dimse is pinned and the one that is installed', async () => {
  const manifest: unknown = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8'))

  assert.ok(typeof manifest === 'object' && manifest && 'dependencies' in manifest)
  assert.deepEqual({ ...Object(manifest.dependencies) }['dcmjs-dimse'], dimse.version)
  assert.equal(dimse.version, '0.3.3')
})

test('the classes of dcmjs-dimse that are overridden or relied on are the ones that were read', () => {
  assert.deepEqual(
    {
      Association: digest(dimse.association.Association),
      Network: digest(Object.getPrototypeOf(dimse.Scp)),
      PresentationContext: digest(dimse.association.PresentationContext),
      Scp: digest(dimse.Scp),
    },
    digests,
  )
})

test('the constructor of Scp leaves the socket to _wrapSocket', () => {
  class Silent extends dimse.Scp {
    _wrapSocket(): void {}
  }
  const socket = new Socket()

  const scp = new Silent(socket)

  assert.deepEqual(
    socket.eventNames().filter(name => name !== 'end'),
    [],
  )
  assert.equal(Reflect.get(scp, 'socket'), socket)
})

function digest(code: unknown): string {
  assert.equal(typeof code, 'function')
  return createHash('sha256').update(Function.prototype.toString.call(code)).digest('hex').slice(0, 16)
}

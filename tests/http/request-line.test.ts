import assert from 'node:assert/strict'
import { test } from 'node:test'
import { outputOf } from '../../gateway/http/orthanc/scripts.ts'
import { orderSlices, type Slice } from '../../gateway/http/orthanc/slices.ts'
import { requestLine } from '../../gateway/http/request-line.ts'

test('slashes and methods of a request line are read as they are meant', () => {
  const routed = (method: string, url: string, headers = {}): string => {
    const request = { method, url, headers }
    return `${requestLine(request)} ${request.method}`
  }
  const override = { 'x-http-method-override': 'DELETE' }
  assert.deepEqual(
    [
      routed('GET', '//patients/'),
      routed('GET', '/instances/a/attachments/dicom//data?x=//'),
      routed('GET', '/'),
      routed('GET', '/app/'),
      routed('GET', '/patients/a/protected?_method=PUT'),
      routed('GET', '/patients?not_method=PUT'),
      routed('GET', '/patients/b?_method=DELETE', { 'user-agent': 'Mozilla/5.0' }),
      routed('POST', '/patients/a', override),
      routed('GET', '/patients/a', override),
      routed('POST', '/patients/a', { 'x-http-method-override': 'TRACE' }),
    ],
    [
      '/patients GET',
      '/instances/a/attachments/dicom/data?x=// GET',
      '/ GET',
      '/app/ GET',
      '/patients/a/protected?_method=PUT PUT',
      '/patients?not_method=PUT GET',
      '/patients/b?_method=DELETE GET',
      '/patients/a DELETE',
      '/patients/a GET',
      '/patients/a POST',
    ],
  )
})

test('a script that has no effect here succeeds, any other is refused', () => {
  assert.equal(outputOf('function OnStoredInstance(id, tags, ...) end'), '')
  assert.equal(outputOf('-- nothing\nfunction IsRleTransferSyntaxAccepted(aet, ip)\n  return true\nend\n'), '')
  assert.equal(outputOf('print(42); print("a")'), '42\na\n')
  for (const script of [
    'print(os.time())',
    'function OnStoredInstance(id) Delete(id) end',
    'function ReceivedInstanceFilter() return false end',
    'aet = 1',
    `print(${'1'.repeat(20_000)})`,
  ]) {
    assert.throws(() => outputOf(script), { code: 'FORBIDDEN' })
  }
})

test('slices are ordered along the normal of their plane, else by number', () => {
  const slice = (id: string, z: number | undefined, index: number | undefined): Slice => ({
    id,
    frames: 1,
    position: z === undefined ? undefined : [0, 0, z],
    index,
  })
  const axial = [1, 0, 0, 0, 1, 0]
  const order = (slices: readonly Slice[], plane: readonly number[] | undefined): string => {
    const { isVolume, ordered } = orderSlices(slices, plane)
    return `${isVolume} ${ordered.map(({ id }) => id).join('')}`
  }
  assert.equal(order([slice('a', 2, 1), slice('b', -1, 2), slice('c', 1, 3)], axial), 'true bca')
  assert.equal(order([slice('a', 2, 1), slice('b', -1, 2)], axial.toReversed()), 'false ab')
  assert.equal(order([slice('a', 2, 3), slice('b', 2, 2)], axial), 'false ba')
  assert.equal(order([slice('a', undefined, 3), slice('b', 2, 2)], axial), 'false ba')
  assert.equal(order([slice('a', 2, 3)], undefined), 'false a')
  assert.throws(() => order([slice('a', 2, undefined), slice('b', 2, 2)], undefined), { code: 'STATE_CONFLICT' })
})

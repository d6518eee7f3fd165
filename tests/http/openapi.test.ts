import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { startProcessGateway } from '../support/process-gateway.ts'

/** Every `$ref` below a node. */
function references(node: unknown): string[] {
  if (Array.isArray(node)) return node.flatMap(references)
  if (!isObject(node)) return []
  const own = typeof node['$ref'] === 'string' ? [node['$ref']] : []
  return [...own, ...Object.values(node).flatMap(references)]
}

const resolve = (document: unknown, reference: string): unknown =>
  reference
    .replace(/^#\//, '')
    .split('/')
    .reduce<unknown>((inner, key) => (isObject(inner) ? inner[key] : undefined), document)

/** What answers otherwise to a bare GET of a gateway that has just been started. */
const needsMore: Readonly<Record<string, number>> = {
  // No checkpoint may have been made yet.
  '/api/v1/audit/checkpoint': 404,
  // Without a level, as Orthanc.
  '/tools/generate-uid': 404,
  // Nothing is named.
  '/wado': 400,
}

test('the OpenAPI document describes every route, its references resolve, and its GET routes answer', async t => {
  const gateway = await startProcessGateway(t, 'openapi')
  const document = await gateway.api('GET', '/api/v1/openapi.json')
  assert.equal(document['openapi'], '3.1.0')
  const paths = isObject(document['paths']) ? document['paths'] : {}

  for (const reference of references(document)) assert.ok(resolve(document, reference), reference)
  for (const [path, methods] of Object.entries(paths)) {
    assert.ok(isObject(methods))
    for (const [method, operation] of Object.entries(methods)) {
      assert.ok(isObject(operation))
      assert.ok(Array.isArray(operation['tags']) && operation['tags'].length === 1, `${method} ${path} has a tag`)
      assert.ok(operation['summary'], `${method} ${path} has a summary`)
    }
    if (!isObject(methods['get']) || path.includes('{') || path.includes('explain')) continue
    const answer = await fetch(`${gateway.url}${path}`)
    await answer.body?.cancel()
    assert.ok(answer.ok || answer.status === needsMore[path], `${path}: ${answer.status}`)
  }
  assert.ok(Object.keys(paths).length > 30)
})

test('errors of the API are problem documents, whatever is wrong', async t => {
  const gateway = await startProcessGateway(t, 'problems')
  const ask = async (method: string, path: string, body?: string) => {
    const answer = await fetch(`${gateway.url}/api/v1${path}`, {
      method,
      ...(body !== undefined && { body, headers: { 'content-type': 'application/json' } }),
    })
    const problem: unknown = await answer.json()
    assert.match(answer.headers.get('content-type') ?? '', /^application\/problem\+json/, `${method} ${path}`)
    assert.ok(isObject(problem) && problem['status'] === answer.status)
    return answer.status
  }
  const id = '00000000-0000-4000-8000-000000000000'

  assert.deepEqual(
    await Promise.all([
      ask('GET', '/nothing'),
      ask('GET', '/transfers/not-a-uuid'),
      ask('GET', `/transfers/${id}`),
      ask('GET', '/transfers?limit=0'),
      ask('GET', '/transfers?cursor=x'),
      ask('GET', '/transfers?state=planned&state=sent&unknown=1'),
      ask('POST', '/transfers', '{"study":"1.2.3"}'),
      ask('POST', '/transfers', '{"study":"1.2.3","destination":"x"}'),
      ask('POST', '/transfers', '{'),
      ask('POST', `/transfers/${id}/cancel`),
      ask('POST', `/transfers/${id}/retry`),
      ask('POST', `/transfers/${id}/release`),
      ask('POST', `/transfers/${id}/reject`),
      ask('GET', `/transfers/${id}/receipts/imported`),
      ask('GET', `/peers/${id}`),
      ask('POST', `/peers/${id}/confirm`, '{"sas":"1"}'),
      ask('POST', `/peers/${id}/revoke`),
      ask('POST', '/peers/accept', '{"invitation":{}}'),
      ask('POST', '/peers/handovers', '{"handover":{}}'),
      ask('PUT', '/policy', '{"rules":1}'),
      ask('GET', '/policy/versions/99'),
      ask('GET', '/policy/versions/0'),
      ask('GET', '/policy/explain?study=1.2.3'),
      ask('GET', '/conflicts/99999999999999999999'),
      ask('POST', '/tokens', '{"name":"../x"}'),
      ask('DELETE', '/tokens/none'),
      ask('GET', '/audit/events?limit=5000'),
      ask('GET', '/audit/events?before=1e30'),
    ]),
    [
      ...[404, 400, 404, 400, 400, 400, 400, 404, 400],
      ...[404, 404, 404, 404, 404],
      ...[404, 404, 404, 403, 403],
      ...[400, 404, 400, 404, 400, 400, 404, 400, 400],
    ],
  )
})

test('the audit log is read page by page, and reading is in it', async t => {
  const gateway = await startProcessGateway(t, 'audit')
  interface Page {
    readonly events: readonly { readonly id: number; readonly event: { readonly event: string } }[]
  }

  const first = await gateway.api<Page>('GET', '/api/v1/audit/events?limit=1')
  const last = first.events.at(-1)?.id ?? 0
  const older = await gateway.api<Page>('GET', `/api/v1/audit/events?limit=10&before=${last}`)
  const newest = await gateway.api<Page>('GET', '/api/v1/audit/events?limit=1')
  const checkpoint = await gateway.api<{ size: number; root: string }>('POST', '/api/v1/audit/checkpoint')

  assert.ok(older.events.every(event => event.id < last))
  assert.equal(newest.events[0]?.event.event, '110101')
  assert.ok(checkpoint.size >= 3)
  assert.match(checkpoint.root, /^[0-9a-f]{64}$/)
  assert.deepEqual(await gateway.api('GET', '/api/v1/audit/checkpoint'), checkpoint)
})

/** Roles against a running gateway: every documented route, asked by everybody. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { routeAction } from '../../gateway/http/route-actions.ts'
import { type Action, actions, roles } from '../../policy/actions.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'

/** Who else than the administrator; what stands in the tables of the gateway is not asked. */
const table: Readonly<Record<Action, string>> = {
  'site.read': 'viewer clinician trial-coordinator policy-author policy-publisher auditor',
  'study.search': 'viewer clinician trial-coordinator',
  'study.read': 'viewer clinician trial-coordinator',
  'study.store': 'clinician trial-coordinator',
  'study.annotate': 'clinician trial-coordinator',
  'study.modify': '',
  'study.deidentify': 'trial-coordinator',
  'study.delete': '',
  'study.send': 'clinician trial-coordinator',
  'transfer.read': 'clinician trial-coordinator policy-author policy-publisher auditor',
  'transfer.cancel': 'clinician trial-coordinator',
  'transfer.retry': 'clinician trial-coordinator',
  'transfer.decide': 'trial-coordinator',
  'quarantine.read': 'trial-coordinator auditor',
  'quarantine.decide': 'trial-coordinator',
  'recall.read': 'clinician trial-coordinator auditor',
  'recall.start': 'clinician trial-coordinator',
  'recall.decide': '',
  'conflict.read': 'clinician auditor',
  'conflict.decide': '',
  'job.read': 'viewer clinician trial-coordinator auditor',
  'job.control': 'clinician trial-coordinator',
  'patient.link': 'clinician',
  'worklist.read': 'viewer clinician trial-coordinator',
  'worklist.write': 'clinician',
  'procedure.read': 'viewer clinician trial-coordinator',
  'procedure.report': '',
  'commitment.read': 'clinician auditor',
  'commitment.request': 'clinician',
  'commitment.remove': '',
  'modality.read': 'clinician trial-coordinator policy-author policy-publisher auditor',
  'modality.query': 'clinician',
  'modality.retrieve': 'clinician',
  'modality.manage': '',
  'endpoint.read': 'trial-coordinator policy-author policy-publisher auditor',
  'endpoint.manage': '',
  'endpoint.acknowledge': 'trial-coordinator',
  'trial.read': 'trial-coordinator auditor',
  'trial.manage': 'trial-coordinator',
  'trial.delegate': '',
  'trial.upload': 'trial-coordinator',
  'trial.approve': 'trial-coordinator',
  'trial.identify': 'trial-coordinator',
  'peer.read': 'clinician trial-coordinator policy-author policy-publisher auditor',
  'peer.manage': '',
  'policy.read': 'trial-coordinator policy-author policy-publisher auditor',
  'policy.dry-run': 'policy-author policy-publisher',
  'policy.draft': 'policy-author',
  'policy.publish': 'policy-publisher',
  'consent.read': 'clinician trial-coordinator auditor',
  'consent.write': 'clinician trial-coordinator',
  'pseudonym.read': 'trial-coordinator',
  'pseudonym.write': 'trial-coordinator',
  'pseudonym.reidentify': 'trial-coordinator',
  'retention.read': 'auditor',
  'retention.manage': '',
  'hold.manage': '',
  'audit.read': 'auditor',
  'token.manage': '',
  'store.verify': '',
  'gateway.administer': '',
}

/** What routes are for; of each kind some. */
const examples: readonly (readonly [string, string, Action])[] = [
  ['GET', '/system', 'site.read'],
  ['GET', '/metrics', 'site.read'],
  ['GET', '/api/v1/status', 'site.read'],
  ['GET', '/patients', 'study.read'],
  ['GET', '/studies/:id', 'study.read'],
  ['HEAD', '/instances/:id/file', 'study.read'],
  ['POST', '/studies/:id/archive', 'study.read'],
  ['POST', '/instances', 'study.store'],
  ['POST', '/dicom-web/studies', 'study.store'],
  ['POST', '/dicom-web/studies/:study', 'study.store'],
  ['GET', '/dicom-web/studies', 'study.read'],
  ['DELETE', '/studies/:id', 'study.delete'],
  ['PUT', '/studies/:id/labels/:label', 'study.annotate'],
  ['DELETE', '/studies/:id/metadata/:name', 'study.annotate'],
  ['POST', '/studies/:id/anonymize', 'study.deidentify'],
  ['POST', '/studies/:id/modify', 'study.modify'],
  ['POST', '/tools/find', 'study.search'],
  ['POST', '/tools/bulk-delete', 'study.delete'],
  ['POST', '/modalities/:id/store', 'study.send'],
  ['POST', '/modalities/:id/echo', 'modality.query'],
  ['PUT', '/modalities/:id', 'modality.manage'],
  ['POST', '/peers/:id/store', 'study.send'],
  ['GET', '/jobs/:id', 'job.read'],
  ['POST', '/jobs/:id/cancel', 'job.control'],
  ['DELETE', '/changes', 'gateway.administer'],
  ['PUT', '/somewhere/new', 'gateway.administer'],
  ['POST', '/api/v1/transfers', 'study.send'],
  ['POST', '/api/v1/transfers/:id/cancel', 'transfer.cancel'],
  ['POST', '/api/v1/transfers/:id/release', 'transfer.decide'],
  ['GET', '/api/v1/audit/events', 'audit.read'],
  ['POST', '/api/v1/tokens', 'token.manage'],
  ['GET', '/api/v1/tokens', 'token.manage'],
  ['POST', '/api/v1/peers/:id/confirm', 'peer.manage'],
  ['PUT', '/api/v1/trials/:name', 'trial.manage'],
  ['POST', '/api/v1/trials/:name/uploads', 'trial.upload'],
  ['POST', '/api/v1/trials/:name/uploads/:id/send', 'trial.approve'],
  ['POST', '/api/v1/trials/:name/delegations', 'trial.delegate'],
  ['GET', '/api/v1/trials/:name/subjects/:code/log.html', 'trial.identify'],
  ['PUT', '/api/v1/policy', 'policy.publish'],
  ['POST', '/api/v1/policies/drafts', 'policy.draft'],
  ['POST', '/api/v1/policies/drafts/:id/publish', 'policy.publish'],
  ['POST', '/api/v1/worklist/search', 'worklist.read'],
  ['PUT', '/api/v1/worklist/:id', 'worklist.write'],
  ['POST', '/api/v1/conflicts/:id/decision', 'conflict.decide'],
  ['GET', '/api/v1/modality-jobs', 'job.read'],
  ['POST', '/api/v1/modalities/:name/store', 'study.send'],
]

/** What the gateway does for nobody. */
const refusedToAll = /^POST \/tools\/(execute-script|reset|shutdown)$/

/** Documented routes that are the administrator's because nothing else fits. */
const administratorsOnly =
  /^(\w+ \/api\/v1\/imports|DELETE \/(changes|exports)|(PUT|POST) \/tools\/|POST \/(patients|studies|series|instances)\/\{id\}\/reconstruct)/

interface Operation {
  readonly method: string
  readonly path: string
  readonly action: Action
}

async function operationsOf(gateway: ProcessGateway): Promise<Operation[]> {
  const { paths } = await gateway.api('GET', '/api/v1/openapi.json')
  return Object.entries(isObject(paths) ? paths : {}).flatMap(([path, methods]) =>
    Object.entries(isObject(methods) ? methods : {}).map(([name, operation]) => {
      const said = isObject(operation) ? operation['x-hanse-action'] : undefined
      return {
        method: name.toUpperCase(),
        path,
        action: actions.find(action => action === said) ?? 'gateway.administer',
      }
    }),
  )
}

/** Asks with names of nothing, and a body that no handler gets to see. */
async function ask(gateway: ProcessGateway, { method, path }: Operation, token: string): Promise<number> {
  const url = `${gateway.url}${path.replace(/\{\w+\}/g, '00000000-0000-4000-8000-000000000000')}`
  const hasBody = ['POST', 'PUT', 'PATCH'].includes(method)
  const answer = await fetch(url, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(hasBody && { 'content-type': 'application/json' }) },
    ...(hasBody && { body: '{' }),
    signal: AbortSignal.timeout(60_000),
  })
  await answer.body?.cancel()
  return answer.status
}

test('routes ask for the action that they are', () => {
  assert.deepEqual(
    examples.map(([method, path]) => [method, path, routeAction(method, path)]),
    examples,
  )
})

test('with a running gateway', async t => {
  const gateway = await startProcessGateway(t, 'access')

  await t.test('every route answers every role as the table says', async () => {
    const tokens = new Map<string, string>()
    for (const role of roles) {
      const { token } = await gateway.api<{ token: string }>('POST', '/api/v1/tokens', { name: role, role })
      tokens.set(role, token)
    }
    const operations = (await operationsOf(gateway)).filter(({ path }) => !path.startsWith('/api/v1/health/'))
    const unnamed = operations.filter(({ action }) => action === 'gateway.administer')

    // A route that is new says what it is: in its `config.action`, or in http/route-actions.
    assert.deepEqual(
      unnamed.map(({ method, path }) => `${method} ${path}`).filter(route => !administratorsOnly.test(route)),
      [],
    )

    const wrong: string[] = []
    for (const operation of operations) {
      const asked = [...roles, 'nobody'].map(async role => {
        const status = await ask(gateway, operation, tokens.get(role) ?? 'hanse_nothing')
        const isOpen = !refusedToAll.test(`${operation.method} ${operation.path}`)
        const may = isOpen && (role === 'administrator' || table[operation.action].split(' ').includes(role))
        const isRight = role === 'nobody' ? status === 401 : may ? status !== 401 && status !== 403 : status === 403
        if (!isRight) wrong.push(`${operation.method} ${operation.path} (${operation.action}) to ${role}: ${status}`)
      })
      await Promise.all(asked)
    }
    assert.deepEqual(wrong, [])
    assert.ok(operations.length > 100, `${operations.length} routes`)
    assert.equal(Object.keys(table).length, actions.length)

    const refused = await until('a refusal in the audit log', 30_000, async () => {
      const { events } = await gateway.api<{ events: readonly { event: unknown }[] }>(
        'GET',
        '/api/v1/audit/events?limit=1000',
      )
      return events.find(({ event }) => /"token:viewer".*"action":"token.manage"/.test(JSON.stringify(event)))
    })
    assert.match(JSON.stringify(refused), /"FORBIDDEN"/)
  })

  await t.test('a token that has expired is not accepted, and the command line makes new ones', async () => {
    const create = async (body: object) => (await gateway.api<{ token: string }>('POST', '/api/v1/tokens', body)).token
    const system = { method: 'GET', path: '/system', action: 'site.read' } as const
    const name = 'short'
    const expiresAt = new Date(Date.now() + 1500).toISOString()

    const short = await create({ name, role: 'viewer', expiresAt })
    const listed = await gateway.api<{ tokens: readonly { name: string; expiresAt: string }[] }>(
      'GET',
      '/api/v1/tokens',
    )

    assert.equal(listed.tokens.find(token => token.name === name)?.expiresAt, expiresAt)
    await until('its end', 30_000, async () => (await ask(gateway, system, short)) === 401)
    await assert.rejects(create({ name: 'past', role: 'viewer', expiresAt: '2020-01-01T00:00:00Z' }), /400/)
    await assert.rejects(create({ name: 'king', role: 'king' }), /400/)

    const made = await gateway.hanse('token', 'create', '--name', 'cli', '--role', 'auditor', '--expires', '30')
    assert.equal(made.code, 0, made.output)
    assert.match((await gateway.hanse('token', 'list')).output, /cli +auditor/)
    assert.equal((await gateway.hanse('token', 'create', '--name', 'none')).code, 2)
  })
})

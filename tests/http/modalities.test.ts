import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { temporaryDir } from '../support/blobs.ts'
import { makeAuthority } from '../support/certificates.ts'
import { missing, run, runOk, startStorescp } from '../support/dcmtk.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { freePort } from '../support/free-port.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'

/** As `curl` does it: the body has a form's content type. */
async function ask(gateway: ProcessGateway, method: string, path: string, body?: unknown) {
  const answer = await fetch(`${gateway.url}${path}`, {
    method,
    ...(body !== undefined && {
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
    }),
  })
  const text = await answer.text()
  return { status: answer.status, body: text === '' ? '' : JSON.parse(text) }
}

const tools = missing('echoscu', 'storescu', 'storescp', 'findscu')

test('the registry of a running gateway', { skip: tools }, async t => {
  const gateway = await startProcessGateway(t, 'registry')
  await t.test('is managed by API, Orthanc’s routes and command line, and its modalities are called by name', t =>
    registersModalities(t, gateway),
  )
  await t.test('says what callers may do, at once; who is not registered may echo and store', t =>
    permitsCallers(t, gateway),
  )
})

test('DICOM TLS in both roles with certificates of the site and of the hospital', { skip: tools }, async t => {
  const dir = await temporaryDir(t)
  const hospital = await makeAuthority(dir, 'Hospital')
  const modality = await hospital.issue('CT_1')
  const tlsPort = await freePort()
  const gateway = await startProcessGateway(t, 'tls', {
    HANSE_DICOM_TLS_PORT: String(tlsPort),
    HANSE_DICOM_TLS_CA_FILE: hospital.certificateFile,
    HANSE_DICOM_UNKNOWN_CALLERS: 'refuse',
  })
  const siteCa = join(gateway.data, 'keys/ca.pem')
  const file = join(dir, 'image.dcm')
  await writeFile(file, buildInstance({ seed: 3 }).bytes)
  const secured = ['+tls', modality.keyFile, modality.certificateFile, '+cf', siteCa]
  const at = (aet: string) => ['-aet', aet, '127.0.0.1', String(tlsPort)]

  // The certificate of the site is verified by DCMTK; the caller is known by the name in its own.
  await gateway.hanse('modality', 'add', 'ct', '--aet', 'CT_1', '--certificate-name', 'CT_1')
  await runOk(t, 'echoscu', [...secured, ...at('CT_1')])
  await runOk(t, 'storescu', [...secured, ...at('CT_1'), file])
  await runOk(t, 'findscu', [
    '-S',
    '-k',
    'QueryRetrieveLevel=STUDY',
    '-k',
    'StudyInstanceUID=',
    ...secured,
    ...at('CT_1'),
  ])
  assert.notEqual((await run(t, 'echoscu', [...secured, ...at('OTHER')])).code, 0)
  assert.notEqual((await run(t, 'echoscu', ['-aet', 'CT_1', '127.0.0.1', String(gateway.ports.dicom)])).code, 0)
  assert.match(gateway.output(), /the client certificate is registered for another AE title/)
  assert.match(gateway.output(), /registered with a certificate, which was not presented/)

  const foreign = await makeAuthority(dir, 'Foreign')
  // As a client: our certificate is asked for and verified, and so is that of the node.
  const own = await hospital.issue('pacs')
  const verified = await startStorescp(t, ['+tls', own.keyFile, own.certificateFile, '+cf', siteCa, '-od', dir])
  const nodes: readonly (readonly [string, object, RegExp | undefined])[] = [
    ['pacs', { tls: {} }, undefined],
    ['pinned', { tls: {}, certificateFingerprint: own.fingerprint }, undefined],
    ['wrong', { tls: {}, certificateFingerprint: modality.fingerprint }, /another certificate than the one/],
    ['foreign', { tls: { ca: foreign.certificate } }, /authority that is not trusted/],
    ['plain', {}, /./],
  ]
  for (const [name, more, problem] of nodes) {
    await gateway.api('PUT', `/api/v1/modalities/${name}`, { host: '127.0.0.1', port: verified.port, ...more })
    const { status, body } = await ask(gateway, 'POST', `/modalities/${name}/echo`)
    assert.equal(status, problem ? 502 : 200, name)
    if (problem) assert.match(body.detail, problem)
  }
  await gateway.hanse('modality', 'add', 'foreign', '--tls', 'verify', '--ca', hospital.certificateFile)
  assert.equal((await gateway.hanse('modality', 'echo', 'foreign')).code, 0)
  const bad = { tls: { ca: '-----BEGIN CERTIFICATE-----AAAA-----END CERTIFICATE-----' } }
  await assert.rejects(gateway.api('PUT', '/api/v1/modalities/bad', bad), /tls\.ca: expected certificates in PEM/)
})

async function registersModalities(t: TestContext, gateway: ProcessGateway): Promise<void> {
  const dir = await temporaryDir(t)
  const { port } = await startStorescp(t, ['-od', dir])

  // Orthanc's two forms, its list and its details.
  assert.deepEqual(await ask(gateway, 'PUT', '/modalities/ct', ['CT_1', '127.0.0.1', port, 'GE']), {
    status: 200,
    body: '',
  })
  const form = { AET: 'PACS', Host: '127.0.0.1', Port: String(port), AllowFind: false, UseDicomTls: false, Timeout: 7 }
  assert.equal((await ask(gateway, 'PUT', '/modalities/pacs', form)).status, 200)
  assert.deepEqual((await ask(gateway, 'GET', '/modalities')).body, ['ct', 'pacs'])
  const { body: details } = await ask(gateway, 'GET', '/modalities?expand')
  assert.deepEqual(
    [details.ct.AET, details.ct.Manufacturer, details.pacs.Port, details.pacs.AllowFind, details.pacs.Timeout],
    ['CT_1', 'GE', port, false, 7],
  )
  assert.deepEqual((await ask(gateway, 'GET', '/modalities/pacs/configuration')).body, details.pacs)
  assert.ok((await ask(gateway, 'GET', '/modalities/ct')).body.includes('storage-commitment'))
  for (const [method, path, body, status] of [
    ['PUT', '/modalities/bad', ['CT', 'host'], 400],
    ['PUT', '/modalities/bad', { AET: 'CT', Host: 'a b', Port: 1 }, 400],
    ['PUT', '/modalities/bad', 'text', 400],
    ['GET', '/modalities/none', undefined, 404],
    ['DELETE', '/modalities/none', undefined, 404],
    ['POST', '/modalities/none/echo', undefined, 404],
  ] as const) {
    assert.equal((await ask(gateway, method, path, body)).status, status, `${method} ${path} ${JSON.stringify(body)}`)
  }

  // What Orthanc has no word for survives its PUT.
  await gateway.api('PUT', '/api/v1/modalities/pacs', { aeTitle: 'PACS', host: 'localhost', zone: 'outside', port })
  await ask(gateway, 'PUT', '/modalities/pacs', form)
  const kept = await gateway.api('GET', '/api/v1/modalities/pacs')
  assert.deepEqual([kept['zone'], kept['host'], kept['aeTitle']], ['outside', '127.0.0.1', 'PACS'])

  // Echo by all three; a node that does not answer is told in words.
  assert.deepEqual(await ask(gateway, 'POST', '/modalities/pacs/echo', {}), { status: 200, body: {} })
  assert.equal((await gateway.api('POST', '/api/v1/modalities/ct/echo'))['status'], 0)
  assert.match((await gateway.hanse('modality', 'echo', 'ct')).output, /^ct answers, after \d+ ms/m)
  const closed = await freePort()
  await gateway.hanse('modality', 'add', 'gone', '--host', '127.0.0.1', '--port', String(closed))
  const failed = await gateway.hanse('modality', 'echo', 'gone')
  assert.equal(failed.code, 1)
  assert.match(failed.output, new RegExp(`127.0.0.1 port ${closed} refused the connection`))
  const { status, body } = await ask(gateway, 'POST', '/modalities/gone/echo', { Timeout: 5 })
  assert.deepEqual([status, body.code], [502, 'PEER_UNREACHABLE'])

  // The command line changes what is given and keeps the rest.
  const changed = await gateway.hanse('modality', 'add', 'ct', '--allow', 'echo,store', '--associations', '2')
  assert.equal(changed.code, 0, changed.output)
  assert.match(changed.output, new RegExp(`^ct +CT_1 +127.0.0.1 +${port} +- +echo,store +-`, 'm'))
  const unset = await gateway.hanse('modality', 'add', 'ct', '--associations', '', '--host', '')
  assert.match(unset.output, new RegExp(`^ct +CT_1 +- +${port} +- +echo,store`, 'm'))
  assert.equal((await gateway.hanse('modality', 'add', 'ct', '--tls', 'perhaps')).code, 2)
  assert.equal((await gateway.hanse('modality', 'remove', 'ct')).code, 0)
  assert.deepEqual((await ask(gateway, 'DELETE', '/modalities/gone')).status, 200)
  assert.deepEqual((await ask(gateway, 'GET', '/modalities')).body, ['pacs'])
}

async function permitsCallers(t: TestContext, gateway: ProcessGateway): Promise<void> {
  const peer = ['-aet', 'WORKSTATION', '127.0.0.1', String(gateway.ports.dicom)]
  const find = () => run(t, 'findscu', ['-S', '-k', 'QueryRetrieveLevel=STUDY', '-k', 'StudyInstanceUID=', ...peer])

  await runOk(t, 'echoscu', peer)
  const unknown = await find()
  await gateway.hanse('modality', 'add', 'ws', '--aet', 'WORKSTATION', '--host', '127.0.0.1')
  const registered = await find()
  await gateway.hanse('modality', 'add', 'ws', '--allow', 'echo,store')
  const withdrawn = await find()
  await gateway.hanse('modality', 'add', 'ws', '--allow', 'store')
  const echo = await run(t, 'echoscu', peer)

  assert.match(unknown.output, /No Acceptable Presentation Contexts/)
  assert.doesNotMatch(registered.output, /No Acceptable|E:/)
  assert.match(withdrawn.output, /No Acceptable Presentation Contexts/)
  assert.notEqual(echo.code, 0)
  assert.match(
    gateway.output(),
    /not permitted to callers that are not registered: find; register it \(hanse modality add/,
  )
  assert.match(gateway.output(), /hanse modality add AETITLE --host ADDRESS --allow echo,store,find/)
  await until('the refusal is audited', 10_000, async () => {
    const { events } = await gateway.api<{ events: { event: { reason?: string } }[] }>('GET', '/api/v1/audit/events')
    return events.some(({ event }) => event.reason === 'not-permitted')
  })
}

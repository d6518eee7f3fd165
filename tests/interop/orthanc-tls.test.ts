import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { temporaryDir } from '../support/blobs.ts'
import { makeAuthority } from '../support/certificates.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { freePort } from '../support/free-port.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { startProcessGateway } from '../support/process-gateway.ts'

test('Orthanc and we reach each other by DICOM TLS with client certificates', { skip: missingOrthanc }, async t => {
  const dir = await temporaryDir(t)
  const hospital = await makeAuthority(dir, 'Hospital')
  const [ours, theirs] = [await hospital.issue('gateway'), await hospital.issue('orthanc')]
  const tlsPort = await freePort()
  const gateway = await startProcessGateway(t, 'orthanc-tls', {
    HANSE_DICOM_TLS_PORT: String(tlsPort),
    HANSE_DICOM_TLS_CERTIFICATE_FILE: ours.certificateFile,
    HANSE_DICOM_TLS_KEY_FILE: ours.keyFile,
    HANSE_DICOM_TLS_CA_FILE: hospital.certificateFile,
    HANSE_DICOM_UNKNOWN_CALLERS: 'refuse',
  })
  // TLS only, with certificates required of everybody.
  const orthanc = await startOrthanc(
    t,
    {},
    {
      DicomTlsEnabled: true,
      DicomTlsRemoteCertificateRequired: true,
      DicomTlsCertificate: theirs.certificateFile,
      DicomTlsPrivateKey: theirs.keyFile,
      DicomTlsTrustedCertificates: hospital.certificateFile,
      DicomModalities: { hanse: { AET: 'HANSE', Host: '127.0.0.1', Port: tlsPort, UseDicomTls: true } },
    },
  )
  const registered = { aeTitle: 'ORTHANC', host: '127.0.0.1', port: orthanc.port, certificateName: 'orthanc' }
  const instance = buildInstance({ seed: 11 })

  const echo = () => orthanc.call('POST', '/modalities/hanse/echo', {})

  await assert.rejects(echo())
  await gateway.api('PUT', '/api/v1/modalities/orthanc', { ...registered, tls: {} })
  await echo()
  const answer = await fetch(`${orthanc.url}/instances`, { method: 'POST', body: Uint8Array.from(instance.bytes) })
  const uploaded: unknown = await answer.json()
  const id = isObject(uploaded) ? uploaded['ID'] : undefined
  await orthanc.call('POST', '/modalities/hanse/store', [id])
  assert.deepEqual(await gateway.api('GET', '/instances'), [id])

  assert.equal((await gateway.api('POST', '/api/v1/modalities/orthanc/echo'))['status'], 0)
  const { matches } = await gateway.api<{ matches: object[] }>('POST', '/api/v1/modalities/orthanc/find', {
    level: 'study',
  })
  assert.equal(matches.length, 1)

  // Without TLS it does not answer, and that is said.
  await gateway.api('PUT', '/api/v1/modalities/orthanc', registered)
  await assert.rejects(gateway.api('POST', '/api/v1/modalities/orthanc/echo'), /PEER_UNREACHABLE|502/)
})

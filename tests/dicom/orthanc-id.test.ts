import assert from 'node:assert/strict'
import { test } from 'node:test'
import { orthancIds } from '../../gateway/dicom/orthanc-id.ts'

const ids = {
  patientId: 'TEST-1',
  studyInstanceUid: '1.2.3',
  seriesInstanceUid: '1.2.3.4',
  sopInstanceUid: '1.2.3.4.5',
}

test('ids are SHA-1 over the identifiers joined by bars', () => {
  // printf 'TEST-1|1.2.3|1.2.3.4|1.2.3.4.5' | sha1sum, and so on
  assert.deepEqual(orthancIds(ids), {
    patient: 'd7169ad4-7117accb-99f76bfa-735990a2-930f1403',
    study: 'a739ebbf-c7f0dcc7-d216557f-89d1e844-e3974505',
    series: '979237ca-6053239f-ce251a3e-e754b37b-22260586',
    instance: '4469ad72-598fa57b-4c2e4070-02683f72-fb450d6c',
  })
})

test('an issuer keeps equal patient ids of two sites apart, down to the instance', () => {
  const foreign = orthancIds({ ...ids, issuer: 'SITE-B' })

  for (const level of ['patient', 'study', 'series', 'instance'] as const) {
    assert.notEqual(foreign[level], orthancIds(ids)[level])
  }
  assert.deepEqual(orthancIds({ ...ids, issuer: '' }), orthancIds(ids))
})

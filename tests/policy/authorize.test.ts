import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { systemPrincipal } from '../../gateway/principal.ts'
import { type Action, actions, roles } from '../../policy/actions.ts'
import { authorize, openAuthorizer } from '../../policy/authorize.ts'
import { caller, rights } from '../support/principals.ts'

const may = (role: string, action: Action, scope?: string, domain = ''): boolean =>
  rights.may({ roles: [role], ...(scope !== undefined && { domain: scope }) }, action, domain)

test('every role of a token has its actions, and every action at least one role beside the administrator or a reason', () => {
  for (const role of roles)
    assert.ok(
      actions.some(action => may(role, action)),
      role,
    )
  const onlyAdministrators = actions.filter(action => rights.rolesFor(action).join() === 'administrator')

  assert.deepEqual(onlyAdministrators, [
    'study.modify',
    'study.delete',
    'recall.decide',
    'conflict.decide',
    'commitment.remove',
    'modality.manage',
    'endpoint.manage',
    'trial.delegate',
    'peer.manage',
    'retention.manage',
    'hold.manage',
    'token.manage',
    'store.verify',
    'gateway.administer',
  ])
})

test('roles include what they say, and nothing of the others', () => {
  assert.ok(may('viewer', 'study.read') && !may('viewer', 'study.store') && !may('viewer', 'transfer.read'))
  assert.ok(may('clinician', 'study.read') && may('clinician', 'study.send') && !may('clinician', 'study.delete'))
  assert.ok(may('policy-author', 'policy.draft') && !may('policy-author', 'policy.publish'))
  assert.ok(may('policy-publisher', 'policy.publish') && !may('policy-publisher', 'policy.draft'))
  assert.ok(may('auditor', 'audit.read') && !may('auditor', 'study.read') && !may('auditor', 'study.search'))
  assert.ok(may('administrator', 'token.manage') && !may('nobody', 'site.read') && !may('', 'site.read'))
  assert.ok(may('dicom.find', 'study.search') && !may('dicom.find', 'study.read') && !may('dicom.echo', 'study.search'))
})

test('who is limited to a domain may do something in that one only', () => {
  assert.ok(may('clinician', 'study.read', 'trial-a', 'trial-a'))
  assert.ok(!may('clinician', 'study.read', 'trial-a', 'trial-b'))
  assert.ok(!may('administrator', 'token.manage', 'trial-a'))
  assert.ok(!may('administrator', 'study.read', '', 'trial-b'))
})

test('a refusal names the action and who has it', () => {
  assert.throws(
    () => authorize(caller('token:x', { roles: ['viewer'] }), 'transfer.cancel'),
    (error: unknown) =>
      isGatewayError(error, 'FORBIDDEN') &&
      error.message === 'transfer.cancel needs one of the roles clinician, trial-coordinator, administrator',
  )
  assert.throws(() => authorize(caller('x', { roles: ['viewer'], domain: 'a' }), 'study.read', 'b'), /own domain only/)
  assert.throws(() => authorize(caller('x', { roles: [] }), 'site.read'), /needs one of the roles/)
  authorize(systemPrincipal, 'study.delete')
})

test('other rules can be given, and decisions do not depend on the order of the questions', async () => {
  const other = await openAuthorizer({ rules: 'p, reader, study.*\ng, boss, reader\np, boss, *' })
  for (let round = 0; round < 2; round++) {
    assert.equal(other.may({ roles: ['reader'] }, 'study.delete', ''), true)
    assert.equal(other.may({ roles: ['reader'] }, 'audit.read', ''), false)
    assert.equal(other.may({ roles: ['viewer', 'boss'] }, 'audit.read', 'any'), true)
  }
  assert.deepEqual(other.rolesFor('study.read'), ['reader', 'boss'])
})

/**
 * What a caller of a route does, in the words of `policy/actions`: checked before a handler runs, beside what the
 * services check. A route may say it itself (`config.action`); one that is found nowhere is the administrator's.
 */
import type { Action } from '../../policy/actions.ts'

const [read, write, remove] = [['GET', 'HEAD'], ['POST', 'PUT', 'PATCH'], ['DELETE']]
const any = [...read, ...write, ...remove]

/** Of the Orthanc routes below a resource. */
const resource = '/(?:patients|studies|series|instances)'

type Rule = readonly [methods: readonly string[], path: string, action: Action]

/** First match wins; paths are patterns of routes without `/api/v1` and `/dicom-web`. */
const own: readonly Rule[] = [
  [read, '/(?:status|openapi\\.json)', 'site.read'],
  [read, '/audit/.*', 'audit.read'],
  [['POST'], '/audit/(?:verify|checkpoint)', 'audit.read'],
  [read, '/commitments(?:/.*)?', 'commitment.read'],
  [any, '/patient-links(?:/remove)?', 'patient.link'],
  [['POST'], '/conflicts/:id/decision', 'conflict.decide'],
  [read, '/conflicts(?:/.*)?', 'conflict.read'],
  [read, '/quarantine(?:/.*)?', 'quarantine.read'],
  [write, '/quarantine/.*', 'quarantine.decide'],
  [read, '/recalls', 'recall.read'],
  [['POST'], '/recalls', 'recall.start'],
  [['POST'], '/recalls/:id/(?:accept|refuse)', 'recall.decide'],
  [['POST'], '/modalities/:\\w+/(?:echo|find)', 'modality.query'],
  [['POST'], '/modalities/:\\w+/retrieve', 'modality.retrieve'],
  [['POST'], '/modalities/:\\w+/store', 'study.send'],
  [read, '/(?:modalities|prefetch)(?:/.*)?', 'modality.read'],
  [any, '/(?:modalities|prefetch)(?:/.*)?', 'modality.manage'],
  [read, '/modality-jobs(?:/.*)?', 'job.read'],
  [['POST'], '/modality-jobs/.*', 'job.control'],
  [['POST'], '/endpoints/acknowledgements/:\\w+', 'endpoint.acknowledge'],
  [read, '/endpoints(?:/.*)?', 'endpoint.read'],
  [any, '/endpoints/.*', 'endpoint.manage'],
  [['POST'], '/trials/:name/uploads/:id/(?:approve|send)', 'trial.approve'],
  [['POST'], '/trials/:name/uploads(?:/.*)?', 'trial.upload'],
  [read, '/trials/:name/uploads/:id/preview', 'trial.upload'],
  [read, '/trials/:name/subjects/:code/log\\.html', 'trial.identify'],
  [read, '/trials(?:/.*)?', 'trial.read'],
  [any, '/trials/:name/delegations(?:/:id)?', 'trial.delegate'],
  [any, '/trials/.*', 'trial.manage'],
  [read, '/peers(?:/.*)?', 'peer.read'],
  [any, '/peers/.*', 'peer.manage'],
  [read, '/polic(?:y|ies)(?:/.*)?', 'policy.read'],
  [['POST'], '/policies/drafts/:id/publish', 'policy.publish'],
  [['POST'], '/policies/:version/rollback', 'policy.publish'],
  [['PUT'], '/policy', 'policy.publish'],
  [['POST'], '/policies/(?:lint|diff)', 'policy.read'],
  [any, '/policies/drafts(?:/.*)?', 'policy.draft'],
  [any, '/dry-runs(?:/.*)?', 'policy.dry-run'],
  [read, '/profiles(?:/.*)?', 'policy.read'],
  [read, '/consents(?:/.*)?', 'consent.read'],
  [['POST'], '/consents/search', 'consent.read'],
  [any, '/consents(?:/.*)?', 'consent.write'],
  [any, '/pseudonyms/requests(?:/.*)?', 'pseudonym.reidentify'],
  [read, '/pseudonyms(?:/.*)?', 'pseudonym.read'],
  [any, '/pseudonyms(?:/.*)?', 'pseudonym.write'],
  [read, '/(?:retention|legal-holds)(?:/.*)?', 'retention.read'],
  [any, '/legal-holds(?:/.*)?', 'hold.manage'],
  [any, '/retention(?:/.*)?', 'retention.manage'],
  [any, '/store/check', 'store.verify'],
  [any, '/tokens(?:/:name)?', 'token.manage'],
  [['POST'], '/transfers', 'study.send'],
  [['POST'], '/transfers/:id/cancel', 'transfer.cancel'],
  [['POST'], '/transfers/:id/retry', 'transfer.retry'],
  [['POST'], '/transfers/:id/(?:release|reject)', 'transfer.decide'],
  [read, '/transfers(?:/.*)?', 'transfer.read'],
  [read, '/worklist(?:/.*)?', 'worklist.read'],
  [['POST'], '/worklist/search', 'worklist.read'],
  [any, '/worklist(?:/:id)?', 'worklist.write'],
  [read, '/procedure-steps(?:/.*)?', 'procedure.read'],
]

/** Orthanc's routes, the metrics, DICOMweb. */
const shared: readonly Rule[] = [
  [read, '/(?:metrics|system|plugins(?:/.*)?)', 'site.read'],
  [read, '/statistics', 'study.search'],
  [read, '/(?:changes|exports|wado)', 'study.read'],
  [read, '/storage-commitment/:id', 'commitment.read'],
  [['POST'], '/storage-commitment/:id/remove', 'commitment.remove'],
  [['POST'], '/(?:studies|instances|uploads)(?:/:study)?', 'study.store'],
  [read, `${resource}(?:/.*)?`, 'study.read'],
  [['POST'], `${resource}/:\\w+/(?:archive|media)`, 'study.read'],
  [['POST'], `${resource}/:\\w+/anonymize`, 'study.deidentify'],
  [['POST'], `${resource}/:\\w+/(?:modify|split|merge)`, 'study.modify'],
  [remove, `${resource}/:\\w+`, 'study.delete'],
  [remove, '/studies/:study/series/:series(?:/instances/:instance)?', 'study.delete'],
  [any, `${resource}/:\\w+/(?:labels|metadata|attachments|protected)(?:/.*)?`, 'study.annotate'],
  [['POST'], '/tools/(?:find|lookup|count-resources)', 'study.search'],
  [['POST'], '/tools/(?:bulk-content|create-(?:archive|media)(?:-extended)?)', 'study.read'],
  [read, '/tools/create-(?:archive|media)(?:-extended)?', 'study.read'],
  [['POST'], '/tools/create-dicom', 'study.store'],
  [['POST'], '/tools/bulk-modify', 'study.modify'],
  [['POST'], '/tools/bulk-anonymize', 'study.deidentify'],
  [['POST'], '/tools/bulk-delete', 'study.delete'],
  [read, '/tools(?:/(?:now|now-local|generate-uid|default-encoding|labels|dicom-conformance))?', 'site.read'],
  [read, '/tools/(?:metrics(?:-prometheus)?|accepted-transfer-syntaxes|unknown-sop-class-accepted)', 'site.read'],
  [read, '/tools/log-level(?:-\\w+)?', 'site.read'],
  [['OPTIONS'], '/', 'site.read'],
  [['POST'], `${resource}/:\\w+/reconstruct`, 'study.modify'],
  [read, '/jobs(?:/.*)?', 'job.read'],
  [any, '/jobs/.*', 'job.control'],
  [['POST'], '/modalities/:\\w+/(?:echo|query|find|find-worklist|find-\\w+)', 'modality.query'],
  [any, '/queries/:\\w+/(?:.*/)?retrieve', 'modality.retrieve'],
  [['POST'], '/modalities/:\\w+/(?:move|get)', 'modality.retrieve'],
  [['POST'], '/modalities/:\\w+/(?:store|store-straight)', 'study.send'],
  [['POST'], '/modalities/:\\w+/storage-commitment', 'commitment.request'],
  [read, '/modalities(?:/.*)?', 'modality.read'],
  [any, '/modalities/:\\w+', 'modality.manage'],
  [any, '/queries(?:/.*)?', 'modality.query'],
  [['POST'], '/peers/:\\w+/store(?:-straight)?', 'study.send'],
  [read, '/peers(?:/.*)?', 'peer.read'],
  [any, '/peers/.*', 'peer.manage'],
  [read, '/worklists(?:/:id)?', 'worklist.read'],
  [any, '/worklists/.*', 'worklist.write'],
]

const compile = (rules: readonly Rule[]) =>
  rules.map(([methods, path, action]) => ({ methods, pattern: new RegExp(`^${path}$`), action }))
const tables = { own: compile(own), shared: compile(shared) }

/** The action of a route by its method and pattern (`/api/v1/peers/:id`). */
export function routeAction(method: string, url: string): Action {
  const isOwn = url.startsWith('/api/v1/')
  const path = url.replace(isOwn ? '/api/v1' : '/dicom-web', '')
  const rule = tables[isOwn ? 'own' : 'shared'].find(
    ({ methods, pattern }) => methods.includes(method) && pattern.test(path),
  )
  return rule?.action ?? 'gateway.administer'
}

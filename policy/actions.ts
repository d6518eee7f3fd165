/** The actions that somebody may or may not do, named by the field. `policy/roles.csv` says which role has which. */
export const actions = [
  // what the gateway is, without patients: system, status, metrics, the API's description
  'site.read',
  'study.search',
  'study.read',
  'study.store',
  // labels, metadata, attachments: what stands beside the data set
  'study.annotate',
  'study.modify',
  'study.deidentify',
  'study.delete',
  // to a destination of any kind
  'study.send',
  'transfer.read',
  'transfer.cancel',
  'transfer.retry',
  // release or reject what is held
  'transfer.decide',
  'quarantine.read',
  'quarantine.decide',
  'recall.read',
  'recall.start',
  'recall.decide',
  'conflict.read',
  'conflict.decide',
  'job.read',
  'job.control',
  'patient.link',
  'worklist.read',
  'worklist.write',
  'procedure.read',
  // modality performed procedure steps
  'procedure.report',
  'commitment.read',
  'commitment.request',
  'commitment.remove',
  'modality.read',
  // ask a modality: echo, find
  'modality.query',
  'modality.retrieve',
  'modality.manage',
  // third parties that transfers go to: endpoints
  'endpoint.read',
  'endpoint.manage',
  // say what a recipient has said of a delivery
  'endpoint.acknowledge',
  'trial.read',
  // protocols and subjects
  'trial.manage',
  // who may do what in a trial, from when to when
  'trial.delegate',
  // choose, check, preview, answer the sponsor
  'trial.upload',
  'trial.approve',
  // read who the subjects are: the site's file
  'trial.identify',
  'peer.read',
  'peer.manage',
  'policy.read',
  'policy.dry-run',
  'policy.draft',
  'policy.publish',
  'consent.read',
  'consent.write',
  'pseudonym.read',
  'pseudonym.write',
  'pseudonym.reidentify',
  'retention.read',
  'retention.manage',
  // legal holds
  'hold.manage',
  'audit.read',
  'token.manage',
  // compare database and files, repair
  'store.verify',
  // whatever has no action of its own
  'gateway.administer',
] as const

/** One of `actions`. */
export type Action = (typeof actions)[number]

/** Roles of people and programs: what a token may have. */
export const roles = [
  'viewer',
  'clinician',
  'trial-coordinator',
  'policy-author',
  'policy-publisher',
  'auditor',
  'administrator',
] as const

/** One of `roles`. */
export type Role = (typeof roles)[number]

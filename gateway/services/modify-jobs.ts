/** Jobs that make new instances of stored ones: what they are made again from, and how each kind is run. */

import { randomBytes } from 'node:crypto'
import { authorize } from '../../policy/authorize.ts'
import { decode, integer, isObject, list, type ObjectValue, object, oneOf, optional, text } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { BackgroundJobs } from './background-jobs.ts'
import { type RewriteRun, type RunParts, runRewrite } from './modify-run.ts'
import { accessEvents, type Resource, selectInstances } from './modify-sources.ts'

/** Orthanc's name of each kind of job. */
const types = {
  modification: 'ResourceModification',
  anonymization: 'ResourceModification',
  merge: 'MergeStudy',
  split: 'SplitStudy',
} as const
/** What is done to instances. */
export type RewriteKind = keyof typeof types

const level = oneOf('patient', 'study', 'series', 'instance')
const parameterShape = {
  kind: oneOf('modification', 'anonymization', 'merge', 'split'),
  resources: list(object({ level, orthancId: text({ max: 64 }) })),
  upTo: integer({ min: 0 }),
  instanceCount: integer({ min: 0 }),
  level,
  /** The result names one resource of this level; without it all that was made. */
  resultLevel: optional(level),
  /** What the job is about beside its resources: the study that is merged into, or split. */
  study: optional(text({ max: 64 })),
  /** Hex, secret: what new identifiers are derived from. */
  seed: text({ min: 64, max: 64 }),
  body: (raw: unknown) => (isObject(raw) ? raw : undefined),
}
const parameters = object(parameterShape)

/** What a job is made again from: what was selected, and the body that said what to do. */
export type RewriteParameters = ObjectValue<typeof parameterShape>

/** What a kind of job makes of its parameters. */
export type RewritePlan = Pick<RewriteRun, 'rewrite' | 'keepSource' | 'issuerOf' | 'fields'>

/** What a job is asked for with. */
export interface RewriteWishes {
  readonly priority: number
  readonly permissive: boolean
}

/** A job as it is asked for. */
export type RewriteRequest = Pick<RewriteParameters, 'kind' | 'level'> & {
  readonly resources: readonly Resource[]
  readonly resultLevel?: RewriteParameters['resultLevel']
  readonly study?: string
  readonly body: unknown
}

/** Plans and runs them. */
export interface RewriteJobs {
  define(
    kind: RewriteKind,
    plan: (parameters: RewriteParameters, signal: AbortSignal) => Promise<RewritePlan> | RewritePlan,
  ): void
  /** Fixes the instances, records that they are read, and plans the job; its id. */
  submit(principal: Principal, request: RewriteRequest, wishes: RewriteWishes): Promise<string>
}

/** A new seed. */
export const newSeed = (): string => randomBytes(32).toString('hex')

/** Opens them, and defines the types of the jobs. */
export function openRewriteJobs(parts: RunParts & { readonly jobs: BackgroundJobs }): RewriteJobs {
  const { db, jobs } = parts
  const plans = new Map<RewriteKind, Parameters<RewriteJobs['define']>[1]>()

  for (const type of new Set(Object.values(types))) {
    jobs.define(type, ({ principal, permissive, parameters: stored }) => async (progress, signal) => {
      const decoded = decode(parameters, stored)
      const plan = decoded.ok ? plans.get(decoded.value.kind) : undefined
      if (!decoded.ok || !plan) throw new GatewayError('BAD_REQUEST', 'the stored parameters of a job cannot be read')
      const madeBy = decoded.value.kind === 'anonymization' ? 'anonymization' : 'modification'
      const planned = await plan(decoded.value, signal)
      const run = { selection: decoded.value, principal, permissive, madeBy, ...planned } as const
      return await runRewrite(parts, run, progress, signal)
    })
  }

  return {
    define(kind, plan) {
      plans.set(kind, plan)
    },
    async submit(principal, request, wishes) {
      authorize(principal, request.kind === 'anonymization' ? 'study.deidentify' : 'study.modify')
      const selection = await selectInstances(db, request.resources)
      return await jobs.submit(principal, {
        type: types[request.kind],
        description: 'REST API',
        ...wishes,
        content: { FailedInstancesCount: 0, InstancesCount: selection.instanceCount },
        parameters: { ...selection, ...request, seed: newSeed() },
        audit: await accessEvents(db, principal, selection, request.kind),
      })
    },
  }
}

/** Our own API under `/api/v1`, described by the OpenAPI document that its schemas make. */
import swagger from '@fastify/swagger'
import type { FastifyInstance } from 'fastify'
import type { AttributeDiffs } from '../../services/attribute-diff.ts'
import type { Conflicts } from '../../services/conflicts.ts'
import type { Consents } from '../../services/consents.ts'
import type { DryRuns } from '../../services/dry-run.ts'
import type { Modalities } from '../../services/modalities.ts'
import type { Policies } from '../../services/policies.ts'
import type { Quarantine } from '../../services/quarantine.ts'
import type { Recalls } from '../../services/recalls.ts'
import type { Routing } from '../../services/routing.ts'
import type { GatewayStatus } from '../../services/status.ts'
import type { Tokens } from '../../services/tokens.ts'
import { type ArrivalRouteServices, arrivalRoutes } from './arrivals.ts'
import { attributeDiffRoutes } from './attribute-diff.ts'
import { type AuditService, auditRoutes } from './audit.ts'
import { certificateRoutes } from './certificates.ts'
import { type CommitmentServices, commitmentRoutes } from './commitments.ts'
import { conflictRoutes } from './conflicts.ts'
import { consentRoutes } from './consents.ts'
import { type DiscServices, discRoutes } from './discs.ts'
import { dryRunRoutes } from './dry-runs.ts'
import { type EndpointRouteServices, endpointRoutes } from './endpoints.ts'
import { type Health, healthRoutes } from './health.ts'
import { type ImportServices, importRoutes } from './imports.ts'
import { modalityRoutes } from './modalities.ts'
import { type PeerServices, peerRoutes } from './peers.ts'
import { policiesRoutes } from './policies.ts'
import { policyRoutes } from './policy.ts'
import { type PseudonymServices, pseudonymRoutes } from './pseudonyms.ts'
import { quarantineRoutes } from './quarantine.ts'
import { recallRoutes } from './recalls.ts'
import { type RemoteServices, remoteRoutes } from './remote.ts'
import { type RetentionServices, retentionRoutes } from './retention.ts'
import { statusRoute } from './status.ts'
import { type StoreServices, storeRoutes } from './store.ts'
import { tokenRoutes } from './tokens.ts'
import { type TransferServices, transferRoutes } from './transfers.ts'
import { type TrialServices, trialRoutes } from './trials.ts'
import { type UploadServices, uploadRoutes } from './uploads.ts'
import { type WorklistServices, worklistRoutes } from './worklist.ts'

export interface ApiServices
  extends PeerServices,
    TransferServices,
    StoreServices,
    RemoteServices,
    ImportServices,
    CommitmentServices,
    PseudonymServices,
    WorklistServices,
    EndpointRouteServices,
    TrialServices,
    ArrivalRouteServices,
    RetentionServices,
    UploadServices,
    DiscServices {
  readonly health: Health
  readonly status: () => Promise<GatewayStatus>
  readonly routing: Routing
  readonly policies: Policies
  readonly consents: Consents
  readonly dryRuns: DryRuns
  readonly attributeDiffs: AttributeDiffs
  readonly conflicts: Conflicts
  readonly quarantine: Quarantine
  readonly recalls: Recalls
  readonly modalities: Modalities
  readonly audit: AuditService
  readonly tokens: Tokens
}

/** Starts collecting route schemas; to be called before any route is registered. */
export async function installOpenApi(app: FastifyInstance, version: string): Promise<void> {
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Hanse gateway',
        version,
        description:
          'Errors are problem documents (RFC 9457). Calls from this machine act as its administrator while the gateway ' +
          'listens to this machine only; all others need a bearer token (`hanse token create`), whose role decides ' +
          'what they may do.',
      },
      components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
      security: [{ token: [] }],
      tags: [
        { name: 'Health' },
        { name: 'Status' },
        { name: 'Peers' },
        { name: 'Transfers' },
        { name: 'Modalities' },
        {
          name: 'Endpoints',
          description: 'Third parties that transfers go to: servers for files, other systems, portals',
        },
        { name: 'Trials', description: 'Clinical trials: protocols, subjects, visits, uploads to the sponsor' },
        { name: 'Commitments', description: 'Storage commitment, and on to the archive' },
        { name: 'Conflicts' },
        { name: 'Policy' },
        { name: 'Quarantine' },
        { name: 'Pseudonyms', description: 'Projects, pseudonyms, and re-identification by two people' },
        { name: 'Consents' },
        { name: 'Audit' },
        { name: 'Store' },
        { name: 'Tokens' },
        { name: 'Retention' },
        { name: 'Worklist' },
        { name: 'Orthanc', description: 'Compatible with Orthanc 1.10' },
      ],
    },
    refResolver: {
      buildLocalReference: (json, _baseUri, _fragment, i) =>
        typeof json['$id'] === 'string' ? json['$id'] : `def-${i}`,
    },
  })
}

/** Registers all routes of the API. */
export async function apiRoutes(app: FastifyInstance, services: ApiServices): Promise<void> {
  await app.register(
    async scope => {
      healthRoutes(scope, services.health)
      statusRoute(scope, services.status)
      peerRoutes(scope, services)
      transferRoutes(scope, services)
      certificateRoutes(scope, services.db)
      modalityRoutes(scope, services.modalities)
      remoteRoutes(scope, services)
      importRoutes(scope, services)
      commitmentRoutes(scope, services)
      conflictRoutes(scope, services.conflicts)
      pseudonymRoutes(scope, services)
      quarantineRoutes(scope, services.quarantine)
      recallRoutes(scope, services.recalls)
      policyRoutes(scope, services)
      policiesRoutes(scope, services)
      consentRoutes(scope, services)
      dryRunRoutes(scope, services)
      attributeDiffRoutes(scope, services)
      auditRoutes(scope, services)
      storeRoutes(scope, services)
      tokenRoutes(scope, services.tokens)
      retentionRoutes(scope, services)
      endpointRoutes(scope, services)
      trialRoutes(scope, services)
      arrivalRoutes(scope, services)
      worklistRoutes(scope, services)
      uploadRoutes(scope, services)
      discRoutes(scope, services)
      scope.get('/openapi.json', { schema: { hide: true } }, async () => scope.swagger())
    },
    { prefix: '/api/v1' },
  )
}

/**
 * The composition root: the only place where services are built. They are opened in the order of
 * their needs and closed in reverse: listeners first, the database last.
 */

import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { signCard } from '../peers/card.ts'
import { carrierOpener } from '../peers/carrier-opener.ts'
import { openClockWatch } from '../peers/clock.ts'
import { openSiteKeys } from '../peers/keys.ts'
import { openPairing } from '../peers/pairing.ts'
import { openPeers } from '../peers/registry.ts'
import { seal } from '../peers/seal.ts'
import { openFederation } from '../peers/server.ts'
import { openFederationTls, type RefusedConnection } from '../peers/tls.ts'
import { openAuthorizer, type Refusal } from '../policy/authorize.ts'
import { ensurePolicy } from '../policy/versions.ts'
import { applicationActivity } from './audit/event.ts'
import { appendAudit } from './audit/log.ts'
import type { Config } from './config.ts'
import type { Db, Tx } from './db/db.ts'
import { migrate } from './db/migrations.ts'
import { readUndeclaredAs } from './dicom/charset.ts'
import { archiveWire } from './dimse/archive-wire.ts'
import { commitmentWire } from './dimse/commitment.ts'
import { pixelConverter } from './dimse/converter.ts'
import { openCredentials } from './dimse/credentials.ts'
import { ingestStore } from './dimse/ingest-sink.ts'
import type { Converter } from './dimse/outgoing.ts'
import { OwnMoves } from './dimse/own-moves.ts'
import { remoteNode } from './dimse/remote-node.ts'
import { GatewayError } from './errors.ts'
import { apiRoutes, installOpenApi } from './http/api/routes.ts'
import { dicomwebRoutes } from './http/dicomweb/routes.ts'
import { installGauges } from './http/gauges.ts'
import { openMetrics } from './http/metrics.ts'
import { archiveRoutes } from './http/orthanc/archives.ts'
import { imageRoutes } from './http/orthanc/images.ts'
import { orthancModalityRoutes } from './http/orthanc/modalities.ts'
import { numpyRoutes } from './http/orthanc/numpy.ts'
import { readPrivateNumbers } from './http/orthanc/private-numbers.ts'
import { orthancRemoteRoutes } from './http/orthanc/remote-nodes.ts'
import { orthancRoutes } from './http/orthanc/routes.ts'
import { readPrivateNames } from './http/orthanc/tags.ts'
import { type OrthancSettings, takeOverOrthanc } from './http/orthanc/take-over.ts'
import { worklistsRoutes } from './http/orthanc/worklists.ts'
import { limitRefusals } from './http/refusals.ts'
import { buildHttpServer } from './http/server.ts'
import { openQueue } from './jobs/queue.ts'
import type { Log } from './log.ts'
import { describeListeners, dicomHostsOf, hostsOf, portOf, reachable } from './main/addresses.ts'
import { openDicomScp } from './main/open-dicom-scp.ts'
import { openStore, use, watermarkOf } from './main/open-store.ts'
import { followWorklistFolder, listenHl7 } from './main/worklist-intake.ts'
import { openPixels } from './pixels/pixels.ts'
import { adminToken, type Listeners, writeListeners } from './run-files.ts'
import { openArchive } from './services/archive.ts'
import { openArrivals } from './services/arrivals.ts'
import { openAttributeDiffs } from './services/attribute-diff.ts'
import { openAuditLog } from './services/audit-log.ts'
import { openBackgroundJobs } from './services/background-jobs.ts'
import { openChangeFeed } from './services/change-feed.ts'
import { openCommitments } from './services/commitment.ts'
import { openConflicts } from './services/conflicts.ts'
import { openConsents } from './services/consents.ts'
import { openDicomCreation } from './services/create-dicom.ts'
import { openDeidentify } from './services/deidentify.ts'
import type { NodeTarget } from './services/dicom-node.ts'
import { openDiscs } from './services/discs.ts'
import { openDryRuns } from './services/dry-run.ts'
import { commitmentNodes } from './services/endpoint-commitment.ts'
import { openEndpointServices } from './services/endpoint-parts.ts'
import { openExportLog } from './services/export-log.ts'
import { startHousekeeping } from './services/housekeeping.ts'
import { openImageFrames } from './services/image-frames.ts'
import { openInbound } from './services/inbound.ts'
import { openIngest } from './services/ingest.ts'
import { openLegalHolds } from './services/legal-holds.ts'
import { openModalities } from './services/modalities.ts'
import { openModalityJobs } from './services/modality-jobs.ts'
import { openModifications } from './services/modify.ts'
import { openAnonymizations } from './services/modify-anonymize.ts'
import { openRewriteJobs } from './services/modify-jobs.ts'
import { openStudyChanges } from './services/modify-studies.ts'
import { openMpps } from './services/mpps.ts'
import { openNamedFiles } from './services/named-file.ts'
import { nativePixels } from './services/native-pixels.ts'
import { openOrthancImports } from './services/orthanc-import.ts'
import { openOutbound } from './services/outbound.ts'
import { createPreparing } from './services/outbound-prepare.ts'
import { openOutbox } from './services/outbox.ts'
import { openOutsideSends } from './services/outside-sends.ts'
import { openPasswordUsers } from './services/password-users.ts'
import { openPatientLinks } from './services/patient-links.ts'
import { openPolicies } from './services/policies.ts'
import { openPrefetch } from './services/prefetch.ts'
import { openProjectKeys } from './services/project-keys.ts'
import { openPseudonyms } from './services/pseudonyms.ts'
import { openQuarantine } from './services/quarantine.ts'
import { openQuery } from './services/query.ts'
import { openRecalls } from './services/recalls.ts'
import { openReceptionTerms } from './services/reception-terms.ts'
import { openRefusals } from './services/refusals.ts'
import { openReidentification } from './services/reidentification.ts'
import { openRemote } from './services/remote.ts'
import { openRemoteQueries } from './services/remote-queries.ts'
import { openRemoteStore } from './services/remote-store.ts'
import { openRemoval } from './services/removal.ts'
import { openRendering } from './services/rendering.ts'
import { openResourceAttachments } from './services/resource-attachments.ts'
import { openResourceDatasets } from './services/resource-datasets.ts'
import { findLimits, openResourceFind } from './services/resource-find.ts'
import { openResourceMetadata } from './services/resource-metadata.ts'
import { openReconstruction } from './services/resource-reconstruct.ts'
import { openRestPeers, type Sealing } from './services/rest-peers.ts'
import { peerOfDestination, withRestPeers } from './services/rest-send.ts'
import { openRestStore } from './services/rest-store.ts'
import { openResumableUploads } from './services/resumable-uploads.ts'
import { openRetention } from './services/retention.ts'
import { openRetrieve } from './services/retrieve.ts'
import type { FindArchive } from './services/route-target.ts'
import { startRouting } from './services/routing.ts'
import { loadStatus } from './services/status.ts'
import { openTokens } from './services/tokens.ts'
import { openTrialServices } from './services/trial-parts.ts'
import { openWebClient } from './services/web-client.ts'
import { openWorkitems } from './services/workitems.ts'
import { openWorklist } from './services/worklist.ts'
import { openZipArchives } from './services/zip-archive.ts'
import { openBlobs } from './store/blobs.ts'
import type { Origin } from './store/origin.ts'
import { findToken, tokenDigest } from './store/tokens.ts'
import { version } from './version.ts'

/** A running gateway. */
export interface Gateway {
  readonly listeners: Listeners
  readonly siteId: string
  /** Stops everything in reverse order; what was acknowledged is durable anyway. */
  close(): Promise<void>
}

/** Builds and starts a gateway. What was opened is closed again when a later part fails. */
export async function startGateway(config: Config, log: Log, orthanc?: OrthancSettings): Promise<Gateway> {
  await using starting = new AsyncDisposableStack()
  const startedAt = new Date()
  await mkdir(config.data, { recursive: true, mode: 0o700 })

  const { db, clusterHome } = await openStore(config, log, starting)
  await migrate(db)
  const refused = openRefusals({ db, log })
  const onForbidden = limitRefusals<Refusal & { code: string }>(({ userId, address, action, repeats }) =>
    refused({ protocol: 'any', userId, address, reason: 'FORBIDDEN', action, repeats }),
  )
  const rights = await openAuthorizer({ onRefused: refusal => onForbidden({ ...refusal, code: refusal.action }) })
  const blobs = await openBlobs({
    dir: config.data,
    log,
    freeSpace: { ...watermarkOf(config), ...(clusterHome && { alsoWatch: [clusterHome] }) },
    spares: 16,
  })
  const keys = await openSiteKeys({
    dir: join(config.data, 'keys'),
    siteName: config.site.name,
    hosts: hostsOf(config),
  })
  await ensurePolicy(db, keys)

  const audit = use(starting, openAuditLog({ db, log, keys }))
  const queue = use(starting, await openQueue({ db, log }))
  const peers = use(starting, await openPeers({ db, appendAudit, log }))
  const clocks = openClockWatch({ notBefore: keys.validFrom })
  const proxy = config.proxy && { url: config.proxy.url, credentialsFile: config.proxy.loginFile }
  let federationUrl = config.federation.publicUrl
  const card = () =>
    signCard(keys, { name: config.site.name, urls: federationUrl ? [federationUrl] : [], created: Date.now() })
  const pairing = openPairing({ db, keys, peers, card, appendAudit, clocks, proxy })

  const ownIssuers = new Set(config.site.ownIssuers)
  const dicomCredentials = use(
    starting,
    await openCredentials({ source: { ...config.dicom.tls, issue: () => keys.dicomTls(dicomHostsOf(config)) }, log }),
  )
  const modalities = use(
    starting,
    await openModalities({
      db,
      log,
      aeTitle: config.dicom.aeTitle,
      credentials: () => dicomCredentials.current(),
    }),
  )
  const sealing: Sealing = { seal: bytes => seal(bytes, keys.sealingKey), open: box => keys.openSealed(box) }
  const restPeers = use(starting, await openRestPeers({ db, log, sealing }))
  const passwordUsers = openPasswordUsers({ db })
  if (orthanc) await takeOverOrthanc(orthanc, { modalities, restPeers, passwordUsers })
  const findArchive: FindArchive = name => {
    const peer = peerOfDestination(name)
    const found = peer === undefined ? undefined : restPeers.find(peer)
    if (peer === undefined) return modalities.find(name)
    return found && { name, aeTitle: name, zone: found.zone }
  }
  const dueAt = ({ callingAe, purpose }: Origin): Date | undefined =>
    purpose === 'prefetch' || purpose === 'import'
      ? undefined
      : new Date(Date.now() + (modalities.stableAgeMs(callingAe) ?? config.studies.stableAgeMs))
  const ingest = use(
    starting,
    openIngest({
      db,
      blobs,
      ownIssuers,
      dueAt,
      overwrites: config.orthanc.overwriteInstances,
    }),
  )
  const query = openQuery({ db })
  const removal = openRemoval({ db })
  const exportLog = openExportLog({ db, isKept: config.orthanc.logExportedResources })
  const retention = openRetention({
    db,
    removal,
    freeBytes: async () => (await blobs.freeSpace()).freeBytes,
    log,
  })
  const retrieve = openRetrieve({ db, blobs, ownIssuers })
  const pixels = use(
    starting,
    await openPixels({
      dir: join(config.data, 'spool'),
      assertRoom: bytes => blobs.assertRoom(bytes),
      lossyQuality: config.orthanc.lossyTranscodingQuality,
    }),
  )
  const rendering = openRendering({ retrieve, pixels })
  const backgroundJobs = openBackgroundJobs({
    db,
    queue,
    log,
    dataDir: config.data,
    concurrency: config.limits.jobs,
    historySize: config.limits.jobsHistory,
    archivesKept: config.orthanc.mediaArchiveSize,
  })
  const rewriting = { db, blobs, ingest, pixels, removal, log, limitBytes: config.limits.instanceBytes }
  const rewrites = openRewriteJobs({ ...rewriting, jobs: backgroundJobs })
  const modifyParts = { ...rewriting, rewrites }
  const modifications = openModifications(modifyParts)
  const studyChanges = openStudyChanges(modifyParts)
  const creation = openDicomCreation(rewriting)
  const stopping = new AbortController()
  starting.defer(() => stopping.abort(new GatewayError('UNAVAILABLE', 'the gateway is stopping')))
  const converter = (name: string): Converter | undefined => {
    const { allowTranscoding = true, transferSyntaxes } = modalities.find(name) ?? {}
    return allowTranscoding ? pixelConverter(pixels, stopping.signal, transferSyntaxes) : undefined
  }
  const ownMoves = new OwnMoves(config.dicom.aeTitle)
  const node = remoteNode({
    store: purpose => ingestStore(ingest, () => purpose),
    ownMoves,
    converter: ({ name }) => converter(name),
  })
  const findNode = (name: string): NodeTarget => modalities.target(name)
  const modalityJobs = openModalityJobs({ db, queue, findNode, retrieve, node, log })
  queue.work('modality-job', { concurrency: 4 }, ({ job }, signal) => modalityJobs.run(job, signal))
  const prefetch = openPrefetch({ db, queue, jobs: modalityJobs, findNode, node, log })
  queue.work('prefetch-priors', { concurrency: 2 }, ({ study }, signal, { attempt }) =>
    prefetch.run(study, signal, attempt),
  )
  const onArrived = (tx: Tx, study: number): Promise<void> => prefetch.arrived(tx, study)
  const routing = use(starting, startRouting({ db, queue, log, findArchive, onArrived }))
  const { twoPersons } = config.policy
  const policies = openPolicies({ db, signer: keys, findModality: findArchive, twoPersons })
  const dryRuns = openDryRuns({ db, queue, policies, findArchive })
  queue.work('dry-run', { concurrency: 1 }, ({ run }, signal) => dryRuns.run(run, signal))
  const codec = nativePixels(() => Promise.resolve(pixels), stopping.signal)
  const attributeDiffs = openAttributeDiffs({ db, blobs, policies, codec })
  const checkpoint = async (): Promise<string> => (await audit.checkpoint()).note
  const inbound = await openInbound({ db, blobs, queue, keys, checkpoint, log, dataDir: config.data })
  const consents = openConsents({ db, queue })
  const openCarrier = carrierOpener({ keys, clocks, proxy })
  const deidentify = use(starting, openDeidentify({ codec }))
  const anonymizations = openAnonymizations({ ...modifyParts, deidentify, spoolDir: join(config.data, 'spool') })
  const projects = openProjectKeys({ db, dir: join(config.data, 'keys', 'projects') })
  const pseudonyms = openPseudonyms({ db, keyPath: join(config.data, 'keys', 'pseudonyms.json'), projects })
  const outbox = openOutbox(config.data)
  const preparing = { outbox, ...createPreparing({ db, blobs, outbox, deidentify, projects, pseudonyms, log }) }
  const { obstacle } = consents
  const outbound = use(starting, openOutbound({ db, blobs, queue, keys, peers, openCarrier, preparing, obstacle, log }))
  queue.work('commit-inbound', { concurrency: 2 }, ({ transfer }, signal) => inbound.runCommit(transfer, signal))
  queue.work('deliver', { concurrency: 8 }, ({ transfer }, signal) => outbound.run(transfer, signal))
  await outbound.recover('all')
  const recalls = openRecalls({ db, queue, keys, peers, openCarrier, removal, log })
  queue.work('recall', { concurrency: 2 }, ({ recall }, signal) => recalls.run(recall, signal))
  const { aeTitle } = config.dicom
  const credentials = () => dicomCredentials.current()
  const nodes = commitmentNodes({ credentials, aeTitle }, modalities, () => endpointServices.endpoints)
  const commitments = openCommitments({ db, blobs, queue, wire: commitmentWire(nodes), aeTitle, log })
  const endpointServices = openEndpointServices({
    db,
    commitments,
    blobs,
    queue,
    keys,
    outbox,
    preparing,
    obstacle,
    sendByDimse: (to, items, onResult, signals) =>
      archiveWire({ target: () => to, converter }).send(to.name, items, onResult, signals),
    credentials,
    aeTitle,
    dataDir: config.data,
    log,
  })
  await endpointServices.endpointDelivery.recover('all')
  const clock = (): Date => new Date()
  const arrivals = await openArrivals({
    ...endpointServices,
    db,
    blobs,
    ingest,
    queue,
    dataDir: config.data,
    clock,
    log,
  })
  queue.work('verify-commitment', { concurrency: 2 }, (job, signal) => commitments.verify(job.commitment, signal))
  queue.work('carry-commitment', { concurrency: 4 }, (job, signal) => commitments.carry(job.commitment, signal))
  const archive = openArchive({
    db,
    blobs,
    queue,
    keys,
    checkpoint,
    commitments,
    wire: withRestPeers(archiveWire({ target: findNode, converter }), name => restPeers.target(name)),
    findArchive,
    obstacle,
    aeTitle,
    log,
  })
  queue.work('archive', { concurrency: 4 }, ({ transfer }, signal) => archive.run(transfer, signal))
  const { instanceBytes: limitBytes } = config.limits
  const attachments = openResourceAttachments({ db, blobs, limitBytes, requireSeen: config.orthanc.checkRevisions })
  const orthancImports = openOrthancImports({
    db,
    ingest,
    jobs: backgroundJobs,
    sealing,
    attachments,
    metadataNames: config.orthanc.userMetadata,
    limitBytes,
  })
  const resumableUploads = await openResumableUploads({
    db,
    blobs,
    ingest,
    jobs: backgroundJobs,
    dataDir: config.data,
    limitBytes,
  })
  const { folders } = config.discs
  const discs = openDiscs({ ingest, jobs: backgroundJobs, uploads: resumableUploads, folders, limitBytes })
  backgroundJobs.start()
  use(
    starting,
    startHousekeeping({
      db,
      blobs,
      inbound,
      outbound,
      preparing,
      archive,
      endpointDelivery: endpointServices.endpointDelivery,
      commitments,
      backgroundJobs,
      resumableUploads,
      consents,
      retention,
      log,
    }),
  )

  const changes = use(starting, openChangeFeed({ db, log }))
  const onRefused = limitRefusals<RefusedConnection>(({ code, address, repeats }) => {
    log.warn({ part: 'federation', address, reason: code, repeats }, 'refused a connection')
    refused({ protocol: 'federation', userId: 'unknown', address, reason: code, repeats })
  })
  const tls = openFederationTls({ keys, directory: peers, hosts: () => hostsOf(config), onRefused, log })
  starting.defer(() => tls.close())
  const federation = use(
    starting,
    await openFederation({
      tls,
      inbound,
      siteCard: () => card().bytes,
      pair: (caller, message) => pairing.answer(caller, message),
      recall: recalls.receive,
      log,
      host: config.federation.host,
      port: config.federation.port,
    }),
  )
  federationUrl ??= reachable('https', config.federation.host, federation.address.port)

  const worklist = openWorklist({ db })
  const mpps = openMpps({ db })
  const worklistFolder = await followWorklistFolder(config, worklist, log)
  if (worklistFolder) use(starting, worklistFolder)

  readUndeclaredAs(config.dicom.defaultEncoding)
  const receptionTerms = openReceptionTerms({ db })
  const scp = use(
    starting,
    await openDicomScp({
      ...{ config, modalities, credentials: dicomCredentials, rights, refused, ownMoves, converter, log },
      ...{ terms: receptionTerms, ingest, query, retrieve, commitments, worklist, mpps, jobs: backgroundJobs },
    }),
  )
  const onRefusedHl7 = limitRefusals<{ code: string; address: string }>(({ code, address, repeats }) =>
    refused({ protocol: 'hl7', userId: 'unknown', address, reason: code, repeats }),
  )
  const hl7 = await listenHl7(config, worklist, rights, onRefusedHl7, log)
  if (hl7) use(starting, hl7)

  let ready = false
  let listeners: Listeners | undefined
  const isReady = async (): Promise<boolean> =>
    ready &&
    (await db.pool.query('select 1').then(
      () => true,
      () => false,
    ))
  const metrics = openMetrics()
  installGauges(metrics, {
    db,
    storage: () => blobs.freeSpace(),
    queue: () => queue.state(),
    dicom: () => ({ ...scp.counters() }),
  })
  const http = await buildHttpServer({
    log,
    metrics,
    auth: {
      adminTokenSha256: tokenDigest(await adminToken(config.data)),
      verifyPassword: (name, password) => passwordUsers.verify(name, password),
      findToken: sha256 => findToken(db, sha256),
      rights,
      publicUrl: config.http.publicUrl,
      host: config.http.host,
    },
    cors: { origins: config.http.corsOrigins, path: config.dicomweb.path },
    ...(config.http.tls && { tls: config.http.tls }),
    onRefused: ({ code, address, repeats }) =>
      refused({ protocol: 'http', userId: 'unknown', address, reason: code, repeats }),
    routes: async app => {
      await installOpenApi(app, version)
      orthancRoutes(app, {
        db,
        commitment: { db, commitments, modalities },
        jobs: { jobs: backgroundJobs, modalityJobs },
        retrieve,
        datasets: openResourceDatasets({ db, blobs }),
        namedFiles: openNamedFiles({ retrieve, pixels }),
        changes,
        exportLog,
        privateNames: readPrivateNames(config.orthanc.dictionary),
        privateNumbers: readPrivateNumbers(config.orthanc.dictionary),
        removal,
        reconstruction: openReconstruction({ db, blobs }),
        modify: { jobs: backgroundJobs, log, modifications, anonymizations, studyChanges, creation },
        find: openResourceFind({ db, query: openQuery({ db }), limits: findLimits(config.orthanc) }),
        metadata: openResourceMetadata({ db, requireSeen: config.orthanc.checkRevisions }),
        metadataNames: config.orthanc.userMetadata,
        attachments,
        attachmentNames: config.orthanc.userContentTypes,
        logThreshold: log.threshold,
        receptionTerms,
        upload: {
          db,
          ingest,
          limitBytes: config.limits.instanceBytes,
          concurrency: config.limits.uploads,
          overwrites: config.orthanc.overwriteInstances,
        },
        system: () => ({
          name: config.site.name,
          aeTitle: config.dicom.aeTitle,
          dicomPort: listeners?.dicom.port ?? config.dicom.port,
          httpPort: listeners?.http.port ?? config.http.port,
          version,
          checkRevisions: config.orthanc.checkRevisions,
          userMetadata: config.orthanc.userMetadata,
        }),
      })
      await dicomwebRoutes(app, {
        query,
        retrieve,
        pixels,
        rendering,
        frames: openImageFrames({ retrieve, pixels }),
        ingest,
        removal,
        limitBytes: config.limits.instanceBytes,
        concurrency: config.limits.uploads,
        workitems: openWorkitems({ db }),
        servers: config.dicomweb.servers,
        client: openWebClient({
          db,
          servers: config.dicomweb.servers,
          retrieve,
          ingest,
          pixels,
          limitBytes: config.limits.instanceBytes,
        }),
        jobs: backgroundJobs,
        answers: { jobs: backgroundJobs, log },
        place: { path: config.dicomweb.path, publicUrl: config.http.publicUrl },
      })
      imageRoutes(app, { rendering })
      numpyRoutes(app, { db, rendering })
      await archiveRoutes(app, {
        archives: openZipArchives({ db, blobs, pixels }),
        jobs: backgroundJobs,
        assertRoom: bytes => blobs.assertRoom(bytes),
      })
      worklistsRoutes(app, { worklist })
      const outside = openOutsideSends({ db, routing })
      const remote = openRemote({ db, findNode, node, aeTitle: config.dicom.aeTitle })
      await orthancModalityRoutes(app, { modalities, remote, aeTitle: config.dicom.aeTitle })
      await orthancRemoteRoutes(app, {
        modalities,
        remote,
        queries: openRemoteQueries({ db, remote, mostQueries: config.orthanc.queryRetrieveSize }),
        jobs: backgroundJobs,
        answers: { jobs: backgroundJobs, log },
        remoteStore: openRemoteStore({ db, findNode, retrieve, node, outside }),
        exportLog,
        commitment: { db, commitments },
        restPeers,
        restStore: openRestStore({ db, blobs, pixels, retrieve, peers: restPeers, outside }),
        ingest,
        limitBytes: config.limits.instanceBytes,
        aeTitle: config.dicom.aeTitle,
      })
      await apiRoutes(app, {
        worklist,
        mpps,
        worklistFolder,
        db,
        blobs,
        log,
        queue,
        peers,
        pairing,
        card,
        pseudonyms,
        quarantine: openQuarantine({ db, queue, inbound, arrivals }),
        arrivals,
        recalls,
        reidentification: openReidentification({ db, pseudonyms }),
        routing,
        policies,
        consents,
        dryRuns,
        attributeDiffs,
        inbound,
        conflicts: openConflicts({ db, blobs, dueAt, ownIssuers }),
        modalities,
        remote,
        modalityJobs,
        orthancImports,
        resumableUploads,
        discs,
        prefetch,
        patientLinks: openPatientLinks({ db, queue }),
        audit,
        tokens: openTokens({ db }),
        retention,
        legalHolds: openLegalHolds({ db }),
        ...endpointServices,
        ...openTrialServices({ db, queue, routing, projects, pseudonyms, attributeDiffs }),
        health: { isReady },
        status: () =>
          loadStatus({
            db,
            site: { name: config.site.name, siteId: keys.siteId, aeTitle: config.dicom.aeTitle },
            version,
            twoPersons,
            startedAt,
            isReady,
            listeners: () => describeListeners(listeners),
            storage: () => blobs.freeSpace(),
            queue: () => queue.state(),
          }),
      })
    },
  })
  use(starting, { close: () => http.close() })
  await http.listen({ host: config.http.host, port: config.http.port })

  listeners = {
    http: {
      url: reachable(config.http.tls ? 'https' : 'http', config.http.host, portOf(http.server.address())),
      port: portOf(http.server.address()),
    },
    dicom: {
      aeTitle: config.dicom.aeTitle,
      host: config.dicom.host,
      port: scp.address.port,
      ...(scp.tlsAddress && { tlsPort: scp.tlsAddress.port }),
    },
    federation: { url: federationUrl, port: federation.address.port },
    ...(hl7 && { hl7: { port: hl7.address.port } }),
  }
  await writeListeners(config.data, listeners)
  starting.defer(() => rm(join(config.data, 'run/listeners.json'), { force: true }))
  await recordActivity(db, 'start')
  starting.defer(() => recordActivity(db, 'stop'))
  ready = true
  log.info(
    { site: config.site.name, http: listeners.http.url, dicom: listeners.dicom.port, federation: federationUrl },
    'gateway is ready',
  )

  const running = starting.move()
  return {
    listeners,
    siteId: keys.siteId,
    close: async () => {
      ready = false
      // At once: each waits up to 10 s for what is under way. Their second closing, below, does nothing.
      await Promise.allSettled([http.close(), scp.close(), federation.close(), hl7?.close()])
      await running.disposeAsync()
    },
  }
}

async function recordActivity(db: Db, what: 'start' | 'stop'): Promise<void> {
  await db.inTransaction(tx =>
    appendAudit(tx, applicationActivity({ what, participant: { userId: `hanse ${version}` } })),
  )
}

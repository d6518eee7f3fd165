/** The DICOM listener with all its services. */

import type { Config } from '../config.ts'
import { commitmentService } from '../dimse/commitment.ts'
import type { DicomCredentials } from '../dimse/credentials.ts'
import { findService } from '../dimse/find.ts'
import { getService } from '../dimse/get.ts'
import { ingestStore } from '../dimse/ingest-sink.ts'
import { openScp } from '../dimse/listener.ts'
import { moveService } from '../dimse/move.ts'
import { mppsService } from '../dimse/mpps.ts'
import type { Converter } from '../dimse/outgoing.ts'
import type { OwnMoves } from '../dimse/own-moves.ts'
import { worklistService } from '../dimse/worklist.ts'
import type { Log } from '../log.ts'
import type { Rights } from '../principal.ts'
import type { BackgroundJobs } from '../services/background-jobs.ts'
import type { Commitments } from '../services/commitment.ts'
import type { NodeTarget } from '../services/dicom-node.ts'
import type { Ingest } from '../services/ingest.ts'
import type { Modalities } from '../services/modalities.ts'
import type { Mpps } from '../services/mpps.ts'
import { noteMove } from '../services/noted-moves.ts'
import type { Query } from '../services/query.ts'
import type { ReceptionTerms } from '../services/reception-terms.ts'
import type { openRefusals } from '../services/refusals.ts'
import { findLimits } from '../services/resource-find.ts'
import type { Retrieve } from '../services/retrieve.ts'
import type { Worklist } from '../services/worklist.ts'

/** What the services need. */
interface ScpParts {
  readonly config: Config
  readonly modalities: Modalities
  readonly credentials: DicomCredentials
  readonly rights: Rights
  readonly refused: ReturnType<typeof openRefusals>
  readonly ownMoves: OwnMoves
  /** For a modality, by name or calling AE title. */
  readonly converter: (name: string) => Converter | undefined
  readonly terms: ReceptionTerms
  readonly ingest: Ingest
  readonly query: Query
  readonly retrieve: Retrieve
  readonly commitments: Commitments
  readonly worklist: Worklist
  readonly mpps: Mpps
  readonly jobs: BackgroundJobs
  readonly log: Log
}

/** Opens it. @throws GatewayError when a port is taken */
export async function openDicomScp(parts: ScpParts): ReturnType<typeof openScp> {
  const { config, modalities, credentials, rights, refused, ownMoves, converter, log } = parts
  const { terms, ingest, query, retrieve, commitments, worklist, mpps, jobs } = parts
  const { port: dicomTlsPort } = config.dicom.tls
  return await openScp({
    host: config.dicom.host,
    port: config.dicom.port,
    aeTitle: config.dicom.aeTitle,
    unknownCallers: config.dicom.unknownCallers,
    privateSopClasses: config.dicom.privateSopClasses,
    terms,
    limits: {
      associations: config.limits.associations,
      associationsPerAddress: config.limits.associationsPerAddress,
      associationsPerAe: config.limits.associationsPerAe,
    },
    tls:
      dicomTlsPort === undefined
        ? undefined
        : {
            port: dicomTlsPort,
            clients: config.dicom.tls.clientCertificates,
            credentials,
            isRegistered: fingerprint => modalities.hasCertificate(fingerprint),
          },
    identifyCaller: caller => modalities.identify(caller),
    rights,
    onRefused: ({ callingAe, remoteAddress, reason, repeats }) =>
      refused({ protocol: 'dimse', userId: callingAe || 'unknown', address: remoteAddress, reason, repeats }),
    store: ingestStore(ingest, ({ originator }) => ownMoves.purposeOf(originator)),
    services: [
      findService({ query, aeTitle: config.dicom.aeTitle, limits: findLimits(config.orthanc) }),
      getService({ retrieve, converter: ({ callingAe }) => converter(callingAe) }),
      commitmentService(commitments),
      moveService({
        retrieve,
        destination: aeTitle => moveDestination(modalities, aeTitle),
        converter,
        log,
        onEnded: move => noteMove(jobs, move, config.dicom.aeTitle),
      }),
      worklistService({ worklist }),
      mppsService({ mpps }),
    ],
    log,
  })
}

/** Whom a C-MOVE may name: what is registered, can be called, and is inside of the hospital. */
function moveDestination(modalities: Modalities, aeTitle: string): NodeTarget | undefined {
  const found = modalities.find(aeTitle)
  if (found?.host === undefined || found.port === undefined || found.zone === 'outside') return undefined
  return modalities.target(found.name)
}

/**
 * The verification and storage SCP as the rest of the gateway sees it: what it needs, its limits,
 * its counters. `openScp` of `listener.ts` opens one.
 */

import type { Log } from '../log.ts'
import type { Rights } from '../principal.ts'
import type { MoveOriginator } from '../services/dicom-node.ts'
import type { Caller, CallerCertificate, Identity } from '../services/modality-caller.ts'
import type { ReceptionTerms } from '../services/reception-terms.ts'
import type { DicomCredentials } from './credentials.ts'
import type { ServiceClass } from './service.ts'

/** Who sends: the origin of what arrives on an association. */
export interface AssociationPeer {
  /** Trimmed; characters outside of the default repertoire are replaced by '?'. */
  readonly callingAe: string
  readonly calledAe: string
  /** Without the prefix of a mapped IPv4 address. */
  readonly remoteAddress: string
  /** What it presented by TLS, verified or registered. */
  readonly certificate?: CallerCertificate | undefined
}

/** One C-STORE request whose data set is about to come. */
export interface StoreRequest {
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  readonly transferSyntaxUid: string
  readonly association: AssociationPeer
  /** The C-MOVE on whose behalf it comes. */
  readonly originator?: MoveOriginator | undefined
}

/**
 * Takes one data set. Calls never overlap: each comes after the previous one has settled. Ends with
 * `finish`, or with `discard` when the data set did not arrive whole or a call failed; `discard`
 * may come after a failed `finish`.
 */
export interface StoreSink {
  /**
   * How many of the data set's first bytes the sink goes on reading after their `write` has settled:
   * they stay unchanged until `finish` or `discard` has. 0 unless given.
   */
  readonly keptBytes?: number
  /**
   * Takes the next bytes: views that stay unchanged until it settles (and see `keptBytes`), and
   * are overwritten by other data then. The sender waits when it takes long.
   */
  write(chunks: Uint8Array[]): Promise<void>
  /** The data set is complete: what is answered with success is durable. */
  finish(): Promise<{ status: number; comment?: string }>
  /** Removes what was staged. */
  discard(): Promise<void>
}

/** Where data sets go. */
export interface StoreService {
  /** @throws GatewayError whose code becomes the status, after the data set has been drained */
  begin(request: StoreRequest): Promise<StoreSink>
}

/** Who is served besides known callers: nobody, callers on this machine, or everybody. */
export type UnknownCallers = 'refuse' | 'loopback' | 'all'

/** A refused association, or a part of one, for the audit log. Equal ones are reported once a minute. */
export interface Refusal extends AssociationPeer {
  readonly reason:
    | 'unknown-caller'
    | 'called-ae'
    | 'limit'
    | 'unavailable'
    | 'protocol'
    | 'certificate'
    | 'tls'
    | 'not-permitted'
  /** How many equal ones were not reported since the last report. */
  readonly repeats: number
}

/** Limits of the listener; every one has a default. */
export interface ScpLimits {
  /** Associations at a time, refused beyond with "local limit exceeded". */
  readonly associations: number
  /** Of these from one address; loopback addresses, behind which proxies sit, have no such limit. */
  readonly associationsPerAddress: number
  /** Of these of one registered caller without a limit of its own, or of one unknown AE title. */
  readonly associationsPerAe: number
  /** TLS handshakes at a time; the oldest is given up for a new one. */
  readonly handshakes: number
  /** Advertised to the peer: the longest P-DATA-TF that it may send, at most 262,144 bytes. */
  readonly maxPduLength: number
  /** Data of one association that is held in memory before its socket is paused. */
  readonly heldBytesPerAssociation: number
  /** The same for all associations together. */
  readonly heldBytes: number
  /** ARTIM timer of PS3.8 §9.1.5: from the connection to its A-ASSOCIATE-RQ; a TLS handshake has as long again. */
  readonly associationRequestMs: number
  /** Silence between messages. */
  readonly idleMs: number
  /** From a PDU's first byte to its last, and silence inside of a message. */
  readonly pduMs: number
  /** From our last word to the destruction of the socket. */
  readonly graceMs: number
}

export const defaultScpLimits: ScpLimits = {
  associations: 512,
  associationsPerAddress: 256,
  associationsPerAe: 256,
  handshakes: 128,
  maxPduLength: 262_144,
  heldBytesPerAssociation: 4_194_304,
  heldBytes: 67_108_864,
  associationRequestMs: 30_000,
  idleMs: 300_000,
  pduMs: 120_000,
  graceMs: 2_000,
}

/** Who must present a certificate by TLS. */
export type TlsClients = 'required' | 'optional' | 'off'

/** The TLS listener. */
export interface ScpTls {
  /** 0 takes a free one. */
  readonly port: number
  readonly clients: TlsClients
  readonly credentials: DicomCredentials
  /** Is a client certificate with this fingerprint registered? Then nobody needs to vouch for it. */
  readonly isRegistered: (fingerprint: string) => boolean
}

/** What an SCP needs to run. */
export interface ScpOptions {
  readonly host: string
  /** 0 takes a free one. */
  readonly port: number
  /** Our own title; compared with the called one when `checkCalledAe` is set. */
  readonly aeTitle: string
  readonly checkCalledAe?: boolean
  readonly unknownCallers?: UnknownCallers
  /** Who is this caller? Whoever is not registered may verify and store where `unknownCallers` says so. */
  readonly identifyCaller?: (caller: Caller) => Promise<Identity>
  /** What callers' roles permit: one for each service, `dicom.<service>`. */
  readonly rights: Rights
  /** A second listener, for TLS; the limits are those of both together. */
  readonly tls?: ScpTls | undefined
  /** SOP classes outside of PS3.6 that are stored as well. */
  readonly privateSopClasses?: Iterable<string>
  /** What of all that is taken now; everything when absent. */
  readonly terms?: ReceptionTerms
  /** Services beside verification and storage. */
  readonly services?: readonly ServiceClass[]
  readonly store: StoreService
  readonly onRefused?: (refusal: Refusal) => void
  readonly limits?: Partial<ScpLimits>
  /** For tests: bytes that a sink must not use any more are overwritten at once. */
  readonly poisonBuffers?: boolean
  readonly log: Log
}

/** Counts since the start, and what is open now; for metrics. */
export interface ScpCounters {
  connectionsOpen: number
  associationsOpen: number
  associationsAccepted: number
  associationsRefused: number
  associationsAborted: number
  instancesStored: number
  instancesFailed: number
  /** Of data sets, whatever became of them. */
  datasetBytesReceived: number
}

/** Where a listener is bound. */
export interface ListenAddress {
  readonly host: string
  readonly port: number
}

/** A running SCP. */
export interface Scp {
  readonly address: ListenAddress
  /** Of the TLS listener, where there is one. */
  readonly tlsAddress: ListenAddress | undefined
  counters(): Readonly<ScpCounters>
  /**
   * Takes no more connections, lets messages that are under way end for at most `graceMs`, then
   * aborts what is left. Resolves when every socket is gone and every staging discarded.
   */
  close(options?: { graceMs?: number }): Promise<void>
}

/** Sends stored resources to a server by its REST API: directly inside of the hospital, by transfers out of it. */

import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { beginTransferring, instancesTransferred } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import type { ByteSource } from '../dicom/byte-source.ts'
import { transferSyntax } from '../dicom/uid.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { NamedSyntax } from '../pixels/pixels.ts'
import type { Principal } from '../principal.ts'
import type { Blobs } from '../store/blobs.ts'
import { closing } from '../store/closing.ts'
import { derivedFrom, isLeftAsItIs, type NamedPixels } from './named-syntax.ts'
import type { OutsideSends } from './outside-sends.ts'
import type { RemoteInstance } from './remote.ts'
import { assertKnown } from './remote-store.ts'
import { callRest, readJson } from './rest-client.ts'
import type { RestPeers } from './rest-peers.ts'
import { destinationOfPeer, sendFileTo } from './rest-send.ts'
import type { Retrieve } from './retrieve.ts'
import { belowResources, type PlannedInstance } from './retrieve-plan.ts'

/** A send that is planned. */
export interface RestStorePlan {
  readonly url: string
  readonly username: string
  readonly instanceCount: number
  readonly sizeBytes: number
  /** Failures are thrown unless permissive. */
  run(onProgress: (done: number, total: number) => void, signal: AbortSignal): Promise<RestStoreOutcome>
}

/** What became of a send. */
export interface RestStoreOutcome {
  /** Instances that were not stored there. */
  readonly failed: number
  /** What went over the line, compressed where that was asked for. */
  readonly sentBytes: number
}

/** What REST peers are used for. */
export interface RestStore {
  /** Its `/system`. @throws GatewayError NOT_FOUND, PEER_UNREACHABLE, REMOTE_STATUS, PEER_PROTOCOL */
  system(principal: Principal, name: string, signal: AbortSignal): Promise<unknown>
  /** @throws GatewayError NOT_FOUND for an unknown peer or resource, BAD_REQUEST for an unknown transfer syntax */
  plan(
    principal: Principal,
    name: string,
    request: {
      readonly resources: readonly string[]
      readonly compress: boolean
      readonly permissive: boolean
      /** What cannot be had in it goes as it is stored. */
      readonly transcodeTo?: string | undefined
      /** Of JPEG with loss, 1 to 100. */
      readonly lossyQuality?: number | undefined
    },
  ): Promise<RestStorePlan>
  /** Sends an instance that is in no store; the peer's answer. @throws GatewayError FORBIDDEN for a peer outside */
  send(principal: Principal, name: string, instance: RemoteInstance, signal: AbortSignal): Promise<unknown>
}

export function openRestStore(options: {
  readonly db: Db
  readonly blobs: Pick<Blobs, 'open'>
  readonly pixels: NamedPixels
  readonly retrieve: Retrieve
  readonly peers: RestPeers
  readonly outside: OutsideSends
}): RestStore {
  const { db, blobs, pixels, retrieve, peers, outside } = options
  const isOutside = (name: string): boolean => peers.find(name)?.zone !== 'inside'
  const partiesOf = (principal: Principal, name: string) => ({
    requestor: { userId: principal.id, ...(principal.address !== undefined && { address: principal.address }) },
    destination: { userId: destinationOfPeer(name), address: new URL(peers.target(name).url).hostname },
  })

  /** The file in another transfer syntax; undefined where it is to go, or can only go, as it is. */
  const transcoded = async (
    file: ByteSource,
    { transferSyntaxUid: from, sopInstanceUid }: PlannedInstance,
    { to, quality }: Partial<NamedSyntax>,
    signal: AbortSignal,
  ) => {
    if (to === undefined || from === to) return undefined
    try {
      const made = await pixels.recodeAsNamed(
        file,
        { from, to, quality, ...derivedFrom(sopInstanceUid, from, to) },
        signal,
      )
      return { source: made.open(), [Symbol.asyncDispose]: () => made.close() }
    } catch (error) {
      if (isLeftAsItIs(error)) return undefined
      throw error
    }
  }

  return {
    async system(principal, name, signal) {
      authorize(principal, 'peer.read')
      const target = peers.target(name)
      return await readJson(await callRest(target, { method: 'GET', path: '/system' }, signal), name)
    },

    async plan(principal, name, { resources, compress, permissive, transcodeTo, lossyQuality }) {
      authorize(principal, 'study.send')
      if (transcodeTo !== undefined && !transferSyntax(transcodeTo))
        throw new GatewayError('BAD_REQUEST', 'Transcode: expected a transfer syntax')
      const wanted = { ...(transcodeTo !== undefined && { to: transcodeTo }), quality: lossyQuality }
      const target = peers.target(name)
      await assertKnown(db, resources)
      const plan = await retrieve.plan({ level: 'instance', resources })
      const { instanceCount } = plan
      const { rows } = await sql<{ bytes: number }>`
        select coalesce(sum(i.size_bytes), 0)::bigint as bytes from instances i where ${belowResources(resources)}
      `.execute(db.kysely)
      return {
        url: target.url,
        username: target.username ?? '',
        instanceCount,
        sizeBytes: Number(rows[0]?.bytes ?? 0),
        async run(onProgress, signal) {
          const sizeBytes = Number(rows[0]?.bytes ?? 0)
          if (instanceCount === 0) return { failed: 0, sentBytes: 0 }
          if (isOutside(name)) {
            await outside.send(principal, { modality: destinationOfPeer(name) }, resources, signal)
            onProgress(instanceCount, instanceCount)
            return { failed: 0, sentBytes: sizeBytes }
          }
          const parties = partiesOf(principal, name)
          const sent = new Map<number, number>()
          let [done, failed, sentBytes] = [0, 0, 0]
          await plan.begin(parties)
          try {
            for await (const instance of plan.instances()) {
              const { fileSha256, study } = instance
              const blob = await blobs.open(fileSha256)
              await using _closing = closing(blob)
              try {
                await using made = await transcoded(blob, instance, wanted, signal)
                sentBytes += (await sendFileTo(target, made?.source ?? blob, { compress }, signal)).sentBytes
                sent.set(study, (sent.get(study) ?? 0) + 1)
              } catch (error) {
                if (!permissive || !isGatewayError(error, 'REMOTE_STATUS')) throw error
                failed += 1
              }
              done += 1
              onProgress(done, instanceCount)
            }
          } finally {
            await plan.end(parties, sent)
          }
          return { failed, sentBytes }
        },
      }
    },

    async send(principal, name, { source, studyInstanceUid, patientId }, signal) {
      authorize(principal, 'study.send')
      const target = peers.target(name)
      if (isOutside(name)) {
        throw new GatewayError('FORBIDDEN', `${name} is outside of the hospital: nothing is sent there directly`)
      }
      const event = {
        ...partiesOf(principal, name),
        source: { userId: 'gateway' },
        objects: [
          { kind: 'patient' as const, patientId },
          { kind: 'study' as const, studyInstanceUid, instanceCount: 1 },
        ],
      }
      await db.inTransaction(tx => appendAudit(tx, beginTransferring(event)))
      let outcome: 'success' | 'serious-failure' = 'serious-failure'
      try {
        const { answer } = await sendFileTo(target, source, { compress: false }, signal)
        outcome = 'success'
        return answer
      } finally {
        await db.inTransaction(tx => appendAudit(tx, instancesTransferred({ ...event, action: 'R', outcome })))
      }
    },
  }
}

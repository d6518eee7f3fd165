/** Another client, that goes on working while somebody misbehaves. */
import assert from 'node:assert/strict'
import { setTimeout as delay } from 'node:timers/promises'
import { echoScu } from '../../gateway/dimse/scu.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import type { ProcessGateway } from '../support/process-gateway.ts'

/** What a bystander went through. */
export interface Experience {
  readonly rounds: number
  /** The longest that one C-ECHO, upload and read took together, ms. */
  readonly slowestMs: number
}

/**
 * Verifies, uploads and reads again and again until stopped.
 *
 * @param seed  of its first instance; each bystander of a gateway needs a range of its own
 * @returns stops it; rejects with its first failure
 */
export function startBystander(gateway: ProcessGateway, seed: number): () => Promise<Experience> {
  const stopping = new AbortController()
  const working = work(gateway, seed, stopping.signal)
  working.catch(() => undefined) // told when it is stopped
  return async () => {
    stopping.abort()
    return await working
  }
}

async function work(gateway: ProcessGateway, seed: number, signal: AbortSignal): Promise<Experience> {
  let slowestMs = 0
  let rounds = 0
  while (rounds === 0 || !signal.aborted) {
    const begin = performance.now()
    const target = { host: '127.0.0.1', port: gateway.ports.dicom, callingAe: 'BYSTANDER', calledAe: 'HANSE' }
    assert.equal((await echoScu(target)).status, 0x0000)
    const { bytes } = buildInstance({ seed: seed + rounds, rows: 16, cols: 16 })
    const upload = await fetch(`${gateway.url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
    const answer = await upload.text()
    assert.equal(upload.status, 200, answer)
    const { ID }: { ID: string } = JSON.parse(answer)
    const file = await fetch(`${gateway.url}/instances/${ID}/file`)
    assert.deepEqual(Buffer.from(await file.arrayBuffer()), Buffer.from(bytes))
    slowestMs = Math.max(slowestMs, performance.now() - begin)
    rounds += 1
    await delay(20)
  }
  return { rounds, slowestMs }
}

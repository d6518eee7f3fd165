/**
 * C-FIND: the same small studies in each server, asked by the same client over one association, by patient id one
 * study at a time and for all of them, round after round in alternating order.
 */
import { mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'
import { encodeDataset, type NewElement } from '../../gateway/dicom/part10-writer.ts'
import { commandField, encodeQueryRequest } from '../../gateway/dimse/command.ts'
import { contextFor, identifierSyntaxes } from '../../gateway/dimse/find-scu.ts'
import { queryRetrieveSopClass } from '../../gateway/dimse/query-retrieve.ts'
import { openAssociation, type RequestedAssociation } from '../../gateway/dimse/scu-association.ts'
import { makeCorpus } from './corpus.ts'
import { startGateway } from './gateway.ts'
import { type Measurement, median, type WorkloadResult } from './measure.ts'
import { startOrthanc } from './orthanc.ts'
import { cpuMs, MemoryWatch } from './process-tree.ts'
import { sendFolders } from './sender.ts'
import type { RunningTarget } from './target.ts'

/** How many studies are asked for and how often. */
export interface QueryPlan {
  readonly studies: number
  /** Queries by patient id in a round. */
  readonly queries: number
  /** Counted rounds; one more is run before and dropped. */
  readonly rounds: number
}

interface Server {
  readonly name: 'hanse' | 'orthanc'
  readonly running: RunningTarget
}

const sopClassUid = queryRetrieveSopClass('study-root', 'find')
const patientId = 0x00100020

/** Runs both workloads on those of our gateway and Orthanc that are named. */
export async function benchQuery(
  directory: string,
  names: readonly string[],
  plan: QueryPlan,
  note: (line: string) => void,
): Promise<WorkloadResult[]> {
  const servers: Server[] = []
  try {
    if (names.includes('hanse')) servers.push({ name: 'hanse', running: await gatewayFor(directory) })
    if (names.includes('orthanc')) {
      servers.push({ name: 'orthanc', running: await startOrthanc(await mkdtemp(join(directory, 'query-'))) })
    }
    const studies = await makeCorpus(directory, {
      name: 'query',
      instances: plan.studies,
      instancesPerStudy: 1,
      rows: 16,
      folders: 4,
      seed: 7_000_000,
    })
    for (const { running } of servers) await sendFolders(running.dicomPort, studies.folders, 4)
    const byId = { name: `C-FIND by patient id, 1 of ${plan.studies} studies, p50`, unit: 'queries/s' as const }
    const all = { name: `C-FIND of all ${plan.studies} studies`, unit: 'matches/s' as const }
    const runs = servers.map(({ name }) => ({ name, byId: [] as Measurement[], all: [] as Measurement[] }))
    for (let round = 0; round <= plan.rounds; round += 1) {
      for (const server of round % 2 === 0 ? servers : servers.toReversed()) {
        const one = await measure(server.running, association => askById(association, plan))
        const every = await measure(server.running, association => askForAll(association, plan))
        note(`C-FIND: ${server.name} ${one.perSecond.toFixed(0)} queries/s, ${every.perSecond.toFixed(0)} matches/s`)
        const own = runs.find(({ name }) => name === server.name)
        if (round === 0) continue
        own?.byId.push(one)
        own?.all.push(every)
      }
    }
    const series = (pick: (own: (typeof runs)[number]) => Measurement[]) =>
      runs.map(own => ({ target: own.name, durable: own.name === 'hanse' ? 'audit event' : '-', runs: pick(own) }))
    return [
      { ...byId, series: series(own => own.byId) },
      { ...all, series: series(own => own.all) },
    ]
  } finally {
    await Promise.all(servers.map(({ running }) => running.stop()))
  }
}

async function gatewayFor(directory: string): Promise<RunningTarget> {
  const gateway = await startGateway(await mkdtemp(join(directory, 'query-')), 'Query')
  await gateway.call('PUT', '/modalities/BENCH', { host: '127.0.0.1' })
  return gateway
}

/** What was answered: the time of one query, and how many items the processor's time is shared by. */
interface Asked {
  readonly perSecond: number
  readonly items: number
}

async function measure(
  server: RunningTarget,
  ask: (association: RequestedAssociation) => Promise<Asked>,
): Promise<Measurement> {
  const target = { host: '127.0.0.1', port: server.dicomPort, callingAe: 'BENCH', calledAe: 'ANY-SCP' }
  const association = await openAssociation(target, [{ sopClassUid, transferSyntaxUids: identifierSyntaxes }])
  const before = cpuMs(server.roots)
  const memory = new MemoryWatch(server.roots)
  try {
    const { perSecond, items } = await ask(association)
    const peak = memory.stop()
    return {
      perSecond,
      cpuMsPerInstance: (cpuMs(server.roots) - before) / items,
      peakTreeBytes: peak.treeBytes,
      peakProcessBytes: peak.largestProcessBytes,
    }
  } finally {
    memory.stop()
    await association.release()
  }
}

async function askById(association: RequestedAssociation, { studies, queries }: QueryPlan): Promise<Asked> {
  const times: number[] = []
  for (let index = 0; index < queries; index += 1) {
    const since = performance.now()
    const value = `BENCH-${(index * 37) % studies}`
    const matches = await query(association, [{ tag: patientId, value }])
    if (matches !== 1) throw new Error(`${matches} matches for one patient id`)
    times.push(performance.now() - since)
  }
  return { perSecond: 1000 / median(times), items: queries }
}

async function askForAll(association: RequestedAssociation, { studies }: QueryPlan): Promise<Asked> {
  const since = performance.now()
  const matches = await query(association, [{ tag: patientId, value: '' }])
  if (matches !== studies) throw new Error(`${matches} of ${studies} studies were found`)
  return { perSecond: (studies / (performance.now() - since)) * 1000, items: studies }
}

/** Asks for what a workstation's list shows; returns the number of matches. */
async function query(association: RequestedAssociation, keys: readonly NewElement[]): Promise<number> {
  const shown = [0x00080020, 0x00080030, 0x00080050, 0x00081030, 0x00100010, 0x00100030, 0x0020000d]
  const identifier = [{ tag: 0x00080052, value: 'STUDY' }, ...shown.map(tag => ({ tag, value: '' })), ...keys]
  const context = contextFor(association, sopClassUid)
  const responses = association.request({
    context,
    command: messageId => encodeQueryRequest(commandField.findRequest, messageId, sopClassUid),
    dataset: encodeDataset(identifier, context.transferSyntaxUid),
  })
  let matches = 0
  for await (const { status, dataset } of responses) {
    if (dataset) matches += 1
    else if (status !== 0) throw new Error(`C-FIND ended with status ${status.toString(16)}`)
  }
  return matches
}

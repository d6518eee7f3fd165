/** What a monitoring system wants to see move: store, transfers, disk, queue, associations. */
import type { Db } from '../db/db.ts'
import { countCommitments } from '../services/commitment-rows.ts'
import { countAlerts } from '../services/quarantine.ts'
import { countTransfers, countUnarchived } from '../services/transfer-list.ts'
import type { FreeSpaceState } from '../store/free-space.ts'
import { loadCounts } from '../store/query.ts'
import type { Metrics } from './metrics.ts'

/** Where the numbers come from. */
export interface GaugeSources {
  readonly db: Db
  readonly storage: () => Promise<FreeSpaceState>
  readonly queue: () => { readonly connected: boolean; readonly running: number }
  /** Counters of the DICOM listener by name, `camelCase`. */
  readonly dicom: () => Readonly<Record<string, number>>
}

/** Registers the gauges; each is read at every scrape. */
export function installGauges(metrics: Metrics, sources: GaugeSources): void {
  const { db, storage, queue, dicom } = sources
  for (const name of ['patients', 'studies', 'series', 'instances', 'sizeBytes'] as const) {
    metrics.gauge(`hanse_store_${snake(name)}`, `stored ${snake(name)}`, async () => (await loadCounts(db))[name])
  }
  for (const state of ['planned', 'prepared', 'signed', 'sent', 'held', 'refused', 'receiving', 'committing']) {
    metrics.gauge(`hanse_transfers_${state}`, `transfers of both directions that are ${state}`, async () =>
      (await countTransfers(db)).filter(entry => entry.state === state).reduce((sum, entry) => sum + entry.count, 0),
    )
  }
  for (const state of ['verifying', 'reporting', 'asking', 'waiting', 'failed', 'abandoned']) {
    metrics.gauge(`hanse_commitments_${state}`, `storage commitments that are ${state}`, async () =>
      (await countCommitments(db.kysely))
        .filter(entry => entry.state === state)
        .reduce((sum, entry) => sum + entry.count, 0),
    )
  }
  metrics.gauge(
    'hanse_archive_uncommitted_studies',
    'studies that go to an archive which has not committed to them',
    () => countUnarchived(db),
  )
  metrics.gauge(
    'hanse_deidentification_alerts',
    'held instances where the engine failed or its verification found what must not be there',
    () => countAlerts(db),
  )
  metrics.gauge('hanse_storage_free_bytes', 'free bytes on the volume', async () => (await storage()).freeBytes)
  metrics.gauge('hanse_storage_refusing', '1 below the free-space watermark', async () =>
    Number((await storage()).refusing),
  )
  metrics.gauge('hanse_jobs_running', 'jobs that run', () => queue().running)
  for (const name of Object.keys(dicom())) {
    metrics.gauge(`hanse_dicom_${snake(name)}`, `${snake(name).replaceAll('_', ' ')} of the DICOM listener`, () => {
      return dicom()[name] ?? 0
    })
  }
}

const snake = (name: string): string => name.replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`)

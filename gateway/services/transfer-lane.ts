/** Which lane carries a transfer: each kind of recipient has its own. */
import type { Lane } from '../jobs/lanes.ts'

/** What carries transfers. */
export type TransferLane = Extract<Lane, 'deliver' | 'archive' | 'deliver-endpoint'>

/** By the columns of its row. */
export function laneOf(transfer: { readonly modality: string | null; readonly endpoint: string | null }): TransferLane {
  if (transfer.endpoint !== null) return 'deliver-endpoint'
  return transfer.modality === null ? 'deliver' : 'archive'
}

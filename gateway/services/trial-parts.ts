/** Everything of trials, put together. */
import { openTrialLog, type TrialLog } from './trial-log.ts'
import { openTrialUploads, type TrialUploads } from './trial-uploads.ts'
import { openTrials, type Trials } from './trials.ts'

/** Opens the services. */
export function openTrialServices(options: Parameters<typeof openTrials>[0] & Parameters<typeof openTrialUploads>[0]): {
  readonly trials: Trials
  readonly trialUploads: TrialUploads
  readonly trialLog: TrialLog
} {
  return { trials: openTrials(options), trialUploads: openTrialUploads(options), trialLog: openTrialLog(options) }
}

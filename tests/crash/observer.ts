/** Looks at a gateway all the time, as its users do, and remembers every study that it saw in part. */
import { setTimeout as delay } from 'node:timers/promises'
import { field, items } from '../../gateway/cli/answer.ts'
import type { ProcessGateway } from '../support/process-gateway.ts'
import type { Study } from './modality.ts'

export interface Observer {
  /** Studies that were seen with another number of instances than they have. */
  readonly partial: readonly string[]
  /** Times that the gateway answered. */
  readonly looks: number
  stop(): Promise<void>
}

/**
 * Starts looking. One statement of the gateway's database names the series of all studies, so a study
 * that is shown in part there is shown in part to everybody.
 */
export function observe(gateway: ProcessGateway, studies: readonly Study[]): Observer {
  const expected = new Map(studies.map(study => [study.studyInstanceUid, study.exposures.length]))
  const partial: string[] = []
  const stopping = new AbortController()
  let looks = 0

  const look = async (): Promise<void> => {
    const shown = new Map<string, number>()
    const [series, listed] = [await list(gateway, '/series?expand'), await list(gateway, '/studies?expand')]
    for (const each of series) {
      const study = field(each, 'ParentStudy')
      shown.set(study, (shown.get(study) ?? 0) + items(each, 'Instances').length)
    }
    for (const study of listed) {
      const uid = field(study, 'MainDicomTags', 'StudyInstanceUID')
      const id = field(study, 'ID')
      // Imported between the two lists: the next look counts it.
      const count = shown.get(id)
      if (count !== undefined && count !== expected.get(uid)) {
        partial.push(`${uid} shows ${count} of ${expected.get(uid)} instances`)
      }
    }
    looks++
  }
  const looking = (async () => {
    while (!stopping.signal.aborted) {
      await look().catch(() => undefined) // killed, or its database is: it shows nothing
      await delay(20, undefined, { signal: stopping.signal }).catch(() => undefined)
    }
  })()
  return {
    partial,
    get looks() {
      return looks
    },
    async stop() {
      stopping.abort()
      await looking
    },
  }
}

async function list(gateway: ProcessGateway, path: string): Promise<readonly unknown[]> {
  const answer = await gateway.api<unknown>('GET', path)
  if (!Array.isArray(answer)) throw new Error(`expected a list from ${path}`)
  return answer
}

/** Where the worklist comes from: a folder, HL7. */
import type { Config } from '../config.ts'
import { openIntake } from '../hl7/intake.ts'
import { type Hl7Listener, openHl7 } from '../hl7/listener.ts'
import type { Log } from '../log.ts'
import { type Rights, systemPrincipal } from '../principal.ts'
import type { Worklist } from '../services/worklist.ts'
import { openWorklistFolder, type WorklistFolder } from '../services/worklist-folder.ts'

/** The worklist folder where one is configured; without one, what an earlier one brought is removed. */
export async function followWorklistFolder(
  { worklist: { folder } }: Config,
  worklist: Worklist,
  log: Log,
): Promise<WorklistFolder | undefined> {
  if (folder !== undefined) return await openWorklistFolder({ folder, worklist, log })
  await worklist.keepFiles(systemPrincipal, new Set())
  return undefined
}

/** The HL7 listener where a port is configured. */
export async function listenHl7(
  { hl7 }: Config,
  worklist: Worklist,
  rights: Rights,
  onRefused: (refusal: { code: string; address: string }) => void,
  log: Log,
): Promise<Hl7Listener | undefined> {
  const { host, port, tls, stations } = hl7
  if (port === undefined) return undefined
  return await openHl7({
    host,
    port,
    tls,
    service: openIntake({ worklist, rights, stations, log }),
    onRefused: ({ address, reason }) => onRefused({ code: reason, address }),
    log,
  })
}

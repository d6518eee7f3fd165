import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { copyFile, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls'
import { openCredentials } from '../../gateway/dimse/credentials.ts'
import type { Refusal, ScpOptions, TlsClients } from '../../gateway/dimse/scp.ts'
import type { Log } from '../../gateway/log.ts'
import { temporaryDir } from '../support/blobs.ts'
import { type CertificateFiles, makeAuthority, type TestAuthority } from '../support/certificates.ts'
import { missing, run } from '../support/dcmtk.ts'
import { until } from '../support/until.ts'
import {
  associateRequest,
  connectRaw,
  ctImageStorage,
  everybody,
  explicitLittleEndian,
  pdu,
  pdv,
  RawPeer,
  registered,
  responseOf,
  sampleFile,
  startScp,
  storeCommand,
  storeMessage,
  type TestScp,
} from './fixture.ts'

const skip = missing('echoscu', 'storescu', 'findscu')

interface TlsScp extends TestScp {
  readonly tlsPort: number
  readonly dir: string
  readonly authority: TestAuthority
  readonly own: CertificateFiles
  readonly warnings: string[]
}

let shared: Promise<{ authority: TestAuthority; own: CertificateFiles }> | undefined

/** An SCP with a TLS listener; its certificate and those of its clients are of one authority. */
async function startTlsScp(
  t: TestContext,
  options: { clients?: TlsClients; pinned?: readonly string[]; scp?: Partial<ScpOptions> } = {},
): Promise<TlsScp> {
  const dir = await temporaryDir(t)
  const authority = await makeAuthority(dir, 'Ours')
  const own = await authority.issue('gateway')
  const warnings: string[] = []
  const log = memoryLog(warnings)
  const credentials = await openCredentials({
    source: { ...own, caFile: authority.certificateFile, issue: () => assert.fail('there are files') },
    log,
    checkMs: 20,
  })
  t.after(() => credentials.close())
  const running = await startScp(t, {
    log,
    tls: {
      port: 0,
      clients: options.clients ?? 'required',
      credentials,
      isRegistered: fingerprint => options.pinned?.includes(fingerprint) ?? false,
    },
    ...options.scp,
  })
  return { ...running, tlsPort: running.scp.tlsAddress?.port ?? 0, dir, authority, own, warnings }
}

/** Orthanc with its default configuration, on ports and a folder of its own. */
import { existsSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { freePort } from '../support/free-port.ts'
import { type RunningTarget, spawnServer, type Target, untilReady } from './target.ts'

/** Orthanc as Debian packages it. */
export const orthanc: Target = {
  name: 'orthanc',
  durable: 'file yes (SyncStorageArea), index no (SQLite WAL, synchronous=NORMAL)',
  start: directory => startOrthanc(directory),
}

/** Another Orthanc as a peer; `credentials` is the folder of `ca.pem`, `site.pem`, `site.key` for an https URL. */
export interface OrthancPeer {
  readonly url: string
  readonly credentials?: string
}

/**
 * Orthanc, with another Orthanc as the peer `b` where one is given.
 *
 * @param settings  beside and instead of those of the configuration
 */
export async function startOrthanc(
  directory: string,
  peer?: OrthancPeer,
  settings: Readonly<Record<string, unknown>> = {},
): Promise<RunningTarget & { url: string }> {
  const httpPort = await freePort()
  const dicomPort = await freePort()
  const storage = join(directory, 'orthanc')
  await mkdir(storage, { recursive: true })
  const configuration = {
    Name: 'BENCH',
    StorageDirectory: storage,
    IndexDirectory: storage,
    HttpPort: httpPort,
    DicomPort: dicomPort,
    DicomAet: 'ORTHANC',
    Plugins: [],
    DicomModalities: { sender: ['BENCH', '127.0.0.1', 11_112] },
    ...(peer && peerConfiguration(peer)),
    ...settings,
  }
  const file = join(directory, 'orthanc.json')
  await writeFile(file, JSON.stringify(configuration))
  const server = spawnServer(orthancBinary(), [file])
  const url = `http://127.0.0.1:${httpPort}`
  await untilReady(server, async () => (await fetch(`${url}/system`)).ok)
  return {
    url,
    dicomPort,
    roots: [server.pid],
    async count() {
      const statistics: unknown = await (await fetch(`${url}/statistics`)).json()
      return Number(Object(statistics).CountInstances)
    },
    stop: server.stop,
  }
}

function peerConfiguration({ url, credentials }: OrthancPeer): object {
  if (credentials === undefined) return { OrthancPeers: { b: [url] } }
  const file = (name: string): string => join(credentials, name)
  return {
    OrthancPeers: { b: { Url: url, CertificateFile: file('site.pem'), CertificateKeyFile: file('site.key') } },
    HttpsVerifyPeers: true,
    HttpsCACertificates: file('ca.pem'),
  }
}

/** Orthanc's DICOMweb plugin as Debian's package orthanc-dicomweb installs it. */
export const orthancDicomweb = '/usr/share/orthanc/plugins/libOrthancDicomWeb.so'

/** Debian installs it where an ordinary user's PATH does not look. */
export function orthancBinary(): string {
  return existsSync('/usr/sbin/Orthanc') ? '/usr/sbin/Orthanc' : 'Orthanc'
}

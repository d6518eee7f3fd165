/** Modalities, peers and users of an Orthanc's configuration, into our registries: what is as it was stays untouched. */
import { networkInterfaces } from 'node:os'
import { isDeepStrictEqual } from 'node:util'
import { decode } from '../../decode.ts'
import { systemPrincipal } from '../../principal.ts'
import type { Modalities } from '../../services/modalities.ts'
import { modalityInput } from '../../services/modality.ts'
import type { PasswordUsers } from '../../services/password-users.ts'
import { readRestPeer } from '../../services/rest-peer.ts'
import type { RestPeers } from '../../services/rest-peers.ts'
import { isLoopbackHost } from '../auth.ts'
import { readForm } from './modality-form.ts'

/** What Orthanc's configuration lists, in its spelling. */
export interface OrthancSettings {
  readonly modalities: Readonly<Record<string, unknown>>
  readonly peers: Readonly<Record<string, unknown>>
  /** Passwords by user name; undefined leaves the users as they are. */
  readonly users: Readonly<Record<string, string>> | undefined
}

/** @throws GatewayError BAD_REQUEST for an entry that cannot be read */
export async function takeOverOrthanc(
  { modalities: listed, peers, users }: OrthancSettings,
  to: { readonly modalities: Modalities; readonly restPeers: RestPeers; readonly passwordUsers: PasswordUsers },
): Promise<void> {
  const { modalities, restPeers, passwordUsers } = to
  for (const [name, raw] of Object.entries(listed)) {
    const before = modalities.list().find(entry => entry.name === name)
    const wanted = readForm(raw, name, before)
    const next = decode(modalityInput, wanted)
    const isSame = next.ok && before !== undefined && isDeepStrictEqual(plain(next.value), plain(before))
    if (!isSame) await modalities.put(systemPrincipal, wanted)
  }
  for (const [name, raw] of Object.entries(peers)) {
    const wanted = readRestPeer(raw)
    const known = restPeers.find(name)
    const now = known && restPeers.target(name)
    const isSame =
      now !== undefined &&
      isDeepStrictEqual(
        [now.url, now.username, now.password, now.headers, now.certificateFile, now.keyFile, now.keyPassword],
        [
          wanted.url,
          wanted.username,
          wanted.password,
          wanted.headers ?? {},
          wanted.certificateFile,
          wanted.keyFile,
          wanted.keyPassword,
        ],
      )
    // Whose network it is in, somebody here may have said meanwhile.
    if (!isSame)
      await restPeers.put(systemPrincipal, name, { ...wanted, zone: wanted.zone ?? known?.zone ?? zoneOf(wanted.url) })
  }
  if (users) await passwordUsers.replace(systemPrincipal, users)
}

/** A server on this very machine is inside of the hospital; of any other somebody has to say so. */
function zoneOf(url: string): 'inside' | undefined {
  const host = new URL(url).hostname.replace(/^\[(.*)\]$/, '$1')
  const own = Object.values(networkInterfaces()).flatMap(addresses => addresses?.map(({ address }) => address) ?? [])
  return isLoopbackHost(new URL(url).host) || own.includes(host) ? 'inside' : undefined
}

/** Without what is undefined. */
const plain = (value: object): unknown => JSON.parse(JSON.stringify(value))

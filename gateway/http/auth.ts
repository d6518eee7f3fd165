/**
 * Who may ask. A request from this machine acts as its administrator (`local`), everyone else needs a
 * named bearer token. A browser on this machine is a way in for foreign pages, hence three checks:
 *
 * - the Host header must name a loopback address (DNS rebinding reaches us with the attacker's name),
 * - there must be no sign of a proxy in front (its clients would all be administrators),
 * - a request that changes something must not come from a foreign origin (cross-site request forgery).
 *
 * With a public URL configured a proxy is expected on this machine, and some add no header: the
 * trust in loopback is then off and every request needs a token.
 */
import { timingSafeEqual } from 'node:crypto'
import { isIPv4, isIPv6 } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { tokenDigest } from '../store/tokens.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Set before every handler, except on routes with `config.open`. */
    principal: Principal
  }
  interface FastifyContextConfig {
    /** Answered without authentication: health checks that say yes or no. */
    open?: boolean
  }
}

export interface AuthOptions {
  /** SHA-256 of the administrator token in the data directory. */
  readonly adminTokenSha256: Buffer
  /** Name of the token with this digest, if it is valid. */
  findToken(sha256: Buffer): Promise<string | undefined>
  /** Public URL of this listener, if one is configured. */
  readonly publicUrl: string | undefined
}

/** Installs authentication for every route, unknown ones included. */
export function installAuth(app: FastifyInstance, options: AuthOptions): void {
  const trustLoopback = options.publicUrl === undefined || isLoopbackHost(new URL(options.publicUrl).host)
  app.decorateRequest('principal', { getter: () => nobody })
  app.addHook('onRequest', async request => {
    if (isForeignChange(request, options.publicUrl)) {
      throw new GatewayError('FORBIDDEN', 'requests that change something are not accepted from other web sites')
    }
    if (request.routeOptions.config.open) return
    const principal = await authenticate(request, options, trustLoopback)
    Object.defineProperty(request, 'principal', { value: principal })
  })
}

const nobody: Principal = { id: 'nobody' }

async function authenticate(request: FastifyRequest, options: AuthOptions, trustLoopback: boolean): Promise<Principal> {
  const address = request.socket.remoteAddress ?? ''
  const { authorization } = request.headers
  if (authorization !== undefined) {
    const token = /^Bearer +([A-Za-z0-9._~+/=-]{1,512})$/i.exec(authorization)?.[1]
    const digest = token === undefined ? undefined : tokenDigest(token)
    if (digest && timingSafeEqual(digest, options.adminTokenSha256)) return { id: 'local', address }
    const name = digest && (await options.findToken(digest))
    if (name !== undefined) return { id: `token:${name}`, address }
  } else if (trustLoopback && isLocal(request, address)) {
    return { id: 'local', address }
  }
  // One answer for every reason: a caller who is nobody learns nothing about the checks.
  throw new GatewayError('UNAUTHENTICATED', 'a bearer token is needed')
}

const proxyHeaders = ['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip', 'via'] as const

function isLocal(request: FastifyRequest, address: string): boolean {
  if (!isLoopbackAddress(address)) return false
  if (proxyHeaders.some(name => request.headers[name] !== undefined)) return false
  return isLoopbackHost(request.headers.host ?? '')
}

const changing = new Set(['POST', 'PUT', 'PATCH', 'DELETE'])

/** Fetch metadata and Origin are set by browsers only; scripts and other gateways send neither. */
function isForeignChange(request: FastifyRequest, publicUrl: string | undefined): boolean {
  if (!changing.has(request.method)) return false
  const site = request.headers['sec-fetch-site']
  if (site !== undefined && site !== 'same-origin' && site !== 'none') return true
  const { origin, host } = request.headers
  if (origin === undefined) return false
  if (!URL.canParse(origin)) return true
  const asked = new URL(origin)
  if (publicUrl !== undefined && asked.origin === new URL(publicUrl).origin) return false
  return asked.host !== withoutDefaultPort(host ?? '', asked.protocol)
}

function withoutDefaultPort(host: string, protocol: string): string {
  return URL.canParse(`${protocol}//${host}`) ? new URL(`${protocol}//${host}`).host : host
}

/** True for 127.0.0.0/8, ::1 and the IPv4-mapped form. */
export function isLoopbackAddress(address: string): boolean {
  const plain = address.startsWith('::ffff:') ? address.slice(7) : address
  return (isIPv4(plain) && plain.startsWith('127.')) || (isIPv6(plain) && plain === '::1')
}

/** True when a Host header (with or without port) names this machine: localhost, *.localhost (RFC 6761 §6.3), loopback addresses. */
export function isLoopbackHost(host: string): boolean {
  if (host === '' || /[\s/@?#\\]/.test(host) || !URL.canParse(`http://${host}`)) return false
  const name = new URL(`http://${host}`).hostname.replace(/^\[(.*)\]$/, '$1').replace(/\.$/, '')
  return name === 'localhost' || name.endsWith('.localhost') || isLoopbackAddress(name)
}

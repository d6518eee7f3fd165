/**
 * Who may ask. A request from this machine acts as its administrator (`local`), everyone else needs a
 * named bearer token. A browser on this machine is a way in for foreign pages, hence three checks:
 *
 * - the Host header must name a loopback address (DNS rebinding reaches us with the attacker's name),
 * - there must be no sign of a proxy in front (its clients would all be administrators),
 * - a request that changes something must not come from a foreign origin (cross-site request forgery), except those
 *   that the configuration lets use DICOMweb (`cors`).
 *
 * With a public URL configured a proxy is expected on this machine, and some add no header: the trust in loopback is
 * then off and every request needs a token. The same where the listener is not on a loopback address: what forwards
 * ports (container networks, tunnels) makes callers from elsewhere look local.
 *
 * Then the caller must have a role with the route's action (`route-actions`), whatever the services ask for besides.
 */
import { timingSafeEqual } from 'node:crypto'
import { isIPv4, isIPv6 } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Action } from '../../policy/actions.ts'
import { authorize } from '../../policy/authorize.ts'
import { GatewayError } from '../errors.ts'
import type { Principal, Rights } from '../principal.ts'
import { type TokenHolder, tokenDigest } from '../store/tokens.ts'
import { type CorsOptions, isListedOrigin } from './cors.ts'
import { routeAction } from './route-actions.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Set before every handler, except on routes with `config.open`. */
    principal: Principal
  }
  interface FastifyContextConfig {
    /** Answered without authentication: health checks that say yes or no. */
    open?: boolean
    /** What its caller does; by `routeAction` where absent. */
    action?: Action
  }
}

export interface AuthOptions {
  /** SHA-256 of the administrator token in the data directory. */
  readonly adminTokenSha256: Buffer
  /** Whose token has this digest, if it is valid. */
  findToken(sha256: Buffer): Promise<TokenHolder | undefined>
  /** Is this the user's password? Where absent nobody has one. */
  verifyPassword?(name: string, password: string): Promise<boolean>
  /** What the callers' roles permit. */
  readonly rights: Rights
  /** Public URL of this listener, if one is configured. */
  readonly publicUrl: string | undefined
  /** Address on which the listener is; absent: a loopback address. */
  readonly host?: string
}

/** Installs authentication for every route, unknown ones included. */
export function installAuth(app: FastifyInstance, options: AuthOptions, cors?: CorsOptions): void {
  const { publicUrl, host = 'localhost' } = options
  const trustLoopback = isLoopbackName(host) && (publicUrl === undefined || isLoopbackHost(new URL(publicUrl).host))
  app.addHook('onRoute', route => {
    if (route.config?.open) return
    const [method = 'GET'] = [route.method].flat()
    const action = route.config?.action ?? routeAction(method, route.url)
    route.config = { ...route.config, action }
    // Told to whoever reads the API's description.
    if (route.schema) route.schema = Object.assign({}, route.schema, { 'x-hanse-action': action })
  })
  app.decorateRequest('principal', { getter: () => nobody })
  app.addHook('onRequest', async request => {
    if (isForeignChange(request, options.publicUrl) && !(cors && isListedOrigin(request, cors))) {
      throw new GatewayError('FORBIDDEN', 'requests that change something are not accepted from other web sites')
    }
    if (request.routeOptions.config.open) return
    const principal = await authenticate(request, options, trustLoopback)
    Object.defineProperty(request, 'principal', { value: principal })
    const { url, config } = request.routeOptions
    if (url === undefined) return
    authorize(principal, config.action ?? 'gateway.administer')
  })
}

const nobody: Principal = {
  id: 'nobody',
  roles: [],
  rights: { may: () => false, rolesFor: () => [], refused: () => undefined },
}

async function authenticate(request: FastifyRequest, options: AuthOptions, trustLoopback: boolean): Promise<Principal> {
  const address = request.socket.remoteAddress ?? ''
  const { rights } = options
  const local = { id: 'local', address, roles: ['administrator'], rights }
  const { authorization } = request.headers
  if (authorization !== undefined) {
    const token = /^Bearer +([A-Za-z0-9._~+/=-]{1,512})$/i.exec(authorization)?.[1]
    const digest = token === undefined ? undefined : tokenDigest(token)
    if (digest && timingSafeEqual(digest, options.adminTokenSha256)) return local
    const holder = digest && (await options.findToken(digest))
    if (holder) {
      const { name, role, domain } = holder
      return { id: `token:${name}`, address, roles: [role], ...(domain !== undefined && { domain }), rights }
    }
    // Passwords are for who has come from Orthanc: its routes and DICOMweb, not our own.
    const login = isOwnRoute(request) ? undefined : basicLogin(authorization)
    if (login && (await options.verifyPassword?.(login.name, login.password))) {
      return { id: `user:${login.name}`, address, roles: ['administrator'], rights }
    }
  } else if (trustLoopback && isLocal(request, address)) {
    return local
  }
  // One answer for every reason: a caller who is nobody learns nothing about the checks.
  throw new GatewayError('UNAUTHENTICATED', 'a bearer token is needed')
}

/** True for routes that passwords do not open. */
export const isOwnRoute = (request: FastifyRequest): boolean => request.routeOptions.url?.startsWith('/api/') ?? false

/** Name and password of RFC 7617 §2; undefined for anything else. */
function basicLogin(authorization: string): { readonly name: string; readonly password: string } | undefined {
  const encoded = /^Basic +([A-Za-z0-9+/]{1,2048}={0,2})$/i.exec(authorization)?.[1]
  if (encoded === undefined) return undefined
  const text = Buffer.from(encoded, 'base64').toString('utf8')
  const colon = text.indexOf(':')
  return colon <= 0 || text.includes('\0') ? undefined : { name: text.slice(0, colon), password: text.slice(colon + 1) }
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

/** True for an address or name to listen on that only this machine reaches. */
const isLoopbackName = (host: string): boolean => isLoopbackHost(isIPv6(host) ? `[${host}]` : host)

/** True when a Host header (with or without port) names this machine: localhost, *.localhost (RFC 6761 §6.3), loopback addresses. */
export function isLoopbackHost(host: string): boolean {
  if (host === '' || /[\s/@?#\\]/.test(host) || !URL.canParse(`http://${host}`)) return false
  const name = new URL(`http://${host}`).hostname.replace(/^\[(.*)\]$/, '$1').replace(/\.$/, '')
  return name === 'localhost' || name.endsWith('.localhost') || isLoopbackAddress(name)
}

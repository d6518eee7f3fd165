/**
 * Where bytes came from and on whose behalf: kept with every instance, and part of routing decisions.
 */
export interface Origin {
  readonly kind: 'dimse' | 'rest' | 'peer' | 'endpoint' | 'cli'
  /** Who acts: an AE title, a token's name, `local`, or a peer's site id, or `endpoint:<name>`. */
  readonly principal: string
  readonly callingAe?: string
  readonly calledAe?: string
  readonly remoteAddress?: string
  readonly peerId?: string
  readonly transferId?: string
  /** Name of the endpoint that it was fetched from, and the arrival that it was part of. */
  readonly endpoint?: string
  readonly arrival?: string
  /** Fetched by us for this: what came for a prefetch, or was taken over from another archive, is sent on to nobody. */
  readonly purpose?: 'manual' | 'prefetch' | 'import'
  /** Orthanc id of the stored instance that this one was made of, and how. */
  readonly madeFrom?: { readonly instance: string; readonly by: 'modification' | 'anonymization' }
  /** Whose patient IDs it names: that of the instance it was made of, so that two hospitals' 12345 stay two people. */
  readonly issuer?: string
}

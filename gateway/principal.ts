/** Who asks. Every service call that reads or changes something for somebody gets one. */

export interface Principal {
  /** `local` (this machine's administrator), `token:<name>`, or `system`. Stands in the audit log. */
  readonly id: string
  /** Address of the caller, where there is one. */
  readonly address?: string
}

/** The gateway acting by itself: schedules, clean-up, demo. */
export const systemPrincipal: Principal = { id: 'system' }

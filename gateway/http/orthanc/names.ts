/** Names and numbers of metadata and attachments: Orthanc's own, and those that the site has registered. */
import { GatewayError } from '../../errors.ts'

/** Numbers by name. */
export type Names = Readonly<Record<string, number>>

/** Both directions. */
export interface NameTable {
  /** The registered name, else the number as text. */
  nameOf(number: number): string
  /** Of a registered name, or the number itself. @throws GatewayError NOT_FOUND */
  numberOf(name: string): number
}

export function nameTable(names: Names): NameTable {
  const byNumber = new Map(Object.entries(names).map(([name, number]) => [number, name]))
  return {
    nameOf: number => byNumber.get(number) ?? String(number),
    numberOf(name) {
      const known = Object.hasOwn(names, name) ? names[name] : undefined
      if (known !== undefined) return known
      if (/^\d{1,9}$/.test(name)) return Number(name)
      throw new GatewayError('NOT_FOUND', 'no such name is registered, and it is no number')
    },
  }
}

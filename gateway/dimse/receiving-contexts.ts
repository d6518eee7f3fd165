/** Which storage contexts are proposed where instances are to come, PS3.4 §C.5.3. */
import { transferSyntaxes } from '../dicom/uid.ts'
import type { ContextProposal } from './scu-contexts.ts'

/**
 * The storage classes that are proposed when nobody knows what will come: those of clinical archives, the
 * most frequent first. An association has room for 128 contexts, the standard has some 200 storage classes.
 */
export const usualStorageClasses: readonly string[] = [
  ...['2', '4', '1', '1.1', '1.2', '6.1', '3.1', '7', '12.1', '128', '20', '2.1', '4.1', '13.1.3', '77.1.1', '77.1.4'],
  ...['88.11', '88.22', '88.33', '88.34', '88.40', '88.50', '88.59', '88.65', '88.67', '88.68', '88.69', '88.71'],
  ...['11.1', '11.2', '11.3', '11.4', '104.1', '104.2', '66', '66.1', '66.2', '66.3', '66.4', '66.5', '67', '30'],
  ...['481.1', '481.2', '481.3', '481.4', '481.5', '481.6', '481.7', '481.8', '481.9'],
  ...['12.1.1', '12.2', '12.2.1', '13.1.1', '13.1.2', '13.1.4', '1.1.1', '1.2.1', '1.3', '7.1', '7.2', '7.3', '7.4'],
  ...['77.1.1.1', '77.1.2', '77.1.2.1', '77.1.4.1', '77.1.5.1', '77.1.5.2', '77.1.5.4', '77.1.6', '6.2', '4.2', '4.3'],
  ...['130', '9.1.1', '9.1.2', '9.1.3', '9.2.1', '9.3.1', '9.4.1', '6', '5', '3', '14.1'],
].map(suffix => `1.2.840.10008.5.1.4.1.1.${suffix}`)

/** Syntaxes of a class of which much may come: as stored most often. */
const frequentSyntaxes: readonly string[] = [
  ...['1.2.840.10008.1.2.1', '1.2.840.10008.1.2', '1.2.840.10008.1.2.5'],
  ...['50', '51', '70', '80', '90', '91'].map(suffix => `1.2.840.10008.1.2.4.${suffix}`),
]

/** Syntaxes in which data sets are whole: no references to other servers, no retired ideas. */
const wholeSyntaxes: readonly string[] = [
  ...frequentSyntaxes,
  ...[...transferSyntaxes.values()]
    .filter(({ uid, name }) => !frequentSyntaxes.includes(uid) && !/Referenced|MIME|XML|Papyrus|SMPTE/.test(name))
    .map(({ uid }) => uid),
]

/**
 * Contexts for receiving. A node sends an instance as it holds it when that transfer syntax has a context of
 * its own; in a context with several it takes its favourite, and what it holds otherwise is converted or
 * fails. So as long as there is room each class gets a context for each syntax, the first classes first.
 *
 * @param room  how many contexts may be proposed
 */
export function receivingContexts(sopClassUids: readonly string[], room: number): ContextProposal[] {
  const classes = [...new Set(sopClassUids)].slice(0, room)
  let spare = room - classes.length
  const isFew = classes.length * wholeSyntaxes.length <= room
  const apart = isFew ? wholeSyntaxes : frequentSyntaxes
  return classes.flatMap(sopClassUid => {
    if (spare < apart.length - 1) return [{ sopClassUid, transferSyntaxUids: frequentSyntaxes, role: 'scp' as const }]
    spare -= apart.length - 1
    return apart.map(uid => ({ sopClassUid, transferSyntaxUids: [uid], role: 'scp' as const }))
  })
}

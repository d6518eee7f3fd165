/** Names that others have chosen, before a file is written by them. */

const mostCharacters = 1000
/** Also names of devices on Windows, with any extension, and names that Windows would change. */
const strange = /^(\.{1,2}|con|prn|aux|nul|com[0-9]|lpt[0-9])$|^(con|prn|aux|nul|com[0-9]|lpt[0-9])\.|\.$/i

/** True for a relative path of plain names, as deliveries have them: nothing that leads out of a folder. */
export function isPlainPath(path: string): boolean {
  return (
    path.length <= mostCharacters &&
    path.split('/').every(name => /^[A-Za-z0-9._-]{1,255}$/.test(name) && !strange.test(name))
  )
}

/** Progress of the demo. */
import type { Io } from '../command.ts'

/** One line that is rewritten where a person watches, printed anew elsewhere. */
export function progress(io: Io, line: string): void {
  if (io.interactive) process.stdout.write(`\r     ${line.padEnd(70)}`)
  else io.print(`     ${line}`)
}

/** Ends a progress line. */
export function endProgress(io: Io): void {
  if (io.interactive) process.stdout.write('\n')
}

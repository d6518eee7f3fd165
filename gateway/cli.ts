/** The program `hanse`. */
import { createInterface } from 'node:readline/promises'
import type { Io } from './cli/command.ts'
import { runCli } from './cli/run.ts'

const stop = new AbortController()
let stopAskedAt = 0
/** npm passes on the Ctrl-C that the terminal has sent us already: two in a row are one wish. */
const sameWishMs = 1000
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    // The first asks to stop in order, the second does not wait.
    if (!stop.signal.aborted) stopAskedAt = Date.now()
    else if (Date.now() - stopAskedAt > sameWishMs) process.exit(130)
    stop.abort()
  })
}
// A reader that closes the pipe early (head, less) is no error.
process.stdout.on('error', error => process.exit('code' in error && error.code === 'EPIPE' ? 0 : 1))

const io: Io = {
  env: process.env,
  cwd: process.cwd(),
  interactive: process.stdin.isTTY === true && process.stderr.isTTY === true,
  print: line => process.stdout.write(`${line}\n`),
  note: line => process.stderr.write(`${line}\n`),
  ask: async question => {
    const terminal = createInterface({ input: process.stdin, output: process.stderr })
    try {
      return await terminal.question(question, { signal: stop.signal })
    } finally {
      terminal.close()
    }
  },
  signal: stop.signal,
}

process.exitCode = await runCli(process.argv.slice(2), io)
// A socket that somebody forgot must not keep a finished command running.
setTimeout(() => process.exit(), 5000).unref()

/** The command line in this process: what it printed, and its exit code. */
import type { Io } from '../../gateway/cli/command.ts'
import { runCli } from '../../gateway/cli/run.ts'

export interface Outcome {
  readonly code: number
  /** Standard output. */
  readonly out: string
  /** Standard error. */
  readonly err: string
}

/** Runs `hanse <argv>`; with `answers` a person is at the terminal. */
export async function hanse(
  argv: readonly string[],
  options: { env?: Record<string, string>; answers?: readonly string[]; signal?: AbortSignal; cwd?: string } = {},
): Promise<Outcome> {
  const out: string[] = []
  const err: string[] = []
  const answers = [...(options.answers ?? [])]
  const io: Io = {
    env: options.env ?? {},
    cwd: options.cwd ?? '/',
    interactive: options.answers !== undefined,
    print: line => void out.push(line),
    note: line => void err.push(line),
    ask: async question => {
      err.push(question)
      return answers.shift() ?? ''
    },
    signal: options.signal ?? new AbortController().signal,
  }
  const code = await runCli(argv, io)
  return { code, out: out.join('\n'), err: err.join('\n') }
}

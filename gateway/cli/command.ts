/** What a command of the command line is, and how its arguments are read. */
import { type ParseArgsConfig, parseArgs } from 'node:util'

/**
 * Exit codes, the same for every command:
 * 0 done; 1 it failed, or a check found something; 2 wrong arguments or configuration;
 * 3 the gateway was not reached; 130 interrupted.
 */
export const exitCodes = { ok: 0, failed: 1, usage: 2, unreachable: 3, interrupted: 130 } as const

/** Where a command reads and writes: the process's own streams, or a test's. */
export interface Io {
  readonly env: Readonly<Record<string, string | undefined>>
  readonly cwd: string
  /** A person is at the terminal. */
  readonly interactive: boolean
  /** Prints a line of result. */
  print(line: string): void
  /** Prints a line for people: progress, hints, errors. */
  note(line: string): void
  /** Asks the person; only where `interactive`. */
  ask(question: string): Promise<string>
  /** Aborts on Ctrl-C and SIGTERM. */
  readonly signal: AbortSignal
}

interface Option {
  readonly type: 'string' | 'boolean'
  /** Placeholder of the value in help. */
  readonly value?: string
  readonly help: string
}

export interface Command {
  /** Words after `hanse`. */
  readonly name: string
  readonly summary: string
  /** Positional arguments in help: `STUDY`, `[FOLDER]`. */
  readonly operands?: string
  /** How many positional arguments are accepted. */
  readonly arity?: { readonly min: number; readonly max: number }
  readonly options: Readonly<Record<string, Option>>
  /** More help, ends with an example. */
  readonly details?: string
  /** Returns an exit code. */
  run(args: Args, io: Io): Promise<number>
}

/** Arguments as given. */
export interface Args {
  readonly operands: readonly string[]
  text(option: string): string | undefined
  flag(option: string): boolean
}

/** Arguments that do not fit; the message says what to do. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'UsageError'
  }
}

/** An option that has to be given. @throws UsageError when it is not */
export function required(args: Args, option: string): string {
  const value = args.text(option)
  if (value === undefined) throw new UsageError(`--${option} is required`)
  return value
}

/** Options of every command that talks to a gateway. */
export const connectionOptions = {
  url: { type: 'string', value: 'URL', help: 'gateway to talk to (default: the one running on the data directory)' },
  'token-file': { type: 'string', value: 'FILE', help: 'file with a token, for a gateway on another machine' },
} as const satisfies Command['options']

/** Options of every command that reads the configuration. */
export const configOptions = {
  config: { type: 'string', value: 'FILE', help: 'configuration file (default: config.json in the data directory)' },
  data: { type: 'string', value: 'DIR', help: 'data directory (default: ./data)' },
} as const satisfies Command['options']

export const jsonOption = { json: { type: 'boolean', help: 'print JSON' } } as const satisfies Command['options']

/** Of commands that ask the running gateway and can print JSON. */
export const commonOptions = { ...jsonOption, ...connectionOptions, ...configOptions }

/** @throws UsageError */
export function readArgs(command: Command, argv: readonly string[]): Args & { readonly help: boolean } {
  const config = {
    args: [...argv],
    allowPositionals: true,
    options: {
      help: { type: 'boolean', short: 'h' },
      ...Object.fromEntries(Object.entries(command.options).map(([name, { type }]) => [name, { type }])),
    },
  } satisfies ParseArgsConfig
  const { values, positionals } = parse(config)
  const given: Readonly<Record<string, unknown>> = values
  const help = given['help'] === true
  const { min, max } = command.arity ?? { min: 0, max: 0 }
  if (!help && (positionals.length < min || positionals.length > max)) {
    throw new UsageError(`expected ${describeArity(min, max)}, got ${positionals.length}`)
  }
  return {
    help,
    operands: positionals,
    text: option => {
      const value = given[option]
      return typeof value === 'string' ? value : undefined
    },
    flag: option => given[option] === true,
  }
}

function parse(config: ParseArgsConfig) {
  try {
    return parseArgs(config)
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : 'wrong arguments')
  }
}

const describeArity = (min: number, max: number): string =>
  max === 0 ? 'no arguments' : min === max ? `${min} argument${min === 1 ? '' : 's'}` : `${min} to ${max} arguments`

/** The `--help` text of a command. */
export function helpOf(command: Command): string {
  const rows = Object.entries({ ...command.options, help: { type: 'boolean', help: 'this help' } as Option }).map(
    ([name, option]) => [`--${name}${option.value ? ` ${option.value}` : ''}`, option.help] as const,
  )
  const width = Math.max(...rows.map(([left]) => left.length))
  return [
    `Usage: hanse ${command.name}${command.operands ? ` ${command.operands}` : ''} [options]`,
    '',
    command.summary,
    '',
    ...rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`),
    ...(command.details ? ['', command.details] : []),
  ].join('\n')
}

/**
 * Structured logs. Context holds ids, UIDs and counts only; the serializer lets nothing else
 * through, so that an object with patient data cannot be logged by accident.
 */
import { pino } from 'pino'

export type LogContext = Readonly<Record<string, string | number | boolean | undefined>>

/** The gateway's logger: context first, message second. */
export interface Log {
  debug(context: LogContext, message: string): void
  info(context: LogContext, message: string): void
  warn(context: LogContext, message: string): void
  error(context: LogContext, message: string): void
  /** A logger that adds `context` to every line. */
  child(context: LogContext): Log
  /** Reads and changes what is written, where that can be changed. */
  readonly threshold?: LogThreshold
}

/** The least serious level that is written, by a logger and all that came of the same `openLog`. */
export interface LogThreshold {
  level(): LogLevel
  setLevel(level: LogLevel): void
}

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent'

/** Opens the process log: JSON lines on stderr, or short readable lines when a person is at the terminal. */
export function openLog(options: { level: LogLevel; pretty?: boolean }): Log {
  if (options.pretty) return prettyLog(options.level)
  const logger = pino(
    { level: options.level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination(2),
  )
  const sink: Sink = {
    debug: (context, message) => logger.debug(context, message),
    info: (context, message) => logger.info(context, message),
    warn: (context, message) => logger.warn(context, message),
    error: (context, message) => logger.error(context, message),
    level: options.level,
    setLevel(level) {
      logger.level = level
      sink.level = level
    },
  }
  return wrap(sink, {})
}

interface Sink {
  debug(context: object, message: string): void
  info(context: object, message: string): void
  warn(context: object, message: string): void
  error(context: object, message: string): void
  level: LogLevel
  setLevel(level: LogLevel): void
}

function wrap(sink: Sink, bound: LogContext): Log {
  const merge = (context: LogContext): object => allowed({ ...bound, ...context })
  return {
    debug: (context, message) => sink.debug(merge(context), message),
    info: (context, message) => sink.info(merge(context), message),
    warn: (context, message) => sink.warn(merge(context), message),
    error: (context, message) => sink.error(merge(context), message),
    child: context => wrap(sink, { ...bound, ...context }),
    threshold: { level: () => sink.level, setLevel: level => sink.setLevel(level) },
  }
}

/** Keeps primitives, drops everything else, and bounds lengths. */
function allowed(context: Readonly<Record<string, unknown>>): Record<string, string | number | boolean> {
  const out: Record<string, string | number | boolean> = {}
  for (const [key, value] of Object.entries(context)) {
    if (typeof value === 'string') out[key] = value.length > 500 ? `${value.slice(0, 500)}…` : value
    else if (typeof value === 'number' || typeof value === 'boolean') out[key] = value
  }
  return out
}

const ranks: Record<LogLevel, number> = { debug: 0, info: 1, warn: 2, error: 3, silent: 4 }

function prettyLog(level: LogLevel): Log {
  const line = (at: 'debug' | 'info' | 'warn' | 'error') => (context: object, message: string) => {
    if (ranks[at] < ranks[sink.level]) return
    const time = new Date().toISOString().slice(11, 19)
    const rest = Object.entries(context)
      .map(([key, value]) => `${key}=${value}`)
      .join(' ')
    const text = `${time} ${at === 'info' ? '' : `${at} `}${message}${rest ? `  ${rest}` : ''}`
    // AE titles and the like come from outside: no control character may reach the terminal.
    process.stderr.write(`${text.replace(/\p{Cc}/gu, '?')}\n`)
  }
  const sink: Sink = {
    debug: line('debug'),
    info: line('info'),
    warn: line('warn'),
    error: line('error'),
    level,
    setLevel(next) {
      sink.level = next
    },
  }
  return wrap(sink, {})
}

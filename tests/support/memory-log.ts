/** A log whose messages a test can read. */
import type { Log, LogContext } from '../../gateway/log.ts'

/** A line of the log. */
export interface LogLine {
  readonly level: 'debug' | 'info' | 'warn' | 'error'
  readonly context: LogContext
  readonly message: string
}

/** Adds every line to `lines`. */
export function memoryLog(lines: LogLine[], bound: LogContext = {}): Log {
  const write = (level: LogLine['level']) => (context: LogContext, message: string) => {
    lines.push({ level, context: { ...bound, ...context }, message })
  }
  return {
    debug: write('debug'),
    info: write('info'),
    warn: write('warn'),
    error: write('error'),
    child: context => memoryLog(lines, { ...bound, ...context }),
  }
}

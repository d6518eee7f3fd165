#!/usr/bin/env node
// Starts the command line on a new enough Node: this one, or the one pinned beside us in node_modules.
// Plain JavaScript on purpose: it must run on the machine's own, possibly older, Node.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

// Durable writes run on libuv's pool: four threads would make concurrent associations wait for each other.
process.env.UV_THREADPOOL_SIZE ??= '8'

const major = Number(process.versions.node.split('.')[0])
const here = name => fileURLToPath(new URL(name, import.meta.url))
// The published package holds stripped JavaScript: Node refuses to strip types inside node_modules.
const cli = existsSync(here('./cli.js')) ? './cli.js' : './cli.ts'
const node = major >= 24 ? process.execPath : pinnedNode()
const args = [...process.execArgv, ...heapOptions(), here(cli), ...process.argv.slice(2)]

if (!node) {
  console.error(`hanse needs Node 24 or newer, this is ${process.version}; install it and try again`)
  process.exit(1)
} else if (major < 24) {
  const child = spawn(node, args, { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('exit', (code, signal) => process.exit(code ?? (signal ? 1 : 0)))
} else if (heapOptions().length > 0 && process.execve) {
  // The heap's options are read when a process begins: the gateway takes this one's place, and its pid.
  process.execve(node, [node, ...args], { MALLOC_ARENA_MAX: '2', ...process.env })
} else await import(cli)

/**
 * A gateway that runs for months keeps its young generation at the size that its busiest minute made it: 16 MB
 * semi-spaces, the default, cost 60 to 100 MB of resident memory against these, and save no measurable time. So do
 * malloc's arenas, which are as many as threads otherwise, with 10 to 20 MB.
 */
function heapOptions() {
  const given = `${process.env.NODE_OPTIONS ?? ''} ${process.execArgv.join(' ')}`
  return process.argv[2] === 'start' && !given.includes('semi-space-size') ? ['--max-semi-space-size=8'] : []
}

function pinnedNode() {
  try {
    const require = createRequire(import.meta.url)
    return require.resolve(`node-${process.platform}-${process.arch}/bin/node`)
  } catch {
    return undefined
  }
}

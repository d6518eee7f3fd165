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

if (major >= 24) await import(cli)
else {
  const node = pinnedNode()
  if (!node) {
    console.error(`hanse needs Node 24 or newer, this is ${process.version}; install it and try again`)
    process.exit(1)
  }
  const child = spawn(node, [here(cli), ...process.argv.slice(2)], { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('exit', (code, signal) => process.exit(code ?? (signal ? 1 : 0)))
}

function pinnedNode() {
  try {
    const require = createRequire(import.meta.url)
    return require.resolve(`node-${process.platform}-${process.arch}/bin/node`)
  } catch {
    return undefined
  }
}

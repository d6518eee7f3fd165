/** Run by tests: opens the cluster of `argv[2]`, reports, and waits to be killed. */
import { openPrivateCluster } from '../../gateway/db/embedded.ts'
import { GatewayError } from '../../gateway/errors.ts'
import { fast, silent } from './cluster.ts'

const report = (value: object): void => {
  process.stdout.write(`${JSON.stringify({ code: '', message: '', ...value })}\n`)
}
try {
  const cluster = await openPrivateCluster({ dataDir: process.argv[2] ?? '', log: silent, settings: fast })
  const { pid, adopted } = cluster.state()
  report({ pid, adopted, home: cluster.home, socketDir: cluster.connection.host })
  setInterval(() => undefined, 1_000)
} catch (error) {
  report({ code: error instanceof GatewayError ? error.code : 'unknown', message: String(error) })
}

/** A process with one lane worker, for the tests to kill: prints `started <transfer>` and then hangs or ends. */
import { openDatabase } from '../../gateway/db/db.ts'
import { openQueue } from '../../gateway/jobs/queue.ts'
import { openLog } from '../../gateway/log.ts'

const [host = '', user = '', database = '', mode = 'hang'] = process.argv.slice(2)
const connection = { host, user, database }
const log = openLog({ level: 'silent' })
const db = await openDatabase({ connection, log })
const queue = await openQueue({ db, log })
queue.work('deliver', { concurrency: 2 }, async ({ transfer }, _signal, job) => {
  process.stdout.write(`started ${transfer} ${job.attempt}\n`)
  if (mode === 'hang') await new Promise(() => undefined)
})
process.stdout.write('ready\n')

/** Run by a test: stores a blob under `argv[2]` and kills itself before the step `argv[3]`. */
import { openLog } from '../../gateway/log.ts'
import { openBlobs } from '../../gateway/store/blobs.ts'

const [, , dir = '', step] = process.argv
const blobs = await openBlobs({
  dir,
  log: openLog({ level: 'silent' }),
  before: at => {
    if (at === step) process.kill(process.pid, 'SIGKILL')
  },
})
const staged = await blobs.stage()
await staged.append([Buffer.alloc(500_000, 7)])
await staged.append([Buffer.alloc(500_000, 7)])
await blobs.commit(await staged.finish())

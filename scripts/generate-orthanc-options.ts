/** Writes deploy/ORTHANC.md from the table of Orthanc's options; tests/config/orthanc.test.ts compares them. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describeOptions } from '../gateway/cli/orthanc-config/options.ts'

writeFileSync(join(import.meta.dirname, '../deploy/ORTHANC.md'), describeOptions())

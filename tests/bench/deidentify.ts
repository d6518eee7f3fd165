/** De-identification of a folder of CT slices: ours, Orthanc's /anonymize, and the usual tools, each doing what it does. */
import { cp, mkdir, readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { missing } from '../support/dcmtk.ts'
import { makeCorpus } from './corpus.ts'
import type { Measurement, Series, WorkloadResult } from './measure.ts'
import { startOrthanc } from './orthanc.ts'
import { cpuMs, MemoryWatch } from './process-tree.ts'
import { measurement, runTool } from './run-tool.ts'

/** How much to measure. */
export interface DeidentifyPlan {
  readonly instances: number
  readonly rounds: number
}

const cli = fileURLToPath(new URL('../../gateway/cli.ts', import.meta.url))

/** One study of 526 KB slices; every tool starts anew in each round, as a person would start it. */
export async function benchDeidentify(
  directory: string,
  names: readonly string[],
  plan: DeidentifyPlan,
  note: (line: string) => void,
): Promise<WorkloadResult> {
  const corpus = await makeCorpus(directory, {
    name: 'deidentify',
    instances: plan.instances,
    instancesPerStudy: plan.instances,
    rows: 512,
    folders: 1,
    seed: 9,
  })
  const [input = ''] = corpus.folders
  const work = join(directory, 'deidentified')
  const contestants: readonly { target: string; durable: string; run: () => Promise<Measurement> }[] = [
    {
      target: 'hanse',
      durable: 'basic + trial options, texts searched, output verified',
      run: () =>
        runTool(process.execPath, [cli, 'deidentify', '--profile', 'trial', '--out', work, input], plan.instances),
    },
    {
      target: 'gdcmanon',
      durable: 'ten attributes emptied or replaced (--dumb)',
      run: async () => {
        await mkdir(work)
        return runTool('gdcmanon', ['--dumb', ...dumbTags, '-r', '-i', input, '-o', work], plan.instances)
      },
    },
    {
      target: 'dcmodify',
      durable: 'ten attributes and three UIDs, in place',
      run: async () => {
        await cp(input, work, { recursive: true })
        const files = (await readdir(work)).map(name => join(work, name))
        return runTool('dcmodify', [...modifications, ...files], plan.instances)
      },
    },
    {
      target: 'orthanc',
      durable: 'its default profile, /studies/{id}/anonymize',
      run: () => orthancRun(directory, input, plan),
    },
  ]
  const series: Series[] = []
  for (const { target, durable, run } of contestants) {
    if (target === 'orthanc' ? !names.includes('orthanc') : target !== 'hanse' && missing(target) !== false) continue
    const runs: Measurement[] = []
    for (let round = 0; round < plan.rounds; round += 1) {
      await rm(work, { recursive: true, force: true })
      runs.push(await run())
      note(`deidentify ${target}: ${runs.at(-1)?.perSecond.toFixed(0)} instances/s`)
    }
    series.push({ target, durable, runs })
  }
  await rm(work, { recursive: true, force: true })
  return { name: `de-identify ${plan.instances} CT slices of 526 KB`, unit: 'instances/s', series }
}

const dumbTags = [
  ...['10,10', '10,20', '8,50'].flatMap(tag => ['--replace', `${tag},X`]),
  ...['10,30', '8,90', '8,20', '8,30', '20,10', '8,1030', '8,103e'].flatMap(tag => ['--empty', tag]),
]
const modifications = [
  ...['-nb', '-imt', '-gst', '-gse', '-gin'],
  ...['(0010,0010)', '(0010,0020)', '(0008,0050)'].flatMap(tag => ['-ma', `${tag}=X`]),
  ...['0010,0030', '0008,0090', '0008,0020', '0008,0030', '0020,0010', '0008,1030', '0008,103e'].flatMap(tag => [
    '-ma',
    `(${tag})=`,
  ]),
]

async function orthancRun(directory: string, input: string, { instances }: DeidentifyPlan): Promise<Measurement> {
  const folder = join(directory, 'orthanc-deidentify')
  await mkdir(folder, { recursive: true })
  const server = await startOrthanc(folder)
  try {
    for (const name of await readdir(input)) {
      const body = await readFile(join(input, name))
      const answer = await fetch(`${server.url}/instances`, { method: 'POST', body })
      if (!answer.ok) throw new Error(`upload: ${answer.status}`)
    }
    const studies: unknown = await (await fetch(`${server.url}/studies`)).json()
    const study = Array.isArray(studies) ? String(studies[0]) : ''
    const watch = new MemoryWatch(server.roots)
    const cpu = cpuMs(server.roots)
    const began = performance.now()
    const answer = await fetch(`${server.url}/studies/${study}/anonymize`, { method: 'POST', body: '{}' })
    if (!answer.ok) throw new Error(`anonymize: ${answer.status} ${await answer.text()}`)
    const seconds = (performance.now() - began) / 1000
    return measurement(instances, seconds, cpuMs(server.roots) - cpu, watch.stop())
  } finally {
    await server.stop()
    await rm(folder, { recursive: true, force: true })
  }
}

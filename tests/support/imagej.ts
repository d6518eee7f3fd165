/** ImageJ's Orthanc plug-in, as Debian packages it, without a person: its own classes browse a server and open series. */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import type { TestContext } from 'node:test'
import { onEnd } from './cleanup.ts'
import { missing } from './dcmtk.ts'

const plugin = '/usr/share/imagej/plugins/Orthanc_Import.jar'
/** The engine of our script, the plug-in, ImageJ, and what the plug-in reads JSON with. */
const jars = ['/usr/share/java/rhino.jar', plugin, '/usr/share/java/ij.jar', '/usr/share/java/json-simple.jar']
const script = join(import.meta.dirname, 'imagej.rhino.js')

/** For the `skip` option of a test. */
export const missingImageJ: string | false =
  process.env['CI'] || (jars.every(jar => existsSync(jar)) && !missing('java', 'Xvfb'))
    ? false
    : 'ImageJ is not installed (Debian: apt-get install orthanc-imagej librhino-java xvfb)'

/**
 * What the plug-in shows of a server, all its levels opened and every series read into a stack of slices.
 *
 * @param url  where Orthanc's REST API is served
 */
export async function seenByImageJ(t: TestContext, url: string): Promise<unknown> {
  // Its progress windows need a screen.
  const screen = spawn('Xvfb', ['-displayfd', '1', '-nolisten', 'tcp', '-screen', '0', '640x480x24'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  onEnd(t, () => screen.kill('SIGKILL'))
  const display = await firstLine(screen.stdout)
  const java = spawn(
    'java',
    ['-cp', jars.join(':'), 'org.mozilla.javascript.tools.shell.Main', '-version', '200', script, url],
    {
      env: { ...process.env, DISPLAY: `:${display}` },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 120_000,
    },
  )
  onEnd(t, () => java.kill('SIGKILL'))
  const [code, output, errors] = await Promise.all([
    new Promise(resolve => java.once('close', resolve)),
    text(java.stdout),
    text(java.stderr),
  ])
  if (code !== 0) throw new Error(`ImageJ ended with ${code}:\n${errors.slice(0, 4_000)}`)
  return JSON.parse(output)
}

async function firstLine(stream: Readable): Promise<string> {
  for await (const line of createInterface({ input: stream })) return line
  throw new Error('Xvfb did not start')
}

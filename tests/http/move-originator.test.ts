/** Scripts may say on whose behalf they send, as `/modalities/{id}/store` of Orthanc. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { test } from 'node:test'
import { temporaryDir } from '../support/blobs.ts'
import { onEnd } from '../support/cleanup.ts'
import { missing, untilListening } from '../support/dcmtk.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { freePort } from '../support/free-port.ts'
import { startProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'

test('DCMTK is told who asked by C-MOVE, where the request says so', { skip: missing('storescp') }, async t => {
  const port = await freePort()
  const receiver = spawn('storescp', ['-d', '-od', await temporaryDir(t), String(port)], { stdio: 'pipe' })
  onEnd(t, () => void receiver.kill('SIGKILL'))
  let output = ''
  for (const stream of [receiver.stdout, receiver.stderr])
    stream.on('data', (bytes: Buffer) => {
      output += bytes.toString()
    })
  await untilListening(port)
  const gateway = await startProcessGateway(t, 'originator')
  await gateway.api('PUT', '/modalities/far', { AET: 'FAR', Host: '127.0.0.1', Port: port })
  const { bytes } = buildInstance({ seed: 1, rows: 8, cols: 8 })
  const stored = await fetch(`${gateway.url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
  const { ID } = Object(await stored.json())
  const send = (more: object) =>
    fetch(`${gateway.url}/modalities/far/store`, {
      method: 'POST',
      body: JSON.stringify({ Resources: [ID], ...more }),
    })

  const sent = await send({ MoveOriginatorAet: 'ASKER', MoveOriginatorID: 42 })
  assert.equal(sent.status, 200, await sent.text())
  await until('what DCMTK was told', 30_000, () => /Move Originator AE Title +: ASKER/.test(output))
  assert.match(output, /Move Originator (?:Message )?ID +: 42/)
  for (const wrong of [{ MoveOriginatorAet: 'WAY TOO LONG A TITLE' }, { MoveOriginatorAet: 'A', MoveOriginatorID: -1 }])
    assert.equal((await send(wrong)).status, 400)
})

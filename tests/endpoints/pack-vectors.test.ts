import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { manifestCsv, manifestJson, readManifest } from '../../endpoints/pack/manifest.ts'
import { deliveryFolder, nameRules, packageName } from '../../endpoints/pack/names.ts'
import { openStatement, signStatement } from '../../endpoints/pack/statement.ts'
import { decode } from '../../gateway/decode.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { testSite } from '../support/offers.ts'
import { packJob } from '../support/packages.ts'

const vectors = JSON.parse(await readFile(new URL('../vectors/delivery.json', import.meta.url), 'utf8'))
const site = testSite(1)
const created = new Date(vectors.created)
const open = (): Readable => Readable.from([])

test('delivery vectors: the manifests of these files have these bytes', () => {
  const { options, fields } = packJob(vectors.options)
  const facts = { from: site.siteId, created, fields, options, certificate: vectors.certificate }
  const packed = vectors.packed.map(({ file, objects }: { file: object; objects: object }) => ({
    file: { ...file, open },
    objects,
  }))

  assert.equal(Buffer.from(manifestJson(packed, facts)).toString(), vectors.json.join('\n'))
  assert.equal(Buffer.from(manifestCsv(packed, facts)).toString(), vectors.csv.join('\r\n'))
  assert.deepEqual(
    readManifest(Buffer.from(vectors.json.join('\n'))).files.map(({ name }) => name),
    vectors.packed.map(({ file }: { file: { name: string } }) => file.name),
  )
})

test('delivery vectors: the signature has these bytes, and each case opens or is refused as it says', () => {
  const files = vectors.files.map((file: object) => ({ ...file, open }))
  const signed = signStatement(files, { from: site.siteId, created, signer: site })

  assert.equal(site.siteId, vectors.from)
  assert.equal(Buffer.from(signed).toString(), vectors.signature)
  assert.deepEqual(openStatement(Buffer.from(vectors.signature), [site.signingKey]).files, vectors.files)
  for (const { name, signature, code } of vectors.refuse) {
    assert.throws(
      () => openStatement(Buffer.from(signature), [site.signingKey]),
      error => isGatewayError(error, code),
      name,
    )
  }
})

test('delivery vectors: templates and values give these names', () => {
  for (const { rules, fields, unit, folder, name } of vectors.names) {
    const decoded = decode(nameRules, rules)
    assert.ok(decoded.ok)
    assert.equal(deliveryFolder(decoded.value, fields), folder)
    assert.equal(packageName(decoded.value, { ...fields, ...unit }, '.zip'), name)
  }
})

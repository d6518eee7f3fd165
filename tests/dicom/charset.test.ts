import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { charsetOf, parseTerms } from '../../gateway/dicom/charset.ts'
import { latin1Bytes } from '../support/bytes.ts'

test('ISO 2022 names of PS3.5 Annexes H, I and K are decoded', () => {
  const examples: [terms: string[], bytes: string, name: string][] = [
    [
      ['', 'ISO 2022 IR 87'],
      'Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B',
      'Yamada^Tarou=山田^太郎=やまだ^たろう',
    ],
    [
      ['ISO 2022 IR 13', 'ISO 2022 IR 87'],
      '\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J',
      'ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう',
    ],
    [
      ['', 'ISO 2022 IR 149'],
      'Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf',
      'Hong^Gildong=洪^吉洞=홍^길동',
    ],
    [['', 'ISO 2022 IR 58'], 'Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=', 'Zhang^XiaoDong=张^小东='],
  ]

  for (const [terms, bytes, name] of examples) {
    assert.equal(charsetOf(terms).decode(latin1Bytes(bytes), 'names'), name)
  }
})

test('a G1 set that is designated once holds until the end of the value, as some senders expect', () => {
  const bytes = latin1Bytes('\x1b$)C\xb1\xe8^\xc8\xf1\xc1\xdf')

  assert.equal(charsetOf(['', 'ISO 2022 IR 149']).decode(bytes, 'names'), '김^희중')
})

test('bytes above 0x7f without a designation are read by the declared set', () => {
  assert.equal(charsetOf(['', 'ISO 2022 IR 149']).decode(latin1Bytes('\xb1\xe8')), '김')
  assert.equal(charsetOf(['ISO 2022 IR 100', 'ISO 2022 IR 144']).decode(latin1Bytes('\xc4')), 'Ä')
})

test('a backslash code inside a two-byte character is no delimiter', () => {
  // 0x5c is the second byte of a GBK character, and both bytes of a JIS X 0208 one may be.
  assert.equal(charsetOf(['GBK']).decode(latin1Bytes('\x81\x5c')), '乗')
  const kanji = charsetOf(['', 'ISO 2022 IR 87']).decode(latin1Bytes('\x1b$B\x30\x5c\x1b(B\\x'))
  assert.equal(kanji.split('\\').length, 2)
})

test('code extensions are reset at line ends and delimiters', () => {
  const text = charsetOf(['', 'ISO 2022 IR 87']).decode(latin1Bytes('\x1b$B;3\x1b(B\r\nED'))

  assert.equal(text, '山\r\nED')
})

test('misspelt defined terms are understood, unknown ones are read as Latin-1', () => {
  assert.equal(charsetOf(['ISO-IR 100']).decode(latin1Bytes('\xe9')), 'é')
  assert.equal(charsetOf(['iso_ir 192']).decode(Buffer.from('é')), 'é')
  assert.equal(charsetOf(['ISO 2022 IR 6']).decode(latin1Bytes('abc')), 'abc')
  assert.equal(charsetOf(['NO_SUCH_SET']).decode(latin1Bytes('\xe9')), 'é')
})

test('NUL is dropped and terms are trimmed', () => {
  assert.equal(charsetOf([]).decode(latin1Bytes('AB\0')), 'AB')
  assert.deepEqual(parseTerms(latin1Bytes('\\ISO 2022 IR 87 ')), ['', 'ISO 2022 IR 87'])
  assert.deepEqual(parseTerms(latin1Bytes(' ')), [])
})

test('text that a set can represent survives encoding and decoding', () => {
  const samples: [terms: string[], alphabet: string][] = [
    [[], 'abcÀÿ^= '],
    [['ISO_IR 100'], 'ABcéüß^ '],
    [['ISO_IR 101'], 'ŁódźČ^='],
    [['ISO_IR 109'], 'ĦħĜ^'],
    [['ISO_IR 110'], 'ĀžŅ^'],
    [['ISO_IR 144'], 'ЖябёЏ^'],
    [['ISO_IR 127'], 'قبانيل^'],
    [['ISO_IR 126'], 'Διονυσιος^'],
    [['ISO_IR 138'], 'שרוןדבה^'],
    [['ISO_IR 148'], 'İşğ^'],
    [['ISO_IR 203'], '€Œž^'],
    [['ISO_IR 166'], 'กขฃ๛^'],
    [['ISO_IR 13'], 'ﾔﾏﾀﾞ^'],
    [['ISO_IR 192'], 'é山한😀^'],
    [['GB18030'], '王小东山a^'],
    [['GBK'], '王小東a^'],
    [['', 'ISO 2022 IR 87'], 'aやまだ山田^='],
    [['ISO 2022 IR 13', 'ISO 2022 IR 87', 'ISO 2022 IR 159'], 'aﾔﾏ山丂侌^='],
    [['', 'ISO 2022 IR 149'], 'a洪吉홍길^='],
    [['', 'ISO 2022 IR 58'], 'a张小东^='],
    [['ISO 2022 IR 100', 'ISO 2022 IR 144', 'ISO 2022 IR 126'], 'éЖΔa^=\\\n'],
  ]
  for (const [terms, alphabet] of samples) {
    const charset = charsetOf(terms)
    const texts = fc.array(fc.constantFrom(...alphabet), { maxLength: 40 }).map(letters => letters.join(''))
    const survives = fc.property(texts, fc.constantFrom('text' as const, 'names' as const), (text, kind) => {
      const bytes = charset.encode(text, kind)
      assert.ok(bytes !== undefined, `${terms.join('\\')} represents ${alphabet}`)
      assert.equal(charset.decode(bytes, kind), text)
    })
    fc.assert(survives, { numRuns: 60 })
  }
})

test('text that a set cannot represent is not encoded', () => {
  assert.equal(charsetOf(['ISO_IR 100']).encode('山'), undefined)
  assert.equal(charsetOf(['ISO_IR 144']).encode('é'), undefined)
  assert.equal(charsetOf(['', 'ISO 2022 IR 87']).encode('한'), undefined)
  assert.equal(charsetOf(['', 'ISO 2022 IR 87']).encode('\x1b$B'), undefined)
})

test('decoding never fails, whatever the bytes', () => {
  const sets = [[], ['ISO_IR 192'], ['GB18030'], ['', 'ISO 2022 IR 87', 'ISO 2022 IR 159', 'ISO 2022 IR 149']]
  const bytes = fc.uint8Array({ maxLength: 64 })
  const escapes = fc.array(fc.constantFrom('\x1b', '$', '(', ')', 'B', 'C', 'D', '\x8e', '\x8f', '\xa1', '!', '\\'))
  const property = fc.property(
    fc.constantFrom(...sets),
    fc.oneof(
      bytes,
      escapes.map(parts => latin1Bytes(parts.join(''))),
    ),
    (terms, value) => {
      assert.equal(typeof charsetOf(terms).decode(value, 'names'), 'string')
    },
  )
  fc.assert(property, { numRuns: 2000 })
})

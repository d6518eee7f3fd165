/** `hanse query` */
import { keywordOf, parseTag } from '../dicom/tag.ts'
import { at, field, items } from './answer.ts'
import { openClient } from './client.ts'
import { type Command, configOptions, connectionOptions, exitCodes, jsonOption, UsageError } from './command.ts'
import { table } from './table.ts'

/** Columns of each level, by tag. */
const columns: Readonly<Record<string, readonly string[]>> = {
  patient: ['00100020', '00100010', '00100030'],
  study: ['0020000D', '00080020', '00080061', '00100020', '00100010', '00081030', '00201208'],
  series: ['0020000E', '00080060', '00200011', '0008103E', '00201209'],
  instance: ['00080018', '00080016', '00200013'],
}

export const query: Command = {
  name: 'query',
  summary: 'Ask a modality or archive what it holds (C-FIND).',
  operands: 'MODALITY [KEY=VALUE]...',
  arity: { min: 1, max: 50 },
  options: {
    level: { type: 'string', value: 'LEVEL', help: 'patient, study, series or instance (default: study)' },
    limit: { type: 'string', value: 'COUNT', help: 'no more matches than this (default: 100)' },
    ...jsonOption,
    ...connectionOptions,
    ...configOptions,
  },
  details: 'KEY is a keyword or GGGGEEEE. Example: hanse query PACS PatientID=12345 StudyDate=20250101-',
  async run(args, io) {
    const [modality = '', ...keys] = args.operands
    const level = args.text('level') ?? 'study'
    const shown = columns[level]
    if (!shown) throw new UsageError('--level: expected patient, study, series or instance')
    const limit = Number(args.text('limit') ?? '100')
    if (!Number.isSafeInteger(limit) || limit < 1 || limit > 1000)
      throw new UsageError('--limit: expected a number from 1 to 1000')
    const answer = await openClient(args, io).call('POST', `/modalities/${encodeURIComponent(modality)}/find`, {
      level,
      limit,
      query: Object.fromEntries(keys.map(pair)),
    })
    const matches = items(answer, 'matches')
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else if (matches.length === 0) io.print('no matches')
    else {
      const header = shown.map(tag => keywordOf(parseTag(tag) ?? 0) ?? tag)
      io.print(
        table(
          header,
          matches.map(match => shown.map(tag => value(match, tag))),
        ),
      )
      if (at(answer, 'truncated') === true) io.note(`there are more than ${limit}: narrow the query, or raise --limit`)
    }
    return exitCodes.ok
  },
}

function pair(text: string): readonly [string, string] {
  const equals = text.indexOf('=')
  if (equals < 1) throw new UsageError(`expected KEY=VALUE, got ${text.slice(0, 40)}`)
  return [text.slice(0, equals), text.slice(equals + 1)]
}

/** An element of DICOM JSON as a person reads it; what a node sends is not trusted to be printable. */
function value(match: unknown, tag: string): string {
  const values = items(match, tag, 'Value').map(each =>
    typeof each === 'object' ? field(each, 'Alphabetic') : String(each),
  )
  return (
    values
      .join('\\')
      .replace(/\p{Cc}/gu, '?')
      .slice(0, 64) || '-'
  )
}

/** `hanse policy ...` */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { at, field, items, number } from './answer.ts'
import { openClient, ProblemError } from './client.ts'
import { type Command, commonOptions, exitCodes, type Io, UsageError } from './command.ts'
import { table } from './table.ts'

export const policyShow: Command = {
  name: 'policy show',
  summary: 'Print the active policy document, or that of a version.',
  options: {
    version: { type: 'string', value: 'N', help: 'a version that was published before' },
    all: { type: 'boolean', help: 'list all versions' },
    ...commonOptions,
  },
  async run(args, io) {
    const client = openClient(args, io)
    const version = args.text('version')
    if (version !== undefined && !/^[1-9]\d{0,8}$/.test(version)) throw new UsageError('--version: expected a number')
    if (args.flag('all')) {
      const answer = await client.call('GET', '/policy/versions')
      const rows = items(answer, 'versions').map(entry =>
        ['version', 'createdAt', 'author', 'title'].map(key => field(entry, key)),
      )
      io.print(
        args.flag('json') ? JSON.stringify(answer, null, 2) : table(['version', 'created', 'author', 'title'], rows),
      )
      return exitCodes.ok
    }
    const policy = await client.call('GET', version === undefined ? '/policy' : `/policy/versions/${version}`)
    if (args.flag('json')) io.print(JSON.stringify(policy, null, 2))
    else if (number(policy, 'version') === 0)
      io.print('no policy is published: nothing leaves. See hanse policy publish --help')
    else {
      io.note(`version ${field(policy, 'version')} by ${field(policy, 'author')}, ${field(policy, 'createdAt')}`)
      io.print(JSON.stringify(at(policy, 'document'), null, 2))
    }
    return exitCodes.ok
  },
}

export const policyPublish: Command = {
  name: 'policy publish',
  summary: 'Publish a policy document: it is active at once, running transfers keep their version.',
  operands: '[FILE]',
  arity: { min: 0, max: 1 },
  options: {
    draft: { type: 'string', value: 'ID', help: 'publish a draft that another person wrote' },
    ...commonOptions,
  },
  details:
    'FILE is kept as a draft first. Where policy.twoPersons is on, who wrote it does not publish it: another person does,\n' +
    'with --draft. Example: hanse policy publish policy.json',
  async run(args, io) {
    const [file] = args.operands
    const named = args.text('draft')
    if ((file === undefined) === (named === undefined)) throw new UsageError('expected either FILE or --draft ID')
    const client = openClient(args, io)
    let draft = named
    if (file !== undefined) {
      const document = readDocument(file, io)
      const found = items(await client.call('POST', '/policies/lint', document), 'findings')
      for (const line of found.map(describeFinding)) io.note(line)
      if (found.some(entry => field(entry, 'severity') === 'error')) return exitCodes.failed
      draft = field(await client.call('POST', '/policies/drafts', document), 'id')
    }
    try {
      const active = await client.call('POST', `/policies/drafts/${encodeURIComponent(draft ?? '')}/publish`)
      io.print(
        args.flag('json') ? JSON.stringify(active, null, 2) : `policy version ${field(active, 'version')} is active`,
      )
      return exitCodes.ok
    } catch (error) {
      if (!(error instanceof ProblemError) || error.code !== 'FORBIDDEN' || file === undefined) throw error
      io.note(`${error.message}: hanse policy publish --draft ${draft}`)
      io.print(args.flag('json') ? JSON.stringify({ draft }, null, 2) : `draft ${draft} waits for a second person`)
      return exitCodes.failed
    }
  },
}

export const policyLint: Command = {
  name: 'policy lint',
  summary: 'Say what is wrong or odd about a policy document.',
  operands: 'FILE',
  arity: { min: 1, max: 1 },
  options: commonOptions,
  details: 'Exit code 1 when it cannot be published. Example: hanse policy lint policy.json',
  async run(args, io) {
    const answer = await openClient(args, io).call('POST', '/policies/lint', readDocument(args.operands[0] ?? '-', io))
    const found = items(answer, 'findings')
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else io.print(found.length === 0 ? 'nothing was found' : found.map(describeFinding).join('\n'))
    return found.some(entry => field(entry, 'severity') === 'error') ? exitCodes.failed : exitCodes.ok
  },
}

export const policyDiff: Command = {
  name: 'policy diff',
  summary: 'Show what changed between two policies.',
  operands: '[FROM] TO',
  arity: { min: 1, max: 2 },
  options: commonOptions,
  details:
    'FROM and TO are version numbers, ids of drafts, or "active" (the default of FROM).\n' +
    'Example: hanse policy diff 3 4',
  async run(args, io) {
    const [from, to] = args.operands.length === 2 ? args.operands : ['active', args.operands[0]]
    const query = new URLSearchParams({ from: from ?? 'active', to: to ?? 'active' })
    const answer = await openClient(args, io).call('GET', `/policies/diff?${query}`)
    const changes = items(answer, 'changes')
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else io.print(changes.length === 0 ? 'nothing changed' : changes.flatMap(describeChange).join('\n'))
    return exitCodes.ok
  },
}

export const policyHistory: Command = {
  name: 'policy history',
  summary: 'List published versions and drafts.',
  options: commonOptions,
  async run(args, io) {
    const client = openClient(args, io)
    const [versions, drafts] = [await client.call('GET', '/policies'), await client.call('GET', '/policies/drafts')]
    if (args.flag('json')) {
      io.print(JSON.stringify({ versions: items(versions, 'versions'), drafts: items(drafts, 'drafts') }, null, 2))
      return exitCodes.ok
    }
    const rows = items(versions, 'versions').map(entry => [
      `${at(entry, 'isActive') === true ? '*' : ' '}${field(entry, 'version')}`,
      ...['createdAt', 'author', 'publisher', 'rollbackOf', 'title'].map(key => field(entry, key)),
    ])
    io.print(table(['version', 'published', 'author', 'publisher', 'rollback of', 'title'], rows))
    const open = items(drafts, 'drafts').filter(entry => field(entry, 'state') === 'open')
    if (open.length === 0) return exitCodes.ok
    const list = open.map(entry => [
      ...['id', 'updatedAt'].map(key => field(entry, key)),
      items(entry, 'authors').join(', '),
      field(entry, 'title'),
    ])
    io.print(`\n${table(['draft', 'changed', 'authors', 'title'], list)}`)
    return exitCodes.ok
  },
}

export const policyRollback: Command = {
  name: 'policy rollback',
  summary: 'Make the document of an older version the active one again.',
  operands: 'VERSION',
  arity: { min: 1, max: 1 },
  options: commonOptions,
  async run(args, io) {
    const [version = ''] = args.operands
    if (!/^[1-9]\d{0,8}$/.test(version)) throw new UsageError('VERSION: expected a number')
    const active = await openClient(args, io).call('POST', `/policies/${version}/rollback`)
    const text = `policy version ${field(active, 'version')} is active, with the document of version ${version}`
    io.print(args.flag('json') ? JSON.stringify(active, null, 2) : text)
    return exitCodes.ok
  },
}

export const policyDryRun: Command = {
  name: 'policy dry-run',
  summary: 'Show what a policy would do with the studies of the last days; nothing is sent.',
  operands: '[FILE]',
  arity: { min: 0, max: 1 },
  options: {
    policy: { type: 'string', value: 'NAME', help: 'instead of FILE: the id of a draft, or a version' },
    days: { type: 'string', value: 'N', help: 'studies that arrived in so many days (default: 30)' },
    all: { type: 'boolean', help: 'list every study that one of both policies decides about, not only what changes' },
    ...commonOptions,
  },
  details: 'It is compared with the active version. Example: hanse policy dry-run policy.json --days 90',
  async run(args, io) {
    const [file] = args.operands
    const policy = args.text('policy')
    const days = Number(args.text('days') ?? 30)
    if ((file === undefined) === (policy === undefined)) throw new UsageError('expected either FILE or --policy NAME')
    if (!Number.isInteger(days) || days < 1) throw new UsageError('--days: expected a number of days')
    const client = openClient(args, io)
    const what = file === undefined ? { policy } : { document: readDocument(file, io) }
    let run = await client.call('POST', '/dry-runs', { ...what, days })
    const path = `/dry-runs/${field(run, 'id')}`
    const onAbort = (): void =>
      void openClient(args, { ...io, signal: AbortSignal.timeout(5000) }).call('POST', `${path}/cancel`)
    io.signal.addEventListener('abort', onAbort, { once: true })
    while (['waiting', 'running'].includes(field(run, 'state'))) {
      await delay(200, undefined, { signal: io.signal })
      run = await client.call('GET', path)
      if (io.interactive) io.note(`${number(run, 'studiesDone')} of ${number(run, 'studies')} studies`)
    }
    io.signal.removeEventListener('abort', onAbort)
    const wanted = args.flag('all') ? [''] : ['&change=gained', '&change=lost']
    const results: unknown[] = []
    for (const change of wanted) {
      for (let cursor = ''; ; ) {
        const page = await client.call('GET', `${path}/results?limit=1000${change}${cursor}`)
        results.push(...items(page, 'results'))
        if (at(page, 'next') === null || results.length >= 100_000) break
        cursor = `&cursor=${field(page, 'next')}`
      }
    }
    io.print(args.flag('json') ? JSON.stringify({ run, results }, null, 2) : describeDryRun(run, results))
    return field(run, 'state') === 'done' ? exitCodes.ok : exitCodes.failed
  },
}

function describeDryRun(run: unknown, results: readonly unknown[]): string {
  const counts = ['go', 'held', 'denied', 'gained', 'lost'].map(name => `${number(run, 'counts', name)} ${name}`)
  const summary = `${field(run, 'state')}: ${number(run, 'studiesDone')} studies; of studies and destinations ${counts.join(', ')}`
  if (results.length === 0) return summary
  const rows = results.map(entry => [
    `${field(entry, 'before')} -> ${field(entry, 'outcome')}`,
    ...['destination', 'studyInstanceUid', 'rule', 'profile', 'reason'].map(key => field(entry, key)),
  ])
  return `${summary}\n\n${table(['outcome', 'destination', 'study', 'rule', 'profile', 'reason'], rows)}`
}

/** A JSON document from a file, or from standard input as `-`. @throws UsageError */
export function readDocument(file: string, io: Pick<Io, 'cwd'>): unknown {
  try {
    return JSON.parse(readFileSync(file === '-' ? 0 : resolve(io.cwd, file), 'utf8'))
  } catch (cause) {
    throw new UsageError(`${file}: expected JSON: ${cause instanceof Error ? cause.message : 'error'}`)
  }
}

const describeFinding = (entry: unknown): string =>
  `${field(entry, 'severity')}: ${field(entry, 'path')}: ${field(entry, 'message')}`

const signs = { added: '+', removed: '-', changed: '~', moved: '>' } as const

function describeChange(entry: unknown): string[] {
  const kind = field(entry, 'kind')
  const sign = Object.entries(signs).find(([name]) => name === kind)?.[1] ?? '?'
  const lines = [`${sign} ${field(entry, 'path')}${kind === 'moved' ? ' stands elsewhere in the order' : ''}`]
  if (at(entry, 'before') !== undefined) lines.push(`    - ${JSON.stringify(at(entry, 'before'))}`)
  if (at(entry, 'after') !== undefined) lines.push(`    + ${JSON.stringify(at(entry, 'after'))}`)
  return lines
}

export const policyExplain: Command = {
  name: 'policy explain',
  summary: 'Explain why a study goes where, or why not.',
  operands: 'STUDY',
  arity: { min: 1, max: 1 },
  options: commonOptions,
  async run(args, io) {
    const study = encodeURIComponent(args.operands[0] ?? '')
    const answer = await openClient(args, io).call('GET', `/policy/explain?study=${study}`)
    io.print(args.flag('json') ? JSON.stringify(answer, null, 2) : explanation(answer))
    return exitCodes.ok
  },
}

function explanation(answer: unknown): string {
  const decisions = items(answer, 'decisions').map(
    entry => `${field(entry, 'destination')}: ${field(entry, 'effect', 'kind')} by rule ${field(entry, 'rule')}`,
  )
  const undecided = items(answer, 'undecided').map(name => `${String(name)}: not sent, no rule matches`)
  const trace = items(answer, 'trace').map(entry => [
    field(entry, 'rule'),
    at(entry, 'matched') === true ? 'matches' : 'no',
    field(entry, 'why'),
  ])
  const summary = [...decisions, ...undecided]
  return [
    `policy version ${field(answer, 'policyVersion')}`,
    ...(summary.length > 0 ? summary : ['nothing is sent: the policy has no destinations']),
    ...(trace.length > 0 ? ['', table(['rule', 'verdict', 'why'], trace)] : []),
  ].join('\n')
}

/** The command line: finds the command, reads its arguments, says what went wrong and what to do next. */
import { isGatewayError } from '../errors.ts'
import { ProblemError, UnreachableError } from './client.ts'
import { type Command, exitCodes, helpOf, type Io, readArgs, UsageError } from './command.ts'

/** Commands by name; loaded when asked for, so that `hanse status` does not read the whole gateway. */
const commands: Readonly<Record<string, { readonly summary: string; load(): Promise<Command> }>> = {
  start: { summary: 'run the gateway', load: async () => (await import('./start.ts')).start },
  demo: {
    summary: 'two hospitals on this machine exchange a study',
    load: async () => (await import('./demo.ts')).demo,
  },
  status: { summary: 'show how the gateway is', load: async () => (await import('./status.ts')).status },
  send: { summary: 'send a study to a destination', load: async () => (await import('./send.ts')).send },
  'peer invite': { summary: 'invite another site', load: async () => (await import('./peer.ts')).peerInvite },
  'peer accept': { summary: 'accept an invitation', load: async () => (await import('./peer.ts')).peerAccept },
  'peer confirm': { summary: 'confirm a peer', load: async () => (await import('./peer.ts')).peerConfirm },
  'peer card': { summary: "write this site's own card", load: async () => (await import('./peer.ts')).peerCard },
  'peer list': { summary: 'list peers', load: async () => (await import('./peer.ts')).peerList },
  'peer revoke': { summary: 'revoke a peer', load: async () => (await import('./peer.ts')).peerRevoke },
  'policy show': { summary: 'print the policy', load: async () => (await import('./policy.ts')).policyShow },
  'policy publish': { summary: 'publish a policy', load: async () => (await import('./policy.ts')).policyPublish },
  'policy lint': { summary: 'check a policy document', load: async () => (await import('./policy.ts')).policyLint },
  'policy diff': { summary: 'compare two policies', load: async () => (await import('./policy.ts')).policyDiff },
  'policy dry-run': {
    summary: 'what a policy would do',
    load: async () => (await import('./policy.ts')).policyDryRun,
  },
  'policy history': {
    summary: 'list versions and drafts of the policy',
    load: async () => (await import('./policy.ts')).policyHistory,
  },
  'policy rollback': {
    summary: 'return to an older policy',
    load: async () => (await import('./policy.ts')).policyRollback,
  },
  'policy explain': {
    summary: 'why a study goes where',
    load: async () => (await import('./policy.ts')).policyExplain,
  },
  deidentify: {
    summary: 'de-identify files and folders',
    load: async () => (await import('./deidentify.ts')).deidentify,
  },
  'quarantine list': {
    summary: 'list what is held',
    load: async () => (await import('./quarantine.ts')).quarantineList,
  },
  'quarantine show': {
    summary: 'show why a transfer is held',
    load: async () => (await import('./quarantine.ts')).quarantineShow,
  },
  'quarantine release': {
    summary: 'try a held transfer again',
    load: async () => (await import('./quarantine.ts')).quarantineRelease,
  },
  'quarantine reject': {
    summary: 'end a held transfer for good',
    load: async () => (await import('./quarantine.ts')).quarantineReject,
  },
  'quarantine rerun': {
    summary: 'send it under another profile',
    load: async () => (await import('./quarantine.ts')).quarantineRerun,
  },
  'recall list': {
    summary: 'list what was asked back',
    load: async () => (await import('./recall.ts')).recallList,
  },
  'recall start': {
    summary: 'ask a peer to give back',
    load: async () => (await import('./recall.ts')).recallStart,
  },
  'recall accept': {
    summary: 'delete what a peer asks back',
    load: async () => (await import('./recall.ts')).recallAccept,
  },
  'recall refuse': {
    summary: 'keep what a peer asks back',
    load: async () => (await import('./recall.ts')).recallRefuse,
  },
  'pseudonym projects': {
    summary: 'list projects',
    load: async () => (await import('./pseudonym.ts')).pseudonymProjects,
  },
  'pseudonym import': {
    summary: 'import a table of pseudonyms',
    load: async () => (await import('./pseudonym.ts')).pseudonymImport,
  },
  'pseudonym request': {
    summary: 'ask whose a pseudonym is',
    load: async () => (await import('./pseudonym.ts')).pseudonymRequest,
  },
  'pseudonym requests': {
    summary: 'list such requests',
    load: async () => (await import('./pseudonym.ts')).pseudonymRequests,
  },
  'pseudonym approve': {
    summary: 'approve a request of somebody else',
    load: async () => (await import('./pseudonym.ts')).pseudonymApprove,
  },
  'pseudonym refuse': {
    summary: 'refuse a request of somebody else',
    load: async () => (await import('./pseudonym.ts')).pseudonymRefuse,
  },
  'pseudonym reveal': {
    summary: 'print the answer to an approved request',
    load: async () => (await import('./pseudonym.ts')).pseudonymReveal,
  },
  'modality list': {
    summary: 'list registered modalities',
    load: async () => (await import('./modality.ts')).modalityList,
  },
  'modality add': { summary: 'register a modality', load: async () => (await import('./modality.ts')).modalityAdd },
  'modality remove': { summary: 'remove a modality', load: async () => (await import('./modality.ts')).modalityRemove },
  'trial list': { summary: 'list trials', load: async () => (await import('./trial.ts')).trialList },
  'trial show': { summary: 'show a protocol', load: async () => (await import('./trial.ts')).trialShow },
  'trial put': { summary: 'add or change a trial', load: async () => (await import('./trial.ts')).trialPut },
  'trial close': { summary: 'close a trial', load: async () => (await import('./trial.ts')).trialClose },
  'trial reopen': { summary: 'open it again', load: async () => (await import('./trial.ts')).trialReopen },
  'trial subjects': { summary: 'list subjects', load: async () => (await import('./trial.ts')).trialSubjects },
  'trial declare': { summary: 'declare subjects', load: async () => (await import('./trial.ts')).trialDeclare },
  'trial enrol': {
    summary: 'link a subject with a patient',
    load: async () => (await import('./trial.ts')).trialEnrol,
  },
  'trial withdraw': { summary: 'a subject withdraws', load: async () => (await import('./trial.ts')).trialWithdraw },
  'trial delegations': {
    summary: 'print the delegation log',
    load: async () => (await import('./trial.ts')).trialDelegations,
  },
  'trial delegate': {
    summary: 'give a task to a person',
    load: async () => (await import('./trial.ts')).trialDelegate,
  },
  'trial revoke': { summary: 'revoke a line of the log', load: async () => (await import('./trial.ts')).trialRevoke },
  'trial uploads': { summary: 'list uploads', load: async () => (await import('./trial.ts')).trialUploads },
  'trial upload': { summary: 'choose studies for a visit', load: async () => (await import('./trial.ts')).trialUpload },
  'trial check': { summary: 'check an upload again', load: async () => (await import('./trial.ts')).trialCheck },
  'trial preview': { summary: 'show what would leave', load: async () => (await import('./trial.ts')).trialPreview },
  'trial approve': { summary: 'approve an upload', load: async () => (await import('./trial.ts')).trialApprove },
  'trial send': { summary: 'send what was approved', load: async () => (await import('./trial.ts')).trialSend },
  'trial cancel': { summary: 'do not send an upload', load: async () => (await import('./trial.ts')).trialCancel },
  'trial query': { summary: 'the sponsor asks', load: async () => (await import('./trial.ts')).trialQuery },
  'trial answer': { summary: 'the question was answered', load: async () => (await import('./trial.ts')).trialAnswer },
  'trial work': { summary: 'list open work', load: async () => (await import('./trial.ts')).trialWork },
  'trial log': { summary: 'write the export log', load: async () => (await import('./trial.ts')).trialLog },
  'endpoint list': {
    summary: 'list endpoints of third parties',
    load: async () => (await import('./endpoint.ts')).endpointList,
  },
  'endpoint add': { summary: 'set up an endpoint', load: async () => (await import('./endpoint.ts')).endpointAdd },
  'endpoint show': { summary: 'show an endpoint', load: async () => (await import('./endpoint.ts')).endpointShow },
  'endpoint confirm': {
    summary: 'confirm a host key',
    load: async () => (await import('./endpoint.ts')).endpointConfirm,
  },
  'endpoint test': {
    summary: 'try an endpoint step by step',
    load: async () => (await import('./endpoint.ts')).endpointTest,
  },
  'endpoint stop': {
    summary: 'send nothing more there',
    load: async () => (await import('./endpoint.ts')).endpointStop,
  },
  'endpoint resume': { summary: 'send there again', load: async () => (await import('./endpoint.ts')).endpointResume },
  'endpoint remove': {
    summary: 'remove an endpoint',
    load: async () => (await import('./endpoint.ts')).endpointRemove,
  },
  'endpoint arrivals': {
    summary: 'list what has arrived at an endpoint',
    load: async () => (await import('./endpoint-arrivals.ts')).endpointArrivals,
  },
  'endpoint poll': {
    summary: 'look now what has arrived there',
    load: async () => (await import('./endpoint-arrivals.ts')).endpointPoll,
  },
  'endpoint acknowledge': {
    summary: "attach a recipient's confirmation",
    load: async () => (await import('./endpoint.ts')).endpointAcknowledge,
  },
  'worklist list': {
    summary: 'list what is scheduled',
    load: async () => (await import('./worklist.ts')).worklistList,
  },
  'worklist add': {
    summary: 'schedule a procedure step',
    load: async () => (await import('./worklist.ts')).worklistAdd,
  },
  'worklist remove': {
    summary: 'remove a worklist item',
    load: async () => (await import('./worklist.ts')).worklistRemove,
  },
  'modality echo': {
    summary: 'ask a modality whether it answers',
    load: async () => (await import('./modality.ts')).modalityEcho,
  },
  'import disc': {
    summary: 'store studies from a disc, stick, folder or disc image',
    load: async () => (await import('./import-disc.ts')).importDisc,
  },
  query: { summary: 'ask a modality what it holds', load: async () => (await import('./query.ts')).query },
  retrieve: {
    summary: 'fetch studies from a modality',
    load: async () => (await import('./retrieve.ts')).retrieve,
  },
  'import orthanc': {
    summary: 'take over what an Orthanc holds',
    load: async () => (await import('./import.ts')).importOrthanc,
  },
  open: {
    summary: 'unpack and verify a received delivery',
    load: async () => (await import('./open.ts')).openDelivery,
  },
  'audit verify': { summary: 'verify the audit log', load: async () => (await import('./audit.ts')).auditVerify },
  'token create': { summary: 'create an API token', load: async () => (await import('./token.ts')).tokenCreate },
  'token list': { summary: 'list API tokens', load: async () => (await import('./token.ts')).tokenList },
  'token revoke': { summary: 'revoke an API token', load: async () => (await import('./token.ts')).tokenRevoke },
  'retention show': {
    summary: 'show how long studies are kept',
    load: async () => (await import('./retention.ts')).retentionShow,
  },
  'retention set': {
    summary: 'set how long studies are kept',
    load: async () => (await import('./retention.ts')).retentionSet,
  },
  'retention holds': { summary: 'list legal holds', load: async () => (await import('./retention.ts')).retentionHolds },
  'retention hold': { summary: 'place a legal hold', load: async () => (await import('./retention.ts')).retentionHold },
  'retention release': {
    summary: 'release a legal hold',
    load: async () => (await import('./retention.ts')).retentionRelease,
  },
  fsck: { summary: 'compare database and stored files', load: async () => (await import('./fsck.ts')).fsck },
  'config check': { summary: 'check the configuration', load: async () => (await import('./config.ts')).configCheck },
}

/**
 * Runs one command.
 *
 * @param argv  words after the program's name
 * @returns the exit code (`exitCodes`)
 */
export async function runCli(argv: readonly string[], io: Io): Promise<number> {
  const [first = '', second = ''] = argv
  const name = Object.hasOwn(commands, `${first} ${second}`) ? `${first} ${second}` : first
  const found = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (!found) return overview(first, io, argv.includes('--help') || argv.includes('-h'))
  try {
    const command = await found.load()
    const args = readArgs(command, argv.slice(name.split(' ').length))
    if (args.help) {
      io.print(helpOf(command))
      return exitCodes.ok
    }
    return await command.run(args, io)
  } catch (error) {
    return explain(error, name, io)
  }
}

function overview(first: string, io: Io, isAsked: boolean): number {
  const family = Object.keys(commands).filter(name => name.startsWith(`${first} `))
  const isKnown = first === '' || first === 'help' || first === '--help' || first === '-h' || family.length > 0
  const shown = family.length > 0 ? family : Object.keys(commands)
  const width = Math.max(...shown.map(name => name.length))
  const text = [
    'Usage: hanse COMMAND [options]',
    '',
    ...shown.map(name => `  ${name.padEnd(width)}  ${commands[name]?.summary ?? ''}`),
    '',
    'hanse COMMAND --help explains a command.',
    'Exit codes: 0 done; 1 failed, or a check found something; 2 wrong arguments or configuration;',
    '3 the gateway was not reached; 130 interrupted.',
  ].join('\n')
  if (isKnown && (isAsked || family.length === 0)) {
    io.print(text)
    return exitCodes.ok
  }
  if (family.length === 0) io.note(`hanse: there is no command "${first}"`)
  io.note(text)
  return exitCodes.usage
}

/** Says what went wrong and what to do next; no stack for what a person can mend. */
function explain(error: unknown, name: string, io: Io): number {
  if (io.signal.aborted) return exitCodes.interrupted
  if (error instanceof UsageError) {
    io.note(`hanse ${name}: ${error.message}`)
    io.note(`hanse ${name} --help explains it`)
    return exitCodes.usage
  }
  if (error instanceof UnreachableError) {
    io.note(`hanse ${name}: ${error.message}`)
    return exitCodes.unreachable
  }
  if (error instanceof ProblemError) {
    io.note(`hanse ${name}: ${error.message}`)
    return exitCodes.failed
  }
  if (isGatewayError(error, 'CONFIG_INVALID')) {
    io.note(`hanse ${name}: the configuration is not usable`)
    for (const line of error.message.split('; ')) io.note(`  ${line}`)
    return exitCodes.usage
  }
  if (isGatewayError(error)) {
    io.note(`hanse ${name}: ${error.message} (${error.code})`)
    return exitCodes.failed
  }
  if (error instanceof Error && 'code' in error && error.code === 'EADDRINUSE') {
    const port = 'port' in error ? String(error.port) : ''
    io.note(`hanse ${name}: port ${port} is in use by another program`)
    io.note('choose others with HANSE_HTTP_PORT, HANSE_DICOM_PORT and HANSE_FEDERATION_PORT (0: any free one)')
    return exitCodes.usage
  }
  io.note(`hanse ${name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
  return exitCodes.failed
}

/**
 * The programs that tests and benchmarks talk to, as real peers, and the Debian packages that bring them.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'

/** Where packages are unpacked that cannot be installed beside others. */
const unpackedDir = '/usr/local/lib/hanse-test-tools'

/** A program, or another file by its path. What conflicts with another package is unpacked, with the packages that it needs. */
interface Tool {
  readonly program: string
  readonly aptPackage: string
  readonly unpackedWith?: readonly string[]
}

const tools: readonly Tool[] = [
  { program: 'storescu', aptPackage: 'dcmtk' },
  { program: 'dciodvfy', aptPackage: 'dicom3tools' },
  { program: 'gdcmanon', aptPackage: 'libgdcm-tools' },
  { program: 'Orthanc', aptPackage: 'orthanc' },
  { program: 'openssl', aptPackage: 'openssl' },
  { program: 'curl', aptPackage: 'curl' },
  { program: 'sshd', aptPackage: 'openssh-server' },
  { program: 'ssh-keygen', aptPackage: 'openssh-client' },
  { program: 'proftpd', aptPackage: 'proftpd-core' },
  { program: '/usr/lib/proftpd/mod_tls.so', aptPackage: 'proftpd-mod-crypto' },
  { program: 'age', aptPackage: 'age' },
  { program: 'gpg', aptPackage: 'gpg' },
  { program: '/usr/share/imagej/plugins/Orthanc_Import.jar', aptPackage: 'orthanc-imagej' },
  { program: '/usr/share/java/rhino.jar', aptPackage: 'librhino-java' },
  { program: 'Xvfb', aptPackage: 'xvfb' },
  { program: `${unpackedDir}/vsftpd/usr/sbin/vsftpd`, aptPackage: 'vsftpd', unpackedWith: ['libwrap0'] },
]

/** The path of a program that is installed at `usual`, or was unpacked. */
export function unpackedTool(aptPackage: string, usual: string): string | undefined {
  return [usual, `${unpackedDir}/${aptPackage}${usual}`].find(path => existsSync(path))
}

/** Installs what is missing where it may (root or password-less sudo on Debian); returns what is still missing. */
export function ensureTools(): string[] {
  const wanted = absent()
  if (wanted.length === 0) return []
  const unpacked = wanted.filter(tool => tool.unpackedWith).map(tool => tool.aptPackage)
  const packages = [...new Set(wanted.flatMap(tool => tool.unpackedWith ?? [tool.aptPackage]))]
  const sudo = process.getuid?.() === 0 ? [] : has('sudo') && run(['sudo', '-n', 'true']) ? ['sudo', '-n'] : undefined
  if (!has('apt-get') || !sudo) {
    const command = `apt-get install -y --no-install-recommends ${packages.join(' ')}`
    console.error(
      `Some tests need ${[...packages, ...unpacked].join(', ')} and will be skipped. To run them, first run as root:\n  ${command}`,
    )
    return wanted.map(tool => tool.program)
  }
  console.error(`installing ${[...packages, ...unpacked].join(', ')} …`)
  withoutDaemons(sudo, () => {
    const environment = ['env', 'DEBIAN_FRONTEND=noninteractive']
    run([...sudo, ...environment, 'apt-get', 'update', '-q'])
    run([...sudo, ...environment, 'apt-get', 'install', '-y', '-q', '--no-install-recommends', ...packages])
    for (const name of unpacked) {
      const script = 'mkdir -p "$1" && cd "$1" && apt-get download -q "$2" && dpkg -x "$2"_*.deb "$2" && rm "$2"_*.deb'
      run([...sudo, ...environment, 'sh', '-c', script, 'sh', unpackedDir, name])
    }
  })
  return absent().map(tool => tool.program)
}

/** Runs `install` while policy-rc.d forbids services to start: Debian's orthanc would hold our default ports. */
function withoutDaemons(sudo: readonly string[], install: () => void): void {
  const policy = '/usr/sbin/policy-rc.d'
  const mine = !existsSync(policy)
  if (mine) {
    const script = '/tmp/hanse-policy-rc.d'
    writeFileSync(script, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
    run([...sudo, 'install', '-m', '755', script, policy])
  }
  const before = isDaemonEnabled()
  try {
    install()
  } finally {
    if (mine) run([...sudo, 'rm', '-f', policy])
    // Enabled by its package, it would start with the next boot.
    if (!before && has('systemctl') && existsSync('/run/systemd/system'))
      run([...sudo, 'systemctl', 'disable', '--now', 'orthanc'])
  }
}

function isDaemonEnabled(): boolean {
  return existsSync('/etc/systemd/system/multi-user.target.wants/orthanc.service')
}

function absent(): typeof tools {
  return tools.filter(tool => !has(tool.program))
}

function has(program: string): boolean {
  if (program.startsWith('/')) return existsSync(program)
  const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin`
  return path.split(':').some(dir => dir !== '' && existsSync(`${dir}/${program}`))
}

function run(command: readonly string[]): boolean {
  const [program = '', ...args] = command
  const result = spawnSync(program, args, { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' })
  if (result.status !== 0 && program !== 'sudo')
    console.error((result.stderr || result.error?.message || '').slice(-2000))
  return result.status === 0
}

/** `hanse config check` */
import { checkConfig, variables } from '../config.ts'
import { type Command, configOptions, exitCodes, jsonOption } from './command.ts'

export const configCheck: Command = {
  name: 'config check',
  summary: 'Check the configuration and print it as it would be used.',
  options: { ...jsonOption, ...configOptions },
  details: [
    'Environment variables override the file:',
    ...Object.entries(variables).map(([name, { path, help }]) => `  ${name.padEnd(29)} ${help} (${path})`),
  ].join('\n'),
  async run(args, io) {
    const [file, data] = [args.text('config'), args.text('data')]
    const result = checkConfig({
      env: io.env,
      cwd: io.cwd,
      ...(file !== undefined && { file }),
      ...(data !== undefined && { data }),
    })
    if (!result.ok) {
      if (args.flag('json')) io.print(JSON.stringify({ problems: result.problems }, null, 2))
      for (const { path, message } of result.problems) io.note(`${path}: ${message}`)
      return exitCodes.usage
    }
    for (const warning of result.value.warnings) io.note(`warning: ${warning}`)
    io.print(JSON.stringify(result.value.config, null, 2))
    io.note(`the configuration is good (${result.value.file ?? 'no file'})`)
    return exitCodes.ok
  },
}

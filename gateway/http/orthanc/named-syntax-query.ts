/** The parameters of a query that name a transfer syntax. */
export const namedSyntaxQuery = {
  transcode: {
    type: 'string',
    maxLength: 64,
    description: 'Transfer syntax for what can be had in it; one that loses something makes new objects',
  },
  'lossy-quality': { type: 'integer', minimum: 1, maximum: 100, description: 'Of JPEG that loses something' },
} as const

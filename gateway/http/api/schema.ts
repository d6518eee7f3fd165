/** Short forms for the JSON Schemas of routes, which become the OpenAPI document. */

type Json = Readonly<Record<string, unknown>>

/** An object with these properties, all of them present. */
export const object = (properties: Readonly<Record<string, Json>>, description?: string) => ({
  type: 'object',
  ...(description !== undefined && { description }),
  properties,
})

/** An object of which the named properties must be given and no others are accepted. */
export const input = (properties: Readonly<Record<string, Json>>, required: readonly string[] = []) => ({
  type: 'object',
  properties,
  required,
  additionalProperties: false,
})

export const array = (items: Json) => ({ type: 'array', items })
export const string = { type: 'string' } as const
export const integer = { type: 'integer' } as const
/** A row's number; beyond the safe integers PostgreSQL's bigint would be another number here. */
export const rowId = { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER } as const
export const boolean = { type: 'boolean' } as const
export const date = { type: 'string', format: 'date-time' } as const
export const sha256 = { type: 'string', pattern: '^[0-9a-f]{64}$' } as const
export const uuid = { type: 'string', format: 'uuid' } as const
export const nullableString = { type: ['string', 'null'] } as const
export const nullableInteger = { type: ['integer', 'null'] } as const
export const nullableDate = { type: ['string', 'null'], format: 'date-time' } as const
/** Any JSON. */
export const anything = {} as const
/** An object whose keys are not fixed. */
export const open = { type: 'object', additionalProperties: true } as const

export const limit = { type: 'integer', minimum: 1, maximum: 1000, default: 100 } as const
export const uuidParams = input({ id: uuid }, ['id'])

const problem = (description: string) => ({
  description,
  content: { 'application/problem+json': { schema: { $ref: 'Problem#' } } },
})

/** Responses of a route: 200 with this body, and the problem documents that every route may give. */
export const answers = (description: string, body: Json) => ({
  200: { description, content: { 'application/json': { schema: body } } },
  '4xx': problem('The request was refused'),
  '5xx': problem('The gateway could not answer; 503 and 507 may be tried again'),
})

/** A reason that a person gives. */
export const why = {
  ...string,
  minLength: 10,
  maxLength: 1_000,
  description: 'Why, in your words; it is in the audit log',
}

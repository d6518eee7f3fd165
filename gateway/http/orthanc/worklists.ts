/**
 * The REST API of Orthanc's worklists plugin (from Orthanc 1.12.10): tags by keyword in the form that Orthanc's own
 * tools write, text or lists of items. `/api/v1/worklist` has what these cannot say: states, sources, filters, pages.
 */

import type { FastifyInstance } from 'fastify'
import { isObject } from '../../decode.ts'
import { entryOf } from '../../dicom/dictionary.ts'
import type { DicomJson } from '../../dicom/json.ts'
import { jsonItems, jsonTexts } from '../../dicom/json-read.ts'
import { formatTag, keywordOf, parseTag, tagOf } from '../../dicom/tag.ts'
import { isBulkVr } from '../../dicom/vr.ts'
import { GatewayError } from '../../errors.ts'
import type { Worklist } from '../../services/worklist.ts'
import { readAnyBodyAsJson } from './json-body.ts'

const tags = ['Orthanc']
const params = {
  type: 'object',
  properties: { id: { type: 'string', format: 'uuid' } },
  required: ['id'],
} as const
const body = {
  type: 'object',
  properties: { Tags: { type: 'object', additionalProperties: true } },
  required: ['Tags'],
  additionalProperties: true,
} as const
const listed = 1000
const maxDepth = 16

/** Registers the routes. */
export function worklistsRoutes(app: FastifyInstance, { worklist }: { readonly worklist: Worklist }): void {
  app.register(async scope => {
    readAnyBodyAsJson(scope)
    itemRoutes(scope, worklist)
  })
}

function itemRoutes(app: FastifyInstance, worklist: Worklist): void {
  app.get(
    '/worklists',
    { schema: { tags, summary: 'Worklist items, the earliest first, 1,000 at most; audited' } },
    async request => {
      const { items } = await worklist.list(request.principal, {}, { limit: listed })
      return items.map(({ id, document }) => ({ ID: id, Tags: simple(document) }))
    },
  )

  app.post<{ Body: { Tags: unknown } }>(
    '/worklists/create',
    { schema: { tags, summary: 'Schedule a procedure step', body } },
    async request => {
      const { id } = await worklist.put(request.principal, fromTags(request.body.Tags, 0))
      return { ID: id, Path: `/worklists/${id}` }
    },
  )

  app.get<{ Params: { id: string } }>(
    '/worklists/:id',
    { schema: { tags, summary: 'One worklist item; audited', params } },
    async request => {
      const { id, document } = await worklist.get(request.principal, request.params.id)
      return { ID: id, Tags: simple(document) }
    },
  )

  app.put<{ Params: { id: string }; Body: { Tags: unknown } }>(
    '/worklists/:id',
    { schema: { tags, summary: 'Replace a worklist item', params, body } },
    async request => {
      const { id } = await worklist.get(request.principal, request.params.id)
      await worklist.put(request.principal, fromTags(request.body.Tags, 0), id)
      return { ID: id, Path: `/worklists/${id}` }
    },
  )

  app.delete<{ Params: { id: string } }>(
    '/worklists/:id',
    { schema: { tags, summary: 'Remove a worklist item', params } },
    async request => {
      await worklist.remove(request.principal, request.params.id)
      return {}
    },
  )
}

/** Keywords and text, as `/instances/{id}/simplified-tags` has them. */
function simple(document: DicomJson): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(document).map(([name, element]) => {
      const tag = Number.parseInt(name, 16)
      const value = element.vr === 'SQ' ? jsonItems(document, tag).map(simple) : jsonTexts(document, tag).join('\\')
      return [keywordOf(tag) ?? name, value]
    }),
  )
}

/** DICOM JSON of keywords (or tags) with text, numbers, or lists of items. @throws GatewayError BAD_REQUEST */
function fromTags(raw: unknown, depth: number): Record<string, unknown> {
  if (!isObject(raw) || depth > maxDepth) throw new GatewayError('BAD_REQUEST', 'Tags: expected an object of tags')
  return Object.fromEntries(
    Object.entries(raw).map(([name, value]) => {
      const tag = tagOf(name) ?? parseTag(name)
      const vr = tag === undefined ? undefined : entryOf(tag)?.vrs[0]
      if (tag === undefined || vr === undefined)
        throw new GatewayError('BAD_REQUEST', 'Tags: expected keywords of the data dictionary, or tags')
      if (isBulkVr(vr)) throw new GatewayError('BAD_REQUEST', `Tags: ${keywordOf(tag)} cannot be given as text`)
      if (vr === 'SQ') {
        if (!Array.isArray(value)) throw new GatewayError('BAD_REQUEST', `Tags: ${keywordOf(tag)}: expected a list`)
        return [formatTag(tag), { vr, Value: value.map(item => fromTags(item, depth + 1)) }]
      }
      if (typeof value !== 'string' && typeof value !== 'number')
        throw new GatewayError('BAD_REQUEST', `Tags: ${keywordOf(tag)}: expected text`)
      const isNumeric = ['US', 'SS', 'UL', 'SL', 'FL', 'FD'].includes(vr)
      const texts = String(value).split('\\')
      return [formatTag(tag), { vr, Value: isNumeric ? texts.map(Number) : texts }]
    }),
  )
}

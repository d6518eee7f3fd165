/** `/series/{id}/ordered-slices`: the instances of a series in the order in which a viewer stacks them. */
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../db/db.ts'
import { wholeNumber } from '../../dicom/series-count.ts'
import { GatewayError } from '../../errors.ts'
import { loadInstances, loadSeries, type StoredAttributes } from '../../store/query.ts'
import { idParams } from './navigation.ts'
import { instanceJson } from './resources.ts'

/** What orders an instance. */
export interface Slice {
  readonly id: string
  readonly frames: number
  /** Image Position (Patient), millimetres. */
  readonly position: readonly number[] | undefined
  /** Instance Number, else Image Index. */
  readonly index: number | undefined
}

/** Positions that differ by less, in millimetres, are no volume. */
const leastExtent = 0.001
/** Series with more instances are refused: their order is made in memory. */
const mostSlices = 100_000

/** Registers the route. */
export function slicesRoute(app: FastifyInstance, { db }: { readonly db: Db }): void {
  app.get<{ Params: { id: string } }>(
    '/series/:id/ordered-slices',
    {
      schema: {
        tags: ['Orthanc'],
        summary: 'The instances of a series in spatial or temporal order',
        params: idParams,
      },
    },
    async request => {
      const { isVolume, ordered } = await orderedSlices(db, request.params.id)
      return {
        Dicom: ordered.map(({ id }) => `/instances/${id}/file`),
        Slices: ordered.flatMap(({ id, frames }) =>
          Array.from({ length: frames }, (_, frame) => `/instances/${id}/frames/${frame}`),
        ),
        SlicesShort: ordered.map(({ id, frames }) => [id, 0, frames]),
        Type: isVolume ? 'Volume' : 'Sequence',
      }
    },
  )
}

/** The slices of a stored series. @throws GatewayError NOT_FOUND, TOO_LARGE, STATE_CONFLICT as `orderSlices` */
export async function orderedSlices(db: Db, id: string): Promise<ReturnType<typeof orderSlices>> {
  const [series] = await loadSeries(db, [id])
  if (!series) throw new GatewayError('NOT_FOUND', 'no such series')
  if (series.children.length > mostSlices) throw new GatewayError('TOO_LARGE', `more than ${mostSlices} instances`)
  const slices = (await loadInstances(db, series.children)).map(node => {
    const attributes: StoredAttributes = node.attributes
    return {
      id: node.orthancId,
      frames: wholeNumber(numbersOf(attributes, '00280008')[0]?.toString()) ?? 1,
      position: ofLength(numbersOf(attributes, '00200032'), 3),
      index: instanceJson(node).IndexInSeries ?? undefined,
    }
  })
  return orderSlices(slices, ofLength(numbersOf(series.attributes, '00200037'), 6))
}

/**
 * Orders by position along the normal of the image plane where there is one, else by number (PS3.3 §C.7.6.2.1.1).
 *
 * @param orientation  Image Orientation (Patient) of the series: direction cosines of row and column
 * @throws GatewayError STATE_CONFLICT where neither orders them
 */
export function orderSlices(
  slices: readonly Slice[],
  orientation: readonly number[] | undefined,
): { readonly isVolume: boolean; readonly ordered: readonly Slice[] } {
  const normal = orientation && normalOf(orientation)
  const placed = normal
    ? slices.flatMap(slice => (slice.position ? [[slice, dot(normal, slice.position)] as const] : []))
    : []
  if (placed.length === slices.length && slices.length > 1) {
    placed.sort(([, one], [, other]) => one - other)
    const extent = (placed.at(-1)?.[1] ?? 0) - (placed[0]?.[1] ?? 0)
    if (extent > leastExtent) return { isVolume: true, ordered: placed.map(([slice]) => slice) }
  }
  if (slices.length > 1 && slices.some(({ index }) => index === undefined)) {
    throw new GatewayError('STATE_CONFLICT', 'the slices of this series have neither positions nor numbers')
  }
  return { isVolume: false, ordered: slices.toSorted((one, other) => (one.index ?? 0) - (other.index ?? 0)) }
}

function normalOf([a = 0, b = 0, c = 0, d = 0, e = 0, f = 0]: readonly number[]): readonly number[] | undefined {
  const normal = [b * f - c * e, c * d - a * f, a * e - b * d]
  return dot(normal, normal) > 0.5 ? normal : undefined
}

const dot = (one: readonly number[], other: readonly number[]): number =>
  one.reduce((sum, value, place) => sum + value * (other[place] ?? 0), 0)

function numbersOf(attributes: StoredAttributes, tag: string): readonly number[] {
  const values: readonly unknown[] = attributes[tag]?.Value ?? []
  return values.map(Number)
}

const ofLength = (values: readonly number[], length: number): readonly number[] | undefined =>
  values.length === length && values.every(Number.isFinite) ? values : undefined

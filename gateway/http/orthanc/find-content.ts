/** What `/tools/find` tells of each resource. */
import type { Db } from '../../db/db.ts'
import type { ResourceAttachments } from '../../services/resource-attachments.ts'
import { loadMetadata } from '../../store/metadata.ts'
import type { Level } from '../../store/query.ts'
import { infoOf } from './attachments.ts'
import { loadDetails, type Shape } from './details.ts'
import type { NameTable } from './names.ts'

/** How resources are written, and which fields; all but what costs more unless given. */
export interface Content extends Shape {
  readonly fields: ReadonlySet<string> | undefined
}

/** The members of a detail that a field of `ResponseContent` stands for. */
const members: Readonly<Record<string, readonly string[]>> = {
  MainDicomTags: ['MainDicomTags', 'PatientMainDicomTags'],
  RequestedTags: ['RequestedTags'],
  Parent: ['ParentPatient', 'ParentStudy', 'ParentSeries'],
  Children: ['Studies', 'Series', 'Instances'],
  Labels: ['Labels'],
  Status: ['Status', 'ExpectedNumberOfInstances'],
  IsStable: ['IsStable'],
  MetadataLegacy: ['LastUpdate', 'IndexInSeries'],
  AttachmentsLegacy: ['FileSize', 'FileUuid'],
  IsProtected: ['IsProtected'],
  Metadata: [],
  Attachments: [],
}

/** The fields that may be asked for. */
export const contentFields: ReadonlySet<string> = new Set(Object.keys(members))

const always = ['ID', 'Type']

/** The details of resources in the order of the ids. */
export async function loadContent(
  services: { readonly db: Db; readonly attachments: ResourceAttachments; readonly names: NameTable },
  level: Level,
  ids: readonly string[],
  content: Content,
): Promise<readonly object[]> {
  const { db, attachments, names } = services
  const { fields } = content
  const details = await loadDetails(db, level, ids, content)
  if (!fields) return details
  const kept = new Set([...always, ...[...fields].flatMap(field => members[field] ?? [])])
  const metadata = fields.has('Metadata') ? await loadMetadata(db, level, ids) : undefined
  const out: object[] = []
  for (const detail of details) {
    const id = 'ID' in detail && typeof detail.ID === 'string' ? detail.ID : ''
    out.push({
      ...Object.fromEntries(Object.entries(detail).filter(([name]) => kept.has(name))),
      ...(metadata && {
        Metadata: Object.fromEntries((metadata.get(id) ?? []).map(({ name, value }) => [names.nameOf(name), value])),
      }),
      ...(fields.has('Attachments') && { Attachments: await attached(attachments, level, id) }),
    })
  }
  return out
}

async function attached(attachments: ResourceAttachments, level: Level, orthancId: string): Promise<object[]> {
  const list: object[] = []
  for (const name of await attachments.list({ level, orthancId })) {
    list.push(infoOf(await attachments.get({ level, orthancId }, name)))
  }
  return list
}

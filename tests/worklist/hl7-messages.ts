/** Synthetic HL7 orders. */

/** A message of segments, in the bytes of an encoding. */
export function message(segments: readonly string[], encoding: BufferEncoding = 'utf8'): Buffer {
  return Buffer.from(segments.map(segment => `${segment}\r`).join(''), encoding)
}

export interface OrderOptions {
  readonly control?: string
  readonly status?: string
  readonly charset?: string
  readonly name?: string
  readonly filler?: string
  readonly stepId?: string
  readonly start?: string
  readonly controlId?: string
}

/** ORM^O01 as IHE's Procedure Scheduled has it. */
export function orm(options: OrderOptions = {}): string[] {
  const {
    control = 'NW',
    status = '',
    charset = '',
    name = 'TEST^Jane^Mary^Jr^Dr',
    filler = 'F100^RIS',
    stepId = 'SPS1',
    start = '20260301101500',
    controlId = 'MSG1',
  } = options
  return [
    `MSH|^~\\&|RIS|HOSP|HANSE|HOSP|20260301080000||ORM^O01^ORM_O01|${controlId}|P|2.3.1||||||${charset}`,
    `PID|||T-1^^^OTHER^PI~T-100^^^HOSP&1.2.3&ISO^MR||${name}||19700203|F||||||||||VISIT1`,
    'PV1||I|WARD^2^B|||||4711^REFERRER^Ron^^^Dr|||||||B6',
    `ORC|${control}|P100|${filler}||${status}||1^once^^20260301100000^^R`,
    `OBR|1|P100|${filler}|CTHEAD^CT head^L^HEADNAT^Head native^99P|S|||||||^walks|asthma|||99^ORDERER^Olga||A100|RP1|${stepId}||||CT||||||WALK|^headache|||7&TECH&Tom||${start}`,
    'AL1|1||^latex',
    'ZDS|1.2.3.4.5^RIS^Application^DICOM',
  ]
}

/** OMI^O23 with two steps. */
export function omi(): string[] {
  return [
    'MSH|^~\\&|RIS|HOSP|HANSE|HOSP|20260301080000||OMI^O23^OMI_O23|MSG2|P|2.5.1',
    'PID|||T-200^^^HOSP^MR||TEST^Max^^^^^L||19800101|M',
    'PV1||O',
    'ORC|NW|P200|F200^RIS',
    'TQ1|||||||20260302090000||A',
    'OBR|1|P200|F200^RIS|MRKNEE^MR knee^L',
    'IPC|A200|RP2|1.2.3.9|S1|MR|T1^T1 sagittal^99P|MRROOM|FLOOR1|MR_1',
    'IPC|A200|RP2|1.2.3.9|S2|MR|T2^T2 axial^99P|||MR_2',
  ]
}

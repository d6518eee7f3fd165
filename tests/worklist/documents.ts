/** Synthetic worklist documents as DICOM JSON. */

export interface StepOptions {
  readonly patientId?: string
  readonly patientName?: string
  readonly accession?: string
  readonly stationAe?: string
  readonly modality?: string
  readonly date?: string
  readonly time?: string
  readonly stepId?: string
  readonly studyUid?: string
}

/** A document with one scheduled procedure step. */
export function worklistDocument(options: StepOptions = {}): Record<string, unknown> {
  const {
    patientId = 'TEST-1',
    patientName = 'TEST^ONE',
    accession = 'A-1',
    stationAe = 'CT_1',
    modality = 'CT',
    date = '20260301',
    time = '101500',
    stepId = 'S1',
    studyUid = '2.25.4711',
  } = options
  return {
    '00080050': { vr: 'SH', Value: [accession] },
    '00100010': { vr: 'PN', Value: [{ Alphabetic: patientName }] },
    '00100020': { vr: 'LO', Value: [patientId] },
    '0020000D': { vr: 'UI', Value: [studyUid] },
    '00321060': { vr: 'LO', Value: ['Head'] },
    '00400100': {
      vr: 'SQ',
      Value: [
        {
          '00080060': { vr: 'CS', Value: [modality] },
          '00400001': { vr: 'AE', Value: [stationAe] },
          '00400002': { vr: 'DA', Value: [date] },
          '00400003': { vr: 'TM', Value: [time] },
          '00400007': { vr: 'LO', Value: ['Head without contrast'] },
          '00400009': { vr: 'SH', Value: [stepId] },
        },
      ],
    },
    '00401001': { vr: 'SH', Value: ['P1'] },
  }
}

/** Of flags in a query: given without a value, or with one that is not 0 or false. */
export const isSet = (flag: string | undefined): boolean => flag !== undefined && flag !== '0' && flag !== 'false'

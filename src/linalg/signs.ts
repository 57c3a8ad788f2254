import type { FloatArray, MatrixBlock } from "../tensor/index.ts";

/**
 * Flips columns so that in each column of `vectors` the component of largest magnitude, the first among equals, is positive; the
 * same columns of `partners` flip with them.
 *
 * An eigenvector, and a pair of singular vectors, is defined up to sign; without a rule, moving averages of bases and golden values
 * would depend on rounding.
 *
 * @param vectors [n, columns], row-major. @param partners [m, columns].
 */
export function makeSignsDeterministic(columns: number, vectors: FloatArray, partners?: FloatArray): void {
  const peaks = new Float64Array(columns);
  const rows = columns === 0 ? 0 : vectors.length / columns;
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      const element = vectors[i * columns + j]!;
      if (Math.abs(element) > Math.abs(peaks[j]!)) peaks[j] = element;
    }
  }
  if (peaks.every((peak) => peak >= 0)) return;
  // Multiplied: a branch for each element of a row would be mispredicted half of the time.
  const signs = peaks.map((peak) => (peak < 0 ? -1 : 1));
  for (const x of partners ? [vectors, partners] : [vectors]) {
    for (let at = 0; at < x.length; at += columns) {
      for (let j = 0; j < columns; j++) x[at + j]! *= signs[j]!;
    }
  }
}

/** The same for vectors that are rows. */
export function makeRowSignsDeterministic({ data, at, rows, columns, stride }: MatrixBlock): void {
  for (let start = at; start < at + rows * stride; start += stride) {
    let peak = 0;
    for (let k = start; k < start + columns; k++) if (Math.abs(data[k]!) > Math.abs(peak)) peak = data[k]!;
    if (peak < 0) for (let k = start; k < start + columns; k++) data[k] = -data[k]!;
  }
}

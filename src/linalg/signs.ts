import type { FloatArray } from "../tensor/index.ts";

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
  for (let at = 0, j = 0; at < vectors.length; at++, j = j + 1 === columns ? 0 : j + 1) {
    if (Math.abs(vectors[at]!) > Math.abs(peaks[j]!)) peaks[j] = vectors[at]!;
  }
  if (peaks.every((peak) => peak >= 0)) return;
  for (const x of partners ? [vectors, partners] : [vectors]) {
    for (let at = 0, j = 0; at < x.length; at++, j = j + 1 === columns ? 0 : j + 1) {
      if (peaks[j]! < 0) x[at] = -x[at]!;
    }
  }
}

/*
 * The inner loops of this folder. Each walks contiguous stretches of row-major float64 matrices: `x` from `xAt`, `y` from `yAt`.
 * The factorizations above them are arranged (over rows, never down columns) so that nothing else is hot.
 */

/** Σ x[k]·y[k]. Four partial sums, since one running sum waits for each addition before it starts the next. */
export function dot(x: Float64Array, xAt: number, y: Float64Array, yAt: number, length: number): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let k = 0;
  for (; k + 3 < length; k += 4) {
    s0 += x[xAt + k]! * y[yAt + k]!;
    s1 += x[xAt + k + 1]! * y[yAt + k + 1]!;
    s2 += x[xAt + k + 2]! * y[yAt + k + 2]!;
    s3 += x[xAt + k + 3]! * y[yAt + k + 3]!;
  }
  for (; k < length; k++) s0 += x[xAt + k]! * y[yAt + k]!;
  return s0 + s1 + (s2 + s3);
}

/** y ← x; they may overlap. Within one array there is no need for a view, and making one takes longer than copying a short stretch. */
export function copy(y: Float64Array, yAt: number, x: Float64Array, xAt: number, length: number): void {
  if (x === y) y.copyWithin(yAt, xAt, xAt + length);
  else y.set(x.subarray(xAt, xAt + length), yAt);
}

/** y ← y + α·x. */
export function addScaled(y: Float64Array, yAt: number, alpha: number, x: Float64Array, xAt: number, length: number): void {
  for (let k = 0; k < length; k++) y[yAt + k]! += alpha * x[xAt + k]!;
}

/** x ← x / divisor. A true division: a reciprocal of a very small divisor would overflow. */
export function divide(x: Float64Array, xAt: number, divisor: number, length: number): void {
  for (let k = 0; k < length; k++) x[xAt + k]! /= divisor;
}

/** The plane rotation (x, y) ← (c·x − s·y, s·x + c·y) of two rows of one matrix. */
export function rotate(z: Float64Array, xAt: number, yAt: number, cosine: number, sine: number, length: number): void {
  for (let k = 0; k < length; k++) {
    const x = z[xAt + k]!;
    const y = z[yAt + k]!;
    z[xAt + k] = cosine * x - sine * y;
    z[yAt + k] = sine * x + cosine * y;
  }
}

/** Largest magnitude in a stretch; 0 for an empty one. */
export function largestMagnitude(x: ArrayLike<number>, at = 0, length = x.length): number {
  let largest = 0;
  for (let k = at; k < at + length; k++) {
    const magnitude = Math.abs(x[k]!);
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

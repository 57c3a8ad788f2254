/** Plain matrices for stating theorems in tests: slow, obvious, and independent of the code under test. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  /** Row-major. */
  readonly data: Float64Array;
}

export const epsilon64 = 2 ** -52;
export const epsilon32 = 2 ** -23;

export function build(rows: number, columns: number, entry: (i: number, j: number) => number): Matrix {
  const data = Float64Array.from({ length: rows * columns }, (_, at) => entry(Math.floor(at / columns), at % columns));
  return { rows, columns, data };
}

export function at({ columns, data }: Matrix, i: number, j: number): number {
  return data[i * columns + j] as number;
}

/** Rows given one by one, or numbers that fill a matrix row by row. */
export function matrix(rows: number, columns: number, data: ArrayLike<number>): Matrix {
  return { rows, columns, data: Float64Array.from(data) };
}

export const identity = (n: number): Matrix => build(n, n, (i, j) => (i === j ? 1 : 0));
export const diagonal = (d: ArrayLike<number>): Matrix => build(d.length, d.length, (i, j) => (i === j ? (d[i] as number) : 0));
/** With d(i) on the diagonal and e(i) beside it, between rows i and i + 1. */
export const tridiagonal = (n: number, d: (i: number) => number, e: (i: number) => number): Matrix =>
  build(n, n, (i, j) => (i === j ? d(i) : Math.abs(i - j) === 1 ? e(Math.min(i, j)) : 0));
export const transpose = (a: Matrix): Matrix => build(a.columns, a.rows, (i, j) => at(a, j, i));
export const scaled = (a: Matrix, factor: number): Matrix => build(a.rows, a.columns, (i, j) => factor * at(a, i, j));
export const plus = (a: Matrix, b: Matrix): Matrix => build(a.rows, a.columns, (i, j) => at(a, i, j) + at(b, i, j));
export const minus = (a: Matrix, b: Matrix): Matrix => build(a.rows, a.columns, (i, j) => at(a, i, j) - at(b, i, j));
export const magnitudes = (a: Matrix): Matrix => build(a.rows, a.columns, (i, j) => Math.abs(at(a, i, j)));
export const symmetricPart = (a: Matrix): Matrix => build(a.rows, a.columns, (i, j) => at(a, i, j) / 2 + at(a, j, i) / 2);

/** The product of all factors, from left to right. */
export function product(...factors: readonly [Matrix, ...Matrix[]]): Matrix {
  return factors.reduce((a, b) => {
    const data = new Float64Array(a.rows * b.columns);
    for (let i = 0; i < a.rows; i++) {
      const row = data.subarray(i * b.columns, (i + 1) * b.columns);
      for (let k = 0; k < a.columns; k++) {
        const factor = at(a, i, k);
        const other = b.data.subarray(k * b.columns, (k + 1) * b.columns);
        for (let j = 0; j < row.length; j++) row[j] = (row[j] as number) + factor * (other[j] as number);
      }
    }
    return { rows: a.rows, columns: b.columns, data };
  });
}

export function trace(a: Matrix): number {
  let sum = 0;
  for (let i = 0; i < a.rows; i++) sum += at(a, i, i);
  return sum;
}

/** Largest magnitude of an entry; 0 for a matrix without entries. */
export const largest = (a: Matrix): number => a.data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);

/** Frobenius norm, without squares that leave the range. */
export function norm(a: Matrix): number {
  const unit = largest(a);
  if (unit === 0 || unit === Infinity) return unit;
  return unit * Math.sqrt(a.data.reduce((sum, x) => sum + (x / unit) ** 2, 0));
}

/** Times 2ᵏ in two steps, as 2ᵏ alone may be out of range. Exact but for subnormal results. */
export const shifted = (a: Matrix, k: number): Matrix => scaled(scaled(a, 2 ** Math.trunc(k / 2)), 2 ** (k - Math.trunc(k / 2)));

import { NumericalError } from "../tensor/index.ts";
import { addScaled, divide, dot } from "./vectors.ts";

/** Which triangle a triangular matrix fills, and whether it acts transposed. */
export interface TriangularOptions {
  /** The matrix is lower triangular. Default true. Entries of the other triangle are never read. */
  readonly lower?: boolean;
  /** Solve with the transpose. Default false. */
  readonly transpose?: boolean;
}

/**
 * The lower triangular L with A = L Lᵀ, on the host in float64. Row by row (Cholesky–Banachiewicz; Golub & Van Loan §4.2.5): each
 * entry is one product of two contiguous rows. n³/3 operations. Backward stable without pivoting.
 *
 * @param a [n, n], row-major; only the lower triangle is read; unchanged.
 * @param operation name for messages.
 * @returns [n, n] with zeros above the diagonal.
 * @throws NumericalError naming the first pivot that is not positive: then A is not positive definite, or so nearly singular
 *   that float64 cannot tell.
 */
export function choleskyHost(a: Float64Array, n: number, operation = "cholesky"): Float64Array {
  const l = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = i * n;
    for (let j = 0; j < i; j++) {
      l[row + j] = (a[row + j]! - dot(l, row, l, j * n, j)) / l[j * n + j]!;
    }
    const pivot = a[row + i]! - dot(l, row, l, row, i);
    // Written so that NaN fails too.
    if (!(pivot > 0 && pivot < Infinity)) {
      throw new NumericalError(
        `${operation}: the matrix is not positive definite: pivot ${i} of ${n} is ${pivot} (diagonal entry ${a[row + i]}); ` +
          `add damping to the diagonal`,
      );
    }
    l[row + i] = Math.sqrt(pivot);
  }
  return l;
}

/**
 * Overwrites B [n, columns] with the X of T X = B (or Tᵀ X = B), by substitution over whole rows of B. n²·columns operations.
 * @throws NumericalError for a zero on the diagonal.
 */
export function solveTriangularHost(
  t: Float64Array,
  n: number,
  b: Float64Array,
  columns: number,
  { lower = true, transpose = false }: TriangularOptions = {},
): void {
  for (let i = 0; i < n; i++) {
    if (t[i * n + i] === 0) {
      throw new NumericalError(`solveTriangular: the matrix is singular: entry [${i}, ${i}] on the diagonal is 0`);
    }
  }
  // The transpose of a lower triangle is solved as an upper one, from the last unknown to the first.
  const forward = lower !== transpose;
  const [rowStride, columnStride] = transpose ? [1, n] : [n, 1];
  for (let step = 0; step < n; step++) {
    const i = forward ? step : n - 1 - step;
    for (let known = 0; known < step; known++) {
      const j = forward ? known : n - 1 - known;
      addScaled(b, i * columns, -t[i * rowStride + j * columnStride]!, b, j * columns, columns);
    }
    divide(b, i * columns, t[i * n + i]!, columns);
  }
}

/** Overwrites B [n, columns] with A⁻¹B, given A = L Lᵀ: L Y = B, then Lᵀ X = Y. */
export function solveCholeskyHost(l: Float64Array, n: number, b: Float64Array, columns: number): void {
  solveTriangularHost(l, n, b, columns);
  solveTriangularHost(l, n, b, columns, { transpose: true });
}

/**
 * A⁻¹ = MᵀM with M = L⁻¹, given A = L Lᵀ (Golub & Van Loan §4.2; LAPACK potri). Each entry below the diagonal is computed once
 * and mirrored, so the inverse is symmetric to the last bit. 2/3·n³ operations.
 */
export function inverseCholeskyHost(l: Float64Array, n: number): Float64Array {
  const m = inverseLower(l, n);
  const inverse = new Float64Array(n * n);
  for (let k = 0; k < n; k++) {
    for (let i = 0; i <= k; i++) addScaled(inverse, i * n, m[k * n + i]!, m, k * n, i + 1);
  }
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < i; j++) inverse[j * n + i] = inverse[i * n + j]!;
  }
  return inverse;
}

/** L⁻¹, lower triangular: row i is (eᵢ − Σ_{j<i} Lᵢⱼ · row j) / Lᵢᵢ, and row j ends at its diagonal. */
function inverseLower(l: Float64Array, n: number): Float64Array {
  const m = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = i * n;
    m[row + i] = 1;
    for (let j = 0; j < i; j++) addScaled(m, row, -l[row + j]!, m, j * n, j + 1);
    divide(m, row, l[row + i]!, i + 1);
  }
  return m;
}

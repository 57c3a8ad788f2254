import { addScaled, divide, dot, largestMagnitude } from "./vectors.ts";

/** A symmetric tridiagonal matrix. */
export interface Tridiagonal {
  readonly diagonal: Float64Array;
  /** `offDiagonal[i]` couples rows i and i + 1; the last element is 0. */
  readonly offDiagonal: Float64Array;
}

/**
 * Entries up to this size count as 0, in a matrix whose largest entry is of order 1. Rounding is coarser by a factor of 2¹⁴⁸, so
 * nothing is lost; and what is left can be squared, and multiplied by a second such number first, without underflow. Otherwise
 * reflections and rotations built from subnormal numbers would not be orthogonal, and a block of such numbers might not converge.
 */
export const negligible = 2 ** -200;

/**
 * Reduces a symmetric matrix to tridiagonal form, A = Q T Qᵀ, and overwrites `a` [n, n] with **Qᵀ**.
 *
 * Householder's method in the order of EISPACK's tred2 (Golub & Van Loan, Matrix Computations, §8.3.1): rows are cleared from the
 * last to the second, each by a reflection H = I − u uᵀ/h that acts on the coordinates before it. In this order both the
 * reflections and the lower triangle they act on lie in rows, so every loop is contiguous. About 8/3·n³ operations.
 *
 * @param a row-major; only the lower triangle is read. The largest entry should be of order 1 (`eighHost` scales).
 */
export function tridiagonalize(a: Float64Array, n: number): Tridiagonal {
  const diagonal = new Float64Array(n);
  const offDiagonal = new Float64Array(n);
  const halfNorms = new Float64Array(n); // h of each reflection; 0 where none was needed
  const work = new Float64Array(n);

  for (let i = n - 1; i > 0; i--) {
    const row = i * n;
    diagonal[i] = a[row + i]!;
    const { coupling, h } = reflector(a, row, i);
    offDiagonal[i - 1] = coupling;
    halfNorms[i] = h;
    if (h > 0) reflectBothSides(a, n, i, h, work);
  }
  if (n > 0) diagonal[0] = a[0]!;

  accumulate(a, n, halfNorms);
  return { diagonal, offDiagonal };
}

/**
 * Turns the first `length` entries x of a row into the Householder vector u = x − α·e_last with H x = α·e_last, in place.
 * α takes the sign opposite to x_last, so that u_last is a sum and nothing cancels.
 */
function reflector(a: Float64Array, row: number, length: number): { coupling: number; h: number } {
  const last = a[row + length - 1]!;
  if (largestMagnitude(a, row, length - 1) <= negligible) return { coupling: last, h: 0 };
  const norm = Math.sqrt(dot(a, row, a, row, length));
  const alpha = last > 0 ? -norm : norm;
  a[row + length - 1] = last - alpha;
  return { coupling: alpha, h: norm * (norm + Math.abs(last)) };
}

/**
 * A ← H A H on the leading i × i block, lower triangle only. With p = A u/h, K = uᵀp/(2h) and q = p − K u this is the symmetric
 * rank-two update A − u qᵀ − q uᵀ, half the work of two one-sided reflections.
 */
function reflectBothSides(a: Float64Array, n: number, i: number, h: number, q: Float64Array): void {
  const u = i * n;
  symmetricTimesVector(a, n, i, u, q);
  divide(q, 0, h, i);
  addScaled(q, 0, -dot(a, u, q, 0, i) / (2 * h), a, u, i);
  for (let j = 0; j < i; j++) {
    const row = j * n;
    const uj = a[u + j]!;
    const qj = q[j]!;
    for (let k = 0; k <= j; k++) a[row + k]! -= uj * q[k]! + qj * a[u + k]!;
  }
}

/** p ← A u from the lower triangle of the leading `size` block. One pass: each entry serves its own row and its mirror image. */
function symmetricTimesVector(a: Float64Array, n: number, size: number, u: number, p: Float64Array): void {
  for (let j = 0; j < size; j++) {
    const row = j * n;
    const uj = a[u + j]!;
    let even = 0;
    let odd = 0;
    let k = 0;
    for (; k + 1 < j; k += 2) {
      const first = a[row + k]!;
      const second = a[row + k + 1]!;
      even += first * a[u + k]!;
      odd += second * a[u + k + 1]!;
      p[k]! += uj * first;
      p[k + 1]! += uj * second;
    }
    if (k < j) {
      const first = a[row + k]!;
      even += first * a[u + k]!;
      p[k]! += uj * first;
    }
    p[j] = even + odd + a[row + j]! * uj;
  }
}

/**
 * Multiplies the reflections out, Qᵀ = H₁ H₂ ⋯ Hₙ₋₁, in the place where their vectors lie: Hᵢ needs row i as u and changes
 * only the block before it, after which row and column i become those of the identity.
 */
function accumulate(a: Float64Array, n: number, halfNorms: Float64Array): void {
  for (let i = 0; i < n; i++) {
    const u = i * n;
    const h = halfNorms[i]!;
    for (let r = 0; r < i; r++) {
      const row = r * n;
      if (h > 0) addScaled(a, row, -dot(a, row, a, u, i) / h, a, u, i);
      a[row + i] = 0;
    }
    a.fill(0, u, u + i);
    a[u + i] = 1;
  }
}

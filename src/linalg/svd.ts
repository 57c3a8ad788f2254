import { Tensor, type MatrixBlock } from "../tensor/index.ts";
import { inWorkspace, onHost, part, rowMajor, transpose, type Workspace } from "./arithmetic.ts";
import { bidiagonalize, bidiagonalSize } from "./bidiagonalize.ts";
import { bidiagonalSvd, bidiagonalSvdSize } from "./bidiagonalSvd.ts";
import { requireFinite, requireMatrix } from "./checks.ts";
import { implicitQl } from "./ql.ts";
import { qrIn, qrSize } from "./qr.ts";
import { applyReflections, applySize } from "./reflections.ts";
import { makeSignsDeterministic } from "./signs.ts";
import { powerOfTwoNear, scaleByPower } from "./scaling.ts";
import { destinationOf, readFloats, roundTo, toTensor } from "./transfer.ts";
import { largestMagnitude } from "./vectors.ts";

/** A = U diag(values) Vᵀ for an A [m, n], with k = min(m, n). */
export interface Svd {
  /** [m, k], row-major, orthonormal columns. */
  readonly u: Float64Array;
  /** [k], descending, none negative. */
  readonly values: Float64Array;
  /** [n, k], row-major, orthonormal columns. */
  readonly v: Float64Array;
}

/** A matrix with more rows than this many times its columns is made triangular first. */
const TALL = 1.6;
const isTall = (m: number, n: number): boolean => m > TALL * n;

/** Numbers of workspace for a decomposition of an [m, n] matrix. */
export function svdSize(m: number, n: number): number {
  if (m < n) return svdSize(n, m);
  if (isTall(m, n)) return qrSize(m, n) + 2 * m * n + n * n + svdSize(n, n);
  return 2 * m * n + bidiagonalSize(m, n) + bidiagonalSvdSize(n) + (n + 1) ** 2 + applySize(m) + applySize(n);
}

/**
 * The thin singular value decomposition A = U Σ Vᵀ of any matrix, in float64: Householder bidiagonalisation by panels, divide and conquer,
 * and the reflections applied to the vectors in groups; a matrix that is much taller than wide, or wider than tall, is first made
 * triangular by QR. At most 6·m·n² + 8·n³ operations for m ≥ n.
 *
 * Backward stable: ‖A − U Σ Vᵀ‖₂ / ‖A‖₂, ‖UᵀU − I‖₂ and ‖VᵀV − I‖₂ are at most c·ε with c = max(3·max(m, n), 15), whatever the rank or the scale
 * of A, and so each singular value is within c·ε·‖A‖₂ of A's (Weyl).
 *
 * Singular values descend; in each right vector the component of largest magnitude (the first among equals) is positive, which fixes
 * the left one's sign too. Among values that coincide, or are 0, the vectors are arbitrary but the same on every run.
 *
 * @param a [m, n], row-major; unchanged.
 * @throws NumericalError for an entry that is not finite.
 */
export function svdIn(space: Workspace, a: Float64Array, m: number, n: number): Svd {
  if (m < n) {
    const { u, values, v } = svdIn(space, transposed(a, m, n), n, m);
    makeSignsDeterministic(m, u, v);
    return { u: v, values, v: u };
  }
  requireFinite("svd", a, [m, n]);
  const exponent = powerOfTwoNear(largestMagnitude(a));
  const scaled = scaleByPower(a, -exponent);
  const { left, values, right } = isTall(m, n) ? triangularFirst(space, scaled, m, n) : decompose(space, scaled, m, n);
  const [u, v] = [new Float64Array(m * n), new Float64Array(n * n)];
  transpose(rowMajor(u, m, n), left);
  transpose(rowMajor(v, n, n), right);
  makeSignsDeterministic(n, v, u);
  return { u, values: scaleByPower(values, exponent), v };
}

/** Numbers of workspace for the singular values of an [m, n] matrix. */
export const singularValuesSize = (m: number, n: number): number => m * n + bidiagonalSize(Math.max(m, n), Math.min(m, n));

/**
 * Thin singular value decomposition of A [m, n], row-major, by plain loops on the host: `u` [m, k], `values` [k], descending, `v` [n, k],
 * k = min(m, n). Signs, cost, error, failures and source are those of `svd`.
 */
export function svdHost(a: Float64Array, m: number, n: number): Svd {
  return onHost(svdSize(m, n), (space) => svdIn(space, a, m, n));
}

/**
 * The singular values alone, descending: 4·m·n² − 4/3·n³ operations for m ≥ n. With those of a bidiagonal B, ±σ are the eigenvalues of the
 * tridiagonal matrix with 0 on its diagonal and the elements of B, in turn, beside it (Golub & Kahan 1965), which implicit QL finds.
 * @throws NumericalError for an entry that is not finite, or if QL does not converge.
 */
export function singularValuesIn(space: Workspace, a: Float64Array, m: number, n: number): Float64Array {
  if (m < n) return singularValuesIn(space, transposed(a, m, n), n, m);
  requireFinite("singularValues", a, [m, n]);
  const exponent = powerOfTwoNear(largestMagnitude(a));
  const matrix = space.matrix(m, n);
  matrix.data.set(scaleByPower(a, -exponent), matrix.at);
  const { diagonal, offDiagonal } = bidiagonalize(space, matrix);
  const beside = new Float64Array(2 * n);
  for (let i = 0; i < n; i++) beside.set([diagonal[i]!, offDiagonal[i]!], 2 * i);
  const both = new Float64Array(2 * n);
  implicitQl(both, beside, { ...matrix, columns: 0 }, "singularValues");
  const values = both.subarray(n).map((value) => Math.max(0, value));
  return scaleByPower(values.reverse(), exponent);
}

/** Vectors as rows, and values in descending order. */
interface Triplets {
  readonly left: MatrixBlock;
  readonly values: Float64Array;
  readonly right: MatrixBlock;
}

/** A = Q R, and the decomposition of R. */
function triangularFirst(space: Workspace, a: Float64Array, m: number, n: number): Triplets {
  const { q, r } = qrIn(space, a, m, n);
  const { left, values, right } = decompose(space, r, n, n);
  const [basis, turned] = [space.matrix(m, n), space.matrix(n, m)];
  basis.data.set(q, basis.at);
  space.arithmetic.product(turned, left, basis, { transposeB: true });
  return { left: turned, values, right };
}

function decompose(space: Workspace, a: Float64Array, m: number, n: number): Triplets {
  const matrix = space.matrix(m, n);
  matrix.data.set(a, matrix.at);
  const reduction = bidiagonalize(space, matrix);
  const [left, right] = [space.matrix(n, m), space.matrix(n + 1, n + 1)];
  left.data.fill(0, left.at, left.at + n * m);
  bidiagonalSvd(space, reduction, part(left, 0, 0, n, n), right);
  const columns = part(right, 0, 0, n, n);
  applyReflections(space, reduction.left, left);
  applyReflections(space, reduction.right, columns);
  for (const block of [left, columns]) reverseRows(block);
  return { left, values: reduction.diagonal.reverse(), right: columns };
}

function reverseRows({ data, at, rows, columns, stride }: MatrixBlock): void {
  for (let i = 0, j = rows - 1; i < j; i++, j--) {
    const [upper, lower] = [at + i * stride, at + j * stride];
    const kept = data.slice(upper, upper + columns);
    data.copyWithin(upper, lower, lower + columns);
    data.set(kept, lower);
  }
}

function transposed(a: Float64Array, m: number, n: number): Float64Array {
  const result = new Float64Array(m * n);
  transpose(rowMajor(result, n, m), rowMajor(a, m, n));
  return result;
}

/**
 * The thin singular value decomposition A = U diag(values) Vᵀ of any matrix [m, n], k = min(m, n). Computed in float64 with the backend's
 * arithmetic, and rounded to A's type, on whose device the results live; the caller owns them. At most 6·m·n² + 8·n³ operations for
 * m ≥ n.
 *
 * @returns `u` [m, k] and `v` [n, k] with orthonormal columns; `values` [k], descending, none negative. In each column of `v` the component
 *   of largest magnitude (the first among equals) is positive.
 * @throws ShapeError unless A is a matrix, DTypeError for int32, NumericalError for an entry that is not finite or a singular value beyond
 *   the range of the type.
 * Error: ‖A − U Σ Vᵀ‖, ‖UᵀU − I‖·‖A‖ and ‖VᵀV − I‖·‖A‖ are at most max(3·max(m, n), 15)·ε·‖A‖ in float64, and with that of rounding to float32 in
 *   float32.
 * Source: Householder bidiagonalisation (Golub & Kahan 1965) and divide and conquer (Gu & Eisenstat 1995); see `svdIn`.
 */
export async function svd(a: Tensor): Promise<{ u: Tensor; values: Tensor; v: Tensor }> {
  const destination = destinationOf("svd", a);
  const [m, n] = requireMatrix("svd", a);
  const k = Math.min(m, n);
  const matrix = await readFloats("svd", a);
  const { u, values, v } = inWorkspace(destination.backend, svdSize(m, n), (space) => svdIn(space, matrix, m, n));
  const rounded = [roundTo("svd", values, [k], destination.dtype), roundTo("svd", u, [m, k], destination.dtype)] as const;
  const right = roundTo("svd", v, [n, k], destination.dtype);
  // Rounding to float32 can make two components equal in magnitude; the sign convention holds for what is returned.
  makeSignsDeterministic(k, right, rounded[1]);
  return {
    u: Tensor.from(rounded[1], { ...destination, shape: [m, k] }),
    values: Tensor.from(rounded[0], { ...destination, shape: [k] }),
    v: Tensor.from(right, { ...destination, shape: [n, k] }),
  };
}

/**
 * The singular values [min(m, n)] of any matrix [m, n], descending, without vectors: 4·m·n² − 4/3·n³ operations for m ≥ n.
 * @throws ShapeError, DTypeError and NumericalError as `svd`, and NumericalError if the iteration does not converge.
 * Error as that of `svd`; see `singularValuesIn` for the source.
 */
export async function singularValues(a: Tensor): Promise<Tensor> {
  const destination = destinationOf("singularValues", a);
  const [m, n] = requireMatrix("singularValues", a);
  const matrix = await readFloats("singularValues", a);
  const values = inWorkspace(destination.backend, singularValuesSize(m, n), (space) => singularValuesIn(space, matrix, m, n));
  return toTensor("singularValues", values, [Math.min(m, n)], destination);
}

import { Tensor, UsageError } from "../tensor/index.ts";
import { requirePartners, requireRightHandSide, requireSquare } from "./checks.ts";
import {
  choleskyIn,
  choleskySize,
  inverseCholeskyIn,
  inverseSize,
  solveCholeskyIn,
  solveSize,
  solveTriangularIn,
  type TriangularOptions,
} from "./cholesky.ts";
import { eigenvaluesIn, eighIn, eighSize } from "./eigh.ts";
import { inWorkspace } from "./arithmetic.ts";
import { makeSignsDeterministic } from "./signs.ts";
import { destinationOf, readFloats, readSymmetric, readTriangle, roundTo, toTensor } from "./transfer.ts";

/*
 * Factorizations of tensors. Every one reads its operands, computes in float64, with the backend's arithmetic on matrices where it
 * has one and by plain loops on the host elsewhere, and puts the result back on the operand's device in the operand's type. The
 * caller owns what is returned.
 *
 * All throw ShapeError for shapes that do not fit, DTypeError for int32 or mixed types, and NumericalError for an entry that is
 * not finite; those that need a symmetric matrix throw NumericalError if it is not (relative to the largest entry: 1e-4 for
 * float32, 1e-10 for float64) and work on (A + Aᵀ)/2.
 */

export interface EighOptions {
  /** Only this many of the largest eigenvalues, with their eigenvectors. Default: all. */
  readonly largest?: number;
}

/**
 * Eigendecomposition A = V diag(values) Vᵀ of a symmetric matrix [n, n]. At most 14/3·n³ operations.
 *
 * @returns `values` [k], ascending; `vectors` [n, k], column j belonging to `values[j]`, its component of largest magnitude (the
 *   first among equals) positive. k is n, or `largest`.
 * @throws UsageError unless `largest` is a whole number from 0 to n. NumericalError if the iteration does not converge, naming the
 *   eigenvalue and its residual.
 * Error: ‖A − VΛVᵀ‖ and ‖VᵀV − I‖·‖A‖ are at most 3n·ε·‖A‖ in float64, and with that of rounding to float32 in float32.
 * Source: Householder tridiagonalisation by panels, and divide and conquer; see eigh.ts.
 */
export async function eigh(a: Tensor, { largest }: EighOptions = {}): Promise<{ values: Tensor; vectors: Tensor }> {
  const destination = destinationOf("eigh", a);
  const n = requireSquare("eigh", a);
  const k = largest ?? n;
  if (!(Number.isInteger(k) && k >= 0 && k <= n)) {
    throw new UsageError(`eigh: largest must be a whole number from 0 to ${n}, the order of the matrix, but is ${k}`);
  }
  const matrix = await readSymmetric("eigh", a);
  const { values, vectors } = inWorkspace(destination.backend, eighSize(n), (space) =>
    // Fresh memory is dear: the pages of a large array cost as much as a pass over it.
    eighIn(space, matrix, n, k, k === n ? matrix : undefined),
  );
  const rounded = roundTo("eigh", vectors, [n, k], destination.dtype);
  // Rounding to float32 can make two components equal in magnitude; the sign convention holds for what is returned.
  if (destination.dtype === "float32") makeSignsDeterministic(k, rounded);
  return {
    values: toTensor("eigh", values, [k], destination),
    vectors: Tensor.from(rounded, { ...destination, shape: [n, k] }),
  };
}

/**
 * The eigenvalues [n] of a symmetric matrix [n, n], ascending, without eigenvectors: 4/3·n³ operations.
 * @throws NumericalError if the iteration does not converge.
 * Error and source as those of `eigh`; implicit QL takes the place of divide and conquer.
 */
export async function eigvalsh(a: Tensor): Promise<Tensor> {
  const destination = destinationOf("eigvalsh", a);
  const n = requireSquare("eigvalsh", a);
  const matrix = await readSymmetric("eigvalsh", a);
  const values = inWorkspace(destination.backend, eighSize(n), (space) => eigenvaluesIn(space, matrix, n));
  return toTensor("eigvalsh", values, [n], destination);
}

/**
 * The lower triangular L [n, n] with A = L Lᵀ, A symmetric positive definite [n, n]. n³/3 operations; in float64
 * ‖A − L Lᵀ‖₂ is below max(n, 15)·ε·‖A‖₂, and a float32 result is that, rounded.
 * @throws NumericalError naming the first pivot that is not positive, and its value.
 * Source: Golub & Van Loan §4.2; the error is discussed in cholesky.ts.
 */
export async function cholesky(a: Tensor): Promise<Tensor> {
  const destination = destinationOf("cholesky", a);
  const n = requireSquare("cholesky", a);
  const matrix = await readSymmetric("cholesky", a);
  const l = inWorkspace(destination.backend, choleskySize(n), (space) => choleskyIn(space, matrix, n));
  return toTensor("cholesky", l, [n, n], destination);
}

/**
 * The X with T X = B for a triangular T [n, n] and B [n] or [n, columns]; with `transpose`, TᵀX = B.
 * Only the triangle that `lower` names is read: the other one may hold anything. n²·columns operations; entry by entry
 * |B − T X| ≤ n·ε |T||X| before X is rounded to its type (Higham, Accuracy and Stability of Numerical Algorithms, theorem 8.5).
 * @throws NumericalError for a zero on the diagonal.
 */
export async function solveTriangular(t: Tensor, b: Tensor, options: TriangularOptions = {}): Promise<Tensor> {
  requirePartners("solveTriangular", t, b);
  const destination = destinationOf("solveTriangular", t);
  const n = requireSquare("solveTriangular", t);
  const columns = requireRightHandSide("solveTriangular", n, b);
  const [triangle, x] = await Promise.all([readTriangle("solveTriangular", t, n, options.lower ?? true), readFloats("solveTriangular", b)]);
  inWorkspace(destination.backend, solveSize(n, columns), (space) => {
    solveTriangularIn(space, triangle, n, x, columns, options);
  });
  return toTensor("solveTriangular", x, b.shape, destination);
}

/**
 * A⁻¹B for a symmetric positive definite A [n, n] and B [n] or [n, columns], by Cholesky factorization. n³/3 + 2·n²·columns
 * operations; the residual is small whatever the condition of A (Higham, theorem 10.4; see cholesky.ts), before X is rounded.
 * @throws NumericalError naming the first pivot that is not positive.
 */
export async function solvePositiveDefinite(a: Tensor, b: Tensor): Promise<Tensor> {
  const operation = "solvePositiveDefinite";
  requirePartners(operation, a, b);
  const destination = destinationOf(operation, a);
  const n = requireSquare(operation, a);
  const columns = requireRightHandSide(operation, n, b);
  const [matrix, x] = await Promise.all([readSymmetric(operation, a), readFloats(operation, b)]);
  inWorkspace(destination.backend, choleskySize(n) + solveSize(n, columns), (space) => {
    solveCholeskyIn(space, choleskyIn(space, matrix, n, operation), n, x, columns);
  });
  return toTensor(operation, x, b.shape, destination);
}

/**
 * A⁻¹ of a symmetric positive definite A [n, n], symmetric to the last bit. 5/3·n³ operations at most; the error is of order
 * n²·ε·κ₂(A)·‖A⁻¹‖₂ at the worst (see cholesky.ts). To apply an inverse once, `solvePositiveDefinite` is cheaper and more accurate.
 * @throws NumericalError naming the first pivot that is not positive.
 */
export async function inversePositiveDefinite(a: Tensor): Promise<Tensor> {
  const operation = "inversePositiveDefinite";
  const destination = destinationOf(operation, a);
  const n = requireSquare(operation, a);
  const matrix = await readSymmetric(operation, a);
  const inverse = inWorkspace(destination.backend, choleskySize(n) + inverseSize(n), (space) => {
    return inverseCholeskyIn(space, choleskyIn(space, matrix, n, operation), n);
  });
  return toTensor(operation, inverse, [n, n], destination);
}

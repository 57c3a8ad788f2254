import { formatShape, ShapeError, tidy, type Tensor } from "../tensor/index.ts";
import { inWorkspace, rowMajor, transpose } from "./arithmetic.ts";
import { requireMatrix, requirePartners, requireSquare } from "./checks.ts";
import { choleskyIn, choleskySize, solveCholeskyIn, solveSize } from "./cholesky.ts";
import { destinationOf, readFloats, readSymmetric, toTensor, type Destination } from "./transfer.ts";

/*
 * With row-major flattening, (A ⊗ B) vec(X) = vec(A X Bᵀ): a Kronecker product acts on matrices, from both sides, without being formed.
 */

/**
 * The Kronecker product A ⊗ B on the host: block (i, j) is Aᵢⱼ·B. With row-major flattening, (A ⊗ B) vec(X) = vec(A X Bᵀ), which
 * is how a K-FAC block G ⊗ A acts on a weight gradient [dOut, dIn].
 *
 * @param aShape [rows, columns] of `a`; likewise `bShape`.
 * @returns row-major, [aRows·bRows, aColumns·bColumns].
 */
export function kronHost(
  a: Float64Array,
  [aRows, aColumns]: readonly [number, number],
  b: Float64Array,
  [bRows, bColumns]: readonly [number, number],
): Float64Array {
  const product = new Float64Array(a.length * b.length);
  let at = 0;
  for (let i = 0; i < aRows; i++) {
    for (let k = 0; k < bRows; k++) {
      for (let j = 0; j < aColumns; j++) {
        const factor = a[i * aColumns + j]!;
        for (let l = 0; l < bColumns; l++) product[at++] = factor * b[k * bColumns + l]!;
      }
    }
  }
  return product;
}

/**
 * The Kronecker product A ⊗ B [p·r, q·s] of matrices A [p, q] and B [r, s]. Large: meant for oracles, not for the training path.
 * p·q·r·s operations; every entry is rounded once. Source: Van Loan, J. Comput. Appl. Math. 123, 2000.
 * @throws ShapeError unless both are matrices, DTypeError, or NumericalError for an entry (given or computed) that is not finite.
 */
export async function kron(a: Tensor, b: Tensor): Promise<Tensor> {
  requirePartners("kron", a, b);
  const destination = destinationOf("kron", a);
  const [p, q] = requireMatrix("kron", a);
  const [r, s] = requireMatrix("kron", b);
  const [left, right] = await Promise.all([readFloats("kron", a), readFloats("kron", b)]);
  return toTensor("kron", kronHost(left, [p, q], right, [r, s]), [p * r, q * s], destination);
}

/**
 * (A ⊗ B) vec(X) = vec(A X Bᵀ) for matrices A [p, q] and B [r, s], on X [q, s], without the [pr, qs] matrix: 2·p·s·(q + r) operations, or
 * 2·q·r·(s + p) if they are fewer, by the tensors' own products in their own type: entry by entry off by (q + s)·ε·(|A||X||B|ᵀ) of that type.
 * Source: Van Loan, J. Comput. Appl. Math. 123, 2000.
 * @returns A X Bᵀ [p, r], of the caller.
 * @throws ShapeError for operands that do not fit, DTypeError for int32 or mixed types.
 */
export function kronMultiply(a: Tensor, b: Tensor, x: Tensor): Tensor {
  requirePartners("kronMultiply", a, b);
  const [p, q] = requireMatrix("kronMultiply", a);
  const [r, s] = requireMatrix("kronMultiply", b);
  requireOperand("kronMultiply", a, x, [q, s]);
  const leftFirst = q * s * p + p * s * r <= q * s * r + p * q * r;
  return tidy(() => (leftFirst ? a.matmul(x).matmul(b, { transposeB: true }) : a.matmul(x.matmul(b, { transposeB: true }))));
}

/**
 * (A ⊗ B)⁻¹ vec(X) = vec(A⁻¹ X B⁻¹) for symmetric positive definite A [p, p] and B [r, r], on X [p, r], by Cholesky factorization of
 * each: (p³ + r³)/3 + 2·p·r·(p + r) operations, in float64, in place of (pr)³/3 for the dense matrix.
 *
 * The relative error is that of a solve with the dense matrix, of order (p + r)·ε·κ₂(A)·κ₂(B); see `solveCholeskyIn`. To apply one inverse
 * many times, take `inversePositiveDefinite` of each factor and `kronMultiply`, or, for a damping of the product, `kronInverse`.
 *
 * @returns [p, r], in the operands' type and on their device.
 * @throws ShapeError for operands that do not fit, DTypeError for int32 or mixed types, NumericalError for an entry that is not finite, a
 *   factor that is not symmetric, and one that is not positive definite, naming its first pivot that is not positive.
 */
export async function kronSolve(a: Tensor, b: Tensor, x: Tensor): Promise<Tensor> {
  requirePartners("kronSolve", a, b);
  const destination = destinationOf("kronSolve", a);
  const [p, r] = [requireSquare("kronSolve", a), requireSquare("kronSolve", b)];
  requireOperand("kronSolve", a, x, [p, r]);
  const [left, right] = ["kronSolve (first factor)", "kronSolve (second factor)"] as const;
  const [matrixA, matrixB, values] = await Promise.all([readSymmetric(left, a), readSymmetric(right, b), readFloats("kronSolve", x)]);
  solveDefinite(destination, left, matrixA, p, values, r);
  const transposed = new Float64Array(p * r);
  transpose(rowMajor(transposed, r, p), rowMajor(values, p, r));
  solveDefinite(destination, right, matrixB, r, transposed, p);
  transpose(rowMajor(values, p, r), rowMajor(transposed, r, p));
  return toTensor("kronSolve", values, [p, r], destination);
}

/** X ← A⁻¹X. */
function solveDefinite({ backend }: Destination, operation: string, a: Float64Array, n: number, x: Float64Array, columns: number): void {
  inWorkspace(backend, choleskySize(n) + solveSize(n, columns), (space) => {
    solveCholeskyIn(space, choleskyIn(space, a, n, operation), n, x, columns);
  });
}

/** @throws ShapeError unless the matrix that a Kronecker product acts on has the given shape. */
export function requireOperand(operation: string, factor: Tensor, x: Tensor, [rows, columns]: readonly [number, number]): void {
  requirePartners(operation, factor, x);
  const [m, n] = requireMatrix(operation, x);
  if (m === rows && n === columns) return;
  throw new ShapeError(
    `${operation}: X must have shape ${formatShape([rows, columns])}, a row for each column of the first factor and a column for each of the ` +
      `second, but has ${formatShape(x.shape)}`,
  );
}

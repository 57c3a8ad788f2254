import type { Tensor } from "../tensor/index.ts";
import { requireMatrix, requirePartners } from "./checks.ts";
import { destinationOf, readFloats, toTensor } from "./transfer.ts";

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

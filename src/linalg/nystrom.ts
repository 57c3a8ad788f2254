import { formatShape, machineEpsilon, NumericalError, Tensor, tidy } from "../tensor/index.ts";
import { inWorkspace } from "./arithmetic.ts";
import { requireSquare, requireSymmetric } from "./checks.ts";
import { choleskyIn, choleskySize } from "./cholesky.ts";
import { eighIn, eighSize } from "./eigh.ts";
import { solveTriangular } from "./factorizations.ts";
import { normOf } from "./norms.ts";
import { DEPARTURE, isWellConditioned, orthonormalBasis, roundingOfGram, timesInverseOfLower } from "./panels.ts";
import { qr } from "./qr.ts";
import type { DominantEigenpairs } from "./randomized.ts";
import { takeProduct, takeWellConditioned } from "./rangeFinder.ts";
import { multiply, requireCount, requireTestMatrix, resized, sizeOfSketch, sketchOf, type SketchOptions } from "./sketch.ts";
import { destinationOf, narrowed, toTensor, widened } from "./transfer.ts";

export interface NystromOptions extends SketchOptions {
  /**
   * [n, s] with independent columns to start from, such as the `basis` of an earlier call. With a generator, too, it need not fit: it is brought
   * to rank + oversampling columns, by random ones, or without its first ones, which are the least dominant of a `basis`.
   */
  readonly testMatrix?: Tensor;
  /**
   * Whether the test matrix has orthonormal columns, as the `basis` of an earlier call has: it is believed, which saves the product that finds
   * out. If it is ill-conditioned after all, the result loses digits, or a NumericalError is thrown. Means nothing without a test matrix, and
   * where random columns are added to it. Default false.
   */
  readonly orthonormal?: boolean;
  /**
   * Products with the matrix before the one that counts. Default 2, or 0 for a test matrix, which is taken for a good basis; at least 2 where
   * that gets random columns, which have seen nothing of the matrix.
   */
  readonly iterations?: number;
}

/** Products that turn random vectors into a good basis. */
const COLD = 2;

export interface Nystrom extends DominantEigenpairs {
  /** [n, s], orthonormal columns: the test matrix of the next call, for a matrix that has changed a little. */
  readonly basis: Tensor;
}

/**
 * The dominant eigenpairs of a symmetric positive semidefinite matrix X [n, n] by a Nyström approximation, from a single product with a
 * good basis W [n, s]: X ≈ Y (WᵀY)⁻¹ Yᵀ with Y = XW, made stable by a shift ν = √n·ε·‖Y‖ of X that is taken off the eigenvalues again
 * (Tropp, Yurtsever, Udell & Cevher, NIPS 2017, Algorithm 3). The approximation is never above X, and at least as good as the projection
 * QQᵀXQQᵀ on the same span. Of eigenvalues below ν no digit is known; their vectors are orthonormal to the others all the same.
 *
 * Started from the basis of an earlier call, one product takes the place of the ten of a randomized SVD, as long as the matrix changes
 * slowly. 2n²s operations for a product, up to 9ns² for the rest.
 *
 * @throws UsageError, ShapeError, DTypeError as `randomizedEigh`; NumericalError for entries that are not finite, or if X is not symmetric,
 *   or not positive semidefinite to rounding, as far as its projection on the basis shows it.
 */
export async function nystrom(x: Tensor, options: NystromOptions): Promise<Nystrom> {
  const operation = "nystrom";
  const { iterations = options.testMatrix ? 0 : COLD } = options;
  const { dtype, backend } = destinationOf(operation, x);
  const n = requireSquare(operation, x);
  requireCount(operation, "iterations", iterations, 0);
  using own = x.keep();
  const { rank, sketch, grown } = startOf(operation, own, options);
  const products = grown ? Math.max(iterations, COLD) : iterations;
  const known = options.orthonormal === true && options.testMatrix !== undefined && !grown;
  let start = known || (await isWellConditioned(sketch)) ? sketch : await takeWellConditioned(sketch);
  for (let i = 0; i < products; i++) start = await takeWellConditioned(await takeProduct(operation, own, start));
  using w = start;
  const s = w.shape[1] as number;
  using product = await multiply(operation, own, w);
  // From here on in float64: what follows subtracts and divides numbers of very different size.
  const norm = await normOf(product);
  // X's products round by √n·ε, and the factorization below by s·ε of float64.
  const shift = (Math.sqrt(n) * machineEpsilon[dtype] + 10 * s * machineEpsilon.float64) * norm;
  using wide = await widened(w);
  using image = await widened(product);
  using y = tidy(() => image.add(wide.multiply(shift)));
  const { vectors, squares } = norm === 0 ? await ofZero(w) : await factor(operation, own, wide, y);
  using u = vectors;
  const values = squares.slice(s - rank).map((value) => Math.max(0, value - shift));
  using kept = u.slice([0, s - rank], [n, rank]);
  using eigenvectors = await narrowed(kept, { dtype, backend });
  using span = await narrowed(u, { dtype, backend });
  return { values: toTensor(operation, values, [rank], { dtype, backend }), vectors: eigenvectors.keep(), basis: span.keep() };
}

/** The rank, a test matrix, which the caller owns, and whether one that was given has got random columns. */
function startOf(operation: string, x: Tensor, options: NystromOptions): { rank: number; sketch: Tensor; grown: boolean } {
  const { testMatrix, generator } = options;
  if (!testMatrix || !generator) return { ...sketchOf(operation, x, options), grown: false };
  const { rank, columns } = sizeOfSketch(operation, x, options);
  using given = requireTestMatrix(operation, x, testMatrix, 0, x.shape[0] as number);
  return { rank, sketch: resized(operation, given, columns, generator), grown: (given.shape[1] as number) < columns };
}

/** U diag(squares) Uᵀ with orthonormal columns U [n, s], in float64, and ascending squares. */
interface Factored {
  readonly vectors: Tensor;
  readonly squares: Float64Array;
}

/** Any vectors are eigenvectors of zeros. */
async function ofZero(w: Tensor): Promise<Factored> {
  return { vectors: await orthonormalBasis(w), squares: new Float64Array(w.shape[1] as number) };
}

/** Y (WᵀY)⁻¹ Yᵀ = B Bᵀ with B = Y L⁻ᵀ and WᵀY = L Lᵀ. */
async function factor(operation: string, x: Tensor, w: Tensor, y: Tensor): Promise<Factored> {
  const { dtype } = destinationOf(operation, x);
  const s = w.shape[1] as number;
  using projection = w.matmul(y, { transposeA: true });
  const small = (await projection.data()) as Float64Array;
  const c = requireSymmetric(`${operation}, in a basis of ${s} vectors`, small, s, dtype);
  const l = inWorkspace(x.backend, choleskySize(s), (space) => {
    try {
      return choleskyIn(space, c, s);
    } catch (cause) {
      if (!(cause instanceof NumericalError)) throw cause;
      throw new NumericalError(
        `${operation}: the ${formatShape(x.shape)} matrix is not positive semidefinite to rounding, or its basis W has dependent columns, ` +
          `since WᵀXW has no Cholesky factorization (${cause.message}); use randomizedEigh, which does without one`,
        { cause },
      );
    }
  });
  return (dtype === "float32" ? await byGram(y, l) : null) ?? (await byReflections(y, l));
}

/**
 * BᵀB = V Σ² Vᵀ and U = B V Σ⁻¹. The shift keeps Σ² above ε of float32 relative to the largest one, so that the Gram matrix in float64
 * holds them all.
 * @returns null where U would not be orthonormal to rounding in float32.
 */
async function byGram(y: Tensor, l: Float64Array): Promise<Factored | null> {
  const [n, s] = y.shape as [number, number];
  using b = timesInverseOfLower(y, l);
  using product = b.gram();
  const gram = (await product.data()) as Float64Array;
  const { values, vectors } = inWorkspace(y.backend, eighSize(s), (space) => eighIn(space, gram, s));
  const least = values[0] ?? Infinity;
  if (!(roundingOfGram(gram, n, s) <= DEPARTURE.orthonormal * least)) return null;
  const lengths = values.map(Math.sqrt);
  for (let at = 0, j = 0; at < vectors.length; at++, j = j + 1 === s ? 0 : j + 1) vectors[at]! /= lengths[j]!;
  using turn = Tensor.from(vectors, { shape: [s, s], backend: y.backend });
  return { vectors: b.matmul(turn), squares: values };
}

/** B = Q R, R Rᵀ = V Σ² Vᵀ and U = Q V: orthonormal whatever B is. */
async function byReflections(y: Tensor, l: Float64Array): Promise<Factored> {
  const s = y.shape[1] as number;
  using triangle = Tensor.from(l, { shape: [s, s], backend: y.backend });
  using yt = y.transpose();
  using bt = await solveTriangular(triangle, yt);
  using b = bt.transpose();
  const { q, r } = await qr(b);
  using orthonormal = q;
  using upper = r;
  using product = upper.matmul(upper, { transposeB: true });
  const gram = (await product.data()) as Float64Array;
  const { values, vectors } = inWorkspace(y.backend, eighSize(s), (space) => eighIn(space, gram, s));
  using turn = Tensor.from(vectors, { shape: [s, s], backend: y.backend });
  return { vectors: orthonormal.matmul(turn), squares: values };
}

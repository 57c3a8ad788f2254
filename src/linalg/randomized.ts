import { Tensor } from "../tensor/index.ts";
import { inWorkspace } from "./arithmetic.ts";
import { requireSquare, requireSymmetric } from "./checks.ts";
import { eighIn, eighSize, type Eigh } from "./eigh.ts";
import { DEPARTURE, orthonormalBasis, roundingOfGram } from "./panels.ts";
import { betweenProducts, rangeBasis, takeOrthonormal, takeProduct, takeScaled, type RandomizedRangeOptions } from "./rangeFinder.ts";
import { withoutNegative } from "./semidefinite.ts";
import { multiply, requireCount, sketchOf, type SketchOptions } from "./sketch.ts";
import { svdIn, svdSize } from "./svd.ts";
import { destinationOf, narrowed, toTensor, widened, type Destination } from "./transfer.ts";

/*
 * Decompositions of the dominant part of a large matrix, from its products with a few vectors. The products are in the matrix's type;
 * all that is done with the panels that they give is in float64, and rounded once.
 */

export interface RandomizedEighOptions extends SketchOptions, Pick<RandomizedRangeOptions, "condition"> {
  /** Products with the matrix before the last one: each makes the spectrum decay faster. Default 4. */
  readonly iterations?: number;
  /**
   * `every` (default): a new basis after each product. `last`: only after the last one, as in the code that came with the
   * paper; then eigenvalues below ε^(1/iterations) of the largest are lost in rounding (2 % in float32 with 4 products).
   */
  readonly orthonormalize?: "every" | "last";
}

/** Eigenpairs of the dominant part, owned by the caller. */
export interface DominantEigenpairs {
  /** [rank], ascending. */
  readonly values: Tensor;
  /** [n, rank], orthonormal columns. */
  readonly vectors: Tensor;
}

/**
 * The dominant eigenpairs of a symmetric positive semidefinite matrix X [n, n] by randomized subspace iteration and Rayleigh–Ritz
 * ("SREVD"): Q = orthonormal basis of X^q Ω, S = QᵀXQ [s, s], and the largest eigenpairs of S, turned back by Q; s = rank + oversampling.
 *
 * (q + 1)·2n²s operations for the products, O(q·n·s²) for the bases. Eigenvalues are never above those of X (Cauchy interlacing) and not
 * negative, to rounding. On average over Ω, ‖X − QQᵀX‖₂ ≤ [(1 + √(r/(p − 1))) σ_{r+1}^k + e√(r + p)/p · (Σ_{j>r} σⱼ^{2k})^½]^{1/k} for rank r,
 * p ≥ 2 vectors besides and k = q (Halko, Martinsson & Tropp, SIAM Review 53, 2011, Theorem 10.6 and §10.4, for X^q); projecting on both
 * sides at most doubles that.
 * Source: Puiu, "Randomized K-FACs", arXiv 2206.15397.
 *
 * @throws UsageError for a rank, an oversampling or iterations that are not whole numbers in range, or without generator and test
 *   matrix; ShapeError; DTypeError; NumericalError for entries that are not finite, or if X is not symmetric, as far as its projection on
 *   the basis shows it, or one of the eigenvalues is negative beyond rounding.
 */
export async function randomizedEigh(x: Tensor, options: RandomizedEighOptions): Promise<DominantEigenpairs> {
  const { iterations = 4, orthonormalize = "every", condition } = options;
  const operation = "randomizedEigh";
  const destination = destinationOf(operation, x);
  requireSquare(operation, x);
  requireCount(operation, "iterations", iterations, 1);
  const between = orthonormalize === "every" ? betweenProducts(operation, condition) : takeScaled;
  using own = x.keep();
  const { rank, sketch } = sketchOf(operation, own, options);
  let panel = await takeProduct(operation, own, sketch);
  for (let i = 1; i < iterations; i++) panel = await takeProduct(operation, own, await between(panel));
  using basis = await takeOrthonormal(panel);
  return await pairsOf(operation, destination, basis, await rayleighRitz(operation, own, basis, rank));
}

/** The largest eigenpairs of QᵀXQ, for a Q with orthonormal columns, in float64 (`widened`). */
export async function rayleighRitz(operation: string, x: Tensor, q: Tensor, rank: number): Promise<Eigh> {
  const destination = destinationOf(operation, x);
  const { dtype } = destination;
  const s = q.shape[1] as number;
  using panel = await narrowed(q, destination);
  using product = await multiply(operation, x, panel);
  using wide = await widened(product);
  using projection = q.matmul(wide, { transposeA: true });
  const small = (await projection.data()) as Float64Array;
  const symmetric = requireSymmetric(`${operation}, in a basis of ${s} vectors`, small, s, dtype);
  const pairs = inWorkspace(x.backend, eighSize(s), (space) => eighIn(space, symmetric, s, rank));
  return { values: withoutNegative(operation, pairs.values, dtype), vectors: pairs.vectors };
}

/** Eigenpairs of QᵀXQ as such of X. */
async function pairsOf(operation: string, destination: Destination, q: Tensor, { values, vectors }: Eigh): Promise<DominantEigenpairs> {
  const rank = values.length;
  const turn = await turned(destination, q, vectors, rank);
  try {
    return { values: toTensor(operation, values, [rank], destination), vectors: turn };
  } catch (error) {
    turn.dispose();
    throw error;
  }
}

/** Q, which is `widened`, times the first columns of a matrix [s, columns] on the host, rounded. */
export async function turned(destination: Destination, q: Tensor, turn: Float64Array, columns: number): Promise<Tensor> {
  const { backend, shape } = q;
  using small = Tensor.from(turn, { shape: [shape[1] as number, columns], backend });
  using result = q.matmul(small);
  return await narrowed(result, destination);
}

/**
 * The dominant singular triplets of any matrix X [m, n] by randomized subspace iteration ("RSVD"): Q = `randomizedRange`, B = QᵀX, and the
 * singular value decomposition B = U_B Σ Vᵀ, of which the largest are kept, u = Q U_B. As PyTorch's svd_lowrank.
 *
 * (2q + 2)·2mns operations for the products, O(q·(m + n)·s²) for the bases. The singular values are never above those of X. ‖X − u Σ vᵀ‖
 * exceeds ‖X − QQᵀX‖, whose bounds are those of `randomizedRange`, by at most σ_{rank+1} (Halko, Martinsson & Tropp, SIAM Review 53, 2011,
 * Theorem 9.3).
 *
 * For a symmetric positive semidefinite X, as the factors of K-FAC are, u and v both span the dominant eigenvectors. Take **v**: it comes from
 * one more product with X than u does, and V Σ Vᵀ is the better approximation (Puiu, "Randomized K-FACs", arXiv 2206.15397).
 *
 * @returns `u` [m, rank] and `v` [n, rank] with orthonormal columns, `values` [rank] descending, none negative; owned by the caller.
 * @throws UsageError for a rank, an oversampling or iterations that are not whole numbers in range, or without generator and test
 *   matrix; ShapeError; DTypeError; NumericalError for entries that are not finite.
 */
export async function randomizedSvd(x: Tensor, options: RandomizedRangeOptions): Promise<{ u: Tensor; values: Tensor; v: Tensor }> {
  const operation = "randomizedSvd";
  const destination = destinationOf(operation, x);
  using own = x.keep();
  const { rank, basis } = await rangeBasis(operation, own, options);
  using q = basis;
  using panel = await narrowed(q, destination);
  using product = await multiply(operation, own, panel, { transposed: true });
  const { basis: p, left, values, right } = (await bySquares(product, rank, options.condition)) ?? (await byTriangle(product, rank));
  using columns = p;
  using u = await turned(destination, q, left, rank);
  using v = await turned(destination, columns, right, rank);
  return { u: u.keep(), values: toTensor(operation, values, [rank], destination), v: v.keep() };
}

/** The largest singular values of Bᵀ = XᵀQ [n, s], descending: its left singular vectors are basis · right, its right ones `left`. */
interface Triplets {
  /** [n, s], in float64 (`widened`), the caller's. */
  readonly basis: Tensor;
  /** [s, rank]. */
  readonly left: Float64Array;
  readonly values: Float64Array;
  /** [s, rank]. */
  readonly right: Float64Array;
}

/** Bᵀ = P R with orthonormal P [n, s], and R = U_R Σ V_Rᵀ gives Bᵀ = (P U_R) Σ V_Rᵀ. */
async function byTriangle(product: Tensor, rank: number): Promise<Triplets> {
  const s = product.shape[1] as number;
  using p = await orthonormalBasis(product);
  using wide = await widened(product);
  using r = p.matmul(wide, { transposeA: true });
  const small = (await r.data()) as Float64Array;
  const { u, values, v } = inWorkspace(product.backend, svdSize(s, s), (space) => svdIn(space, small, s, s));
  return { basis: p.keep(), left: leading(v, s, rank), values: values.slice(0, rank), right: leading(u, s, rank) };
}

/**
 * The same by eigenpairs of the Gram matrix B Bᵀ = W Σ² Wᵀ, so that Bᵀ = (BᵀW Σ⁻¹) Σ Wᵀ: half of the work. Squares in float64 are exact for
 * entries in float32, and what rounding does to the Gram matrix takes BᵀW Σ⁻¹ from orthonormal by that over σ_s². Null where it is not
 * known that this is as little as elsewhere.
 */
async function bySquares(product: Tensor, rank: number, condition = Infinity): Promise<Triplets | null> {
  const [n, s] = product.shape as [number, number];
  if (product.dtype !== "float32" || condition === Infinity) return null;
  using wide = await widened(product);
  using square = wide.gram();
  const gram = (await square.data()) as Float64Array;
  let largest = 0;
  for (let i = 0; i < s; i++) largest = Math.max(largest, gram[i * (s + 1)]!);
  const least = roundingOfGram(gram, n, s) / DEPARTURE.orthonormal; // of σ²
  // σ_s ≥ σ₁/κ, and no diagonal element is above σ₁². If κ is not what it should be, the eigenvalues tell.
  if (!(least * condition ** 2 < largest)) return null;
  const pairs = inWorkspace(product.backend, eighSize(s), (space) => eighIn(space, gram, s, rank));
  if (!pairs.values.every((square) => square > least)) return null;
  const values = pairs.values.map(Math.sqrt).reverse();
  const [left, right] = [new Float64Array(s * rank), new Float64Array(s * rank)];
  for (let i = 0; i < s; i++) {
    for (let j = 0; j < rank; j++) {
      const entry = pairs.vectors[i * rank + (rank - 1 - j)]!;
      left[i * rank + j] = entry;
      right[i * rank + j] = entry / values[j]!;
    }
  }
  return { basis: wide.keep(), left, values, right };
}

/** The first columns of a matrix [s, s]. */
function leading(a: Float64Array, s: number, columns: number): Float64Array {
  const result = new Float64Array(s * columns);
  for (let i = 0; i < s; i++) result.set(a.subarray(i * s, i * s + columns), i * columns);
  return result;
}

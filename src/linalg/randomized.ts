import { formatShape, machineEpsilon, ShapeError, Tensor, tidy, UsageError, type Generator } from "../tensor/index.ts";
import { requireMatrix, requirePartners, requireSquare } from "./checks.ts";
import { cholesky, eigh, solveTriangular } from "./factorizations.ts";
import { frobeniusNorm } from "./norms.ts";
import { qr } from "./qr.ts";
import { destinationOf } from "./transfer.ts";

/*
 * Decompositions of the dominant part of a large symmetric matrix, from its products with a few vectors. Products are tensors' own,
 * in the type of the matrix; panels are orthonormalised, and small matrices decomposed, in float64.
 */

export interface SketchOptions {
  /** Eigenpairs wanted, at most the order of the matrix. */
  readonly rank: number;
  /** Vectors besides, which make the wanted ones accurate. Default 10; as many as the order of the matrix leaves room for. */
  readonly oversampling?: number;
  /** Draws the test matrix, if none is given. */
  readonly generator?: Generator;
  /** [n, s] with independent columns, in place of random numbers: for repeating a computation, or an earlier basis to start from. */
  readonly testMatrix?: Tensor;
}

export interface RandomizedEighOptions extends SketchOptions {
  /** Products with the matrix before the last one: each makes the spectrum decay faster. Default 4. */
  readonly iterations?: number;
  /**
   * `every` (default): an orthonormal basis after each product. `last`: only after the last one, as in the code that came with the
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
 * (q + 1)·2n²s operations for the products, O(q·n·s²) for the bases. Eigenvalues are never above those of X (Cauchy interlacing). On
 * average over Ω, ‖X − QQᵀX‖₂ ≤ [(1 + √(r/(p − 1))) σ_{r+1}^k + e√(r + p)/p · (Σ_{j>r} σⱼ^{2k})^½]^{1/k} for rank r, p ≥ 2 vectors besides
 * and k = q (Halko, Martinsson & Tropp, SIAM Review 53, 2011, Theorem 10.6 and §10.4, for X^q); projecting on both sides at most
 * doubles that.
 * Source: Puiu, "Randomized K-FACs", arXiv 2206.15397.
 *
 * @throws UsageError for a rank, an oversampling or iterations that are not whole numbers in range, or without generator and test
 *   matrix; ShapeError; DTypeError; NumericalError for entries that are not finite.
 */
export async function randomizedEigh(x: Tensor, options: RandomizedEighOptions): Promise<DominantEigenpairs> {
  const { iterations = 4, orthonormalize = "every" } = options;
  const operation = "randomizedEigh";
  requireCount(operation, "iterations", iterations, 1);
  const { rank, sketch } = sketchOf(operation, x, options);
  let basis = sketch;
  for (let i = 1; i <= iterations; i++)
    basis = await replace(basis, orthonormalize === "every" || i === iterations, (panel) => x.matmul(panel));
  try {
    return await rayleighRitz(x, basis, rank);
  } finally {
    basis.dispose();
  }
}

/** The largest eigenpairs of X within the span of an orthonormal basis. */
async function rayleighRitz(x: Tensor, basis: Tensor, rank: number): Promise<DominantEigenpairs> {
  using product = x.matmul(basis);
  using small = basis.matmul(product, { transposeA: true });
  const { values, vectors } = await eigh(small, { largest: rank });
  using turned = vectors;
  return { values, vectors: basis.matmul(turned) };
}

export interface NystromOptions extends SketchOptions {
  /** Products with the matrix before the one that counts. Default 2, or 0 for a test matrix, which is taken for a good basis. */
  readonly iterations?: number;
}

export interface Nystrom extends DominantEigenpairs {
  /** [n, s], orthonormal columns: the test matrix of the next call, for a matrix that has changed a little. */
  readonly basis: Tensor;
}

/**
 * The dominant eigenpairs of a symmetric positive semidefinite matrix X [n, n] by a Nyström approximation, from a single product with a
 * good basis W [n, s]: X ≈ Y (WᵀY)⁻¹ Yᵀ with Y = XW, made stable by a shift ν = √n·ε·‖Y‖ of X that is taken off the eigenvalues again
 * (Tropp, Yurtsever, Udell & Cevher, NIPS 2017, Algorithm 3). The approximation is never above X, and at least as good as the projection
 * QQᵀXQQᵀ on the same span.
 *
 * Started from the basis of an earlier call, one product takes the place of the ten of a randomized SVD, as long as the matrix changes
 * slowly. 2n²s operations for a product, 6ns² for the rest.
 *
 * @throws UsageError, ShapeError, DTypeError as `randomizedEigh`; NumericalError if X is not positive semidefinite to rounding.
 */
export async function nystrom(x: Tensor, options: NystromOptions): Promise<Nystrom> {
  const { iterations = options.testMatrix ? 0 : 2 } = options;
  const { dtype } = destinationOf("nystrom", x);
  requireCount("nystrom", "iterations", iterations, 0);
  const { rank, sketch } = sketchOf("nystrom", x, options);
  let start = await replace(sketch, true, (panel) => panel.keep());
  for (let i = 0; i < iterations; i++) start = await replace(start, true, (panel) => x.matmul(panel));
  using w = start;
  using product = x.matmul(w);
  // From here on in float64: what follows subtracts and divides numbers of very different size.
  const [n, s] = [x.shape[0] as number, w.shape[1] as number];
  using wide = product.cast("float64");
  const norm = await frobeniusNorm(wide);
  // X's products round by √n·ε, and the factorization below by s·ε of float64.
  const shift = (Math.sqrt(n) * machineEpsilon[dtype] + 10 * s * machineEpsilon.float64) * norm;
  if (shift === 0) {
    // A matrix of zeros, of which any vectors are eigenvectors.
    const values = Tensor.zeros([rank], { dtype, backend: x.backend });
    return { values, vectors: w.slice([0, s - rank], [n, rank]), basis: w.keep() };
  }
  using y = tidy(() => wide.add(w.cast("float64").multiply(shift)));
  const { q, squares, rotation } = await factor(w, y);
  using orthonormal = q;
  using turn = rotation;
  using u = orthonormal.matmul(turn);
  using kept = u.slice([0, s - rank], [n, rank]);
  const values = squares.slice(s - rank).map((value) => Math.max(0, value - shift));
  return {
    values: Tensor.from(values, { shape: [rank], dtype, backend: x.backend }),
    vectors: kept.cast(dtype),
    basis: u.cast(dtype),
  };
}

/** Y (WᵀY)⁻¹ Yᵀ as Q V diag(squares) Vᵀ Qᵀ, by B = Y L⁻ᵀ = Q R with WᵀY = L Lᵀ and R Rᵀ = V diag(squares) Vᵀ. */
async function factor(w: Tensor, y: Tensor): Promise<{ q: Tensor; squares: Float64Array; rotation: Tensor }> {
  using c = tidy(() => {
    const half = w.cast("float64").matmul(y, { transposeA: true }).multiply(0.5);
    return half.add(half.transpose());
  });
  using l = await cholesky(c);
  using yt = y.transpose();
  using bt = await solveTriangular(l, yt);
  using b = bt.transpose();
  const { q, r } = await qr(b);
  using orthonormal = q;
  using triangle = r;
  using gram = triangle.matmul(triangle, { transposeB: true });
  const { values, vectors } = await eigh(gram);
  using squares = values;
  return { q: orthonormal.keep(), squares: Float64Array.from(await squares.data()), rotation: vectors };
}

/** The result of `f`, with orthonormal columns if asked for, in place of `panel`, which is disposed. */
async function replace(panel: Tensor, orthonormalize: boolean, f: (panel: Tensor) => Tensor): Promise<Tensor> {
  using old = panel;
  const next = f(old);
  if (!orthonormalize) return next;
  using made = next;
  const { q, r } = await qr(made);
  r.dispose();
  return q;
}

/** Checks what the methods have in common; a random or given test matrix, owned by the caller. */
function sketchOf(operation: string, x: Tensor, options: SketchOptions): { rank: number; sketch: Tensor } {
  const { rank, oversampling = 10, generator, testMatrix } = options;
  const { dtype, backend } = destinationOf(operation, x);
  const n = requireSquare(operation, x);
  requireCount(operation, "oversampling", oversampling, 0);
  requireCount(operation, "rank", rank, 0);
  if (rank > n) throw new UsageError(`${operation}: rank is ${rank} but the matrix has order ${n}; ask for at most ${n}`);
  if (testMatrix) {
    requirePartners(operation, x, testMatrix);
    const [rows, columns] = requireMatrix(operation, testMatrix);
    if (rows !== n || columns < rank || columns > n) {
      const wanted = `[${n}, s] with s from ${rank} to ${n}`;
      throw new ShapeError(`${operation}: the test matrix must have shape ${wanted} but has ${formatShape(testMatrix.shape)}`);
    }
    return { rank, sketch: testMatrix.keep() };
  }
  if (!generator) throw new UsageError(`${operation}: needs a generator for its random numbers, or a test matrix`);
  return { rank, sketch: generator.normal([n, Math.min(n, rank + oversampling)], { dtype, backend }) };
}

function requireCount(operation: string, name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least) return;
  throw new UsageError(`${operation}: ${name} must be a whole number of at least ${least} but is ${value}`);
}

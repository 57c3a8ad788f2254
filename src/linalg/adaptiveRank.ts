import { formatShape, machineEpsilon, NumericalError, tidy, UsageError, type Generator, type Tensor } from "../tensor/index.ts";
import { requireSquare } from "./checks.ts";
import type { Eigh } from "./eigh.ts";
import { normOf } from "./norms.ts";
import { rayleighRitz, turned, type DominantEigenpairs } from "./randomized.ts";
import { takeOrthonormal, takeProduct, takeWellConditioned } from "./rangeFinder.ts";
import { requireCount, requireTestMatrix, resized } from "./sketch.ts";
import { destinationOf, narrowed, toTensor } from "./transfer.ts";

export interface AdaptiveEighOptions {
  /** The error wanted, ‖X − U diag(D) Uᵀ‖_F relative to ‖X‖_F. Below max(4√n, 16)·ε, which is rounding, it counts as that. */
  readonly tolerance: number;
  /** Draws the vectors that a basis starts from and grows by. */
  readonly generator: Generator;
  /** Most eigenpairs. Default: the order of the matrix. */
  readonly maxRank?: number;
  /** Random vectors beside those of an earlier call, and beside `maxRank`, which make the wanted ones accurate. Default 10. */
  readonly oversampling?: number;
  /** Random vectors to start with; a basis that is too small is doubled. Default 32. */
  readonly blockSize?: number;
  /** Products with each basis before the one for Rayleigh–Ritz. Default 2. */
  readonly iterations?: number;
  /**
   * The vectors of an earlier call, of shape [n, s], for a matrix that has changed a little; in place of most of the random ones. Of more than
   * `maxRank` the first are left out, which are the least dominant ones.
   */
  readonly testMatrix?: Tensor;
}

export interface AdaptiveEigenpairs extends DominantEigenpairs {
  /** ‖X − U diag(D) Uᵀ‖_F / ‖X‖_F, measured. Above the tolerance only where `maxRank`, or rounding, allowed no less. */
  readonly error: number;
}

/** Rows of X of which the error is measured at once: a copy of all would be as large as X. */
const ROWS = 256;

/**
 * As many dominant eigenpairs of a symmetric positive semidefinite matrix X [n, n] as approximate it to a relative tolerance in the Frobenius
 * norm: a random basis grows, by doubling, until Rayleigh–Ritz in it is accurate enough, and eigenpairs that are not needed are dropped.
 *
 * **What is guaranteed.** The error is that of the result, measured, not estimated: no probability is involved, and rounding adds some ε.
 * Chance decides only how many eigenpairs it takes, and a basis that is twice as large as necessary misses few by much: with `iterations` q,
 * directions outside of the basis are damped as in `randomizedEigh`. At the worst the basis is the whole space after 1 + log₂(n / blockSize)
 * rounds.
 *
 * An orthonormal basis Q splits X into parts that are orthogonal to each other, X = QSQᵀ + rest with S = QᵀXQ, so that ‖rest‖² = ‖X‖² − Σ Dⱼ²
 * over all eigenvalues of S (Pythagoras). This difference tells in each round, for nothing, whether the basis may be large enough; but it
 * loses errors below √(n·ε) of ‖X‖ in rounding, and so the last word has X − QSQᵀ itself. What dropping pairs costs is added, again by Pythagoras.
 *
 * (q + 1)·2n²s operations for each size s of the basis, less than (q + 1)·6n²s in all for the largest one, and 2n²s to measure. Halko,
 * Martinsson & Tropp, SIAM Review 53, 2011, §4.3 and §4.4, for the idea with an estimate in place of the measurement.
 *
 * @returns values [rank], ascending; vectors [n, rank], orthonormal; and their error. The caller owns the tensors. The rank of zeros is 0.
 * @throws UsageError for a tolerance below 0 or counts that are not whole numbers in range; ShapeError; DTypeError; NumericalError for entries
 *   that are not finite, or if X is not symmetric.
 */
export async function adaptiveEigh(x: Tensor, options: AdaptiveEighOptions): Promise<AdaptiveEigenpairs> {
  const operation = "adaptiveEigh";
  const { dtype, backend } = destinationOf(operation, x);
  const n = requireSquare(operation, x);
  const settings = settingsOf(operation, options, n);
  const { generator, maxRank, most, iterations } = settings;
  const tolerance = Math.max(options.tolerance, Math.max(4 * Math.sqrt(n), 16) * machineEpsilon[dtype]);
  using own = x.keep();
  let panel = firstPanel(operation, own, settings);
  let total: number | undefined;
  for (;;) {
    for (let i = 0; i < iterations; i++) panel = await takeProduct(operation, own, i === 0 ? panel : await takeWellConditioned(panel));
    using basis = await takeOrthonormal(panel);
    const size = basis.shape[1] as number;
    const pairs = await rayleighRitz(operation, own, basis, size);
    const norm = (total ??= await requireNorm(operation, own));
    const squares = pairs.values.map((value) => (norm === 0 ? 0 : (value / norm) ** 2));
    const rest = norm === 0 ? 0 : 1 - squares.reduce((sum, square) => sum + square, 0);
    if (rest <= tolerance ** 2 + n * machineEpsilon[dtype] || size >= most) {
      using u = await turned({ dtype, backend }, basis, pairs.vectors, size);
      const missed = norm === 0 ? 0 : (await residual(operation, own, u, pairs)) / norm;
      if (missed <= tolerance || size >= most) {
        const { rank, error } = cut(squares, missed, tolerance, maxRank);
        const values = toTensor(operation, pairs.values.slice(size - rank), [rank], { dtype, backend });
        return { values, vectors: u.slice([0, size - rank], [n, rank]), error };
      }
    }
    using known = await narrowed(basis, { dtype, backend });
    panel = resized(operation, known, Math.min(most, 2 * size), generator);
  }
}

interface Settings extends Required<Omit<AdaptiveEighOptions, "testMatrix">>, Pick<AdaptiveEighOptions, "testMatrix"> {
  /** Vectors in the largest basis: one at least, which can be doubled. */
  readonly most: number;
}

function settingsOf(operation: string, options: AdaptiveEighOptions, n: number): Settings {
  const { tolerance, maxRank = n, oversampling = 10, blockSize = 32, iterations = 2 } = options;
  if (!(tolerance >= 0)) throw new UsageError(`${operation}: the tolerance must be at least 0 but is ${tolerance}`);
  requireCount(operation, "maxRank", maxRank, 0);
  requireCount(operation, "oversampling", oversampling, 0);
  requireCount(operation, "blockSize", blockSize, 1);
  requireCount(operation, "iterations", iterations, 1);
  if (maxRank > n) throw new UsageError(`${operation}: maxRank is ${maxRank} but the matrix has order ${n}; ask for at most ${n}`);
  return { ...options, maxRank, oversampling, blockSize, iterations, most: Math.min(n, Math.max(1, maxRank + oversampling)) };
}

/** Random vectors, or those of an earlier call with some random ones. */
function firstPanel(operation: string, x: Tensor, { testMatrix, maxRank, oversampling, blockSize, most, generator }: Settings): Tensor {
  const n = x.shape[0] as number;
  if (!testMatrix) return generator.normal([n, Math.min(most, blockSize)], destinationOf(operation, x));
  using given = requireTestMatrix(operation, x, testMatrix, 0, n);
  const known = Math.min(maxRank, given.shape[1] as number);
  using earlier = resized(operation, given, known, generator);
  return resized(operation, earlier, Math.min(most, Math.max(1, known + oversampling)), generator);
}

/** ‖X‖_F of a finite matrix. */
async function requireNorm(operation: string, x: Tensor): Promise<number> {
  const norm = await normOfRows(x, (from, count) => x.slice([from, 0], [count, x.shape[1] as number]));
  if (norm < Infinity) return norm;
  throw new NumericalError(`${operation}: the norm of the ${formatShape(x.shape)} matrix is beyond the range of float64; scale the input`);
}

/** ‖X − U diag(values) Uᵀ‖_F. */
async function residual(operation: string, x: Tensor, u: Tensor, { values }: Eigh): Promise<number> {
  const [n, s] = u.shape as [number, number];
  using d = toTensor(operation, values, [1, s], destinationOf(operation, x));
  using scaled = u.multiply(d);
  return await normOfRows(x, (from, count) => {
    const part = scaled.slice([from, 0], [count, s]);
    return x.slice([from, 0], [count, n]).subtract(part.matmul(u, { transposeB: true }));
  });
}

/** The Frobenius norm of a matrix with the rows of X that is made some rows at a time. */
async function normOfRows({ shape }: Tensor, make: (from: number, count: number) => Tensor): Promise<number> {
  const n = shape[0] as number;
  const norms: number[] = [];
  for (let from = 0; from < n; from += ROWS) {
    using rows = tidy(() => make(from, Math.min(ROWS, n - from)));
    norms.push(await normOf(rows));
  }
  return Math.hypot(...norms);
}

/** The least rank within the tolerance, and its error: `missed` and the pairs that are dropped, the smallest first, are orthogonal. */
function cut(squares: Float64Array, missed: number, tolerance: number, maxRank: number): { rank: number; error: number } {
  let [dropped, sum] = [0, missed ** 2];
  for (const square of squares) {
    const must = squares.length - dropped > maxRank;
    if (!must && Math.sqrt(sum + square) > tolerance) break;
    sum += square;
    dropped++;
  }
  return { rank: squares.length - dropped, error: Math.sqrt(sum) };
}

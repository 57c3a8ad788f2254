import { NumericalError, type MatrixBlock, type Tensor } from "../tensor/index.ts";
import { inWorkspace, part, type Workspace } from "./arithmetic.ts";
import { requirePartners, requireRightHandSide, requireSquare } from "./checks.ts";
import { solveFromLeft } from "./cholesky.ts";
import { powerOfTwoNear, scaleByPower } from "./scaling.ts";
import { destinationOf, readFloats, toTensor } from "./transfer.ts";
import { addScaled, largestMagnitude } from "./vectors.ts";

/** P A · 2^exponent = L U, in a workspace. */
export interface Lu {
  /** U, and below its diagonal L without the ones on its own. */
  readonly factors: MatrixBlock;
  /** Row i of P A is row order[i] of A. */
  readonly order: Uint32Array;
  readonly exponent: number;
}

/** Columns that are eliminated one by one. */
const LEAF = 16;

/** Numbers of workspace for a factorization of size n. */
export const luSize = (n: number): number => n * n;
/** Numbers of workspace for the solves after it. */
export const luSolveSize = (n: number, columns: number): number => n * columns;

/**
 * P A = L U by Gaussian elimination with partial pivoting, in float64: the columns are halved again and again (Toledo, SIAM J. Matrix
 * Anal. Appl. 18, 1997), down to panels whose pivots are searched and whose rows are exchanged by plain loops. 2/3·n³ operations, all
 * but LEAF·n² of them in products of matrices.
 *
 * |L| ≤ 1, and |P A − L U| ≤ γₙ |L||U| entry by entry, γₙ = n·u/(1 − n·u), u = 2⁻⁵³ (Higham, Accuracy and Stability of Numerical
 * Algorithms, theorem 9.3). How much larger than A the entries of U are is the growth factor: up to 2ⁿ⁻¹ for matrices made for it, of
 * order n^⅔ for random ones, and hardly ever more (§9.3, §9.4).
 *
 * @param a [n, n], row-major; unchanged.
 * @throws NumericalError naming the first column in which no pivot is left, not even one made by rounding.
 */
export function luIn(space: Workspace, a: Float64Array, n: number, operation = "solve"): Lu {
  const exponent = exponentFor(a);
  const factors = space.matrix(n, n);
  factors.data.set(exponent === 0 ? a : scaleByPower(a, exponent), factors.at);
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  eliminate(space, { factors, order, exponent }, 0, n, operation);
  return { factors, order, exponent };
}

/**
 * The X [n, columns] of A X = B, given P A = L U: L Y = P B, then U X = Y. 2·n²·columns operations.
 *
 * Each column of X solves (A + ΔA) x = b with |ΔA| ≤ γ₃ₙ Pᵀ|L||U| (theorem 9.4), so that ‖ΔA‖∞ ≤ n²·γ₃ₙ·ρ·‖A‖∞ with the growth factor
 * ρ (theorem 9.5): the residual is small whatever the condition, and the relative error is that times κ∞(A).
 *
 * @param b [n, columns], row-major; unchanged.
 */
export function solveLuIn(space: Workspace, { factors, order, exponent }: Lu, b: Float64Array, columns: number): Float64Array {
  const n = factors.rows;
  const x = space.matrix(n, columns);
  for (let i = 0; i < n; i++) x.data.set(b.subarray(order[i]! * columns, (order[i]! + 1) * columns), x.at + i * columns);
  solveFromLeft(space, factors, x, { unit: true });
  solveFromLeft(space, factors, x, { lower: false });
  const result = x.data.slice(x.at, x.at + n * columns);
  return exponent === 0 ? result : scaleByPower(result, exponent);
}

/**
 * Brings columns `[start, start + count)` to the form of L and U. Rows are exchanged in all columns at once: in those to the left, as
 * the L of an exchanged A is L exchanged, and in those to the right, whose turn is yet to come.
 */
function eliminate(space: Workspace, lu: Lu, start: number, count: number, operation: string): void {
  if (count <= LEAF) {
    eliminateLeaf(lu, start, count, operation);
    return;
  }
  const { factors: a } = lu;
  const half = LEAF * Math.ceil(count / (2 * LEAF));
  const [middle, rest] = [start + half, count - half];
  eliminate(space, lu, start, half, operation);
  const u12 = part(a, start, middle, half, rest);
  solveFromLeft(space, part(a, start, start, half, half), u12, { unit: true });
  const below = a.rows - middle;
  space.arithmetic.product(part(a, middle, middle, below, rest), part(a, middle, start, below, half), u12, { scale: -1, add: true });
  eliminate(space, lu, middle, rest, operation);
}

function eliminateLeaf({ factors: a, order }: Lu, start: number, count: number, operation: string): void {
  const { data, at, rows: n, stride } = a;
  for (let j = start; j < start + count; j++) {
    let best = j;
    for (let i = j + 1; i < n; i++) if (Math.abs(data[at + i * stride + j]!) > Math.abs(data[at + best * stride + j]!)) best = i;
    exchangeRows(a, order, j, best);
    const row = at + j * stride;
    const pivot = data[row + j]!;
    if (pivot === 0) {
      throw new NumericalError(
        `${operation}: the matrix is singular: column ${j} of ${n} depends on those before it: its pivot, the largest entry that is left ` +
          `of it, is 0; drop it, or solve a damped or a least-squares problem instead`,
      );
    }
    for (let i = j + 1; i < n; i++) {
      const other = at + i * stride;
      const factor = data[other + j]! / pivot;
      data[other + j] = factor;
      if (factor !== 0) addScaled(data, other + j + 1, -factor, data, row + j + 1, start + count - j - 1);
    }
  }
}

function exchangeRows({ data, at, columns, stride }: MatrixBlock, order: Uint32Array, i: number, j: number): void {
  if (i === j) return;
  const [first, second] = [at + i * stride, at + j * stride];
  const kept = data.slice(first, first + columns);
  data.copyWithin(first, second, second + columns);
  data.set(kept, second);
  [order[i], order[j]] = [order[j]!, order[i]!];
}

/**
 * The power of two by which A is multiplied first. A tiny one is scaled up, so that no digit is lost beneath the smallest normal
 * number; and one near the largest number a little down, for its entries to grow, but no further than all of them stay normal. Else
 * nothing is scaled: it would lose the small rows of a graded matrix.
 */
function exponentFor(a: Float64Array): number {
  const largest = largestMagnitude(a);
  if (largest < 2 ** -500) return 500;
  if (largest <= 2 ** 960) return 0;
  const smallest = a.reduce((least, value) => (value === 0 ? least : Math.min(least, Math.abs(value))), Infinity);
  const room = powerOfTwoNear(smallest) + 1021; // its exponent is off by one at most, and that of the smallest normal number is −1022
  return -Math.max(0, Math.min(64, room));
}

/**
 * The X with A X = B for a square A [n, n] and B [n] or [n, columns], by LU factorization with partial pivoting. 2/3·n³ + 2·n²·columns
 * operations. For a positive definite A, `solvePositiveDefinite` takes half as many.
 *
 * Each column of X is exact for a matrix within n²·γ₃ₙ·ρ·‖A‖∞ of A (γ₃ₙ ≈ 3n·2⁻⁵³, ρ the growth of entries in the elimination, which is
 * modest but for matrices made to make it large), before X is rounded to its type. So it may be far off where A is nearly singular,
 * without a word: `cond(a)` tells. Only an A whose elimination meets a column of exact zeros is refused.
 *
 * @returns [n] or [n, columns], in the operands' type and on their device.
 * @throws ShapeError for operands that do not fit, DTypeError for int32 or mixed types, NumericalError for an entry that is not finite, an
 *   A that is exactly singular, naming the column without a pivot, and an X beyond the range of its type.
 * Source: Higham, Accuracy and Stability of Numerical Algorithms, chapter 9; see `luIn` and `solveLuIn`.
 */
export async function solve(a: Tensor, b: Tensor): Promise<Tensor> {
  requirePartners("solve", a, b);
  const destination = destinationOf("solve", a);
  const n = requireSquare("solve", a);
  const columns = requireRightHandSide("solve", n, b);
  const { shape } = b;
  const [matrix, right] = await Promise.all([readFloats("solve", a), readFloats("solve", b)]);
  const x = inWorkspace(destination.backend, luSize(n) + luSolveSize(n, columns), (space) => {
    return solveLuIn(space, luIn(space, matrix, n), right, columns);
  });
  return toTensor("solve", x, shape, destination);
}

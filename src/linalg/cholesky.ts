import { NumericalError, type MatrixBlock } from "../tensor/index.ts";
import { mirror, onHost, part, type Workspace } from "./arithmetic.ts";
import { addScaled, divide, dot, largestMagnitude } from "./vectors.ts";

/*
 * Factorization and solves halve a triangle [L₁₁ 0; L₂₁ L₂₂] again and again: nearly all operations are then products of matrices.
 * Triangles of at most LEAF rows are factorized and solved entry by entry, by substitution: explicit inverses of diagonal blocks
 * would make products of that work too, but lose digits where a block is ill-conditioned (Higham, Accuracy and Stability of
 * Numerical Algorithms, §13.3).
 *
 * Blocks change only the order in which the terms of a sum are added, and Higham's bounds hold for every order. In the statements
 * below u = 2⁻⁵³ and γₖ = k·u/(1 − k·u), theorems are those of the book's second edition, and |·| is taken entry by entry.
 */

/** Which triangle a triangular matrix fills, and whether it acts transposed. */
export interface TriangularOptions {
  /** The matrix is lower triangular. Default true. Entries of the other triangle are never read. */
  readonly lower?: boolean;
  /** Solve with the transpose. Default false. */
  readonly transpose?: boolean;
}

/** Rows of a triangle that is not divided any more. */
const LEAF = 16;
/** Columns of a triangle whose Gram matrix is one product, zeros included. */
const GRAM_LEAF = 64;

/** Numbers of workspace for a factorization of size n. */
export const choleskySize = (n: number): number => n * n;
/** Numbers of workspace for a solve with a triangle, or a Cholesky factor, of size n. */
export const solveSize = (n: number, columns: number): number => n * n + n * columns;
/** Numbers of workspace for an inverse of size n. */
export const inverseSize = (n: number): number => 2 * n * n;

/**
 * The lower triangular L with A = L Lᵀ, in float64 (Golub & Van Loan §4.2.5–4.2.9: entry by entry in the leaves, by blocks above
 * them). n³/3 operations, all but LEAF·n² of them in products of matrices.
 *
 * Backward stable without pivoting: |A − L Lᵀ| ≤ γₙ₊₁ |L||Lᵀ| (theorem 10.3), so that ‖A − L Lᵀ‖₂ ≤ n·γₙ₊₁ ‖A‖₂ to first order; the
 * norm observed is below max(n, 15)·2u·‖A‖₂. It succeeds where the smallest eigenvalue is above n·γₙ₊₁/(1 − γₙ₊₁) times the largest
 * diagonal entry (theorem 10.7), and may fail for a definite matrix that is nearer to singular.
 *
 * @param a [n, n], row-major; only the lower triangle is read; unchanged.
 * @param operation name for messages.
 * @returns [n, n] with zeros above the diagonal.
 * @throws NumericalError naming the first pivot that is not positive: then A is not positive definite, or so nearly singular
 *   that float64 cannot tell.
 */
export function choleskyIn(space: Workspace, a: Float64Array, n: number, operation = "cholesky"): Float64Array {
  const root = rootOfScale(a, n);
  const l = space.matrix(n, n);
  l.data.fill(0, l.at, l.at + n * n);
  copyLower(a, 0, l.data, l.at, n, 1 / root ** 2);
  factorize(space, l, (i, value) => {
    const pivot = value * root ** 2;
    throw new NumericalError(
      `${operation}: the matrix is not positive definite: pivot ${i} of ${n} is ${pivot} (diagonal entry ${a[i * n + i]}); ` +
        `add damping to the diagonal`,
    );
  });
  const result = new Float64Array(n * n);
  copyLower(l.data, l.at, result, 0, n, root);
  return result;
}

/**
 * The lower triangular L [n, n] with A = L Lᵀ, both row-major, by plain loops on the host; only the lower triangle of A is read. n³/3
 * operations; error, failures and source as of `cholesky`. @param operation name for messages.
 */
export function choleskyHost(a: Float64Array, n: number, operation = "cholesky"): Float64Array {
  return onHost(choleskySize(n), (space) => choleskyIn(space, a, n, operation));
}

/**
 * Overwrites B [n, columns] with the X of T X = B (or Tᵀ X = B), by substitution. n²·columns operations.
 *
 * Each column solves a system near to its own: |B − T X| ≤ γₙ |T||X| (theorem 8.5), so |X − T⁻¹B| ≤ γₙ |T⁻¹||T||X|, which is often
 * far less than the condition number of T suggests (§8.2).
 *
 * @throws NumericalError for a zero on the diagonal.
 */
export function solveTriangularIn(
  space: Workspace,
  t: Float64Array,
  n: number,
  b: Float64Array,
  columns: number,
  options: TriangularOptions = {},
): void {
  for (let i = 0; i < n; i++) {
    if (t[i * n + i] === 0) {
      throw new NumericalError(`solveTriangular: the matrix is singular: entry [${i}, ${i}] on the diagonal is 0`);
    }
  }
  const x = copyIn(space, b, n, columns);
  solveFromLeft(space, copyIn(space, t, n, n), x, options);
  copyOut(x, b);
}

/**
 * Overwrites B [n, columns] with the X of T X = B, or TᵀX = B, for a triangular T [n, n], all row-major, by plain loops on the host.
 * n²·columns operations; error, failures and source as of `solveTriangular`.
 */
export function solveTriangularHost(t: Float64Array, n: number, b: Float64Array, columns: number, options: TriangularOptions = {}): void {
  onHost(solveSize(n, columns), (space) => solveTriangularIn(space, t, n, b, columns, options));
}

/**
 * Overwrites B [n, columns] with A⁻¹B, given A = L Lᵀ: L Y = B, then Lᵀ X = Y. 2·n²·columns operations.
 *
 * Each column of X solves (A + ΔA) x = b with |ΔA| ≤ γ₃ₙ₊₁ |L||Lᵀ|, the rounding of L included (theorem 10.4): the residual is at
 * most γ₃ₙ₊₁·n·‖A‖₂‖x‖₂ whatever the condition, and the relative error that times κ₂(A)/‖A‖₂‖x‖₂.
 */
export function solveCholeskyIn(space: Workspace, l: Float64Array, n: number, b: Float64Array, columns: number): void {
  const x = copyIn(space, b, n, columns);
  const factor = copyIn(space, l, n, n);
  solveFromLeft(space, factor, x);
  solveFromLeft(space, factor, x, { transpose: true });
  copyOut(x, b);
}

/**
 * Overwrites B [n, columns] with A⁻¹B, given the L [n, n] of A = L Lᵀ from `choleskyHost`, all row-major, by plain loops on the host.
 * 2·n²·columns operations; error and source as of `solvePositiveDefinite`.
 */
export function solveCholeskyHost(l: Float64Array, n: number, b: Float64Array, columns: number): void {
  onHost(solveSize(n, columns), (space) => solveCholeskyIn(space, l, n, b, columns));
}

/**
 * M = L⁻¹ for a lower triangular L [n, n] with a positive diagonal, as that of a Cholesky factorization; zeros above M's diagonal. n³/2
 * operations at most. By substitution: |L M − I| ≤ γₙ |L||M| (theorem 8.5).
 */
export function inverseLowerIn(space: Workspace, l: Float64Array, n: number): Float64Array {
  const m = zeros(space, n);
  invertLower(space, copyIn(space, l, n, n), m);
  const inverse = new Float64Array(n * n);
  copyOut(m, inverse);
  return inverse;
}

/**
 * A⁻¹ = MᵀM with M = L⁻¹, given A = L Lᵀ (LAPACK's potri). Only the lower triangle is computed, and mirrored, so the inverse is
 * symmetric to the last bit. 4/3·n³ operations at most.
 *
 * M comes from L M = I by substitution: |L M − I| ≤ γₙ |L||M| (theorem 8.5). With what theorem 10.3 says of L, and γₙ |Mᵀ||M| for the
 * product, ‖X − A⁻¹‖₂ ≤ n·γₙ₊₁·(κ + 2·√κ + 1)·‖A⁻¹‖₂ ≤ 4n·γₙ₊₁·κ·‖A⁻¹‖₂ to first order, for κ = κ₂(A).
 */
export function inverseCholeskyIn(space: Workspace, l: Float64Array, n: number): Float64Array {
  const factor = copyIn(space, l, n, n);
  const m = zeros(space, n);
  invertLower(space, factor, m);
  const gram = factor; // L has served
  gramOfLower(space, gram, m);
  const inverse = new Float64Array(n * n);
  copyLower(gram.data, gram.at, inverse, 0, n, 1);
  mirror(inverse, n);
  return inverse;
}

/**
 * A⁻¹ [n, n], given the L [n, n] of A = L Lᵀ from `choleskyHost`, both row-major, by plain loops on the host; symmetric to the last bit.
 * 4/3·n³ operations at most; error and source as of `inversePositiveDefinite`.
 */
export function inverseCholeskyHost(l: Float64Array, n: number): Float64Array {
  return onHost(inverseSize(n), (space) => inverseCholeskyIn(space, l, n));
}

/** Rows of the first part of a triangle: about half of it, in whole leaves. */
const halfOf = (n: number): number => LEAF * Math.ceil(n / (2 * LEAF));

/** Overwrites the lower triangle of A with L. What is above the diagonal is neither read nor kept. */
function factorize(space: Workspace, a: MatrixBlock, refuse: (row: number, pivot: number) => never, firstRow = 0): void {
  const n = a.rows;
  if (n <= LEAF) {
    factorizeLeaf(a, refuse, firstRow);
    return;
  }
  const half = halfOf(n);
  const rest = n - half;
  const [a11, a21, a22] = [part(a, 0, 0, half, half), part(a, half, 0, rest, half), part(a, half, half, rest, rest)];
  factorize(space, a11, refuse, firstRow);
  solveFromRight(space, a11, a21); // L₂₁ = A₂₁ L₁₁⁻ᵀ
  space.arithmetic.product(a22, a21, a21, { transposeB: true, scale: -1, add: true, lower: true });
  factorize(space, a22, refuse, firstRow + half);
}

function factorizeLeaf({ data, at, rows: n, stride }: MatrixBlock, refuse: (row: number, pivot: number) => never, firstRow: number): void {
  for (let i = 0; i < n; i++) {
    const row = at + i * stride;
    for (let j = 0; j < i; j++) {
      const other = at + j * stride;
      data[row + j] = (data[row + j]! - dot(data, row, data, other, j)) / data[other + j]!;
    }
    const pivot = data[row + i]! - dot(data, row, data, row, i);
    // Written so that NaN fails too.
    if (!(pivot > 0 && pivot < Infinity)) refuse(firstRow + i, pivot);
    data[row + i] = Math.sqrt(pivot);
  }
}

/** Overwrites B with the X of X Lᵀ = B. */
function solveFromRight(space: Workspace, l: MatrixBlock, b: MatrixBlock): void {
  const n = l.rows;
  if (n <= LEAF) {
    const { data } = b;
    for (let i = 0; i < b.rows; i++) {
      const x = b.at + i * b.stride;
      for (let j = 0; j < n; j++) {
        const row = l.at + j * l.stride;
        data[x + j] = (data[x + j]! - dot(data, x, l.data, row, j)) / l.data[row + j]!;
      }
    }
    return;
  }
  const half = halfOf(n);
  const rest = n - half;
  const [first, second] = [part(b, 0, 0, b.rows, half), part(b, 0, half, b.rows, rest)];
  solveFromRight(space, part(l, 0, 0, half, half), first);
  space.arithmetic.product(second, first, part(l, half, 0, rest, half), { transposeB: true, scale: -1, add: true });
  solveFromRight(space, part(l, half, half, rest, rest), second);
}

export interface TriangleOptions extends TriangularOptions {
  /** The diagonal counts as ones and is not read. Default false. */
  readonly unit?: boolean;
}

/** Overwrites B with the X of T X = B (or Tᵀ X = B). */
export function solveFromLeft(space: Workspace, t: MatrixBlock, b: MatrixBlock, options: TriangleOptions = {}): void {
  const n = t.rows;
  if (n <= LEAF) {
    solveLeaf(t, b, options);
    return;
  }
  const { lower = true, transpose = false } = options;
  const half = halfOf(n);
  const rest = n - half;
  const halves = [
    { triangle: part(t, 0, 0, half, half), x: part(b, 0, 0, half, b.columns) },
    { triangle: part(t, half, half, rest, rest), x: part(b, half, 0, rest, b.columns) },
  ] as const;
  const coupling = lower ? part(t, half, 0, rest, half) : part(t, 0, half, half, rest);
  // The transpose of a lower triangle is solved as an upper one, from the last unknown to the first.
  const [known, unknown] = lower !== transpose ? halves : [halves[1], halves[0]];
  solveFromLeft(space, known.triangle, known.x, options);
  space.arithmetic.product(unknown.x, coupling, known.x, { transposeA: transpose, scale: -1, add: true });
  solveFromLeft(space, unknown.triangle, unknown.x, options);
}

/** By whole rows of B. */
function solveLeaf(t: MatrixBlock, b: MatrixBlock, { lower = true, transpose = false, unit = false }: TriangleOptions): void {
  const n = t.rows;
  const forward = lower !== transpose;
  const [rowStride, columnStride] = transpose ? [1, t.stride] : [t.stride, 1];
  for (let step = 0; step < n; step++) {
    const i = forward ? step : n - 1 - step;
    const own = b.at + i * b.stride;
    for (let known = 0; known < step; known++) {
      const j = forward ? known : n - 1 - known;
      addScaled(b.data, own, -t.data[t.at + i * rowStride + j * columnStride]!, b.data, b.at + j * b.stride, b.columns);
    }
    if (!unit) divide(b.data, own, t.data[t.at + i * (t.stride + 1)]!, b.columns);
  }
}

function zeros(space: Workspace, n: number): MatrixBlock {
  const m = space.matrix(n, n);
  m.data.fill(0, m.at, m.at + n * n);
  return m;
}

/** M = L⁻¹ into zeros: each column of it by substitution, from its diagonal on. */
function invertLower(space: Workspace, l: MatrixBlock, m: MatrixBlock): void {
  const n = l.rows;
  if (n <= LEAF) {
    for (let i = 0; i < n; i++) m.data[m.at + i * (m.stride + 1)] = 1;
    solveLeaf(l, m, {});
    return;
  }
  const half = halfOf(n);
  const rest = n - half;
  const [m11, m21, m22] = [part(m, 0, 0, half, half), part(m, half, 0, rest, half), part(m, half, half, rest, rest)];
  const l22 = part(l, half, half, rest, rest);
  invertLower(space, part(l, 0, 0, half, half), m11);
  // L₂₂ M₂₁ = −L₂₁ M₁₁
  space.arithmetic.product(m21, part(l, half, 0, rest, half), m11, { scale: -1 });
  solveFromLeft(space, l22, m21);
  invertLower(space, l22, m22);
}

/** The lower triangle of MᵀM for a lower triangular M with zeros above its diagonal. */
function gramOfLower(space: Workspace, gram: MatrixBlock, m: MatrixBlock): void {
  const n = m.rows;
  const { arithmetic } = space;
  if (n <= GRAM_LEAF) {
    arithmetic.product(gram, m, m, { transposeA: true, lower: true });
    return;
  }
  const half = halfOf(n);
  const rest = n - half;
  const [m11, m21, m22] = [part(m, 0, 0, half, half), part(m, half, 0, rest, half), part(m, half, half, rest, rest)];
  const first = part(gram, 0, 0, half, half);
  gramOfLower(space, first, m11);
  arithmetic.product(first, m21, m21, { transposeA: true, add: true, lower: true });
  arithmetic.product(part(gram, half, 0, rest, half), m22, m21, { transposeA: true });
  gramOfLower(space, part(gram, half, half, rest, rest), m22);
}

/**
 * s, a power of two, such that A/s² may be factorized without losing digits to underflow: L is s times the factor of that. It is 1
 * unless every entry of A is tiny. Nothing is ever scaled down, so that no pivot of a graded matrix vanishes.
 */
function rootOfScale(a: Float64Array, n: number): number {
  for (let i = 0; i < n; i++) if (!(largestMagnitude(a, i * n, i + 1) < 2 ** -500)) return 1;
  return 2 ** -200;
}

/** The lower triangle of `from` [n, n] times a power of two. */
function copyLower(from: Float64Array, fromAt: number, to: Float64Array, toAt: number, n: number, factor: number): void {
  for (let i = 0; i < n; i++) {
    const row = from.subarray(fromAt + i * n, fromAt + i * n + i + 1);
    to.set(factor === 1 ? row : row.map((value) => value * factor), toAt + i * n);
  }
}

function copyIn(space: Workspace, from: Float64Array, rows: number, columns: number): MatrixBlock {
  const block = space.matrix(rows, columns);
  block.data.set(from, block.at);
  return block;
}

function copyOut({ data, at }: MatrixBlock, to: Float64Array): void {
  to.set(data.subarray(at, at + to.length));
}

import { formatShape, machineEpsilon, NumericalError, ShapeError, type MatrixBlock, type Tensor } from "../tensor/index.ts";
import { inWorkspace, onHost, part, rowMajor, spreadSize, transpose, type Workspace } from "./arithmetic.ts";
import { findNonFinite, requireFinite, requireMatrix, requirePartners } from "./checks.ts";
import { solveTriangularHost } from "./cholesky.ts";
import { reflect } from "./reflections.ts";
import { powerOfTwoNear, scaleByPower } from "./scaling.ts";
import { destinationOf, readFloats, toTensor } from "./transfer.ts";
import { largestMagnitude } from "./vectors.ts";

export interface QrOptions {
  /** Complete the columns of Q to an orthonormal basis of all of ℝᵐ. Default false: only as many as A has rows or columns. */
  readonly full?: boolean;
}

/** A = Q R for an A [m, n]; k is min(m, n), or m if `full`. */
export interface Qr {
  /** [m, k], row-major, with orthonormal columns. */
  readonly q: Float64Array;
  /** [k, n], row-major, zero below the diagonal, no entry on the diagonal negative. */
  readonly r: Float64Array;
}

/** Columns of A whose reflections are applied to the rest together. */
const PANEL = 32;

/** Numbers of workspace for a decomposition of an [m, n] matrix. */
export function qrSize(m: number, n: number, { full = false }: QrOptions = {}): number {
  return spreadSize(n, m) + reflectionsSize(m, n) + spreadSize(full ? m : Math.min(m, n), m);
}

/**
 * QR decomposition A = Q R of any matrix, in float64, by Householder reflections in groups I − YᵀTY (Schreiber & Van Loan, SIAM J. Sci.
 * Stat. Comput. 10, 1989; LAPACK's geqrt). With k = min(m, n), 2·m·n·k operations for R, as many at most for a thin Q, all but a share
 * of about PANEL / k in products of matrices.
 *
 * Backward stable: ‖A − Q R‖₂ ≤ c·ε·‖A‖₂ and ‖QᵀQ − I‖₂ ≤ c·ε with c = max(3·max(m, n), 15), whatever the rank or the scale of A; beneath
 * the smallest normal number R is rounded to multiples of the smallest subnormal one. (Higham, Accuracy and Stability of Numerical
 * Algorithms, §19.3, has a constant times m·n^{3/2} for the worst case.)
 *
 * No entry on the diagonal of R is negative: with that, Q and R are unique where A has full column rank. There is no pivoting, so the
 * diagonal of R of a matrix without full rank need not show it.
 *
 * @param a [m, n], row-major; unchanged.
 * @throws NumericalError for an entry that is not finite, or if an entry of R is beyond the range of float64.
 */
export function qrIn(space: Workspace, a: Float64Array, m: number, n: number, { full = false }: QrOptions = {}): Qr {
  const rank = Math.min(m, n);
  const columns = space.spread(n, m);
  const exponent = putScaledColumns("qr", a, columns);
  const reflections = triangularize(space, columns, rank);
  const size = full ? m : rank;
  const r = new Float64Array(size * n);
  transpose(rowMajor(r, rank, n), reflections.r);
  const { signs } = reflections;
  for (let i = 0; i < rank; i++) {
    if (signs[i]! < 0) for (let j = i; j < n; j++) r[i * n + j] = -r[i * n + j]!;
  }
  const q = new Float64Array(m * size);
  transpose(rowMajor(q, m, size), orthogonalRows(space, reflections, size));
  return { q, r: requireRange(scaleByPower(r, exponent), size, n) };
}

/**
 * QR decomposition of A [m, n], row-major, by plain loops on the host: `q` [m, k] and `r` [k, n], k = min(m, n), or m with `full`. Signs,
 * cost, error, failures and source are those of `qr`.
 */
export function qrHost(a: Float64Array, m: number, n: number, options: QrOptions = {}): Qr {
  return onHost(qrSize(m, n, options), (space) => qrIn(space, a, m, n, options));
}

/** Numbers of workspace for a least-squares problem with an [m, n] matrix and `columns` right-hand sides. */
export function lstsqSize(m: number, n: number, columns: number): number {
  return spreadSize(n + columns, m) + reflectionsSize(m, n + columns);
}

/**
 * The X [n, columns] that makes ‖A X − B‖ least, for an A [m, n] of full column rank: R X = QᵀB, with the reflections applied to B as to
 * further columns of A, so that Q is never formed. 2·m·n·(n + 2·columns) operations. Each column of X is exact for an A and a b that are
 * off by a modest multiple of m·ε, relative to their norms (Higham §20.2).
 *
 * @param a [m, n], row-major; unchanged.
 * @param b [m, columns], row-major; unchanged.
 * @throws NumericalError for an entry that is not finite; for a column of A that depends on those before it to rounding: its entry on the
 *   diagonal of R is at most c·ε times the largest entry of R, c as in `qrIn`; and for m < n.
 */
export function lstsqIn(space: Workspace, a: Float64Array, m: number, n: number, b: Float64Array, columns: number): Float64Array {
  if (m < n) {
    throw new NumericalError(
      `lstsq: column ${m} of the ${formatShape([m, n])} matrix depends on those before it, as there are fewer rows than columns: ` +
        `its entry on the diagonal of R is 0 of the largest; drop columns, or append rows that damp the solution`,
    );
  }
  const both = space.spread(n + columns, m);
  const exponentOfA = putScaledColumns("lstsq", a, part(both, 0, 0, n, m));
  const exponentOfB = putScaledColumns("lstsq", b, part(both, n, 0, columns, m));
  const reflections = triangularize(space, both, n);
  const r = new Float64Array(n * n);
  const x = new Float64Array(n * columns);
  transpose(rowMajor(r, n, n), part(reflections.r, 0, 0, n, n));
  transpose(rowMajor(x, n, columns), part(reflections.r, n, 0, columns, n));
  requireFullRank(r, m, n);
  solveTriangularHost(r, n, x, columns, { lower: false });
  return scaleByPower(x, exponentOfB - exponentOfA);
}

/**
 * The X [n, columns] that makes ‖A X − B‖ least, for A [m, n] of full column rank and B [m, columns], all row-major, by plain loops on the
 * host. Cost, error, failures and source are those of `lstsq`.
 */
export function lstsqHost(a: Float64Array, m: number, n: number, b: Float64Array, columns: number): Float64Array {
  return onHost(lstsqSize(m, n, columns), (space) => lstsqIn(space, a, m, n, b, columns));
}

/** Hᵢ = I − τᵢ yᵢᵀyᵢ for rows yᵢ; those of a panel have the product I − YᵀTY. */
interface Panels {
  /** Row i holds yᵢ: from the first column of i's panel on, 0 before column i, and 1 there. */
  readonly y: MatrixBlock;
  /** The upper triangles T of the panels, side by side. */
  readonly t: MatrixBlock;
  /** Row j holds column j of R, but for the signs. */
  readonly r: MatrixBlock;
  /** −1 for a row of R, and a column of Q, that has to change its sign. */
  readonly signs: Float64Array;
}

const reflectionsSize = (m: number, n: number): number => {
  const rank = Math.min(m, n);
  return n * rank + PANEL * rank + 2 * PANEL;
};

/**
 * Finds `count` reflections with A H₁ᵀ ⋯ = R for the A whose columns are the rows of `a`, which makes columns contiguous. Rows after
 * the first `count` are only carried along.
 *
 * Within a panel a row is brought up to date only when its turn comes; the rows after the panel get all its reflections as products.
 *
 * @param a [columns, m], its largest entry of order 1; becomes the reflectors.
 */
function triangularize(space: Workspace, a: MatrixBlock, count: number): Panels {
  const { rows: n, columns: m } = a;
  const reflections = { y: a, t: space.matrix(PANEL, count), r: space.matrix(n, count), signs: new Float64Array(count) };
  const work = space.matrix(2, PANEL);
  for (let start = 0; start < count; start += PANEL) {
    const size = Math.min(PANEL, count - start);
    reducePanel(space, reflections, start, size, work);
    const end = start + size;
    applyPanel(space, reflections, start, size, part(a, end, start, n - end, m - start), false);
  }
  for (let j = count; j < n; j++) copy(a.data, a.at + j * a.stride, reflections.r, j, count);
  return reflections;
}

/** Reduces rows `[start, start + size)`. */
function reducePanel(space: Workspace, { y: a, t, r, signs }: Panels, start: number, size: number, work: MatrixBlock): void {
  const { arithmetic } = space;
  const { data } = a;
  const m = a.columns;
  const [c, d] = [part(work, 0, 0, 1, PANEL), part(work, 1, 0, 1, PANEL)];
  for (let done = 0; done < size; done++) {
    const j = start + done;
    const triangle = part(t, 0, start, done, done);
    // x ← x H_start ⋯ = x − ((x Yᵀ) T) Y by the reflections of this panel so far.
    const row = part(a, j, start, 1, m - start);
    const y = part(a, start, start, done, m - start);
    arithmetic.timesVector(c, y, row);
    for (let k = 0; k < done; k++) {
      let sum = 0;
      for (let i = 0; i <= k; i++) sum += c.data[c.at + i]! * triangle.data[triangle.at + i * triangle.stride + k]!;
      d.data[d.at + k] = sum;
    }
    arithmetic.addRows(row, d, y, -1);

    const at = row.at + done;
    const { beta, tau } = reflect(data, at, m - j);
    signs[j] = beta < 0 ? -1 : 1;
    copy(data, a.at + j * a.stride, r, j, j);
    const onDiagonal = r.at + j * r.stride + j;
    r.data[onDiagonal] = beta;
    r.data.fill(0, onDiagonal + 1, r.at + j * r.stride + r.columns);
    data.fill(0, row.at, at);

    // H_start ⋯ H_j has a T with one more column: −τ T (Y yⱼ) over τ.
    arithmetic.timesVector(c, part(a, start, j, done, m - j), part(a, j, j, 1, m - j));
    const column = t.at + j;
    for (let i = 0; i < size; i++) {
      let sum = 0;
      for (let k = i; k < done; k++) sum += triangle.data[triangle.at + i * triangle.stride + k]! * c.data[c.at + k]!;
      t.data[column + i * t.stride] = i === done ? tau : -tau * sum;
    }
  }
}

/** X ← X H_start ⋯ for rows X of the coordinates from `start` on; `backward`, with the reflections in reverse order. */
function applyPanel(space: Workspace, { y, t }: Panels, start: number, size: number, x: MatrixBlock, backward: boolean): void {
  space.arithmetic.reflectRows(x, part(y, start, start, size, x.columns), part(t, 0, start, size, size), { transposeT: backward });
}

/**
 * The first `size` rows of Qᵀ: those of a diagonal matrix of signs, times the reflections in reverse order. A row before a panel's first
 * is still zero where that panel's reflectors are not, so the panel changes only the rows from its own on.
 */
function orthogonalRows(space: Workspace, reflections: Panels, size: number): MatrixBlock {
  const { y, signs } = reflections;
  const rank = signs.length;
  const rows = space.spread(size, y.columns);
  rows.data.fill(0, rows.at, rows.at + size * rows.stride);
  for (let i = 0; i < size; i++) rows.data[rows.at + i * rows.stride + i] = i < rank ? signs[i]! : 1;
  for (let start = PANEL * Math.floor((rank - 1) / PANEL); start >= 0; start -= PANEL) {
    const x = part(rows, start, start, size - start, y.columns - start);
    applyPanel(space, reflections, start, Math.min(PANEL, rank - start), x, true);
  }
  return rows;
}

/**
 * Writes the columns of a row-major matrix as rows of `to`, scaled so that the largest entry is near 1. A power of two changes no digit,
 * and keeps products of very large or very small entries inside the exponent's range.
 * @returns the exponent of the power that was taken out.
 */
function putScaledColumns(operation: string, a: Float64Array, to: MatrixBlock): number {
  requireFinite(operation, a, [to.columns, to.rows]);
  const exponent = powerOfTwoNear(largestMagnitude(a));
  transpose(to, rowMajor(scaleByPower(a, -exponent), to.columns, to.rows));
  return exponent;
}

function copy(data: Float64Array, at: number, to: MatrixBlock, row: number, length: number): void {
  to.data.set(data.subarray(at, at + length), to.at + row * to.stride);
}

/** Norms of columns can be larger than any number although the entries are not. */
function requireRange(r: Float64Array, rows: number, columns: number): Float64Array {
  const found = findNonFinite(r, [rows, columns]);
  if (!found) return r;
  throw new NumericalError(`qr: ${found.description} R is beyond the range of float64; scale the input`);
}

function requireFullRank(r: Float64Array, m: number, n: number): void {
  const largest = largestMagnitude(r);
  const tolerance = Math.max(3 * m, 15) * machineEpsilon.float64;
  for (let j = 0; j < n; j++) {
    const size = Math.abs(r[j * n + j]!);
    if (size > tolerance * largest) continue;
    const relative = largest === 0 ? 0 : size / largest;
    throw new NumericalError(
      `lstsq: column ${j} of the ${formatShape([m, n])} matrix depends on those before it, to rounding: its entry on the diagonal of R is ` +
        `${relative.toExponential(2)} of the largest entry, not above ${tolerance.toExponential(2)}; ` +
        `drop the column, or append rows that damp the solution`,
    );
  }
}

/**
 * QR decomposition A = Q R of any matrix [m, n], with k = min(m, n), or k = m with `full`. Computed in float64 with the backend's
 * arithmetic, and rounded to A's type, on whose device the results live; the caller owns them.
 *
 * @returns `q` [m, k] with orthonormal columns; `r` [k, n], zero below its diagonal, no entry on the diagonal negative.
 * @throws ShapeError unless A is a matrix, DTypeError for int32, NumericalError for an entry that is not finite or an R beyond the
 *   range of the type.
 * Source: Householder reflections in groups; see `qrIn` for cost and error bound.
 */
export async function qr(a: Tensor, options: QrOptions = {}): Promise<{ q: Tensor; r: Tensor }> {
  const destination = destinationOf("qr", a);
  const [m, n] = requireMatrix("qr", a);
  const matrix = await readFloats("qr", a);
  const { q, r } = inWorkspace(destination.backend, qrSize(m, n, options), (space) => qrIn(space, matrix, m, n, options));
  const size = options.full ? m : Math.min(m, n);
  const upper = toTensor("qr", r, [size, n], destination);
  return { q: toTensor("qr", q, [m, size], destination), r: upper };
}

/**
 * The X that makes ‖A X − B‖ least, for an A [m, n] of full column rank and B [m] or [m, columns], by QR decomposition. More accurate
 * than the normal equations, whose condition is the square of A's.
 *
 * @returns [n] or [n, columns], in the operands' type and on their device.
 * @throws ShapeError for operands that do not fit, DTypeError for int32 or mixed types, NumericalError for an entry that is not finite,
 *   and for an A without full column rank, naming the first column that depends on those before it to rounding.
 * Source: Golub & Van Loan §5.3.2; see `lstsqIn` for cost and error bound.
 */
export async function lstsq(a: Tensor, b: Tensor): Promise<Tensor> {
  requirePartners("lstsq", a, b);
  const destination = destinationOf("lstsq", a);
  const [m, n] = requireMatrix("lstsq", a);
  const [rows, columns = 1, ...more] = b.shape;
  if (rows !== m || more.length > 0) {
    throw new ShapeError(
      `lstsq: the right-hand side must have shape [${m}] or [${m}, columns] for a ${formatShape(a.shape)} matrix but has ${formatShape(b.shape)}`,
    );
  }
  const shape = [n, ...b.shape.slice(1)];
  const [matrix, right] = await Promise.all([readFloats("lstsq", a), readFloats("lstsq", b)]);
  const x = inWorkspace(destination.backend, lstsqSize(m, n, columns), (space) => lstsqIn(space, matrix, m, n, right, columns));
  return toTensor("lstsq", x, shape, destination);
}

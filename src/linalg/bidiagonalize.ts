import type { MatrixBlock } from "../tensor/index.ts";
import { part, type Workspace } from "./arithmetic.ts";
import { reflect, type Reflections } from "./reflections.ts";

/** An upper bidiagonal matrix. */
export interface Bidiagonal {
  readonly diagonal: Float64Array;
  /** `offDiagonal[i]` stands beside `diagonal[i]`, in row i; the last element is 0. */
  readonly offDiagonal: Float64Array;
}

/** A = L B Rᵀ with orthogonal L [m, n] and R [n, n]: products of reflections that turn rows X into X Lᵀ and X Rᵀ. */
export interface BidiagonalReduction extends Bidiagonal {
  readonly left: Reflections;
  readonly right: Reflections;
}

/** Rows and columns that are reduced before their reflections are applied to the rest. */
const PANEL = 32;

/** Numbers that `bidiagonalize` takes from a workspace. */
export const bidiagonalSize = (m: number, n: number): number => n * (m + n) + 3 * PANEL * (m + n) + 2 * PANEL;

/**
 * Reduces a matrix [m, n] with m ≥ n to upper bidiagonal form.
 *
 * Householder's method by panels (Dongarra, Hammarling & Sorensen, J. Comput. Appl. Math. 27, 1989; LAPACK's labrd): reflections clear a
 * column below the diagonal, then a row right of the element beside it, in turn. Within a panel a column or row is brought up to date
 * only when its turn comes: A is what is stored minus Σ (lₖᵀyₖ + xₖᵀrₖ), with the reflectors l and r. The rest of the matrix gets these
 * changes as one product. Of the 4·(m·n² − n³/3) operations half are that product, and half are products of the matrix with vectors,
 * which read all of it twice for each column.
 *
 * @param a [m, n], its largest entry of order 1; overwritten.
 */
export function bidiagonalize(space: Workspace, a: MatrixBlock): BidiagonalReduction {
  const { rows: m, columns: n } = a;
  const [leftTau, rightTau] = [new Float64Array(n), new Float64Array(n)];
  const order = Array.from({ length: n }, (_, i) => n - 1 - i);
  const reduction: BidiagonalReduction = {
    diagonal: new Float64Array(n),
    offDiagonal: new Float64Array(n),
    left: { y: space.matrix(n, m), tau: leftTau, order, support: (i) => [i, m] },
    right: { y: space.matrix(n, n), tau: rightTau, order: order.slice(1), support: (i) => [i + 1, n] },
  };
  // Rows x and y of the panel; then l and x, and y and r, one below the other, for the rest.
  const changes = { x: space.matrix(PANEL, m), y: space.matrix(PANEL, n) };
  const stacks = [space.matrix(2 * PANEL, m), space.matrix(2 * PANEL, n)] as const;
  const work = space.matrix(2, PANEL);
  for (let start = 0; start < n; start += PANEL) {
    const count = Math.min(PANEL, n - start);
    reducePanel(space, a, reduction, changes, start, count, work);
    const end = start + count;
    if (end === n) break;
    const [tall, wide] = [part(stacks[0], 0, end, 2 * count, m - end), part(stacks[1], 0, end, 2 * count, n - end)];
    for (let r = 0; r < count; r++) {
      copyRow(reduction.left.y, start + r, tall, r, end);
      copyRow(changes.x, r, tall, count + r, end);
      copyRow(changes.y, r, wide, r, end);
      copyRow(reduction.right.y, start + r, wide, count + r, end);
    }
    space.arithmetic.product(part(a, end, end, m - end, n - end), tall, wide, { transposeA: true, scale: -1, add: true });
  }
  return reduction;
}

/** Reduces columns and rows `[start, start + count)`. Row r of the changes belongs to reflection start + r. */
function reducePanel(
  { arithmetic }: Workspace,
  a: MatrixBlock,
  { diagonal, offDiagonal, left, right }: BidiagonalReduction,
  changes: { readonly x: MatrixBlock; readonly y: MatrixBlock },
  start: number,
  count: number,
  work: MatrixBlock,
): void {
  const { rows: m, columns: n } = a;
  const { data } = a;
  const [c, d] = [part(work, 0, 0, 1, PANEL), part(work, 1, 0, 1, PANEL)];
  for (let done = 0; done < count; done++) {
    const i = start + done;
    // Of the changes so far, the columns from `from` on.
    const l = (from: number, rows = done): MatrixBlock => part(left.y, start, from, rows, m - from);
    const x = (from: number): MatrixBlock => part(changes.x, 0, from, done, m - from);
    const y = (from: number, rows = done): MatrixBlock => part(changes.y, 0, from, rows, n - from);
    const r = (from: number): MatrixBlock => part(right.y, start, from, done, n - from);

    const column = part(left.y, i, i, 1, m - i);
    for (let k = 0; k < column.columns; k++) data[column.at + k] = data[a.at + (i + k) * a.stride + i]!;
    columnOf(c, y(i), 0);
    columnOf(d, r(i), 0);
    arithmetic.addRows(column, c, l(i), -1);
    arithmetic.addRows(column, d, x(i), -1);
    const down = reflect(data, column.at, column.columns);
    diagonal[i] = down.beta;
    left.tau[i] = down.tau;
    if (i + 1 === n) return;

    // y = τ (A − Σ …)ᵀ l
    const ownY = part(changes.y, done, i + 1, 1, n - i - 1);
    data.fill(0, ownY.at, ownY.at + ownY.columns);
    arithmetic.addRows(ownY, column, part(a, i, i + 1, m - i, n - i - 1), down.tau);
    arithmetic.timesVector(c, l(i), column);
    arithmetic.timesVector(d, x(i), column);
    arithmetic.addRows(ownY, c, y(i + 1), -down.tau);
    arithmetic.addRows(ownY, d, r(i + 1), -down.tau);

    const row = part(right.y, i, i + 1, 1, n - i - 1);
    data.set(data.subarray(a.at + i * a.stride + i + 1, a.at + i * a.stride + n), row.at);
    columnOf(c, l(i, done + 1), 0);
    columnOf(d, x(i), 0);
    arithmetic.addRows(row, c, y(i + 1, done + 1), -1);
    arithmetic.addRows(row, d, r(i + 1), -1);
    const across = reflect(data, row.at, row.columns);
    offDiagonal[i] = across.beta;
    right.tau[i] = across.tau;

    // x = τ (A − Σ …) r
    const ownX = part(changes.x, done, i + 1, 1, m - i - 1);
    arithmetic.timesVector(ownX, part(a, i + 1, i + 1, m - i - 1, n - i - 1), row);
    arithmetic.timesVector(c, y(i + 1, done + 1), row);
    arithmetic.timesVector(d, r(i + 1), row);
    arithmetic.addRows(ownX, c, l(i + 1, done + 1), -1);
    arithmetic.addRows(ownX, d, x(i + 1), -1);
    for (let k = 0; k < ownX.columns; k++) data[ownX.at + k]! *= across.tau;
  }
}

/** Column j of a block as a vector. */
function columnOf(to: MatrixBlock, from: MatrixBlock, j: number): void {
  for (let k = 0; k < from.rows; k++) to.data[to.at + k] = from.data[from.at + k * from.stride + j]!;
}

/** Row i from column `from` on becomes row j. */
function copyRow(a: MatrixBlock, i: number, to: MatrixBlock, j: number, from: number): void {
  const at = a.at + i * a.stride + from;
  to.data.set(a.data.subarray(at, at + to.columns), to.at + j * to.stride);
}

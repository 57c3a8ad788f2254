import type { MatrixBlock } from "../tensor/index.ts";
import { part, type Workspace } from "./arithmetic.ts";
import { negligible } from "./scaling.ts";
import type { Reflections } from "./reflections.ts";
import { addScaled, dot, largestMagnitude } from "./vectors.ts";

/** A symmetric tridiagonal matrix. */
export interface Tridiagonal {
  readonly diagonal: Float64Array;
  /** `offDiagonal[i]` couples rows i and i + 1; the last element is 0. */
  readonly offDiagonal: Float64Array;
}

/** A = Q T Qᵀ with Q = Hₙ₋₁ Hₙ₋₂ ⋯ H₁: reflections that turn rows X into X Qᵀ. */
export interface Reduction extends Tridiagonal {
  /** Hᵢ acts on the first i coordinates. */
  readonly reflections: Reflections;
}

/** Rows that are reduced before their reflections are applied to the rest. */
const PANEL = 32;
/** Numbers that `tridiagonalize` takes from a workspace. */
export const reductionSize = (n: number): number => 5 * PANEL * n + 4 * PANEL;

/**
 * Reduces a symmetric matrix to tridiagonal form in place.
 *
 * Householder's method by panels (Dongarra, Hammarling & Sorensen, J. Comput. Appl. Math. 27, 1989; LAPACK's latrd): rows are
 * cleared from the last to the second, each by a reflection of the coordinates before it. Within a panel a row is brought up to date
 * only when its turn comes; the rest of the matrix gets the 2·PANEL rank-one changes of a panel as one product. Of the 4/3·n³
 * operations half are that product, and half are products of the matrix with vectors, which read all of it for each row.
 *
 * @param a [n, n]; only the lower triangle is read. The largest entry should be of order 1 (`eighHost` scales).
 */
export function tridiagonalize(space: Workspace, a: MatrixBlock): Reduction {
  const n = a.rows;
  const order = Array.from({ length: Math.max(0, n - 1) }, (_, i) => i + 1);
  const reduction: Reduction = {
    reflections: { y: a, tau: new Float64Array(n), order, support: (i) => [0, i] },
    diagonal: new Float64Array(n),
    offDiagonal: new Float64Array(n),
  };
  const w = space.matrix(PANEL, n);
  const pairs = [space.matrix(2 * PANEL, n), space.matrix(2 * PANEL, n)] as const;
  const work = space.matrix(4, PANEL);
  for (let size = n; size > 0; size -= PANEL) {
    const count = Math.min(PANEL, size);
    reducePanel(space, reduction, size, count, w, work);
    const rest = size - count;
    if (rest > 0) updateRest(space, a, rest, count, w, pairs);
  }
  return reduction;
}

/** Reduces rows `[size − count, size)`. Row r of W belongs to row size − count + r of A. */
function reducePanel(space: Workspace, reduction: Reduction, size: number, count: number, w: MatrixBlock, work: MatrixBlock): void {
  const { diagonal, offDiagonal } = reduction;
  const { y: a, tau } = reduction.reflections;
  const { arithmetic } = space;
  const { data } = a;
  const first = size - count;
  const [c, d] = [part(work, 0, 0, 1, PANEL), part(work, 1, 0, 1, PANEL)];
  for (let i = size - 1; i >= first; i--) {
    const row = part(a, i, 0, 1, i);
    const done = size - 1 - i; // reflections of this panel so far
    // Of those, what reaches up to column i: A − Σ (v wᵀ + w vᵀ) is what row i should be.
    const v = part(a, i + 1, 0, done, i + 1);
    const u = part(w, i + 1 - first, 0, done, i + 1);
    for (let r = 0; r < done; r++) {
      c.data[c.at + r] = v.data[v.at + r * v.stride + i]!;
      d.data[d.at + r] = u.data[u.at + r * u.stride + i]!;
    }
    arithmetic.addRows(row, c, u, -1);
    arithmetic.addRows(row, d, v, -1);
    diagonal[i] = data[row.at + i]!;
    if (i === 0) return;
    offDiagonal[i - 1] = reflect(data, row.at, i, tau, i);
    // w = τ (A − Σ …) v, then w − ½ τ (wᵀv) v: with it H A H = A − v wᵀ − w vᵀ.
    const own = part(w, i - first, 0, 1, i);
    const t = tau[i]!;
    if (t === 0) {
      own.data.fill(0, own.at, own.at + i);
      continue;
    }
    arithmetic.symmetricTimesVector(own, part(a, 0, 0, i, i), row);
    const [vi, ui] = [part(v, 0, 0, done, i), part(u, 0, 0, done, i)];
    arithmetic.timesVector(c, ui, row);
    arithmetic.timesVector(d, vi, row);
    arithmetic.addRows(own, c, vi, -1);
    arithmetic.addRows(own, d, ui, -1);
    for (let k = 0; k < i; k++) own.data[own.at + k]! *= t;
    addScaled(own.data, own.at, (-t / 2) * dot(own.data, own.at, data, row.at, i), data, row.at, i);
  }
}

/**
 * Turns the first `length` elements x of a row into the v of a reflection with H x = β·e_last, v_last = 1, in place.
 * β takes the sign opposite to x_last, so that nothing cancels.
 * @returns β.
 */
function reflect(data: Float64Array, at: number, length: number, tau: Float64Array, index: number): number {
  const last = data[at + length - 1]!;
  if (largestMagnitude(data, at, length - 1) <= negligible) {
    data.fill(0, at, at + length - 1);
    data[at + length - 1] = 1;
    tau[index] = 0;
    return last;
  }
  const norm = Math.sqrt(dot(data, at, data, at, length));
  const beta = last > 0 ? -norm : norm;
  const divisor = last - beta;
  for (let k = 0; k < length - 1; k++) data[at + k]! /= divisor;
  data[at + length - 1] = 1;
  tau[index] = -divisor / beta;
  return beta;
}

/** A − Σ (v wᵀ + w vᵀ) on the leading `rest` rows, as one product of twice the depth. */
function updateRest(
  space: Workspace,
  a: MatrixBlock,
  rest: number,
  count: number,
  w: MatrixBlock,
  pairs: readonly [MatrixBlock, MatrixBlock],
): void {
  const v = part(a, rest, 0, count, rest);
  const own = part(w, 0, 0, count, rest);
  const [left, right] = [part(pairs[0], 0, 0, 2 * count, rest), part(pairs[1], 0, 0, 2 * count, rest)];
  for (let r = 0; r < count; r++) {
    copyRow(v, r, left, r, rest);
    copyRow(own, r, left, count + r, rest);
    copyRow(own, r, right, r, rest);
    copyRow(v, r, right, count + r, rest);
  }
  space.arithmetic.product(part(a, 0, 0, rest, rest), left, right, { transposeA: true, scale: -1, add: true, lower: true });
}

function copyRow(from: MatrixBlock, i: number, to: MatrixBlock, j: number, length: number): void {
  const at = from.at + i * from.stride;
  to.data.set(from.data.subarray(at, at + length), to.at + j * to.stride);
}

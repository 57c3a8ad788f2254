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
export const reductionSize = (n: number): number => 4 * PANEL * (n + 1);

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
  const [pairs, swapped] = [space.matrix(2 * PANEL, n), space.matrix(2 * PANEL, n)];
  const work = space.matrix(2, 2 * PANEL);
  for (let size = n; size > 0; size -= PANEL) {
    const count = Math.min(PANEL, size);
    reducePanel(space, reduction, size, count, pairs, work);
    const rest = size - count;
    if (rest > 0) updateRest(space, part(a, 0, 0, rest, rest), part(pairs, 0, 0, 2 * count, rest), part(swapped, 0, 0, 2 * count, rest));
  }
  return reduction;
}

/**
 * Reduces rows `[size − count, size)`. A reflection's v and w, with H A H = A − v wᵀ − w vᵀ, are two rows of `pairs`, those of row
 * size − count + r the rows 2r and 2r + 1.
 */
// prettier-ignore
function reducePanel(
  space: Workspace, reduction: Reduction, size: number, count: number, pairs: MatrixBlock, work: MatrixBlock,
): void {
  const { diagonal, offDiagonal } = reduction;
  const { y: a, tau } = reduction.reflections;
  const { arithmetic } = space;
  const { data } = a;
  const first = size - count;
  const [c, products] = [part(work, 0, 0, 1, 2 * PANEL), part(work, 1, 0, 1, 2 * PANEL)];
  for (let i = size - 1; i >= first; i--) {
    const row = part(a, i, 0, 1, i);
    // The pairs of this panel so far, up to column i: A − Σ (v wᵀ + w vᵀ) is what row i should be.
    const done = 2 * (size - 1 - i);
    const known = part(pairs, 2 * (i + 1 - first), 0, done, i + 1);
    for (let r = 0; r < done; r++) c.data[c.at + (r ^ 1)] = known.data[known.at + r * known.stride + i]!;
    arithmetic.addRows(row, c, known, -1);
    diagonal[i] = data[row.at + i]!;
    if (i === 0) return;
    offDiagonal[i - 1] = reflect(data, row.at, i, tau, i);
    const [v, w] = [part(pairs, 2 * (i - first), 0, 1, i), part(pairs, 2 * (i - first) + 1, 0, 1, i)];
    v.data.set(data.subarray(row.at, row.at + i), v.at);
    const t = tau[i]!;
    if (t === 0) {
      w.data.fill(0, w.at, w.at + i);
      continue;
    }
    // w = τ (A − Σ …) v, then w − ½ τ (wᵀv) v.
    arithmetic.symmetricTimesVector(w, part(a, 0, 0, i, i), v);
    const before = part(known, 0, 0, done, i);
    arithmetic.timesVector(products, before, v);
    for (let r = 0; r < done; r++) c.data[c.at + (r ^ 1)] = products.data[products.at + r]!;
    arithmetic.addRows(w, c, before, -1);
    for (let k = 0; k < i; k++) w.data[w.at + k]! *= t;
    addScaled(w.data, w.at, (-t / 2) * dot(w.data, w.at, v.data, v.at, i), v.data, v.at, i);
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

/** A − Σ (v wᵀ + w vᵀ) on the leading rows, as one product of twice the depth. @param swapped room for w, v. */
function updateRest({ arithmetic }: Workspace, a: MatrixBlock, pairs: MatrixBlock, swapped: MatrixBlock): void {
  for (let r = 0; r < pairs.rows; r++) {
    const at = pairs.at + r * pairs.stride;
    swapped.data.set(pairs.data.subarray(at, at + pairs.columns), swapped.at + (r ^ 1) * swapped.stride);
  }
  arithmetic.product(a, pairs, swapped, { transposeA: true, scale: -1, add: true, lower: true });
}

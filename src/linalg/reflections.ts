import type { MatrixBlock } from "../tensor/index.ts";
import { part, type Workspace } from "./arithmetic.ts";
import { negligible } from "./scaling.ts";
import { addScaled, divide, dot, largestMagnitude } from "./vectors.ts";

/*
 * Householder reflections H = I − τ yᵀy of row vectors, and products of them in groups I − YᵀTY with a triangular T (Schreiber & Van Loan,
 * SIAM J. Sci. Stat. Comput. 10, 1989).
 */

/** Reflections in the order in which they act on rows X from the right: X H₁ H₂ ⋯. */
export interface Reflections {
  /** Row i holds yᵢ within its support; what is stored outside of it means nothing. */
  readonly y: MatrixBlock;
  readonly tau: Float64Array;
  /** The rows that act, one after another. The support of each contains that of the one before. */
  readonly order: readonly number[];
  /** First column of yᵢ, and the one after its last. */
  readonly support: (i: number) => readonly [from: number, to: number];
}

/** Reflections that are applied together. */
const GROUP = 64;

/** Numbers that `applyReflections` takes from a workspace, for vectors of n elements. */
export const applySize = (n: number): number => GROUP * n + 2 * GROUP * GROUP;

/**
 * Turns the first `length` elements x of a row into the y of a reflection with x H = β·e₁, y₁ = 1, in place.
 * β takes the sign opposite to x₁, so that nothing cancels.
 */
export function reflect(data: Float64Array, at: number, length: number): { beta: number; tau: number } {
  const first = data[at]!;
  if (largestMagnitude(data, at + 1, length - 1) <= negligible) {
    data.fill(0, at + 1, at + length);
    data[at] = 1;
    return { beta: first, tau: 0 };
  }
  const norm = Math.sqrt(dot(data, at, data, at, length));
  const beta = first > 0 ? -norm : norm;
  const divisor = first - beta;
  divide(data, at + 1, divisor, length - 1);
  data[at] = 1;
  return { beta, tau: -divisor / beta };
}

/** X ← X H₁ H₂ ⋯ in groups. 4·rows operations for each element of a support. */
export function applyReflections(space: Workspace, { y, tau, order, support }: Reflections, x: MatrixBlock): void {
  const panel = space.matrix(GROUP, y.columns);
  const [gram, triangle] = [space.matrix(GROUP, GROUP), space.matrix(GROUP, GROUP)];
  for (let start = 0; start < order.length; start += GROUP) {
    const group = order.slice(start, start + GROUP);
    const count = group.length;
    const [left, right] = support(group[count - 1]!);
    const own = part(panel, 0, 0, count, right - left);
    group.forEach((i, r) => {
      const [from, to] = support(i);
      const row = own.at + r * own.stride;
      own.data.fill(0, row, row + own.columns);
      own.data.set(y.data.subarray(y.at + i * y.stride + from, y.at + i * y.stride + to), row + from - left);
    });
    const [products, t] = [part(gram, 0, 0, count, count), part(triangle, 0, 0, count, count)];
    space.arithmetic.product(products, own, own, { transposeB: true });
    triangleOf(
      t,
      products,
      group.map((i) => tau[i]!),
    );
    space.arithmetic.reflectRows(part(x, 0, left, x.rows, right - left), own, t, { transposeT: true });
  }
}

/**
 * Tᵀ with H₁ H₂ ⋯ = I − Yᵀ T Y: column j of T is −τⱼ T (Y yⱼ) over τⱼ. `products` is Y Yᵀ. A column is a row here, so that its sums go on side
 * by side, where the terms of each sum by itself would wait for each other.
 */
function triangleOf({ data, at, stride, rows }: MatrixBlock, products: MatrixBlock, tau: readonly number[]): void {
  for (let j = 0; j < rows; j++) {
    const [own, column] = [tau[j]!, at + j * stride];
    data.fill(0, column, column + rows);
    for (let k = 0; k < j; k++)
      addScaled(data, column, -products.data[products.at + k * products.stride + j]!, data, at + k * stride, k + 1);
    for (let i = 0; i < j; i++) data[column + i]! *= own;
    data[column + j] = own;
  }
}

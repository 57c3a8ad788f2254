import type { MatrixBlock, SecularEquation, VectorBlock } from "../tensor/index.ts";
import { part, plainArithmetic, type Workspace } from "./arithmetic.ts";
import { copy } from "./vectors.ts";

/*
 * What the divide and conquer methods for eigenvalues and for singular values have in common: vectors of two parts, stored as rows, of
 * which the upper part's end before column `middle` and the lower part's begin there, become those of the whole as S times them.
 */

/** Where a vector of one of the parts has elements that are not 0: a rotation may mix both. */
export const [TOP, BOTH, BOTTOM] = [0, 1, 2] as const;

/** Rows that the secular equation is about, with ascending poles; those that are left as they are; and what has elements where. */
export interface Deflation {
  readonly kept: readonly number[];
  readonly deflated: readonly number[];
  readonly kind: Uint8Array;
}

/** How rows of old vectors become rows of new ones. */
export interface Merge extends Deflation {
  /** The columns of S, as indices of `kept`, in the order of where the old vectors have elements, so that zeros are not multiplied. */
  readonly order: readonly number[];
  /** How many of `order`, from the first, have elements above; and how many, from the last, below. */
  readonly above: number;
  readonly below: number;
  /** For each place the row that comes there: an index of the new vectors, and after those of `deflated`. */
  readonly sorted: readonly number[];
}

/** @param values of the new vectors, ascending, and after them of the deflated ones; @returns the merge that sorts all. */
export function planMerge(deflation: Deflation, values: readonly number[]): Merge {
  const { kept, kind } = deflation;
  const [top, both, bottom]: [number[], number[], number[]] = [[], [], []];
  kept.forEach((i, c) => (kind[i] === TOP ? top : kind[i] === BOTH ? both : bottom).push(c));
  const indices = [...values.keys()];
  const others = indices.slice(kept.length).sort((a, b) => values[a]! - values[b]!);
  return {
    ...deflation,
    order: [...top, ...both, ...bottom],
    above: top.length + both.length,
    below: both.length + bottom.length,
    sorted: merged(indices.slice(0, kept.length), others, values),
  };
}

/** Two lists of indices of which each is in the order of its values, as one; among equals those of the first list come first. */
export function merged(first: readonly number[], second: readonly number[], values: ArrayLike<number>): number[] {
  const result: number[] = [];
  let next = 0;
  for (const other of second) {
    while (next < first.length && values[first[next]!]! <= values[other]!) result.push(first[next++]!);
    result.push(other);
  }
  return result.concat(first.slice(next));
}

/** Numbers of a workspace for a `SecularRoom` of merges of up to n vectors. */
export const secularSize = (n: number): number => 6 * n;

/** Vectors of a workspace for the secular equation of a merge, its roots, and the vectors that belong to them. */
export interface SecularRoom {
  readonly d: VectorBlock;
  readonly weights: VectorBlock;
  readonly roots: VectorBlock;
  readonly z: VectorBlock;
  readonly numerators: VectorBlock;
  readonly order: VectorBlock;
}

export function secularRoom(space: Workspace, n: number): SecularRoom {
  const vector = (): VectorBlock => space.matrix(1, n);
  return { d: vector(), weights: vector(), roots: vector(), z: vector(), numerators: vector(), order: vector() };
}

/** Solves an equation. @param differences as for `secularRoots`. @returns the roots, and z with the signs of the given one. */
export function solveSecular(
  space: Workspace,
  room: SecularRoom,
  { d, z, rho, squared }: { readonly d: readonly number[]; readonly z: readonly number[]; readonly rho: number; readonly squared: boolean },
  differences: MatrixBlock,
): { readonly roots: Float64Array; readonly z: readonly number[] } {
  const weights = z.map((element) => rho * element * element);
  const equation: SecularEquation = { size: d.length, squared, d: write(room.d, d), weights: write(room.weights, weights) };
  space.arithmetic.secularRoots(room.roots, differences, equation);
  space.arithmetic.lowner(room.z, differences, equation);
  return { roots: read(room.roots, z.length), z: z.map((element, i) => Math.sign(element) * room.z.data[room.z.at + i]!) };
}

/** Writes a vector into a workspace. */
export function write(to: VectorBlock, values: readonly number[]): VectorBlock {
  to.data.set(values, to.at);
  return to;
}

const read = ({ data, at }: VectorBlock, size: number): Float64Array => data.slice(at, at + size);

/** A matrix [k, k] in the memory of a larger one. */
export function leading({ data, at }: MatrixBlock, k: number): MatrixBlock {
  return { data, at, rows: k, columns: k, stride: k };
}

/** Products of fewer rows are not worth a call of a kernel. */
const SMALL = 16;

/**
 * Replaces rows of V by S times those kept, and by the deflated ones, sorted.
 * @param s [k, k], its columns in the merge's order. @param old room for k rows of V.
 */
export function recombine(space: Workspace, v: MatrixBlock, middle: number, s: MatrixBlock, merge: Merge, old: MatrixBlock): void {
  const { kept, deflated, order, above, below } = merge;
  const k = kept.length;
  const columns = v.columns;
  // New vectors are computed in the place of the old ones, of which copies are kept.
  const rows = order.map((c) => kept[c]!);
  const top = copyRows(v, rows.slice(0, above), 0, middle, old.data, old.at);
  const bottom = copyRows(v, rows.slice(k - below), middle, columns - middle, old.data, old.at + above * middle);
  const untouched = copyRows(v, deflated, 0, columns, new Float64Array(deflated.length * columns), 0);
  const arithmetic = k < SMALL ? plainArithmetic : space.arithmetic;
  arithmetic.product(part(v, 0, 0, k, middle), part(s, 0, 0, k, above), top);
  arithmetic.product(part(v, 0, middle, k, columns - middle), part(s, 0, k - below, k, below), bottom);
  arrange(v, merge, untouched);
}

/** Copies columns `[column, column + columns)` of some rows. */
function copyRows(v: MatrixBlock, rows: readonly number[], column: number, columns: number, data: Float64Array, at: number): MatrixBlock {
  rows.forEach((row, i) => {
    copy(data, at + i * columns, v.data, v.at + row * v.stride + column, columns);
  });
  return { data, at, rows: rows.length, columns, stride: columns };
}

/** Puts rows of V, of which the first are new and ascend, and the others are `untouched`, in their places. */
function arrange(v: MatrixBlock, { kept, sorted }: Merge, untouched: MatrixBlock): void {
  const k = kept.length;
  const { columns } = v;
  // New ones only ever move down, so from the last one on none is overwritten before it has moved.
  for (let place = sorted.length - 1; place >= 0; place--) {
    const source = sorted[place]!;
    const to = v.at + place * v.stride;
    if (source >= k || source === place) continue;
    copy(v.data, to, v.data, v.at + source * v.stride, columns);
  }
  sorted.forEach((source, place) => {
    if (source < k) return;
    copy(v.data, v.at + place * v.stride, untouched.data, untouched.at + (source - k) * columns, columns);
  });
}

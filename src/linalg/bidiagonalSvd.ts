import { machineEpsilon, type MatrixBlock } from "../tensor/index.ts";
import { part, type Workspace } from "./arithmetic.ts";
import type { Bidiagonal } from "./bidiagonalize.ts";
import {
  BOTH,
  BOTTOM,
  leading,
  planMerge,
  recombine,
  secularRoom,
  secularSize,
  solveSecular,
  TOP,
  write,
  type Deflation,
  type SecularRoom,
} from "./merging.ts";
import { negligible } from "./scaling.ts";
import { largestMagnitude, rotate } from "./vectors.ts";

const epsilon = machineEpsilon.float64;

/** Numbers that `bidiagonalSvd` takes from a workspace. */
export const bidiagonalSvdSize = (n: number): number => 3 * n * (n + 1) + secularSize(n);

/**
 * Singular value decomposition of an upper bidiagonal matrix B [n, n + 1] by divide and conquer (Gu & Eisenstat, SIAM J. Matrix Anal.
 * Appl. 16, 1995, and Yale report RR-1014; LAPACK's bdsdc): without its middle row, B falls into two smaller ones, which have one column more than
 * rows too, down to single rows. In the bases of their singular vectors the whole is a diagonal matrix with the middle row z on top,
 * whose first diagonal element is 0. The squares of its singular values are the roots of 1 + Σ zᵢ² / (dᵢ² − σ²) = 0, and its vectors are
 *
 *     right  zᵢ / (dᵢ² − σ²)      left  −1, then dᵢ zᵢ / (dᵢ² − σ²)
 *
 * up to their lengths. Two products of twice the size of those for eigenvalues are nearly all of the work, and much less where elements
 * of z are negligible or elements of d coincide ("deflation").
 *
 * @param b its largest entry should be of order 1; its last off-diagonal element is the last column's. Afterwards the diagonal holds the
 *   singular values, ascending.
 * @param u [n, n], written: row j is the left singular vector of value j.
 * @param v [n + 1, n + 1], written: row j is the right one; the last row is orthogonal to all others. Where the last off-diagonal element
 *   is 0, that is the last coordinate vector, but for the sign.
 */
export function bidiagonalSvd(space: Workspace, b: Bidiagonal, u: MatrixBlock, v: MatrixBlock): void {
  const n = u.rows;
  for (const block of [u, v]) {
    for (let i = 0; i < block.rows; i++) block.data.fill(0, block.at + i * block.stride, block.at + i * block.stride + block.columns);
  }
  const room: Room = { left: space.matrix(n, n), right: space.matrix(n, n), old: space.matrix(n, n + 1), secular: secularRoom(space, n) };
  const solve = (from: number, to: number): void => {
    const size = to - from;
    const [own, other] = [part(u, from, from, size, size), part(v, from, from, size + 1, size + 1)];
    if (size === 0) other.data[other.at] = 1;
    else if (size === 1) solveRow(b, from, own, other);
    else {
      const middle = from + (size >> 1);
      solve(from, middle);
      solve(middle + 1, to);
      own.data[own.at + (middle - from) * (own.stride + 1)] = 1;
      const [alpha, beta] = [b.diagonal[middle]!, b.offDiagonal[middle]!];
      merge(space, b.diagonal.subarray(from, to), own, other, middle - from, alpha, beta, room);
    }
  };
  solve(0, n);
}

interface Room {
  readonly left: MatrixBlock;
  readonly right: MatrixBlock;
  readonly old: MatrixBlock;
  readonly secular: SecularRoom;
}

/** A single row (α, β): its only singular value is its length. */
function solveRow(b: Bidiagonal, i: number, u: MatrixBlock, v: MatrixBlock): void {
  const [alpha, beta] = [b.diagonal[i]!, b.offDiagonal[i]!];
  const { length, cosine: c, sine: s } = direction(alpha, beta);
  b.diagonal[i] = length;
  u.data[u.at] = 1;
  v.data[v.at] = c;
  v.data[v.at + 1] = s;
  v.data[v.at + v.stride] = -s;
  v.data[v.at + v.stride + 1] = c;
}

/** Length and direction of (x, y). Negligible numbers count as 0: subnormal ones have too few digits for a rotation that is orthogonal. */
function direction(x: number, y: number): { length: number; cosine: number; sine: number } {
  const length = Math.hypot(x, y);
  return length <= negligible ? { length: 0, cosine: 1, sine: 0 } : { length, cosine: x / length, sine: y / length };
}

/** From the triplets of the rows before and after row `m`, which is (…, 0, α, β, 0, …), to those of the whole. */
// prettier-ignore
function merge(
  space: Workspace, d: Float64Array, u: MatrixBlock, v: MatrixBlock, m: number, alpha: number, beta: number, room: Room,
): void {
  const size = d.length;
  // z: the middle row in the basis of the right vectors. The last column of the upper part's, and the first one of the lower part's.
  const z = new Float64Array(size);
  for (let i = 0; i < size; i++) z[i] = i < m ? alpha * v.data[v.at + i * v.stride + m]! : beta * v.data[v.at + i * v.stride + m + 1]!;
  // Each part has a vector without a value. Of the two, one combination has all of the middle row, and the other one none.
  const [first, second] = [alpha * v.data[v.at + m * (v.stride + 1)]!, beta * v.data[v.at + size * v.stride + m + 1]!];
  const { length, cosine, sine } = direction(first, second);
  rotate(v.data, v.at + m * v.stride, v.at + size * v.stride, cosine, -sine, size + 1);
  [d[m], z[m]] = [0, length];
  const deflation = deflate(d, z, u, v, m, Math.max(Math.abs(alpha), Math.abs(beta)));
  const { kept, deflated } = deflation;

  const k = kept.length;
  const [left, right] = [leading(room.left, k), leading(room.right, k)];
  // Until the vectors are recombined, nothing else is where the old ones will be.
  const differences = leading(room.old, k);
  const problem = { d: kept.map((i) => d[i]!), z: kept.map((i) => z[i]!), rho: 1, squared: true };
  // The middle row alone has its length as its value.
  const solution = k > 1 ? solveSecular(space, room.secular, problem, differences) : { roots: problem.z, z: problem.z };
  const values = [...solution.roots, ...deflated.map((i) => d[i]!)];
  const plan = planMerge(deflation, values);
  if (k > 1) {
    const { numerators } = room.secular;
    const order = write(room.secular.order, plan.order);
    space.arithmetic.unitRows(right, differences, write(numerators, solution.z), order);
    const products = solution.z.map((element, i) => problem.d[i]! * element);
    space.arithmetic.unitRows(left, differences, write(numerators, products), order, -1);
  } else left.data[left.at] = right.data[right.at] = 1;
  recombine(space, u, m + 1, left, plan, room.old);
  recombine(space, part(v, 0, 0, size, size + 1), m + 1, right, plan, room.old);
  plan.sorted.forEach((source, place) => (d[place] = values[source]!));
}

/**
 * Finds triplets that are some of the whole within rounding: those with a negligible element of z; of two with nearly equal values one,
 * after a rotation of both its vectors that makes its element of z zero; and those with a negligible value, whose right vector is rotated
 * with that of the middle row.
 * @returns the others, the middle row first.
 */
function deflate(d: Float64Array, z: Float64Array, u: MatrixBlock, v: MatrixBlock, m: number, largest: number): Deflation {
  const size = d.length;
  const kind = Uint8Array.from(d, (_, i) => (i < m ? TOP : i > m ? BOTTOM : BOTH));
  const tolerance = Math.max(8 * epsilon * Math.max(largestMagnitude(d), largest), negligible);
  const [kept, deflated]: [number[], number[]] = [[m], []];
  let previous = m;
  for (const i of [...d.keys()].filter((i) => i !== m).sort((a, b) => d[a]! - d[b]!)) {
    if (Math.abs(z[i]!) <= tolerance) {
      deflated.push(i);
      continue;
    }
    const [a, b] = [d[previous]!, d[i]!];
    const length = Math.hypot(z[previous]!, z[i]!);
    const [cosine, sine] = [z[i]! / length, z[previous]! / length];
    if (previous === m) {
      if (b * Math.abs(cosine) <= tolerance) {
        rotate(v.data, v.at + m * v.stride, v.at + i * v.stride, sine, -cosine, size + 1);
        [z[m], z[i], d[i]] = [length, 0, b * sine];
        deflated.push(i);
        continue;
      }
    } else if (Math.abs((b - a) * cosine * sine) <= tolerance) {
      [z[previous], z[i]] = [0, length];
      for (const block of [u, v]) {
        rotate(block.data, block.at + previous * block.stride, block.at + i * block.stride, cosine, sine, block.columns);
      }
      d[previous] = a * cosine * cosine + b * sine * sine;
      d[i] = a * sine * sine + b * cosine * cosine;
      if (kind[previous] !== kind[i]) kind[previous] = kind[i] = BOTH;
      kept.pop();
      deflated.push(previous);
    }
    kept.push(i);
    previous = i;
  }
  // With less, the equation would not have the middle row's pole; this changes the matrix by rounding.
  if (kept.length > 1) z[m] = Math.max(z[m]!, tolerance);
  return { kept, deflated, kind };
}

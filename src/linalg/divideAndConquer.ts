import { machineEpsilon, type MatrixBlock } from "../tensor/index.ts";
import { part, type Workspace } from "./arithmetic.ts";
import {
  BOTH,
  BOTTOM,
  leading,
  merged,
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
import { implicitQl } from "./ql.ts";
import type { Tridiagonal } from "./tridiagonalize.ts";
import { largestMagnitude, rotate } from "./vectors.ts";

const epsilon = machineEpsilon.float64;
/** Matrices up to this size are left to QL. */
const LEAF = 32;

/** Numbers that `divideAndConquer` takes from a workspace. */
export const conquestSize = (n: number): number => 2 * n * n + secularSize(n);

/**
 * Eigendecomposition of a tridiagonal matrix by divide and conquer (Cuppen, Numer. Math. 36, 1981; Gu & Eisenstat, SIAM J. Matrix
 * Anal. Appl. 16, 1995): T is two smaller tridiagonal matrices plus a change of rank one. With the eigenvectors V of the halves, that
 * is diag(d) + ρ z zᵀ, whose eigenvalues are the roots of the secular equation and whose eigenvectors S are given by them; then S V
 * are the eigenvectors of T. That product is nearly all of the work, 4/3·n³ operations at most, and much less where entries of z
 * are negligible or elements of d coincide ("deflation"): they are eigenpairs already.
 *
 * @param t its largest entry should be of order 1. Afterwards the diagonal holds the eigenvalues, ascending.
 * @param v [n, n], written: row j is the unit eigenvector of eigenvalue j.
 * @throws NumericalError if QL does not converge in one of the smallest parts.
 */
export function divideAndConquer(space: Workspace, t: Tridiagonal, v: MatrixBlock): void {
  const n = v.rows;
  for (let i = 0; i < n; i++) v.data.fill(0, v.at + i * v.stride, v.at + i * v.stride + n);
  const room: Room = { old: space.matrix(n, n), mixing: space.matrix(n, n), secular: secularRoom(space, n) };
  const solve = (from: number, to: number): void => {
    if (to - from <= LEAF) {
      implicitQl(t.diagonal.subarray(from, to), t.offDiagonal.subarray(from, to), part(v, from, from, to - from, to - from));
      return;
    }
    const middle = from + ((to - from) >> 1);
    // The coupling b between the halves, as |b| u uᵀ with u = e + sign(b) e′: what that puts on the diagonal is taken off there.
    const coupling = t.offDiagonal[middle - 1]!;
    const rho = Math.abs(coupling);
    t.offDiagonal[middle - 1] = 0;
    t.diagonal[middle - 1]! -= rho;
    t.diagonal[middle]! -= rho;
    solve(from, middle);
    solve(middle, to);
    const d = t.diagonal.subarray(from, to);
    merge(space, d, part(v, from, from, to - from, to - from), middle - from, rho, coupling < 0 ? -1 : 1, room);
  };
  solve(0, n);
}

interface Room {
  readonly old: MatrixBlock;
  readonly mixing: MatrixBlock;
  readonly secular: SecularRoom;
}

/** From the eigenpairs of the halves to those of the whole, of which `middle` rows are the upper half. */
// prettier-ignore
function merge(
  space: Workspace, d: Float64Array, v: MatrixBlock, middle: number, rho: number, sign: number, room: Room,
): void {
  const size = d.length;
  // z = V u, scaled to length 1: the last column of the upper half's eigenvectors and the first one of the lower half's.
  const z = new Float64Array(size);
  for (let i = 0; i < size; i++) z[i] = (i < middle ? v.data[v.at + i * v.stride + middle - 1]! : sign * v.data[v.at + i * v.stride + middle]!) * Math.SQRT1_2;
  const deflation = deflate(d, z, v, middle, 2 * rho);
  const { kept, deflated } = deflation;
  // Until the vectors are recombined, nothing else is where the old ones will be.
  const [differences, s] = [leading(room.old, kept.length), leading(room.mixing, kept.length)];
  const problem = { d: kept.map((i) => d[i]!), z: kept.map((i) => z[i]!), rho: 2 * rho, squared: false };
  const solution = solveSecular(space, room.secular, problem, differences);
  const values = [...solution.roots, ...deflated.map((i) => d[i]!)];
  const plan = planMerge(deflation, values);
  // The eigenvectors of diag(d) + ρ z zᵀ are z′ᵢ/(dᵢ − λ).
  space.arithmetic.unitRows(s, differences, write(room.secular.numerators, solution.z), write(room.secular.order, plan.order));
  recombine(space, v, middle, s, plan, room.old);
  plan.sorted.forEach((source, place) => (d[place] = values[source]!));
}

/**
 * Finds eigenpairs of the halves that are eigenpairs of the whole within rounding: those with a negligible element of z, and of two
 * with nearly equal eigenvalues one, after a rotation of the two that makes its element of z zero.
 * @returns the others, with ascending d; and what has elements where.
 */
function deflate(d: Float64Array, z: Float64Array, v: MatrixBlock, middle: number, rho: number): Deflation {
  const size = d.length;
  const kind = Uint8Array.from(d, (_, i) => (i < middle ? TOP : BOTTOM));
  const tolerance = 8 * epsilon * Math.max(largestMagnitude(d), largestMagnitude(z));
  const [kept, deflated]: [number[], number[]] = [[], []];
  let previous = -1;
  for (const i of ascending(d, middle)) {
    if (rho * Math.abs(z[i]!) <= tolerance) {
      deflated.push(i);
      continue;
    }
    if (previous >= 0) {
      const [a, b] = [d[previous]!, d[i]!];
      const length = Math.hypot(z[previous]!, z[i]!);
      const [sine, cosine] = [-z[previous]! / length, z[i]! / length];
      if (Math.abs((b - a) * cosine * sine) <= tolerance) {
        [z[previous], z[i]] = [0, length];
        rotate(v.data, v.at + previous * v.stride, v.at + i * v.stride, cosine, -sine, size);
        d[previous] = a * cosine * cosine + b * sine * sine;
        d[i] = a * sine * sine + b * cosine * cosine;
        if (kind[previous] !== kind[i]) kind[previous] = kind[i] = BOTH;
        deflated.push(previous);
      } else kept.push(previous);
    }
    previous = i;
  }
  if (previous >= 0) kept.push(previous);
  return { kept, deflated, kind };
}

/** Indices of the eigenvalues of both halves, which ascend in each, in the order of the values. */
function ascending(d: Float64Array, middle: number): number[] {
  const indices = [...d.keys()];
  return merged(indices.slice(0, middle), indices.slice(middle), d);
}

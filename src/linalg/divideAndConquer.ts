import { machineEpsilon, type MatrixBlock } from "../tensor/index.ts";
import { part, type Workspace } from "./arithmetic.ts";
import { BOTH, BOTTOM, planMerge, recombine, TOP, type Deflation } from "./merging.ts";
import { implicitQl } from "./ql.ts";
import { lowner, secularRoots } from "./secular.ts";
import type { Tridiagonal } from "./tridiagonalize.ts";
import { largestMagnitude, rotate } from "./vectors.ts";

const epsilon = machineEpsilon.float64;
/** Matrices up to this size are left to QL. */
const LEAF = 32;

/** Numbers that `divideAndConquer` takes from a workspace. */
export const conquestSize = (n: number): number => 2 * n * n;

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
  const [old, mixing] = [space.matrix(n, n), space.matrix(n, n)];
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
    merge(space, d, part(v, from, from, to - from, to - from), middle - from, rho, coupling < 0 ? -1 : 1, old, mixing);
  };
  solve(0, n);
}

/** From the eigenpairs of the halves to those of the whole, of which `middle` rows are the upper half. */
// prettier-ignore
function merge(
  space: Workspace, d: Float64Array, v: MatrixBlock, middle: number, rho: number, sign: number, old: MatrixBlock, mixing: MatrixBlock,
): void {
  const size = d.length;
  // z = V u, scaled to length 1: the last column of the upper half's eigenvectors and the first one of the lower half's.
  const z = new Float64Array(size);
  for (let i = 0; i < size; i++) z[i] = (i < middle ? v.data[v.at + i * v.stride + middle - 1]! : sign * v.data[v.at + i * v.stride + middle]!) * Math.SQRT1_2;
  const deflation = deflate(d, z, v, middle, 2 * rho);
  const { kept, deflated } = deflation;
  const k = kept.length;
  const poles = { d: Float64Array.from(kept, (i) => d[i]!), squared: false };
  const s = { data: mixing.data, at: mixing.at, rows: k, columns: k, stride: k };
  const weights = Float64Array.from(kept, (i) => z[i]!);
  const roots = secularRoots(poles, weights, 2 * rho, s);
  const values = [...roots, ...deflated.map((i) => d[i]!)];
  const merge = planMerge(deflation, values);
  eigenvectors(s, lowner(s, poles, weights), merge.order);
  recombine(space, v, middle, s, merge, old);
  merge.sorted.forEach((source, place) => (d[place] = values[source]!));
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
  for (const i of [...d.keys()].sort((a, b) => d[a]! - d[b]!)) {
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

/** Turns the differences d − λ in the rows of S into unit eigenvectors z′ᵢ/(dᵢ − λ), with their elements in the given order. */
function eigenvectors({ data, at, rows: k }: MatrixBlock, z: Float64Array, order: readonly number[]): void {
  const vector = new Float64Array(k);
  for (let j = 0; j < k; j++) {
    const row = at + j * k;
    let sum = 0;
    for (let i = 0; i < k; i++) {
      const element = z[i]! / data[row + i]!;
      vector[i] = element;
      sum += element * element;
    }
    const scale = 1 / Math.sqrt(sum);
    for (let i = 0; i < k; i++) data[row + i] = vector[order[i]!]! * scale;
  }
}

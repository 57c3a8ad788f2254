import type { MatrixBlock } from "../tensor/index.ts";
import { onHost, part, rowMajor, spreadSize, transpose, type Workspace } from "./arithmetic.ts";
import { requireFinite } from "./checks.ts";
import { conquestSize, divideAndConquer } from "./divideAndConquer.ts";
import { implicitQl } from "./ql.ts";
import { applyReflections, applySize } from "./reflections.ts";
import { factorsOfPower, powerOfTwoNear, scaleByPower } from "./scaling.ts";
import { makeRowSignsDeterministic } from "./signs.ts";
import { reductionSize, tridiagonalize } from "./tridiagonalize.ts";

export interface Eigh {
  /** The eigenvalues that were asked for, ascending. */
  readonly values: Float64Array;
  /** [n, k], row-major: column j is the unit eigenvector of `values[j]`. */
  readonly vectors: Float64Array;
}

/** Numbers of workspace for a decomposition of size n. */
export const eighSize = (n: number): number => 2 * spreadSize(n, n) + conquestSize(n) + reductionSize(n) + applySize(n);

/**
 * Eigendecomposition A = V Λ Vᵀ of a symmetric matrix, in float64: Householder tridiagonalisation by panels, divide and conquer, and
 * the reflections applied to the eigenvectors in groups. Backward stable: ‖A − V Λ Vᵀ‖ and ‖VᵀV − I‖ are a modest multiple of n·ε,
 * relative to ‖A‖. At most 14/3·n³ operations, of which all but 2/3·n³ are products of matrices.
 *
 * Eigenvalues ascend; in each eigenvector the component of largest magnitude (the first among equals) is positive. Within an
 * eigenvalue that repeats, the basis of the eigenspace is arbitrary but the same on every run.
 *
 * @param a [n, n], row-major; only the lower triangle is read; unchanged.
 * @param largest only this many of the largest eigenvalues: saves up to 2·n³ operations for the reflections of the others.
 * @param into where the vectors go, n · largest numbers; it may be `a` if all are wanted.
 * @throws NumericalError for an entry that is not finite, or if QL does not converge.
 */
export function eighIn(
  space: Workspace,
  a: Float64Array,
  n: number,
  largest = n,
  into: Float64Array = new Float64Array(n * largest),
): Eigh {
  const { matrix, exponent } = scaledCopy(space, a, n);
  const reduction = tridiagonalize(space, matrix);
  const rows = space.spread(n, n);
  divideAndConquer(space, reduction, rows);
  const wanted = part(rows, n - largest, 0, largest, n);
  applyReflections(space, reduction.reflections, wanted);
  makeRowSignsDeterministic(wanted);
  transpose(rowMajor(into, n, largest), wanted);
  return { values: scaleByPower(reduction.diagonal.subarray(n - largest), exponent), vectors: into };
}

/** The eigenvalues alone, ascending: 4/3·n³ operations. */
export function eigenvaluesIn(space: Workspace, a: Float64Array, n: number): Float64Array {
  const { matrix, exponent } = scaledCopy(space, a, n);
  const { diagonal, offDiagonal } = tridiagonalize(space, matrix);
  implicitQl(diagonal, offDiagonal, { ...matrix, columns: 0 }, "eigvalsh");
  return scaleByPower(diagonal, exponent);
}

/**
 * Eigendecomposition of a symmetric A [n, n], row-major, by plain loops on the host; only the lower triangle is read. Order, signs, cost,
 * error, failures and source are those of `eigh`.
 */
export function eighHost(a: Float64Array, n: number): Eigh {
  return onHost(eighSize(n), (space) => eighIn(space, a, n));
}

/**
 * The lower triangle with its largest entry near 1. A power of two changes no digit, and keeps products of very large or very small
 * entries inside the exponent's range.
 */
function scaledCopy(space: Workspace, a: Float64Array, n: number): { matrix: MatrixBlock; exponent: number } {
  let largest = 0;
  for (let i = 0; i < n; i++) {
    for (let at = i * n; at <= i * n + i; at++) {
      const magnitude = Math.abs(a[at]!);
      if (!(magnitude < Infinity)) requireFinite("eigh", lowerTriangle(a, n), [n, n]); // says where
      if (magnitude > largest) largest = magnitude;
    }
  }
  const exponent = powerOfTwoNear(largest);
  const [first, second] = factorsOfPower(-exponent);
  const matrix = space.spread(n, n);
  const { data, at, stride } = matrix;
  for (let i = 0; i < n; i++) {
    for (let from = i * n, to = at + i * stride; from <= i * n + i; from++, to++) data[to] = a[from]! * first * second;
  }
  return { matrix, exponent };
}

/** A copy with zeros above the diagonal. */
function lowerTriangle(a: Float64Array, n: number): Float64Array {
  const lower = new Float64Array(n * n);
  for (let i = 0; i < n; i++) lower.set(a.subarray(i * n, i * n + i + 1), i * n);
  return lower;
}

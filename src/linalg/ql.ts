import { machineEpsilon, NumericalError, type MatrixBlock } from "../tensor/index.ts";
import { negligible } from "./scaling.ts";
import { rotate } from "./vectors.ts";

const epsilon = machineEpsilon.float64;
/**
 * Most sweeps for an eigenvalue, on average. With Wilkinson's shift convergence is global and cubic (Parlett, The Symmetric Eigenvalue
 * Problem, §8.9–8.11), about 1.7 sweeps on average. But where a matrix is graded over as many digits as float64 has, the shift is
 * lost in rounding at the large end, and the first eigenvalues converge slowly: so the cap is one on all sweeps, as LAPACK's is.
 */
const MOST_SWEEPS = 30;

/**
 * Eigendecomposition of a tridiagonal matrix by implicit QL with Wilkinson shifts (EISPACK imtql2; Golub & Van Loan §8.3).
 *
 * @param d diagonal; afterwards the eigenvalues, ascending. @param e `e[i]` couples i and i + 1; overwritten.
 * @param v [n, m], written: row j is the eigenvector of eigenvalue j, its first m elements. No columns: eigenvalues alone.
 * @param operation name for messages.
 * @throws NumericalError if an eigenvalue does not converge.
 */
export function implicitQl(
  d: Float64Array,
  e: Float64Array,
  v: MatrixBlock,
  operation = "eigh",
  mostSweeps = MOST_SWEEPS * d.length,
): void {
  const n = d.length;
  let sweeps = 0;
  for (let i = 0; i < n; i++) {
    const row = v.at + i * v.stride;
    v.data.fill(0, row, row + v.columns);
    if (i < v.columns) v.data[row + i] = 1;
  }
  for (let first = 0; first < n; first++) {
    for (;;) {
      const last = endOfBlock(d, e, first);
      if (last === first) break;
      if (sweeps++ >= mostSweeps) {
        throw new NumericalError(
          `${operation}: eigenvalue ${first} of ${n} did not converge in ${mostSweeps} QL sweeps; its residual is still ` +
            `${Math.abs(e[first]!).toExponential(2)} of the largest entry (wanted ${epsilon.toExponential(2)}); add damping to the diagonal`,
        );
      }
      sweepBlock(d, e, v, first, last);
    }
  }
  sort(d, v);
}

/** Index of the last row of the unreduced block that starts at `first`: the next coupling is below rounding and is dropped. */
function endOfBlock(d: Float64Array, e: Float64Array, first: number): number {
  let last = first;
  for (; last < d.length - 1; last++) {
    const coupling = Math.abs(e[last]!);
    if (coupling <= negligible || coupling <= epsilon * (Math.abs(d[last]!) + Math.abs(d[last + 1]!))) {
      e[last] = 0;
      break;
    }
  }
  return last;
}

/**
 * One sweep T ← GᵀTG over rows `first … last` that draws the eigenvalue next to the shift up to `first`.
 *
 * T − σI = Q L is never formed: a first rotation, in the plane of the last two rows, is the one that this factorization would
 * begin with; it makes a bulge, and the others chase that bulge to the top (implicit Q theorem, Golub & Van Loan §8.3.5).
 */
function sweepBlock(d: Float64Array, e: Float64Array, v: MatrixBlock, first: number, last: number): void {
  let along = d[last]! - wilkinsonShift(d[first]!, e[first]!, d[first + 1]!); // entry that the next rotation keeps
  let bulge = e[last - 1]!; // entry that the next rotation removes
  for (let i = last - 1; i >= first; i--) {
    // The squares do not underflow: no coupling is negligible, and s is never much smaller than the smallest of them over ‖T‖.
    const length = Math.sqrt(along * along + bulge * bulge);
    const c = along / length;
    const s = bulge / length;
    if (i < last - 1) e[i + 1] = length;

    // The plane of rows i and i + 1:  [p b; b q] ← Gᵀ [p b; b q] G.
    const p = d[i]!;
    const b = e[i]!;
    const q = d[i + 1]!;
    const shift = s * (s * (p - q) + 2 * c * b);
    d[i] = p - shift;
    d[i + 1] = q + shift;
    e[i] = c * (s * (p - q) + 2 * c * b) - b;
    if (i > first) {
      along = e[i]!;
      bulge = s * e[i - 1]!;
      e[i - 1]! *= c;
    }
    rotate(v.data, v.at + i * v.stride, v.at + (i + 1) * v.stride, c, s, v.columns);
  }
}

/** The eigenvalue of [p b; b q] nearer to p, in the form that does not cancel. */
function wilkinsonShift(p: number, b: number, q: number): number {
  const ratio = (q - p) / (2 * b);
  const root = Math.sqrt(ratio * ratio + 1);
  return p - b / (ratio + (ratio < 0 ? -root : root));
}

/** Sorts the values, and the rows of V with them. */
function sort(d: Float64Array, v: MatrixBlock): void {
  const order = [...d.keys()].sort((i, j) => d[i]! - d[j]!);
  const values = d.slice();
  const rows = order.map((i) => v.data.slice(v.at + i * v.stride, v.at + i * v.stride + v.columns));
  rows.forEach((row, i) => {
    d[i] = values[order[i]!]!;
    v.data.set(row, v.at + i * v.stride);
  });
}

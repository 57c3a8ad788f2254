import { machineEpsilon, NumericalError } from "../tensor/index.ts";
import { requireFinite } from "./checks.ts";
import { powerOfTwoNear, scaleByPower } from "./scaling.ts";
import { negligible, tridiagonalize, type Tridiagonal } from "./tridiagonalize.ts";
import { largestMagnitude, rotate } from "./vectors.ts";

export interface Eigh {
  /** The n eigenvalues, ascending. */
  readonly values: Float64Array;
  /** [n, n], row-major: column j is the unit eigenvector of `values[j]`. */
  readonly vectors: Float64Array;
}

export interface EighOptions {
  /**
   * Most QL sweeps for one eigenvalue before giving up. Default 60. With Wilkinson's shift convergence is global and cubic
   * (Parlett, The Symmetric Eigenvalue Problem, §8.9–8.11), about 1.7 sweeps on average; the cap only bounds the impossible.
   */
  readonly maxSweeps?: number;
}

const epsilon = machineEpsilon.float64;

/**
 * Eigendecomposition A = V Λ Vᵀ of a symmetric matrix on the host, in float64.
 *
 * Householder tridiagonalisation, then implicit QL with Wilkinson shifts (EISPACK tred2 and imtql2; Golub & Van Loan §8.3). The
 * rotations are applied to the rows of Vᵀ, which are contiguous. Backward stable: ‖A − V Λ Vᵀ‖ and ‖VᵀV − I‖ are a modest
 * multiple of n·ε, relative to ‖A‖. About 8·n³ operations.
 *
 * Eigenvalues ascend; in each eigenvector the component of largest magnitude (the first among equals) is positive. Within an
 * eigenvalue that repeats, the basis of the eigenspace is arbitrary but the same on every run.
 *
 * @param a [n, n], row-major; only the lower triangle is read; unchanged.
 * @throws NumericalError for an entry that is not finite, or if QL does not converge.
 */
export function eighHost(a: Float64Array, n: number, options: EighOptions = {}): Eigh {
  const lower = lowerTriangle(a, n);
  requireFinite("eigh", lower, [n, n]);
  // A power of two changes no digit, and keeps products of very large or very small entries inside the exponent's range.
  const exponent = powerOfTwoNear(largestMagnitude(lower));
  const basis = scaleByPower(lower, -exponent);
  const tridiagonal = tridiagonalize(basis, n);
  diagonalize(tridiagonal, basis, n, options.maxSweeps ?? 60);
  const { values, vectors } = ascending(tridiagonal.diagonal, basis, n);
  makeSignsDeterministic(vectors, n);
  return { values: scaleByPower(values, exponent), vectors };
}

/** A copy with zeros above the diagonal. */
function lowerTriangle(a: Float64Array, n: number): Float64Array {
  const lower = new Float64Array(n * n);
  for (let i = 0; i < n; i++) lower.set(a.subarray(i * n, i * n + i + 1), i * n);
  return lower;
}

/** Implicit QL: turns T into Λ in `t.diagonal` and the rows of `basis` (Qᵀ) into eigenvectors. */
function diagonalize(t: Tridiagonal, basis: Float64Array, n: number, maxSweeps: number): void {
  for (let first = 0; first < n; first++) {
    for (let sweep = 0; ; sweep++) {
      const last = endOfBlock(t, first, n);
      if (last === first) break;
      if (sweep >= maxSweeps) {
        const residual = Math.abs(t.offDiagonal[first]!);
        throw new NumericalError(
          `eigh: eigenvalue ${first} of ${n} did not converge in ${maxSweeps} QL sweeps; its residual is still ` +
            `${residual.toExponential(2)} of the largest entry (wanted ${epsilon.toExponential(2)}); add damping to the diagonal`,
        );
      }
      sweepBlock(t, basis, n, first, last);
    }
  }
}

/** Index of the last row of the unreduced block that starts at `first`: the next coupling is below rounding and is dropped. */
function endOfBlock({ diagonal, offDiagonal }: Tridiagonal, first: number, n: number): number {
  let last = first;
  for (; last < n - 1; last++) {
    const coupling = Math.abs(offDiagonal[last]!);
    if (coupling <= negligible || coupling <= epsilon * (Math.abs(diagonal[last]!) + Math.abs(diagonal[last + 1]!))) {
      offDiagonal[last] = 0;
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
function sweepBlock({ diagonal: d, offDiagonal: e }: Tridiagonal, basis: Float64Array, n: number, first: number, last: number): void {
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
    rotate(basis, i * n, (i + 1) * n, c, s, n);
  }
}

/** The eigenvalue of [p b; b q] nearer to p, in the form that does not cancel. */
function wilkinsonShift(p: number, b: number, q: number): number {
  const ratio = (q - p) / (2 * b);
  const root = Math.sqrt(ratio * ratio + 1);
  return p - b / (ratio + (ratio < 0 ? -root : root));
}

/** Sorts eigenvalues, and turns the rows of `basis` into columns in the same order. */
function ascending(diagonal: Float64Array, basis: Float64Array, n: number): { values: Float64Array; vectors: Float64Array } {
  const order = Array.from(diagonal.keys()).sort((i, j) => diagonal[i]! - diagonal[j]!);
  const values = new Float64Array(n);
  const vectors = new Float64Array(n * n);
  order.forEach((source, column) => {
    values[column] = diagonal[source]!;
    for (let k = 0; k < n; k++) vectors[k * n + column] = basis[source * n + k]!;
  });
  return { values, vectors };
}

/**
 * Flips columns of `vectors` [n, n] so that in each the component of largest magnitude, the first among equals, is positive.
 * An eigenvector is defined up to sign; without a rule, moving averages of eigenbases and golden values would depend on rounding.
 */
export function makeSignsDeterministic(vectors: Float32Array | Float64Array, n: number): void {
  for (let column = 0; column < n; column++) {
    let peak = 0;
    for (let at = column; at < n * n; at += n) if (Math.abs(vectors[at]!) > Math.abs(peak)) peak = vectors[at]!;
    if (peak < 0) for (let at = column; at < n * n; at += n) vectors[at] = -vectors[at]!;
  }
}

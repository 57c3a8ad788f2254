import { NumericalError, tidy, type Tensor } from "../tensor/index.ts";
import { inWorkspace } from "./arithmetic.ts";
import { requireMatrix } from "./checks.ts";
import { factorsOfPower, powerOfTwoNear, scaleByPower, timesPower } from "./scaling.ts";
import { singularValuesIn, singularValuesSize } from "./svd.ts";
import { destinationOf, readFloats, widened } from "./transfer.ts";
import { dot, largestMagnitude } from "./vectors.ts";

/*
 * Norms are numbers in float64, whatever the type of the matrix. All throw DTypeError for int32, and NumericalError for an entry that is
 * not finite or a norm beyond the range of float64.
 */

/** √Σx² on the host, scaled so that no square leaves the range of float64. 2 operations an element; relative error (N/4 + 4)·ε for N elements. */
export function frobeniusNormHost(x: Float64Array): number {
  const exponent = powerOfTwoNear(largestMagnitude(x));
  const scaled = scaleByPower(x, -exponent);
  return timesPower(Math.sqrt(dot(scaled, 0, scaled, 0, scaled.length)), exponent);
}

/**
 * The Frobenius norm √Σ aᵢⱼ² of a tensor of any shape, 0 for none. 2 operations an element; relative error (N/4 + 4)·ε for N elements at the
 * worst (four running sums: Higham, Accuracy and Stability of Numerical Algorithms, §4.2).
 */
export async function frobeniusNorm(a: Tensor): Promise<number> {
  return inRange("frobeniusNorm", frobeniusNormHost(await readFloats("frobeniusNorm", a)));
}

/**
 * ‖A‖₁ of a matrix [m, n]: the largest sum of magnitudes in a column, the most by which A lengthens a vector in the 1-norm; 0 for none.
 * m·n operations; relative error m·ε at most (Higham, §4.2).
 * @throws ShapeError unless A is a matrix.
 */
export async function norm1(a: Tensor): Promise<number> {
  const [, n] = requireMatrix("norm1", a);
  const sums = new Float64Array(n);
  (await readFloats("norm1", a)).forEach((value, at) => (sums[at % n]! += Math.abs(value)));
  return inRange("norm1", largestMagnitude(sums));
}

/**
 * ‖A‖∞ of a matrix [m, n]: the largest sum of magnitudes in a row, the most by which A lengthens a vector in the ∞-norm; 0 for none.
 * m·n operations; relative error n·ε at most (Higham, §4.2).
 * @throws ShapeError unless A is a matrix.
 */
export async function normInfinity(a: Tensor): Promise<number> {
  const [m, n] = requireMatrix("normInfinity", a);
  const sums = new Float64Array(m);
  (await readFloats("normInfinity", a)).forEach((value, at) => (sums[Math.floor(at / n)]! += Math.abs(value)));
  return inRange("normInfinity", largestMagnitude(sums));
}

/**
 * ‖A‖₂ of a matrix [m, n]: its largest singular value, the most by which A lengthens a vector; 0 for none. 4·m·n² − 4/3·n³ operations for
 * m ≥ n. Relative error max(3·max(m, n), 15)·ε.
 *
 * From all singular values and not from an iteration for the largest alone, which is slow where the second one is near.
 * @throws ShapeError unless A is a matrix.
 */
export async function spectralNorm(a: Tensor): Promise<number> {
  const { values, exponent } = await scaledSingularValues("spectralNorm", a);
  return inRange("spectralNorm", timesPower(values[0] ?? 0, exponent));
}

/**
 * κ₂(A) = ‖A‖₂‖A⁺‖₂ of a matrix [m, n]: its largest singular value over its smallest. Infinity for a matrix without full rank, if its
 * smallest singular value comes out as exact zero; rounding rarely leaves that, so that a κ above 1/(c·ε) says no more than that A is singular
 * to rounding, c = max(3·max(m, n), 15), ε = 2⁻⁵². Below, its relative error is c·ε·(1 + κ). 0 for a matrix without elements.
 *
 * 4·m·n² − 4/3·n³ operations for m ≥ n. Not from the eigenvalues of AᵀA, which are the squares: it would lose all digits above 1/√ε.
 * @throws ShapeError unless A is a matrix.
 */
export async function cond(a: Tensor): Promise<number> {
  const { values } = await scaledSingularValues("cond", a);
  if (values.length === 0) return 0;
  const [largest, smallest] = [values[0]!, values.at(-1)!];
  return smallest === 0 ? Infinity : largest / smallest;
}

/** Descending; times 2^exponent they are those of A, with the largest entry of A taken near 1 for norms and ratios to stay in range. */
async function scaledSingularValues(operation: string, a: Tensor): Promise<{ values: Float64Array; exponent: number }> {
  const { backend } = destinationOf(operation, a);
  const [m, n] = requireMatrix(operation, a);
  const matrix = await readFloats(operation, a);
  const exponent = powerOfTwoNear(largestMagnitude(matrix));
  const scaled = scaleByPower(matrix, -exponent);
  return { values: inWorkspace(backend, singularValuesSize(m, n), (space) => singularValuesIn(space, scaled, m, n)), exponent };
}

function inRange(operation: string, norm: number): number {
  if (norm === Infinity) throw new NumericalError(`${operation}: the norm is beyond the range of float64; scale the input`);
  return norm;
}

/** The Frobenius norm of a tensor whose entries are finite, on its own device; Infinity beyond the range of float64. */
export async function normOf(a: Tensor): Promise<number> {
  const exponent = a.dtype === "float32" ? 0 : powerOfTwoNear(await largestEntry(a)); // squares of float32 numbers are in range
  const [first, second] = factorsOfPower(-exponent);
  using wide = await widened(a);
  using squares = tidy(() => (exponent === 0 ? wide : wide.multiply(first).multiply(second)).square().sum());
  return timesPower(Math.sqrt(await squares.item()), exponent);
}

/** The largest magnitude of a tensor's entries, on its own device; 0 for none. */
export async function largestEntry(a: Tensor): Promise<number> {
  if (a.size === 0) return 0;
  using largest = tidy(() => a.abs().max());
  return await largest.item();
}

import { machineEpsilon, type MatrixBlock } from "../tensor/index.ts";

const epsilon = machineEpsilon.float64;

/** The poles of a secular equation, ascending and distinct: `d`, or the squares of a `d` that is not negative. */
export interface Poles {
  readonly d: Float64Array;
  readonly squared: boolean;
}

/**
 * Roots of the secular equation 1 + ρ Σ zᵢ² / (pᵢ − λ) = 0 with the poles p, the eigenvalues of diag(p) + ρ z zᵀ, one for each interval
 * (pⱼ, pⱼ₊₁), the last one in (pₖ₋₁, pₖ₋₁ + ρ‖z‖²].
 *
 * A root is kept as the pole next to it plus a difference: then all pᵢ − λⱼ are known to full relative precision, on which the
 * orthogonality of the vectors rests (Gu & Eisenstat, SIMAX 16, 1995). That holds for poles that are squares too, as
 * dᵢ² − dⱼ² = (dᵢ − dⱼ)(dᵢ + dⱼ). The iteration interpolates the sums over the poles on either side by a constant and one pole each
 * ("the middle way", R.-C. Li, LAPACK Working Note 89, 1993), and bisects where that leaves the bracket.
 *
 * @param z no zeros. @param rho positive.
 * @param differences [k, k], written: row j holds pᵢ − λⱼ.
 * @returns λ, or for squared poles its square root, ascending.
 */
export function secularRoots(poles: Poles, z: Float64Array, rho: number, differences: MatrixBlock): Float64Array {
  const { d, squared } = poles;
  const k = d.length;
  const weights = new Float64Array(k);
  let total = 0;
  for (let i = 0; i < k; i++) total += weights[i] = rho * z[i]! * z[i]!;
  const roots = new Float64Array(k);
  for (let j = 0; j < k; j++) {
    const at = differences.at + j * differences.stride;
    const row = differences.data.subarray(at, at + k);
    const [origin, tau] = secularRoot(poles, weights, total, j, row);
    const pole = d[origin]!;
    roots[j] = squared ? pole + tau / (pole + Math.sqrt(pole * pole + tau)) : pole + tau;
  }
  return roots;
}

/**
 * The z′ for which the computed roots are exact. They are those of diag(p) + ρ z zᵀ only within rounding, but exactly those of a matrix
 * with another z close by, which Löwner's formula gives: z′ᵢ² = Πⱼ (λⱼ − pᵢ) / Π_{j≠i} (pⱼ − pᵢ), but for ρ. The eigenvectors of that
 * one, z′ᵢ/(pᵢ − λ), are orthogonal within rounding however close the roots are.
 * @param differences as `secularRoots` leaves them. @param z for the signs.
 */
export function lowner({ data, at, stride }: MatrixBlock, poles: Poles, z: Float64Array): Float64Array {
  const { d } = poles;
  const k = d.length;
  const squares = new Float64Array(k).fill(1);
  const gaps = new Float64Array(k);
  for (let j = 0; j < k; j++) {
    const row = at + j * stride;
    gapsTo(poles, j, gaps);
    gaps[j] = 1;
    for (let i = 0; i < k; i++) squares[i]! *= data[row + i]! / gaps[i]!;
  }
  return squares.map((square, i) => Math.sqrt(Math.abs(square)) * Math.sign(z[i]!));
}

/** pᵢ − pⱼ for all i. */
function gapsTo({ d, squared }: Poles, j: number, gaps: Float64Array): void {
  const own = d[j]!;
  for (let i = 0; i < d.length; i++) gaps[i] = d[i]! - own;
  if (squared) for (let i = 0; i < d.length; i++) gaps[i]! *= d[i]! + own;
}

/** Root j as a pole plus τ; `delta` gets all differences. */
function secularRoot(
  poles: Poles,
  weights: Float64Array,
  total: number,
  j: number,
  delta: Float64Array,
): readonly [origin: number, tau: number] {
  const k = weights.length;
  const isLast = j === k - 1;
  // The side of the interval's middle on which the root lies, by the sign of the function there, which increases.
  let origin = j;
  let low = 0;
  let high = total;
  gapsTo(poles, j, delta);
  if (!isLast) {
    const half = delta[j + 1]! / 2;
    let value = 1;
    for (let i = 0; i < k; i++) value += weights[i]! / (delta[i]! - half);
    if (value >= 0) high = half;
    else {
      [origin, low, high] = [j + 1, -half, 0];
      gapsTo(poles, origin, delta);
    }
  }
  const right = isLast ? j : j + 1;
  // The first guess: all other poles where they are seen from the middle.
  let tau = (low + high) / 2;
  for (let iteration = 0; iteration < 100; iteration++) {
    let [psi, phi, psiSlope, phiSlope, error] = [0, 0, 0, 0, 0];
    for (let i = 0; i <= j; i++) {
      const inverse = 1 / (delta[i]! - tau);
      const term = weights[i]! * inverse;
      psi += term;
      psiSlope += term * inverse;
      error -= psi;
    }
    for (let i = k - 1; i > j; i--) {
      const inverse = 1 / (delta[i]! - tau);
      const term = weights[i]! * inverse;
      phi += term;
      phiSlope += term * inverse;
      error += phi;
    }
    const value = 1 + psi + phi;
    const slope = psiSlope + phiSlope;
    if (Math.abs(value) <= epsilon * (2 + error + 8 * (phi - psi) + Math.abs(tau) * slope)) break;
    if (value < 0) low = tau;
    else high = tau;
    const eta = middleWay(delta[j]! - tau, isLast ? Infinity : delta[right]! - tau, value, psiSlope, phiSlope);
    let next = tau + eta;
    if (!(next > low && next < high)) next = bisect(low, high);
    if (next === tau || !(next > low && next < high)) break;
    tau = next;
  }
  for (let i = 0; i < k; i++) delta[i]! -= tau;
  return [origin, tau];
}

/** Between two bounds of one sign by their geometric mean once they differ much in size: roots lie close to their pole. */
function bisect(low: number, high: number): number {
  if (low > 0 && high > 16 * low) return Math.sqrt(low) * Math.sqrt(high);
  if (high < 0 && low < 16 * high) return -Math.sqrt(-low) * Math.sqrt(-high);
  return low + (high - low) / 2;
}

/** The step to the root of c + s/(left − η) + t/(right − η), which agrees with the function and its two slopes at η = 0. */
function middleWay(left: number, right: number, value: number, psiSlope: number, phiSlope: number): number {
  if (right === Infinity) {
    // 1 pole: value − left ψ' + left² ψ' / (left − η) = 0.
    const c = value - left * psiSlope;
    return left + (left * left * psiSlope) / c;
  }
  const c = value - left * psiSlope - right * phiSlope;
  const a = (left + right) * value - left * right * (psiSlope + phiSlope);
  const b = left * right * value;
  const root = Math.sqrt(Math.abs(a * a - 4 * b * c));
  if (c === 0) return b / a;
  return a <= 0 ? (a - root) / (2 * c) : (2 * b) / (a + root);
}

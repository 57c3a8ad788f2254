import { machineEpsilon, type MatrixBlock } from "../tensor/index.ts";

const epsilon = machineEpsilon.float64;

/**
 * Roots of the secular equation 1 + ρ Σ zᵢ² / (dᵢ − λ) = 0, the eigenvalues of diag(d) + ρ z zᵀ, one for each interval
 * (dⱼ, dⱼ₊₁), the last one in (dₖ₋₁, dₖ₋₁ + ρ‖z‖²].
 *
 * A root is kept as the pole next to it plus a difference: then all dᵢ − λⱼ are known to full relative precision, on which the
 * orthogonality of the eigenvectors rests (Gu & Eisenstat, SIMAX 16, 1995). The iteration interpolates the sums over the poles
 * on either side by a constant and one pole each ("the middle way", R.-C. Li, LAPACK Working Note 89, 1993), and bisects where that
 * leaves the bracket.
 *
 * @param d ascending and distinct. @param z no zeros. @param rho positive.
 * @param differences [k, k], written: row j holds dᵢ − λⱼ.
 * @returns λ, ascending.
 */
export function secularRoots(d: Float64Array, z: Float64Array, rho: number, differences: MatrixBlock): Float64Array {
  const k = d.length;
  const weights = new Float64Array(k);
  let total = 0;
  for (let i = 0; i < k; i++) total += weights[i] = rho * z[i]! * z[i]!;
  const roots = new Float64Array(k);
  for (let j = 0; j < k; j++) {
    const at = differences.at + j * differences.stride;
    const row = differences.data.subarray(at, at + k);
    const [origin, tau] = secularRoot(d, weights, total, k, j, row);
    roots[j] = d[origin]! + tau;
  }
  return roots;
}

function secularRoot(
  d: Float64Array,
  weights: Float64Array,
  total: number,
  k: number,
  j: number,
  delta: Float64Array,
): readonly [origin: number, tau: number] {
  const isLast = j === k - 1;
  // The side of the interval's middle on which the root lies, by the sign of the function there, which increases.
  let origin = j;
  let low = 0;
  let high = total;
  if (!isLast) {
    const half = (d[j + 1]! - d[j]!) / 2;
    let value = 1;
    for (let i = 0; i < k; i++) value += weights[i]! / (d[i]! - d[j]! - half);
    if (value >= 0) high = half;
    else [origin, low, high] = [j + 1, -half, 0];
  }
  for (let i = 0; i < k; i++) delta[i] = d[i]! - d[origin]!;
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

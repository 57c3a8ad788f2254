import { machineEpsilon, type MatrixBlock, type SecularEquation, type VectorBlock } from "../tensor/index.ts";

const epsilon = machineEpsilon.float64;

/**
 * Roots of the secular equation 1 + Σ wᵢ / (pᵢ − λ) = 0, one for each interval (pⱼ, pⱼ₊₁), the last one in (pₖ₋₁, pₖ₋₁ + Σ wᵢ].
 *
 * A root is kept as the pole next to it plus a difference: then all pᵢ − λⱼ are known to full relative precision, on which the
 * orthogonality of the vectors rests (Gu & Eisenstat, SIMAX 16, 1995). That holds for poles that are squares too, as
 * dᵢ² − dⱼ² = (dᵢ − dⱼ)(dᵢ + dⱼ). The iteration interpolates the sums over the poles on either side by a constant and one pole each
 * ("the middle way", R.-C. Li, LAPACK Working Note 89, 1993), and bisects where that leaves the bracket.
 */
export function secularRoots(roots: VectorBlock, differences: MatrixBlock, equation: SecularEquation): void {
  const { size: k, squared } = equation;
  const [d, weights] = [numbers(equation.d, k), numbers(equation.weights, k)];
  let total = 0;
  for (let i = 0; i < k; i++) total += weights[i]!;
  for (let j = 0; j < k; j++) {
    const at = differences.at + j * differences.stride;
    const [origin, tau] = secularRoot(d, squared, weights, total, j, differences.data.subarray(at, at + k));
    const pole = d[origin]!;
    roots.data[roots.at + j] = squared ? pole + tau / (pole + Math.sqrt(pole * pole + tau)) : pole + tau;
  }
}

/**
 * The z′ for which the computed roots are exact. They are those of diag(p) + ρ z zᵀ only within rounding, but exactly those of a matrix
 * with another z close by, which Löwner's formula gives, but for ρ. The eigenvectors of that one, z′ᵢ/(pᵢ − λ), are orthogonal within
 * rounding however close the roots are.
 */
export function lowner(z: VectorBlock, { data, at, stride }: MatrixBlock, { size: k, d, squared }: SecularEquation): void {
  const poles = numbers(d, k);
  const squares = numbers(z, k).fill(1);
  const gaps = new Float64Array(k);
  for (let j = 0; j < k; j++) {
    const row = at + j * stride;
    gapsTo(poles, squared, j, gaps);
    gaps[j] = 1;
    for (let i = 0; i < k; i++) squares[i]! *= data[row + i]! / gaps[i]!;
  }
  for (let i = 0; i < k; i++) squares[i] = Math.sqrt(Math.abs(squares[i]!));
}

/** pᵢ − pⱼ for all i. */
function gapsTo(d: Float64Array, squared: boolean, j: number, gaps: Float64Array): void {
  const own = d[j]!;
  for (let i = 0; i < d.length; i++) gaps[i] = d[i]! - own;
  if (squared) for (let i = 0; i < d.length; i++) gaps[i]! *= d[i]! + own;
}

/** Unit vectors along numerators[i] / differences[j, i]. */
// prettier-ignore
export function unitRows(x: MatrixBlock, differences: MatrixBlock, numerators: VectorBlock, order: VectorBlock, first?: number): void {
  const k = x.columns;
  const [upper, places] = [numbers(numerators, k), numbers(order, k)];
  for (let j = 0; j < x.rows; j++) {
    const row = x.data.subarray(x.at + j * x.stride, x.at + j * x.stride + k);
    const below = differences.at + j * differences.stride;
    let sum = 0;
    for (let c = 0; c < k; c++) {
      const i = places[c]!;
      const element = i === 0 && first !== undefined ? first : upper[i]! / differences.data[below + i]!;
      row[c] = element;
      sum += element * element;
    }
    const scale = 1 / Math.sqrt(sum);
    for (let c = 0; c < k; c++) row[c]! *= scale;
  }
}

const numbers = ({ data, at }: VectorBlock, size: number): Float64Array => data.subarray(at, at + size);

/** Root j as a pole plus τ; `delta` gets all differences. */
function secularRoot(
  d: Float64Array,
  squared: boolean,
  weights: Float64Array,
  total: number,
  j: number,
  delta: Float64Array,
): readonly [origin: number, tau: number] {
  const k = weights.length;
  const isLast = j === k - 1;
  const right = isLast ? j : j + 1;
  let [origin, low, high, tau] = [j, 0, total, total / 2];
  gapsTo(d, squared, j, delta);
  if (!isLast) {
    // The function increases: its sign in the middle of the interval tells the half with the root, and so the pole next to it.
    const gap = delta[right]!;
    const half = gap / 2;
    let c = 1;
    for (let i = 0; i < k; i++) if (i !== j && i !== right) c += weights[i]! / (delta[i]! - half);
    const [w, v] = [weights[j]!, weights[right]!];
    if (c + (v - w) / half >= 0) high = half;
    else {
      [origin, low, high] = [right, -half, 0];
      gapsTo(d, squared, right, delta);
    }
    tau = guess(c, w, v, gap, origin === j);
    if (!(tau > low && tau < high)) tau = (low + high) / 2;
  }
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

/** The first guess: the root between two poles with weights w and v, the others where they are seen from the middle, c in all. */
function guess(c: number, w: number, v: number, gap: number, fromLeft: boolean): number {
  // c τ² − a τ + b = 0 for τ from the left pole, or from the right one; it falls where it is 0 between them.
  const a = (fromLeft ? c : -c) * gap + w + v;
  const b = fromLeft ? w * gap : -v * gap;
  const root = Math.sqrt(Math.abs(a * a - 4 * b * c));
  return a > 0 ? (2 * b) / (a + root) : (a - root) / (2 * c);
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

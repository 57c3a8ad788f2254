/**
 * Roots of secular equations and the vectors that belong to them, in float64. What they are, and how they are found, is told by
 * linalg/secular.ts; here every row of the differences is an item, and sums run over two elements at a time.
 */

const EPSILON: f64 = 2.220446049250313e-16;
/** Columns of an item of `lowner_f64`: the host relies on it. */
const COLUMNS: i32 = 64;

/** What `sumSide` finds: Σ w/(δ − τ), Σ w/(δ − τ)², and the sum of the magnitudes of partial sums. */
let sum: f64 = 0;
let slope: f64 = 0;
let partials: f64 = 0;

/** Roots `[start, end)` of 1 + Σ weights[i] / (p[i] − λ) with k poles p, which are d or, if `squared`, their squares. */
export function secularRoots_f64(
  start: i32,
  end: i32,
  d: usize,
  squared: i32,
  weights: usize,
  total: f64,
  k: i32,
  differences: usize,
  pitch: usize,
  roots: usize,
): void {
  for (let j = start; j < end; j++) {
    const at = (<usize>j) << 3;
    store<f64>(roots + at, root(d, squared, weights, total, k, j, differences + <usize>j * pitch));
  }
}

function root(d: usize, squared: i32, weights: usize, total: f64, k: i32, j: i32, delta: usize): f64 {
  const isLast = j == k - 1;
  const right = isLast ? j : j + 1;
  const leftAt = (<usize>j) << 3;
  const rightAt = (<usize>right) << 3;
  let origin = j;
  let low: f64 = 0;
  let high = total;
  let tau = total / 2;
  gapsTo(d, squared, k, j, delta);
  if (!isLast) {
    const gap = load<f64>(delta + rightAt);
    const half = gap / 2;
    const w = load<f64>(weights + leftAt);
    const v = load<f64>(weights + rightAt);
    const c = 1 + sumSide(delta, weights, 0, j, half) + sumSide(delta, weights, right + 1, k, half);
    const fromLeft = c + (v - w) / half >= 0;
    if (fromLeft) high = half;
    else {
      origin = right;
      low = -half;
      high = 0;
      gapsTo(d, squared, k, right, delta);
    }
    tau = guess(c, w, v, gap, fromLeft);
    if (!(tau > low && tau < high)) tau = (low + high) / 2;
  }
  for (let iteration = 0; iteration < 100; iteration++) {
    const psi = sumSide(delta, weights, 0, j + 1, tau);
    const psiSlope = slope;
    let error = partials;
    const phi = sumSide(delta, weights, j + 1, k, tau);
    const phiSlope = slope;
    error += partials;
    const value = 1 + psi + phi;
    if (abs(value) <= EPSILON * (2 + error + 8 * (phi - psi) + abs(tau) * (psiSlope + phiSlope))) break;
    if (value < 0) low = tau;
    else high = tau;
    const left = load<f64>(delta + leftAt) - tau;
    const eta = middleWay(left, isLast ? Infinity : load<f64>(delta + rightAt) - tau, value, psiSlope, phiSlope);
    let next = tau + eta;
    if (!(next > low && next < high)) next = bisect(low, high);
    if (next == tau || !(next > low && next < high)) break;
    tau = next;
  }
  const v = f64x2.splat(tau);
  const bytes = (<usize>k) << 3;
  let c: usize = 0;
  for (; c < (bytes & ~15); c += 16) v128.store(delta + c, f64x2.sub(v128.load(delta + c), v));
  if (c < bytes) store<f64>(delta + c, load<f64>(delta + c) - tau);
  const pole = load<f64>(d + ((<usize>origin) << 3));
  return squared ? pole + tau / (pole + sqrt(pole * pole + tau)) : pole + tau;
}

/** The poles less pole j. */
function gapsTo(d: usize, squared: i32, k: i32, j: i32, gaps: usize): void {
  const own = load<f64>(d + ((<usize>j) << 3));
  const v = f64x2.splat(own);
  const bytes = (<usize>k) << 3;
  let c: usize = 0;
  for (; c < (bytes & ~15); c += 16) {
    const pole = v128.load(d + c);
    const gap = f64x2.sub(pole, v);
    v128.store(gaps + c, squared ? f64x2.mul(gap, f64x2.add(pole, v)) : gap);
  }
  if (c < bytes) {
    const pole = load<f64>(d + c);
    store<f64>(gaps + c, squared ? (pole - own) * (pole + own) : pole - own);
  }
}

/** Sums over the elements `[from, to)`, all of one sign. */
function sumSide(delta: usize, weights: usize, from: i32, to: i32, tau: f64): f64 {
  const shift = f64x2.splat(tau);
  let sums = f64x2.splat(0);
  let slopes = sums;
  let errors = sums;
  let at = (<usize>from) << 3;
  const end = (<usize>to) << 3;
  for (; at + 16 <= end; at += 16) {
    const inverse = f64x2.div(f64x2.splat(1), f64x2.sub(v128.load(delta + at), shift));
    const term = f64x2.mul(v128.load(weights + at), inverse);
    sums = f64x2.add(sums, term);
    slopes = f64x2.add(slopes, f64x2.mul(term, inverse));
    errors = f64x2.add(errors, f64x2.abs(sums));
  }
  sum = f64x2.extract_lane(sums, 0) + f64x2.extract_lane(sums, 1);
  slope = f64x2.extract_lane(slopes, 0) + f64x2.extract_lane(slopes, 1);
  partials = f64x2.extract_lane(errors, 0) + f64x2.extract_lane(errors, 1) + abs(sum);
  if (at < end) {
    const inverse = 1 / (load<f64>(delta + at) - tau);
    const term = load<f64>(weights + at) * inverse;
    sum += term;
    slope += term * inverse;
    partials += abs(sum);
  }
  return sum;
}

function guess(c: f64, w: f64, v: f64, gap: f64, fromLeft: bool): f64 {
  const a = (fromLeft ? c : -c) * gap + w + v;
  const b = fromLeft ? w * gap : -v * gap;
  const root = sqrt(abs(a * a - 4 * b * c));
  return a > 0 ? (2 * b) / (a + root) : (a - root) / (2 * c);
}

function bisect(low: f64, high: f64): f64 {
  if (low > 0 && high > 16 * low) return sqrt(low) * sqrt(high);
  if (high < 0 && low < 16 * high) return -sqrt(-low) * sqrt(-high);
  return low + (high - low) / 2;
}

function middleWay(left: f64, right: f64, value: f64, psiSlope: f64, phiSlope: f64): f64 {
  if (right == Infinity) return left + (left * left * psiSlope) / (value - left * psiSlope);
  const c = value - left * psiSlope - right * phiSlope;
  const a = (left + right) * value - left * right * (psiSlope + phiSlope);
  const b = left * right * value;
  const root = sqrt(abs(a * a - 4 * b * c));
  if (c == 0) return b / a;
  return a <= 0 ? (a - root) / (2 * c) : (2 * b) / (a + root);
}

/** z[i] = sqrt |Π_j differences[j, i] / (p[i] − p[j])|, without the denominator for j = i, for blocks `[start, end)` of columns. */
export function lowner_f64(start: i32, end: i32, d: usize, squared: i32, k: i32, differences: usize, pitch: usize, z: usize): void {
  for (let block = start; block < end; block++) {
    const first = block * COLUMNS;
    const last = min(k, first + COLUMNS);
    const from = (<usize>first) << 3;
    const to = (<usize>last) << 3;
    for (let c = from; c < to; c += 8) store<f64>(z + c, 1);
    for (let j = 0; j < k; j++) {
      const row = differences + <usize>j * pitch;
      const pole = load<f64>(d + ((<usize>j) << 3));
      if (j >= first && j < last) {
        const at = (<usize>j) << 3;
        multiplyBy(z, row, d, pole, squared, from, at);
        store<f64>(z + at, load<f64>(z + at) * load<f64>(row + at));
        multiplyBy(z, row, d, pole, squared, at + 8, to);
      } else multiplyBy(z, row, d, pole, squared, from, to);
    }
    for (let c = from; c < to; c += 8) store<f64>(z + c, sqrt(abs(load<f64>(z + c))));
  }
}

/** z ← z · row / (p − pole) for the bytes `[from, to)`. */
function multiplyBy(z: usize, row: usize, d: usize, pole: f64, squared: i32, from: usize, to: usize): void {
  const v = f64x2.splat(pole);
  let c = from;
  for (; c + 16 <= to; c += 16) {
    const own = v128.load(d + c);
    const gap = f64x2.sub(own, v);
    const quotient = f64x2.div(v128.load(row + c), squared ? f64x2.mul(gap, f64x2.add(own, v)) : gap);
    v128.store(z + c, f64x2.mul(v128.load(z + c), quotient));
  }
  if (c < to) {
    const own = load<f64>(d + c);
    const gap = squared ? (own - pole) * (own + pole) : own - pole;
    store<f64>(z + c, load<f64>(z + c) * (load<f64>(row + c) / gap));
  }
}

/**
 * Rows `[start, end)` of X: the unit vectors along numerators[i] / differences[row, i], element c of them being that of i = order[c].
 * @param first if it is not NaN, it takes the place of the quotient for i = 0.
 */
export function unitRows_f64(
  start: i32,
  end: i32,
  x: usize,
  xPitch: usize,
  differences: usize,
  pitch: usize,
  k: i32,
  numerators: usize,
  order: usize,
  first: f64,
): void {
  const bytes = (<usize>k) << 3;
  for (let j = start; j < end; j++) {
    const to = x + <usize>j * xPitch;
    const below = differences + <usize>j * pitch;
    let squares: f64 = 0;
    for (let c: usize = 0; c < bytes; c += 8) {
      const at = (<usize>load<f64>(order + c)) << 3;
      const element = at == 0 && first == first ? first : load<f64>(numerators + at) / load<f64>(below + at);
      store<f64>(to + c, element);
      squares += element * element;
    }
    const scale = 1 / sqrt(squares);
    const v = f64x2.splat(scale);
    let c: usize = 0;
    for (; c < (bytes & ~15); c += 16) v128.store(to + c, f64x2.mul(v128.load(to + c), v));
    if (c < bytes) store<f64>(to + c, load<f64>(to + c) * scale);
  }
}

import { madd } from "./vector";

/**
 * Functions of four float32 numbers, with an error of about one unit in the last place. Polynomials are minimax fits of the
 * remainder after the terms that are written out, made by Lawson's algorithm; the reductions are those of Cody & Waite,
 * "Software Manual for the Elementary Functions", 1980.
 */

/** ln 2 = HIGH + LOW, where an exponent times HIGH is exact. */
const LN2_HIGH: f32 = 0.693145751953125;
const LN2_LOW: f32 = 1.4286068203094172e-6;

@inline
function splat(x: f32): v128 {
  return v128.splat<f32>(x);
}

/** 2^k of int32 numbers, −126 ≤ k ≤ 127. */
@inline
function exponential2(k: v128): v128 {
  return v128.shl<i32>(v128.add<i32>(k, v128.splat<i32>(127)), 23);
}

/** x ≥ 0 with the sign of `sign`. */
@inline
export function copySign<T>(x: v128, sign: v128): v128 {
  return v128.bitselect(sign, x, v128.splat<T>(-(<T>0)));
}

/** eˣ = 2ᵏ eʳ, k = ⌊x / ln 2⌉, |r| ≤ ln 2 / 2. */
@inline
export function exp_f32x4(x: v128): v128 {
  // Beyond these the result is infinity or 0. `pmin` and `pmax` let a NaN in their first operand through.
  x = v128.pmax<f32>(v128.pmin<f32>(x, splat(89)), splat(-104));
  const k = v128.nearest<f32>(v128.mul<f32>(x, splat(1.4426950408889634)));
  const r = madd<f32>(k, splat(-LN2_LOW), madd<f32>(k, splat(-LN2_HIGH), x));
  let p = madd<f32>(splat(1.3814222e-3), r, splat(8.368899e-3));
  p = madd<f32>(p, r, splat(4.1668404e-2));
  p = madd<f32>(p, r, splat(1.666652e-1));
  p = madd<f32>(p, r, splat(4.9999994e-1));
  const power = v128.add<f32>(madd<f32>(v128.mul<f32>(r, r), p, r), splat(1));
  // 2ᵏ in two factors: k reaches from −150 to 128, and the last product rounds to a subnormal number if need be.
  const exponent = v128.trunc_sat<i32>(k);
  const half = v128.shr<i32>(exponent, 1);
  return v128.mul<f32>(v128.mul<f32>(power, exponential2(half)), exponential2(v128.sub<i32>(exponent, half)));
}

/** log x = k ln 2 + log(1 + f), √½ ≤ 1 + f < √2, of a positive normal number. `shift` is added to k. */
@inline
function logNormal(x: v128, shift: v128): v128 {
  const k = v128.shr<i32>(v128.sub<i32>(x, v128.splat<i32>(0x3f3504f3)), 23);
  const f = v128.sub<f32>(v128.sub<i32>(x, v128.shl<i32>(k, 23)), splat(1));
  const e = v128.convert<i32>(v128.add<i32>(k, shift));
  const z = v128.mul<f32>(f, f);
  let p = madd<f32>(splat(-7.646105e-2), f, splat(1.2779114e-1));
  p = madd<f32>(p, f, splat(-1.3164185e-1));
  p = madd<f32>(p, f, splat(1.4199696e-1));
  p = madd<f32>(p, f, splat(-1.6622765e-1));
  p = madd<f32>(p, f, splat(2.0001292e-1));
  p = madd<f32>(p, f, splat(-2.5000837e-1));
  p = madd<f32>(p, f, splat(3.333333e-1));
  let y = madd<f32>(v128.mul<f32>(f, z), p, v128.mul<f32>(e, splat(LN2_LOW)));
  y = madd<f32>(z, splat(-0.5), y);
  return madd<f32>(e, splat(LN2_HIGH), v128.add<f32>(f, y));
}

@inline
export function log_f32x4(x: v128): v128 {
  const subnormal = v128.lt<f32>(x, splat(1.1754943508222875e-38));
  const scaled = v128.bitselect(v128.mul<f32>(x, splat(33554432)), x, subnormal); // 2²⁵
  const y = logNormal(scaled, v128.and(subnormal, v128.splat<i32>(-25)));
  const infinite = v128.eq<f32>(x, splat(Infinity));
  const atZero = v128.bitselect(splat(-Infinity), splat(NaN), v128.eq<f32>(x, splat(0)));
  return v128.bitselect(v128.bitselect(x, y, infinite), atZero, v128.gt<f32>(x, splat(0)));
}

/** |x| + |x|³ P(x²) near zero, 1 − 2 / (exp(2|x|) + 1) beyond. */
@inline
export function tanh_f32x4(x: v128): v128 {
  const a = v128.abs<f32>(x);
  const z = v128.mul<f32>(x, x);
  let p = madd<f32>(splat(-5.70499e-3), z, splat(2.063909e-2));
  p = madd<f32>(p, z, splat(-5.3739715e-2));
  p = madd<f32>(p, z, splat(1.3331442e-1));
  p = madd<f32>(p, z, splat(-3.333328e-1));
  const small = madd<f32>(v128.mul<f32>(a, z), p, a);
  const e = exp_f32x4(v128.add<f32>(a, a));
  const large = v128.sub<f32>(splat(1), v128.div<f32>(splat(2), v128.add<f32>(e, splat(1))));
  return copySign<f32>(v128.bitselect(small, large, v128.lt<f32>(a, splat(0.625))), x);
}

/** With t = exp(−|x|): 1 / (1 + t), or t / (1 + t) for negative x. */
@inline
export function sigmoid_f32x4(x: v128): v128 {
  const t = exp_f32x4(v128.neg<f32>(v128.abs<f32>(x)));
  const numerator = v128.bitselect(t, splat(1), v128.lt<f32>(x, splat(0)));
  return v128.div<f32>(numerator, v128.add<f32>(t, splat(1)));
}

/** max(x, 0) + log(1 + t), t = exp(−|x|). With u = 1 + t rounded, log(1 + t) = log u + (t − (u − 1)) / u. */
@inline
export function softplus_f32x4(x: v128): v128 {
  const t = exp_f32x4(v128.neg<f32>(v128.abs<f32>(x)));
  const u = v128.add<f32>(t, splat(1));
  const lost = v128.sub<f32>(t, v128.sub<f32>(u, splat(1)));
  const y = v128.add<f32>(logNormal(u, v128.splat<i32>(0)), v128.div<f32>(lost, u));
  // The logarithm knows no NaN, but the maximum lets it through.
  return v128.add<f32>(v128.max<f32>(x, splat(0)), y);
}

/** |x| + |x| P(x²) near zero, 1 − exp(Q(|x|)) beyond; 1 to float32 accuracy from 4 on. */
@inline
export function erf_f32x4(x: v128): v128 {
  const a = v128.pmin<f32>(v128.abs<f32>(x), splat(4));
  const z = v128.mul<f32>(a, a);
  let p = madd<f32>(splat(-5.862096e-4), z, splat(4.9675102e-3));
  p = madd<f32>(p, z, splat(-2.6748868e-2));
  p = madd<f32>(p, z, splat(1.12813205e-1));
  p = madd<f32>(p, z, splat(-3.7612447e-1));
  p = madd<f32>(p, z, splat(1.2837914e-1));
  const small = madd<f32>(a, p, a);
  let q = madd<f32>(splat(1.9718158e-4), a, splat(-3.0556063e-3));
  q = madd<f32>(q, a, splat(2.2277081e-2));
  q = madd<f32>(q, a, splat(-1.0403735e-1));
  q = madd<f32>(q, a, splat(-6.3705975e-1));
  q = madd<f32>(q, a, splat(-1.1277496));
  q = madd<f32>(q, a, splat(-1.7749611e-4));
  const large = v128.sub<f32>(splat(1), exp_f32x4(q));
  return copySign<f32>(v128.bitselect(small, large, v128.lt<f32>(a, splat(0.93))), x);
}

// ── float64 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

export function sigmoid(x: f64): f64 {
  const t = Math.exp(-abs(x));
  return (x < 0 ? t : 1) / (1 + t);
}

export function softplus(x: f64): f64 {
  return max(x, 0) + Math.log1p(Math.exp(-abs(x)));
}

/**
 * Near zero x P(x²); beyond, 1 − exp(−x²) G(t) with t = (|x| − 2.5) / (|x| + 2.5), where G(t) = exp(x²) erfc(|x|) is smooth
 * (Shepherd & Laframboise, Mathematics of Computation 36, 1981). Both polynomials interpolate at Chebyshev nodes.
 */
export function erf(x: f64): f64 {
  const a = abs(x);
  if (a < 1) {
    const z = x * x;
    let p = -7.795898827002142e-10;
    p = p * z + 1.3720064546777686e-8;
    p = p * z - 1.6208483801871705e-7;
    p = p * z + 1.6447424703317362e-6;
    p = p * z - 1.492473690741966e-5;
    p = p * z + 1.2055294904839707e-4;
    p = p * z - 8.548325975389692e-4;
    p = p * z + 5.2239776071164225e-3;
    p = p * z - 2.686617064323777e-2;
    p = p * z + 1.1283791670945006e-1;
    p = p * z - 3.7612638903183543e-1;
    p = p * z + 1.1283791670955126;
    return x * p;
  }
  if (a >= 6) return copysign<f64>(1, x);
  const t = (a - 2.5) / (a + 2.5);
  let g = -1.587633893127344e-6;
  g = g * t - 2.2328516517555215e-6;
  g = g * t + 7.499735050763299e-6;
  g = g * t + 1.8596747731144528e-5;
  g = g * t - 3.4175718896856294e-5;
  g = g * t - 1.2887483134837842e-4;
  g = g * t + 2.283799633257643e-4;
  g = g * t + 8.759152875774328e-4;
  g = g * t - 2.6423659518134547e-3;
  g = g * t - 3.993701160123029e-3;
  g = g * t + 3.992253907546523e-2;
  g = g * t - 1.2503305237891782e-1;
  g = g * t + 2.517131932174488e-1;
  g = g * t - 3.7173673394897294e-1;
  g = g * t + 2.108063640611436e-1;
  return copysign<f64>(1 - Math.exp(-a * a) * g, x); // NaN comes here and stays
}

export function sine(x: f64): f64 {
  return quarterTurns(x, 0);
}

export function cosine(x: f64): f64 {
  return quarterTurns(x, 1);
}

/**
 * sin(x + turns π/2). From 2²⁰ π/2 to 2²², AssemblyScript's own reduction reads its table of π at a negative place; there x is
 * reduced here, with π/2 in two parts of 30 bits, whose products with k are exact, and a rest.
 */
function quarterTurns(x: f64, turns: i32): f64 {
  const a = abs(x);
  if (!(a > 1647099 && a < 4194304)) return turns ? Math.cos(x) : Math.sin(x);
  const k = nearest(x * 0.6366197723675814);
  const r = x - k * 1.570796325802803 - k * 9.920935791635221e-10 - k * 5.170182981794105e-19;
  turns += <i32>k;
  const y = turns & 1 ? Math.cos(r) : Math.sin(r);
  return turns & 2 ? -y : y;
}

import { scratch } from "./scratch";

/**
 * Philox 4×32-10 and the normal quantile, four blocks of the stream at a time. Every operation is that of src/tensor/philox.ts
 * in the same order, so the numbers are the same to the last bit. None may become a fused multiply-add.
 */

/** Elements that an item makes: those of four blocks. */
@inline
function elements<T>(): i32 {
  return 64 / <i32>sizeof<T>();
}

/** Writes the sixteen words of the blocks `counter … counter + 3` to `to`. */
function fourBlocks(counter: u64, k0: u32, k1: u32, to: usize): void {
  const m0 = v128.splat<u32>(0xd2511f53);
  const m1 = v128.splat<u32>(0xcd9e8d57);
  // Lane i belongs to block counter + i.
  const first = v128.add<u64>(v128.splat<u64>(counter), i64x2(0, 1));
  const second = v128.add<u64>(first, v128.splat<u64>(2));
  let c0 = v128.shuffle<u32>(first, second, 0, 2, 4, 6);
  let c1 = v128.shuffle<u32>(first, second, 1, 3, 5, 7);
  let c2 = v128.splat<u32>(0);
  let c3 = v128.splat<u32>(0);
  for (let round = 0; round < 10; round++) {
    const low0 = i64x2.extmul_low_i32x4_u(c0, m0);
    const high0 = i64x2.extmul_high_i32x4_u(c0, m0);
    const low1 = i64x2.extmul_low_i32x4_u(c2, m1);
    const high1 = i64x2.extmul_high_i32x4_u(c2, m1);
    c0 = v128.xor(v128.xor(v128.shuffle<u32>(low1, high1, 1, 3, 5, 7), c1), v128.splat<u32>(k0));
    c1 = v128.shuffle<u32>(low1, high1, 0, 2, 4, 6);
    c2 = v128.xor(v128.xor(v128.shuffle<u32>(low0, high0, 1, 3, 5, 7), c3), v128.splat<u32>(k1));
    c3 = v128.shuffle<u32>(low0, high0, 0, 2, 4, 6);
    k0 += 0x9e3779b9;
    k1 += 0xbb67ae85;
  }
  // From words of four blocks to blocks of four words.
  const a = v128.shuffle<u32>(c0, c1, 0, 4, 1, 5);
  const b = v128.shuffle<u32>(c2, c3, 0, 4, 1, 5);
  const c = v128.shuffle<u32>(c0, c1, 2, 6, 3, 7);
  const d = v128.shuffle<u32>(c2, c3, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<u64>(a, b, 0, 2));
  v128.store(to, v128.shuffle<u64>(a, b, 1, 3), 16);
  v128.store(to, v128.shuffle<u64>(c, d, 0, 2), 32);
  v128.store(to, v128.shuffle<u64>(c, d, 1, 3), 48);
}

/** A vector of numbers from a block's words: all four for float32, the two of each pair for float64. */
class Uniform<T> {
  @inline of(words: v128): v128 {
    if (sizeof<T>() == 4) return v128.mul<f32>(v128.convert<i32>(v128.shr<u32>(words, 8)), v128.splat<f32>(5.960464477539063e-8)); // 2⁻²⁴
    const high = f64x2.convert_low_i32x4_u(v128.shr<u32>(v128.shuffle<u32>(words, words, 0, 2, 0, 2), 5));
    const low = f64x2.convert_low_i32x4_u(v128.shr<u32>(v128.shuffle<u32>(words, words, 1, 3, 1, 3), 6));
    const scaled = v128.add<f64>(v128.mul<f64>(high, v128.splat<f64>(67108864)), low); // 2²⁶
    return v128.mul<f64>(scaled, v128.splat<f64>(1.1102230246251565e-16)); // 2⁻⁵³
  }
}

class Normal<T> {
  @inline of(words: v128): v128 {
    if (sizeof<T>() == 4) {
      const front = single(words);
      const back = single(v128.shuffle<u32>(words, words, 2, 3, 2, 3));
      return v128.shuffle<u64>(front, back, 0, 2);
    }
    const high = f64x2.convert_low_i32x4_u(v128.shr<u32>(v128.shuffle<u32>(words, words, 0, 2, 0, 2), 6));
    const low = f64x2.convert_low_i32x4_u(v128.shr<u32>(v128.shuffle<u32>(words, words, 1, 3, 1, 3), 6));
    const scaled = v128.add<f64>(v128.mul<f64>(high, v128.splat<f64>(67108864)), low);
    return quantile(v128.mul<f64>(v128.add<f64>(scaled, v128.splat<f64>(0.5)), v128.splat<f64>(2.220446049250313e-16))); // 2⁻⁵²
  }
}

/** Two float32 normal numbers from the first two words. */
@inline
function single(words: v128): v128 {
  const middle = v128.add<f64>(f64x2.convert_low_i32x4_u(words), v128.splat<f64>(0.5));
  return f32x4.demote_f64x2_zero(quantile(v128.mul<f64>(middle, v128.splat<f64>(2.3283064365386963e-10)))); // 2⁻³²
}

function random<T, Kind>(start: i32, end: i32, y: usize, n: i32, low: u32, high: u32, k0: u32, k1: u32): void {
  const f = changetype<Kind>(0);
  const offset = ((<u64>high) << 32) | (<u64>low);
  for (let item = start; item < end; item++) {
    fourBlocks(offset + 4 * <u64>item, k0, k1, scratch);
    const left = n - item * elements<T>();
    const place = y + <usize>item * 64;
    const to = left >= elements<T>() ? place : scratch + 64;
    for (let at: usize = 0; at < 64; at += 16) v128.store(to + at, f.of(v128.load(scratch + at)));
    if (to != place) memory.copy(place, to, <usize>left * sizeof<T>());
  }
}

// export uniform_T = random<T, Uniform<T>> for T of f32, f64
// export normal_T = random<T, Normal<T>> for T of f32, f64

// ── the normal quantile: AS 241, see src/tensor/philox.ts ─────────────────────────────────────────────────────────────────

@inline
function step(sum: v128, x: v128, c: f64): v128 {
  return v128.add<f64>(v128.mul<f64>(sum, x), v128.splat<f64>(c));
}

/** Of two numbers; most lie in the centre. */
function quantile(p: v128): v128 {
  const q = v128.sub<f64>(p, v128.splat<f64>(0.5));
  const x = v128.sub<f64>(v128.splat<f64>(0.180625), v128.mul<f64>(q, q));
  let a = step(v128.splat<f64>(2509.0809287301226727), x, 33430.575583588128105);
  a = step(a, x, 67265.770927008700853);
  a = step(a, x, 45921.953931549871457);
  a = step(a, x, 13731.693765509461125);
  a = step(a, x, 1971.5909503065514427);
  a = step(a, x, 133.14166789178437745);
  a = step(a, x, 3.387132872796366608);
  let b = step(v128.splat<f64>(5226.495278852854561), x, 28729.085735721942674);
  b = step(b, x, 39307.89580009271061);
  b = step(b, x, 21213.794301586595867);
  b = step(b, x, 5394.1960214247511077);
  b = step(b, x, 687.1870074920579083);
  b = step(b, x, 42.313330701600911252);
  b = step(b, x, 1);
  let y = v128.mul<f64>(q, v128.div<f64>(a, b));
  const central = v128.bitmask<i64>(v128.le<f64>(v128.abs<f64>(q), v128.splat<f64>(0.425)));
  if (!(central & 1)) y = v128.replace_lane<f64>(y, 0, tail(f64x2.extract_lane(p, 0)));
  if (!(central & 2)) y = v128.replace_lane<f64>(y, 1, tail(f64x2.extract_lane(p, 1)));
  return y;
}

function tail(p: f64): f64 {
  const r = sqrt(-logarithm(min(p, 1 - p)));
  let a: f64, b: f64;
  if (r <= 5) {
    const x = r - 1.6;
    a = 7.7454501427834140764e-4 * x + 0.0227238449892691845833;
    a = a * x + 0.24178072517745061177;
    a = a * x + 1.27045825245236838258;
    a = a * x + 3.64784832476320460504;
    a = a * x + 5.7694972214606914055;
    a = a * x + 4.6303378461565452959;
    a = a * x + 1.42343711074968357734;
    b = 1.05075007164441684324e-9 * x + 5.475938084995344946e-4;
    b = b * x + 0.0151986665636164571966;
    b = b * x + 0.14810397642748007459;
    b = b * x + 0.68976733498510000455;
    b = b * x + 1.6763848301838038494;
    b = b * x + 2.05319162663775882187;
    b = b * x + 1;
  } else {
    const x = r - 5;
    a = 2.01033439929228813265e-7 * x + 2.71155556874348757815e-5;
    a = a * x + 0.0012426609473880784386;
    a = a * x + 0.026532189526576123093;
    a = a * x + 0.29656057182850489123;
    a = a * x + 1.7848265399172913358;
    a = a * x + 5.4637849111641143699;
    a = a * x + 6.6579046435011037772;
    b = 2.04426310337993978564e-15 * x + 1.4215117583164458887e-7;
    b = b * x + 1.8463183175100546818e-5;
    b = b * x + 7.868691311456132591e-4;
    b = b * x + 0.0148753612908506148525;
    b = b * x + 0.13692988092273580531;
    b = b * x + 0.59983220655588793769;
    b = b * x + 1;
  }
  return p - 0.5 < 0 ? -(a / b) : a / b;
}

function logarithm(x: f64): f64 {
  const bits = reinterpret<u64>(x);
  const k = (<i32>(bits >> 32) - 0x3fe6a09e) >> 20;
  const m = reinterpret<f64>(bits - ((<u64>k) << 52));
  const s = (m - 1) / (m + 1);
  const z = s * s;
  let p = 1.0 / 21.0;
  p = p * z + 1.0 / 19.0;
  p = p * z + 1.0 / 17.0;
  p = p * z + 1.0 / 15.0;
  p = p * z + 1.0 / 13.0;
  p = p * z + 1.0 / 11.0;
  p = p * z + 1.0 / 9.0;
  p = p * z + 1.0 / 7.0;
  p = p * z + 1.0 / 5.0;
  p = p * z + 1.0 / 3.0;
  const double = s + s;
  return <f64>k * 6.9314718036912381649e-1 + (double + (double * (z * p) + <f64>k * 1.90821492927058770002e-10));
}

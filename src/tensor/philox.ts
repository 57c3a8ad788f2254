/**
 * Philox 4×32-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): block
 * `i` of a stream is a bijection of the counter `i` under a 64-bit key, so any element of any stream can be computed alone,
 * in any order, on any thread or device, with the same result.
 */
export type Key = readonly [number, number];

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const W0 = 0x9e3779b9;
const W1 = 0xbb67ae85;

/** High 32 bits of an unsigned 32 × 32-bit product; JavaScript only offers the low ones (`Math.imul`). */
function multiplyHigh(a: number, b: number): number {
  const [a0, a1, b0, b1] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = a1 * b0 + Math.floor((a0 * b0) / 65536);
  return a1 * b1 + Math.floor(middle / 65536) + Math.floor(((middle % 65536) + a0 * b1) / 65536);
}

/** Writes the four 32-bit words of block `counter` (below 2⁵³) of stream `key` to `out[at … at + 3]`. */
export function philoxBlock(counter: number, key: Key, out: Uint32Array, at = 0): void {
  let [c0, c1, c2, c3] = [counter >>> 0, Math.floor(counter / 2 ** 32) >>> 0, 0, 0];
  let [k0, k1] = [key[0] >>> 0, key[1] >>> 0];
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(M0, c0);
    const high1 = multiplyHigh(M1, c2);
    const low0 = Math.imul(M0, c0) >>> 0;
    const low1 = Math.imul(M1, c2) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + W0) >>> 0;
    k1 = (k1 + W1) >>> 0;
  }
  out[at] = c0;
  out[at + 1] = c1;
  out[at + 2] = c2;
  out[at + 3] = c3;
}

/**
 * Quantile function of the standard normal distribution: Wichura's algorithm AS 241 (PPND16, Applied Statistics 37, 1988),
 * relative accuracy about 1e-16. One uniform number gives one normal number, which keeps streams addressable by element. It
 * takes nothing but operations that IEEE 754 rounds alike everywhere, so that every backend can give the same numbers to the
 * last bit.
 */
export function normalQuantile(p: number): number {
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) return q * ratio(CENTRE, 0.180625 - q * q);
  const r = Math.sqrt(-logarithm(Math.min(p, 1 - p)));
  const tail = r <= 5 ? ratio(NEAR_TAIL, r - 1.6) : ratio(FAR_TAIL, r - 5);
  return q < 0 ? -tail : tail;
}

type Rational = readonly [numerator: readonly number[], denominator: readonly number[]];

// Coefficients of AS 241, constant term first.
const CENTRE: Rational = [
  [
    3.387132872796366608, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125, 45921.953931549871457, 67265.770927008700853,
    33430.575583588128105, 2509.0809287301226727,
  ],
  [
    1, 42.313330701600911252, 687.1870074920579083, 5394.1960214247511077, 21213.794301586595867, 39307.89580009271061,
    28729.085735721942674, 5226.495278852854561,
  ],
];
const NEAR_TAIL: Rational = [
  [
    1.42343711074968357734, 4.6303378461565452959, 5.7694972214606914055, 3.64784832476320460504, 1.27045825245236838258,
    0.24178072517745061177, 0.0227238449892691845833, 7.7454501427834140764e-4,
  ],
  [
    1, 2.05319162663775882187, 1.6763848301838038494, 0.68976733498510000455, 0.14810397642748007459, 0.0151986665636164571966,
    5.475938084995344946e-4, 1.05075007164441684324e-9,
  ],
];
const FAR_TAIL: Rational = [
  [
    6.6579046435011037772, 5.4637849111641143699, 1.7848265399172913358, 0.29656057182850489123, 0.026532189526576123093,
    0.0012426609473880784386, 2.71155556874348757815e-5, 2.01033439929228813265e-7,
  ],
  [
    1, 0.59983220655588793769, 0.13692988092273580531, 0.0148753612908506148525, 7.868691311456132591e-4, 1.8463183175100546818e-5,
    1.4215117583164458887e-7, 2.04426310338993978564e-15,
  ],
];

function ratio([numerator, denominator]: Rational, x: number): number {
  const horner = (coefficients: readonly number[]): number => coefficients.reduceRight((sum, c) => sum * x + c, 0);
  return horner(numerator) / horner(denominator);
}

const bits = new DataView(new ArrayBuffer(8));

/**
 * log x = k log 2 + log m, √½ ≤ m < √2, of a positive normal number: log m = 2 Σ s^(2i + 1) / (2i + 1) with s = (m − 1) / (m + 1).
 * The error is about a unit in the last place, as that of `Math.log`, which need not be the same in every JavaScript engine.
 */
function logarithm(x: number): number {
  bits.setFloat64(0, x);
  const high = bits.getInt32(0);
  const k = (high - 0x3fe6a09e) >> 20; // the first half of √½
  bits.setInt32(0, high - (k << 20));
  const m = bits.getFloat64(0);
  const s = (m - 1) / (m + 1);
  const z = s * s;
  let p = 1 / 21;
  for (let odd = 19; odd >= 3; odd -= 2) p = p * z + 1 / odd;
  const double = s + s;
  // log 2 in two parts; k times the first, of 33 bits, is exact.
  return k * 6.9314718036912381649e-1 + (double + (double * (z * p) + k * 1.90821492927058770002e-10));
}

/**
 * The exponent k with 2ᵏ ≤ |x| < 2ᵏ⁺¹ (off by one at most, by the rounding of the logarithm); 0 for 0. Subnormal numbers
 * included.
 */
export function powerOfTwoNear(x: number): number {
  return x === 0 ? 0 : Math.floor(Math.log2(Math.abs(x)));
}

/** A copy of `x` times 2ᵏ: exact, as long as the results are normal numbers. Two factors, since 2ᵏ alone may be out of range. */
export function scaleByPower(x: Float64Array, k: number): Float64Array {
  const half = Math.trunc(k / 2);
  const first = 2 ** half;
  const second = 2 ** (k - half);
  return x.map((value) => value * first * second);
}

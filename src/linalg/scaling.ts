/**
 * Entries up to this size count as 0, in a matrix whose largest entry is of order 1. Rounding is coarser by a factor of 2¹⁴⁸, so
 * nothing is lost; and what is left can be squared, and multiplied by a second such number first, without underflow. Otherwise
 * reflections and rotations built from subnormal numbers would not be orthogonal, and a block of such numbers might not converge.
 */
export const negligible = 2 ** -200;

/**
 * The exponent k with 2ᵏ ≤ |x| < 2ᵏ⁺¹ (off by one at most, by the rounding of the logarithm); 0 for 0. Subnormal numbers
 * included.
 */
export function powerOfTwoNear(x: number): number {
  return x === 0 ? 0 : Math.floor(Math.log2(Math.abs(x)));
}

/** Two numbers whose product is 2ᵏ, which alone may be out of range. */
export function factorsOfPower(k: number): readonly [number, number] {
  const half = Math.trunc(k / 2);
  return [2 ** half, 2 ** (k - half)];
}

/** x · 2ᵏ, where 2ᵏ alone may be out of range. */
export function timesPower(x: number, k: number): number {
  const [first, second] = factorsOfPower(k);
  return x * first * second;
}

/** A copy of `x` times 2ᵏ: exact, as long as the results are normal numbers. */
export function scaleByPower(x: Float64Array, k: number): Float64Array {
  const [first, second] = factorsOfPower(k);
  return x.map((value) => value * first * second);
}

/**
 * Six points at which polynomials of degree 5 are evaluated and interpolated, for Winograd's convolution and patch covariances. Any define
 * such an algorithm. 0, ±1, ±2 and ∞ need few multiplications; 0, ±a = ±5/8, ±b = ±3/2 and ∞ halve the error, and all constants of
 * `transformInput` are exact. Results at the points are stored in this order: 0, a, −a, b, −b, ∞.
 */
import { madd } from "./vector";

export const A: f32 = 0.625;
export const B: f32 = 1.5;
export const A2: f32 = A * A;
export const B2: f32 = B * B;
/** Weights w(±a), w(±b) and w(0): 1 / Π (p − q) over the other points q but ∞. */
export const ALPHA: f32 = 1 / (2 * A2 * (A2 - B2));
export const BETA: f32 = 1 / (2 * B2 * (B2 - A2));
export const ZERO: f32 = 1 / (A2 * B2);

/**
 * Bᵀ d: six vectors, `stride` bytes apart, to six, `step` bytes apart.
 *
 *     V(0) = (d4 − b² d2) − a² (d2 − b² d0)    V(±a) = (d4 − b² d2) ± a (d3 − b² d1)
 *     V(∞) = (d5 − b² d3) − a² (d3 − b² d1)    V(±b) = (d4 − a² d2) ± b (d3 − a² d1)
 */
@inline
export function transformInput(from: usize, stride: usize, to: usize, step: usize): void {
  const minusA2 = f32x4.splat(-A2);
  const minusB2 = f32x4.splat(-B2);
  const d1 = v128.load(from + stride);
  const d2 = v128.load(from + 2 * stride);
  const d3 = v128.load(from + 3 * stride);
  const d4 = v128.load(from + 4 * stride);
  const even = madd<f32>(minusB2, d2, d4);
  const odd = madd<f32>(minusB2, d1, d3);
  v128.store(to, madd<f32>(minusA2, madd<f32>(minusB2, v128.load(from), d2), even));
  v128.store(to + 5 * step, madd<f32>(minusA2, odd, madd<f32>(minusB2, d3, v128.load(from + 5 * stride))));
  const a = f32x4.mul(f32x4.splat(A), odd);
  v128.store(to + step, f32x4.add(even, a));
  v128.store(to + 2 * step, f32x4.sub(even, a));
  const even2 = madd<f32>(minusA2, d2, d4);
  const b = f32x4.mul(f32x4.splat(B), madd<f32>(minusA2, d1, d3));
  v128.store(to + 3 * step, f32x4.add(even2, b));
  v128.store(to + 4 * step, f32x4.sub(even2, b));
}

import { tidy, unscoped, type Tensor } from "../tensor/index.ts";
import { largestEntry } from "./norms.ts";
import { orthonormalBasis, wellConditionedBasis } from "./panels.ts";
import { factorsOfPower, powerOfTwoNear } from "./scaling.ts";
import { multiply, requireCount, sketchOf, type SketchOptions } from "./sketch.ts";
import { destinationOf, narrowed } from "./transfer.ts";

export interface RandomizedRangeOptions extends SketchOptions {
  /** Power iterations, of two products each: they make the spectrum decay faster. Default 4. */
  readonly iterations?: number;
}

/**
 * An orthonormal basis Q [m, s] for the dominant range of any matrix X [m, n], by randomized subspace iteration: s = rank + oversampling
 * random combinations of the columns, multiplied by Xᵀ and X in turns, q times. Q Qᵀ X is then nearly the best approximation of that rank.
 *
 * With p = oversampling ≥ 2, r = rank and the singular values σ of X, on average over the random numbers
 *
 *     ‖X − QQᵀX‖_F ≤ (1 + r/(p − 1))^½ (Σ_{j>r} σⱼ²)^½                                                        for q = 0
 *     ‖X − QQᵀX‖₂ ≤ [(1 + √(r/(p − 1))) σ_{r+1}^k + e√(r + p)/p · (Σ_{j>r} σⱼ^{2k})^½]^{1/k}       with k = 2q + 1
 *
 * and never less than σ_{s+1} in the 2-norm. (2q + 1)·2mns operations for the products, and panels of O(m·s²) between them.
 *
 * @returns Q in X's type and on its device, orthonormal as `orthonormalize` makes it; the caller owns it.
 * @throws UsageError for a rank, an oversampling or iterations that are not whole numbers in range, or without generator and test matrix;
 *   ShapeError; DTypeError; NumericalError for entries that are not finite.
 * Source: Halko, Martinsson & Tropp, SIAM Review 53, 2011: Algorithm 4.4, Theorems 10.5 and 10.6, Corollary 10.10.
 */
export async function randomizedRange(x: Tensor, options: RandomizedRangeOptions): Promise<Tensor> {
  const destination = destinationOf("randomizedRange", x);
  const { basis } = await rangeBasis("randomizedRange", x, options);
  using q = basis;
  return await narrowed(q, destination);
}

/** The basis in float64 (`widened`), owned by the caller, and the rank that was asked for. */
export async function rangeBasis(operation: string, x: Tensor, options: RandomizedRangeOptions): Promise<{ rank: number; basis: Tensor }> {
  const { iterations = 4 } = options;
  requireCount(operation, "iterations", iterations, 0);
  using own = x.keep();
  const { rank, sketch } = sketchOf(operation, own, options);
  let panel = await takeProduct(operation, own, sketch);
  for (let i = 0; i < iterations; i++) {
    panel = await takeProduct(operation, own, await takeWellConditioned(panel), { transposed: true });
    panel = await takeProduct(operation, own, await takeWellConditioned(panel));
  }
  return { rank, basis: await takeOrthonormal(panel) };
}

/*
 * Steps of an iteration: each disposes the panel that it is given, also where it fails, and hands on the next one.
 */

export async function takeProduct(operation: string, x: Tensor, panel: Tensor, options: { transposed?: boolean } = {}): Promise<Tensor> {
  using old = panel;
  return await multiply(operation, x, old, options);
}

export async function takeWellConditioned(panel: Tensor): Promise<Tensor> {
  using old = panel;
  return await wellConditionedBasis(old);
}

/** Times the power of two that brings its largest entry near 1: the span is the same, and the next product stays in range as long as X does. */
export async function takeScaled(panel: Tensor): Promise<Tensor> {
  using old = panel;
  const exponent = powerOfTwoNear(await largestEntry(old));
  if (exponent === 0) return old.keep();
  const [first, second] = factorsOfPower(-exponent);
  return unscoped(() => tidy(() => old.multiply(first).multiply(second)));
}

/** In float64 (`widened`). */
export async function takeOrthonormal(panel: Tensor): Promise<Tensor> {
  using old = panel;
  return await orthonormalBasis(old);
}

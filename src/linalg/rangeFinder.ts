import { tidy, unscoped, UsageError, type Tensor } from "../tensor/index.ts";
import { largestEntry } from "./norms.ts";
import { DEPARTURE, orthonormalBasis, wellConditionedBasis } from "./panels.ts";
import { factorsOfPower, powerOfTwoNear } from "./scaling.ts";
import { multiply, requireCount, sketchOf, type SketchOptions } from "./sketch.ts";
import { destinationOf, narrowed } from "./transfer.ts";

export interface RandomizedRangeOptions extends SketchOptions {
  /** Power iterations, of two products each: they make the spectrum decay faster. Default 4. */
  readonly iterations?: number;
  /**
   * A bound on the condition of X [m, n], σ₁/σ_min(m, n), where one is known: bases between products that cannot spoil a panel are left out
   * then. Too small a bound costs digits of the weakest directions. Default: none is known.
   */
  readonly condition?: number;
}

/**
 * Condition up to which a panel is multiplied again as it is. Rounding to float32 turns its weakest direction by 1e-4 at most then, and
 * columns that are made orthonormal after that keep within what one pass is good for.
 */
const MOST_CONDITION = 1e3;

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
  const { iterations = 4, condition } = options;
  requireCount(operation, "iterations", iterations, 0);
  const between = betweenProducts(operation, condition);
  using own = x.keep();
  const { rank, sketch } = sketchOf(operation, own, options);
  let panel = await takeProduct(operation, own, sketch);
  for (let i = 0; i < iterations; i++) {
    panel = await takeProduct(operation, own, await between(panel), { transposed: true });
    panel = await takeProduct(operation, own, await between(panel));
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

/**
 * What an iteration does between two products with a matrix of that condition: a basis, or no more than the scale where another product
 * leaves the panel's condition below `MOST_CONDITION`. A product multiplies it by the matrix's at most.
 * @throws UsageError for a condition below 1.
 */
export function betweenProducts(operation: string, condition = Infinity): (panel: Tensor) => Promise<Tensor> {
  if (!(condition >= 1)) throw new UsageError(`${operation}: condition is at least 1 for any matrix but ${condition} was given`);
  let reached = Infinity; // by the panel that comes next; of random columns nothing is known
  return (panel) => {
    if (reached * condition <= MOST_CONDITION) {
      reached *= condition;
      return takeScaled(panel);
    }
    reached = ((1 + DEPARTURE.wellConditioned) / (1 - DEPARTURE.wellConditioned)) ** 0.5 * condition;
    return takeWellConditioned(panel);
  };
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

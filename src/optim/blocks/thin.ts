import type { Tensor } from "../../tensor/index.ts";
import type { CurvatureView } from "../curvature/view.ts";

/*
 * Thin application. The gradient of a dense layer with one position a sample is J = C_g C_aᵀ, with a column for each of n samples, so
 *
 *     Γ⁻¹ J Ω⁻¹ = (Γ⁻¹ C_g)(Ω⁻¹ C_a)ᵀ
 *
 * for symmetric inverses: these meet n columns each instead of a dOut × dA matrix, and what is left is one product, which the reverse pass
 * has paid once, too. The same direction, up to rounding.
 */

export interface ThinOptions {
  /**
   * Precondition the thin factors of a dense layer's gradient, before these are multiplied, where that takes fewer operations: the same
   * direction, up to rounding. Default true.
   */
  readonly thin?: boolean | undefined;
}

/** Whether a layer's steps should come with the factors of its gradient, by its first batch: a later one may have several positions a sample. */
export function wantsThin({ thin = true }: ThinOptions, { positions }: CurvatureView): boolean {
  return thin && positions === 1;
}

/** A symmetric inverse, and the operations that it takes to apply it to one column. */
export interface ThinSide {
  readonly columnCost: number;
  left(columns: Tensor): Tensor;
}

/**
 * The direction by thin application, or null where that is not possible (several positions a sample in this step, or a loss with a part that
 * the records do not explain, as a penalty) or takes more operations than `denseCost`.
 */
export function throughThinFactors(view: CurvatureView, input: ThinSide, output: ThinSide, denseCost: number): Tensor | null {
  const { n, positions, dA, dOut } = view;
  if (positions !== 1 || !view.explainsGradient) return null;
  if (n * (input.columnCost + output.columnCost) + 2 * n * dA * dOut >= denseCost) return null;
  return output.left(view.thinOutputGradient("training")).matmul(input.left(view.thinInput()), { transposeB: true });
}

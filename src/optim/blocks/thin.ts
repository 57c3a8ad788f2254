import type { Tensor } from "../../tensor/index.ts";
import type { Factors } from "../curvature/factor.ts";
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
   * Precondition the thin factors of a dense layer's gradient, before these are multiplied, where that takes fewer operations for the
   * step's batch (but for SENG, also for one of the size of the layer's first): the same direction, up to rounding. Default true.
   */
  readonly thin?: boolean | undefined;
}

/** Operations that it takes to apply each inverse to one column. */
export type ThinCosts = Factors<{ readonly columnCost: number }>;

/** The two inverses, which are symmetric: `left` multiplies columns by one. */
export type ThinInverses = Factors<{ left(columns: Tensor): Tensor }>;

/** Of a layer's inverse: when it is applied to the thin factors, and how. */
export class ThinApplication {
  readonly #on: boolean;
  readonly #layer: Pick<CurvatureView, "dA" | "dOut">;
  /** Samples of the first batch, which stands for the next ones before they are there; 0 if it had several positions a sample. */
  #samples: number;

  constructor({ thin = true }: ThinOptions, { positions, n, dA, dOut }: CurvatureView) {
    this.#on = thin;
    this.#layer = { dA, dOut };
    this.#samples = positions === 1 ? n : 0;
  }

  /**
   * Whether steps should come with the factors of the gradient, which costs something: where they would be used for a batch like the first, or
   * the costs are not known yet (null).
   */
  wanted(costs: ThinCosts | null): boolean {
    return this.#on && this.#samples > 0 && (!costs || this.#pays(this.#samples, costs));
  }

  /**
   * The direction by thin application, or null where that is not possible (several positions a sample in this step, or a loss with a part that
   * the records do not explain, as a penalty), not wanted, or takes more operations than to precondition the gradient as a whole.
   */
  direction(view: CurvatureView, costs: ThinCosts, { input, output }: ThinInverses): Tensor | null {
    const { n, positions } = view;
    if (!this.wanted(costs) || positions !== 1 || !view.explainsGradient || !this.#pays(n, costs)) return null;
    return output.left(view.thinOutputGradient("training")).matmul(input.left(view.thinInput()), { transposeB: true });
  }

  #pays(n: number, { input, output }: ThinCosts): boolean {
    const { dA, dOut } = this.#layer;
    const [a, g] = [input.columnCost, output.columnCost];
    return n * (a + g) + 2 * n * dA * dOut < a * dOut + g * dA;
  }

  /** Part of the inverse's state: rounding is the same after a resume, whatever batch comes first there. */
  state(): Record<string, number> {
    return { thinSamples: this.#samples };
  }

  /** Leaves what a state says nothing about. */
  load({ thinSamples = this.#samples }: Readonly<Record<string, number>>): void {
    this.#samples = thinSamples;
  }
}

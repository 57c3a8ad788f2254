import { undoAfterFrozen } from "../autograd/index.ts";
import { Generator, requireFloat, UsageError, type Tensor } from "../tensor/index.ts";
import { Module } from "./module.ts";

/**
 * Zeroes each element with probability `probability` in training and scales the rest by 1/(1 − probability), so that
 * evaluation is the identity (Srivastava et al. 2014).
 */
export class Dropout extends Module {
  readonly probability: number;
  readonly generator: Generator;

  /** @param probability default 0.5, in [0, 1). */
  constructor(probability = 0.5, { generator }: { readonly generator?: Generator } = {}) {
    super();
    if (!(probability >= 0 && probability < 1)) throw new UsageError(`Dropout: the probability must be in [0, 1) but is ${probability}`);
    this.probability = probability;
    this.generator = generator ?? Generator.fromEntropy();
  }

  protected compute(input: Tensor): Tensor {
    if (!this.training || this.probability === 0) return input;
    const dtype = requireFloat("Dropout", input.dtype);
    const state = this.generator.state();
    undoAfterFrozen(() => {
      this.generator.load(state);
    });
    const draws = this.generator.uniform(input.shape, { dtype, backend: input.backend });
    const mask = draws.greaterEqual(this.probability).cast(dtype);
    return input.multiply(mask.multiply(1 / (1 - this.probability)));
  }
}

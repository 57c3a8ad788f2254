import { updateState } from "../autograd/index.ts";
import { apply, formatShape, ShapeError, Tensor, tidy, UsageError, type Variable } from "../tensor/index.ts";
import { constantInit } from "./init.ts";
import { buffer, Module, parameter, requireExtents, type LayerOptions, type Parameter } from "./module.ts";

export interface BatchNormOptions extends LayerOptions {
  /** ε in (var + ε)^(−1/2), above 0. Default 1e-5. */
  readonly epsilon?: number | undefined;
  /** Weight of the newest batch in the running statistics, in [0, 1]. Default 0.1. */
  readonly momentum?: number | undefined;
}

/**
 * Batch normalisation over all axes but the channels (Ioffe and Szegedy 2015, arXiv 1502.03167). Training uses the batch's
 * statistics (biased variance) and moves the running ones (unbiased variance, as PyTorch); evaluation uses the running ones.
 */
export abstract class BatchNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;
  readonly runningMean: Variable;
  readonly runningVariance: Variable;
  readonly epsilon: number;
  readonly momentum: number;

  constructor(channels: number, options: BatchNormOptions = {}) {
    super();
    const { epsilon = 1e-5, momentum = 0.1 } = options;
    requireExtents(this.constructor.name, { channels });
    if (!(epsilon > 0 && epsilon < Infinity)) {
      throw new UsageError(`${this.constructor.name}: epsilon must be finite and above 0 but is ${epsilon}`);
    }
    if (!(momentum >= 0 && momentum <= 1)) {
      throw new UsageError(`${this.constructor.name}: momentum must be in [0, 1] but is ${momentum}`);
    }
    this.epsilon = epsilon;
    this.momentum = momentum;
    this.weight = parameter("weight", () => constantInit(1)([channels], options));
    this.bias = parameter("bias", () => constantInit(0)([channels], options));
    this.runningMean = buffer("runningMean", () => constantInit(0)([channels], options));
    this.runningVariance = buffer("runningVariance", () => constantInit(1)([channels], options));
  }

  protected compute(input: Tensor): Tensor {
    return this.#normalize(input, false);
  }

  /** `forward`, then max(·, 0), without storing what is in between. */
  forwardRelu(input: Tensor): Tensor {
    return tidy(() => this.#normalize(input, true));
  }

  /** @throws ShapeError unless the input has the layer's rank. */
  protected abstract checkInput(input: Tensor): void;

  #normalize(input: Tensor, relu: boolean): Tensor {
    this.checkInput(input);
    const channels = this.weight.shape[0] as number;
    if (input.shape.at(-1) !== channels) {
      throw new ShapeError(
        `BatchNorm: the layer has ${channels} channels but the last axis of the input ${formatShape(input.shape)} has not`,
      );
    }
    if (!this.training) {
      const rstd = this.runningVariance.value.add(this.epsilon).sqrt().reciprocal();
      return apply("normalize", [input, this.runningMean.value, this.weight.value.multiply(rstd), this.bias.value], { relu })[0];
    }
    const count = input.size / channels;
    if (count === 1) {
      throw new ShapeError(
        `BatchNorm: training needs more than one value a channel but the input is ${formatShape(input.shape)}; use a larger batch or eval()`,
      );
    }
    const operands = [input, this.weight.value, this.bias.value] as const;
    const [y, mean, rstd] = apply(relu ? "batchNormRelu" : "batchNorm", [...operands], { epsilon: this.epsilon });
    updateState(() => {
      tidy(() => {
        // Rounding may take the variance of a constant channel below 0.
        const variance = rstd.square().reciprocal().subtract(this.epsilon).maximum(0);
        this.#move(this.runningMean, mean);
        this.#move(this.runningVariance, variance.multiply(count / (count - 1)));
      });
    });
    return y;
  }

  #move(running: Variable, observed: Tensor): void {
    const params = { a: 1 - this.momentum, b: this.momentum };
    running.assign(apply("linearCombination", [running.value, observed], params, { donate: [0] })[0]);
  }
}

/** Batch normalisation of features [n, channels] or sequences [n, length, channels]. */
export class BatchNorm1d extends BatchNorm {
  protected checkInput(input: Tensor): void {
    if (input.rank !== 2 && input.rank !== 3) {
      throw new ShapeError(`BatchNorm1d: expects [n, channels] or [n, length, channels] but the input is ${formatShape(input.shape)}`);
    }
  }
}

/** Batch normalisation of images [n, height, width, channels]. */
export class BatchNorm2d extends BatchNorm {
  protected checkInput(input: Tensor): void {
    if (input.rank !== 4) {
      throw new ShapeError(`BatchNorm2d: expects [n, height, width, channels] but the input is ${formatShape(input.shape)}`);
    }
  }
}

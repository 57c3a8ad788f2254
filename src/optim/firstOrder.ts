import type { Parameter } from "../nn/index.ts";
import { Optimizer } from "./optimizer.ts";
import type { Schedule } from "./schedules.ts";
import {
  adamScaling,
  momentum,
  rmsScaling,
  weightDecay,
  type AdamScalingOptions,
  type MomentumOptions,
  type RmsScalingOptions,
} from "./transforms.ts";

interface CommonOptions {
  readonly learningRate: Schedule;
  /** Default 0. */
  readonly weightDecay?: Schedule | undefined;
}

export interface SgdOptions extends CommonOptions, MomentumOptions {}

/** Stochastic gradient descent, with momentum and L2 weight decay in PyTorch's conventions. */
export class Sgd extends Optimizer {
  constructor(parameters: readonly Parameter[], options: SgdOptions) {
    super(parameters, {
      learningRate: options.learningRate,
      transforms: [weightDecay(options.weightDecay ?? 0), momentum(parameters, options)],
    });
  }
}

export interface AdamOptions extends CommonOptions, AdamScalingOptions {}

/** Adam (arXiv 1412.6980); weight decay is L2 regularisation, added to the gradient. */
export class Adam extends Optimizer {
  constructor(parameters: readonly Parameter[], options: AdamOptions) {
    super(parameters, {
      learningRate: options.learningRate,
      transforms: [weightDecay(options.weightDecay ?? 0), adamScaling(parameters, options)],
    });
  }
}

/** Adam with decoupled weight decay (arXiv 1711.05101). Weight decay defaults to .01. */
export class AdamW extends Optimizer {
  constructor(parameters: readonly Parameter[], options: AdamOptions) {
    super(parameters, {
      learningRate: options.learningRate,
      transforms: [adamScaling(parameters, options), weightDecay(options.weightDecay ?? 0.01)],
    });
  }
}

export interface RmsPropOptions extends CommonOptions, RmsScalingOptions {
  /** Default 0. */
  readonly momentum?: Schedule | undefined;
}

/** RMSprop in PyTorch's conventions: weight decay is L2, momentum follows the scaling. */
export class RmsProp extends Optimizer {
  constructor(parameters: readonly Parameter[], options: RmsPropOptions) {
    super(parameters, {
      learningRate: options.learningRate,
      transforms: [
        weightDecay(options.weightDecay ?? 0),
        rmsScaling(parameters, options),
        momentum(parameters, { momentum: options.momentum }),
      ],
    });
  }
}

import { conv2d, linear, pair, ShapeError, Tensor, type Conv2dOptions, type Pair } from "../tensor/index.ts";
import { ReLU } from "./activations.ts";
import { constantInit, pytorchInit, uniformInit, type Initializer } from "./init.ts";
import { isObserved, Module, parameter, requireExtents, type LayerOptions, type Parameter } from "./module.ts";
import { BatchNorm1d, BatchNorm2d, type BatchNorm } from "./normalization.ts";

export interface WeightOptions extends LayerOptions {
  /** Default true. */
  readonly bias?: boolean | undefined;
  /** Default `pytorchInit`; the bias is then uniform on ±1/√fanIn as well. */
  readonly init?: Initializer | undefined;
  /** Default: as PyTorch when `init` is left out, else 0. */
  readonly biasInit?: Initializer | undefined;
}

function biasInitializer(options: WeightOptions, fanIn: number): Initializer {
  return options.biasInit ?? (options.init ? constantInit(0) : uniformInit(1 / Math.sqrt(fanIn)));
}

/** y = x Wᵀ + b for x [n, …, in] with weight [out, in]. */
export class Linear extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;

  constructor(inFeatures: number, outFeatures: number, options: WeightOptions = {}) {
    super();
    requireExtents("Linear", { inFeatures, outFeatures });
    this.weight = parameter("weight", () => (options.init ?? pytorchInit)([outFeatures, inFeatures], options));
    this.bias = options.bias === false ? null : parameter("bias", () => biasInitializer(options, inFeatures)([outFeatures], options));
  }

  protected compute(input: Tensor): Tensor {
    return linear(input, this.weight.value, this.bias?.value ?? null);
  }
}

/** Two-dimensional convolution of images [n, height, width, in] with weight [out, kernelHeight, kernelWidth, in / groups]. */
export class Conv2d extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  readonly geometry: Conv2dOptions;

  constructor(inChannels: number, outChannels: number, kernel: Pair, options: WeightOptions & Conv2dOptions = {}) {
    super();
    const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
    const [kernelHeight, kernelWidth] = pair(kernel);
    requireExtents("Conv2d", { inChannels, outChannels, kernelHeight, kernelWidth, groups });
    if (inChannels % groups !== 0 || outChannels % groups !== 0) {
      throw new ShapeError(`Conv2d: groups ${groups} must divide ${inChannels} input and ${outChannels} output channels`);
    }
    const shape = [outChannels, kernelHeight, kernelWidth, inChannels / groups];
    this.geometry = { stride, padding, dilation, groups };
    this.weight = parameter("weight", () => (options.init ?? pytorchInit)(shape, options));
    const fanIn = (inChannels / groups) * kernelHeight * kernelWidth;
    this.bias = options.bias === false ? null : parameter("bias", () => biasInitializer(options, fanIn)([outChannels], options));
  }

  protected compute(input: Tensor): Tensor {
    return conv2d(input, this.weight.value, this.bias?.value ?? null, this.geometry);
  }
}

/** Joins all axes but the first: [n, …] → [n, features]. */
export class Flatten extends Module {
  protected compute(input: Tensor): Tensor {
    return input.reshape([input.shape[0] as number, input.shape.slice(1).reduce((product, extent) => product * extent, 1)]);
  }
}

/** Modules one after the other, named `0`, `1`, …. */
export class Sequential extends Module {
  readonly #modules: readonly Module[];

  constructor(...modules: Module[]) {
    super();
    this.#modules = modules;
  }

  override children(): [name: string, module: Module][] {
    return this.#modules.map((module, i) => [String(i), module]);
  }

  protected compute(input: Tensor): Tensor {
    let x = input;
    for (let i = 0; i < this.#modules.length; i++) {
      const module = this.#modules[i] as Module;
      const fused = isBatchNormRelu(module, this.#modules[i + 1]);
      const y = fused ? module.forwardRelu(x) : module.forward(x);
      if (fused) i++;
      if (x !== input) x.dispose();
      x = y;
    }
    return x;
  }
}

/** Batch norm and ReLU are one pass over memory instead of two, and so is their gradient in training. */
function isBatchNormRelu(module: Module, next: Module | undefined): module is BatchNorm {
  // Of these very classes: one that extends them may compute something else.
  const plain = module.constructor === BatchNorm1d || module.constructor === BatchNorm2d;
  return plain && next?.constructor === ReLU && !isObserved();
}

import { Generator, ShapeError, sizeOf, Tensor, tidy, type Shape } from "../tensor/index.ts";
import type { LayerOptions } from "./module.ts";

/** How an initial weight is drawn: from its shape, [out, in] or [out, kernelHeight, kernelWidth, in / groups]. */
export type Initializer = (shape: Shape, options: LayerOptions) => Tensor;

/** Inputs and outputs that meet in one weight: fanIn = in · kernel, fanOut = out · kernel. */
export function fans(shape: Shape): { fanIn: number; fanOut: number } {
  if (shape.length < 2)
    throw new ShapeError(`an initialiser by fan needs a weight of rank 2 or more but the shape is [${shape.join(", ")}]`);
  const kernel = sizeOf(shape.slice(1, -1));
  return { fanIn: (shape.at(-1) as number) * kernel, fanOut: (shape[0] as number) * kernel };
}

function draw(kind: "uniform" | "normal", shape: Shape, scale: number, { generator, dtype = "float32", backend }: LayerOptions): Tensor {
  const stream = generator ?? Generator.fromEntropy();
  const options = backend ? { dtype, backend } : { dtype };
  return tidy(() =>
    kind === "normal"
      ? stream.normal(shape, options).multiply(scale)
      : stream.uniform(shape, options).multiply(2).subtract(1).multiply(scale),
  );
}

/** Uniform on [−bound, bound). */
export const uniformInit =
  (bound: number): Initializer =>
  (shape, options) =>
    draw("uniform", shape, bound, options);

/** Normal with mean 0. */
export const normalInit =
  (standardDeviation: number): Initializer =>
  (shape, options) =>
    draw("normal", shape, standardDeviation, options);

export const constantInit =
  (value: number): Initializer =>
  (shape, { dtype = "float32", backend }) =>
    Tensor.full(shape, value, backend ? { dtype, backend } : { dtype });

/** He et al. 2015 (arXiv 1502.01852): variance gain² / fan, gain √2 for ReLU. */
export const kaimingNormal =
  (mode: "fanIn" | "fanOut" = "fanIn", gain = Math.SQRT2): Initializer =>
  (shape, options) =>
    draw("normal", shape, gain / Math.sqrt(fans(shape)[mode]), options);

export const kaimingUniform =
  (mode: "fanIn" | "fanOut" = "fanIn", gain = Math.SQRT2): Initializer =>
  (shape, options) =>
    draw("uniform", shape, gain * Math.sqrt(3 / fans(shape)[mode]), options);

/** Glorot and Bengio 2010: variance 2 gain² / (fanIn + fanOut). */
export const xavierNormal =
  (gain = 1): Initializer =>
  (shape, options) => {
    const { fanIn, fanOut } = fans(shape);
    return draw("normal", shape, gain * Math.sqrt(2 / (fanIn + fanOut)), options);
  };

export const xavierUniform =
  (gain = 1): Initializer =>
  (shape, options) => {
    const { fanIn, fanOut } = fans(shape);
    return draw("uniform", shape, gain * Math.sqrt(6 / (fanIn + fanOut)), options);
  };

/** PyTorch's default for linear and convolutional weights: uniform on ±1/√fanIn. */
export const pytorchInit: Initializer = (shape, options) => draw("uniform", shape, 1 / Math.sqrt(fans(shape).fanIn), options);

/** VGG's convolutions: normal with variance 2 / (kernel area · out). */
export const vggInit: Initializer = kaimingNormal("fanOut");

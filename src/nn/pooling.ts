import {
  averagePool2d,
  formatShape,
  maxPool2d,
  pair,
  ShapeError,
  Tensor,
  type AveragePoolOptions,
  type Pair,
  type WindowOptions,
} from "../tensor/index.ts";
import { Module, requireExtents } from "./module.ts";

/** Largest element of each window. Stride defaults to the kernel's size. */
export class MaxPool2d extends Module {
  readonly kernel: Pair;
  readonly geometry: WindowOptions;
  constructor(kernel: Pair, geometry: WindowOptions = {}) {
    super();
    this.kernel = kernel;
    this.geometry = geometry;
  }
  protected compute(input: Tensor): Tensor {
    return maxPool2d(input, this.kernel, this.geometry);
  }
}

/** Mean of each window; zeros of the padding count unless `countPadding` is false. Stride defaults to the kernel's size. */
export class AveragePool2d extends Module {
  readonly kernel: Pair;
  readonly geometry: AveragePoolOptions;
  constructor(kernel: Pair, geometry: AveragePoolOptions = {}) {
    super();
    this.kernel = kernel;
    this.geometry = geometry;
  }
  protected compute(input: Tensor): Tensor {
    return averagePool2d(input, this.kernel, this.geometry);
  }
}

/**
 * Means over `[height, width]` nearly equal regions, whatever the image's size: output i covers rows ⌊i·H/h⌋ … ⌈(i+1)·H/h⌉ − 1.
 * A separable linear map, so two small matrix products.
 */
export class AdaptiveAveragePool2d extends Module {
  readonly size: readonly [number, number];
  constructor(size: Pair) {
    super();
    this.size = pair(size);
    const [height, width] = this.size;
    requireExtents("AdaptiveAveragePool2d", { height, width });
  }
  protected compute(input: Tensor): Tensor {
    if (input.rank !== 4)
      throw new ShapeError(`AdaptiveAveragePool2d: expects [n, height, width, channels] but the input is ${formatShape(input.shape)}`);
    const [n, height, width, channels] = input.shape as [number, number, number, number];
    const [h, w] = this.size;
    const rows = regionMeans(height, h, input).matmul(input.reshape([n, height, width * channels]));
    return regionMeans(width, w, input)
      .matmul(rows.reshape([n * h, width, channels]))
      .reshape([n, h, w, channels]);
  }
}

/** [regions, extent]: row i holds 1/length over region i. */
function regionMeans(extent: number, regions: number, { dtype, backend }: Tensor): Tensor {
  const rows = Array.from({ length: regions }, (_, i) => {
    const [start, end] = [Math.floor((i * extent) / regions), Math.ceil(((i + 1) * extent) / regions)];
    return Array.from({ length: extent }, (_, j) => (j >= start && j < end ? 1 / (end - start) : 0));
  });
  return Tensor.from(rows, { shape: [regions, extent], dtype, backend });
}

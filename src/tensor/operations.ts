import { ShapeError } from "./errors.ts";
import type { LabelSmoothing } from "./primitives.ts";
import { normalizeAxis, type Padding, type WindowGeometry } from "./shape.ts";
import { tidy } from "./scope.ts";
import { apply, type Tensor } from "./tensor.ts";

/** A length in pixels for both directions, or `[vertical, horizontal]`. */
export type Pair = number | readonly [vertical: number, horizontal: number];
/** The same padding all around, `[vertical, horizontal]`, or each side by name. */
export type PaddingOption = Pair | Padding;

export interface WindowOptions {
  /** Default 1 for convolution, the kernel's size for pooling. */
  readonly stride?: Pair | undefined;
  /** Zeros around the image in pixels. Default 0. */
  readonly padding?: PaddingOption | undefined;
  /** Distance between neighbouring kernel elements. Default 1. */
  readonly dilation?: Pair | undefined;
}
export interface Conv2dOptions extends WindowOptions {
  /** Independent convolutions over slices of the channels. Default 1. */
  readonly groups?: number | undefined;
}
export interface AveragePoolOptions extends WindowOptions {
  /** Zeros of the padding are elements of a window. Default true. */
  readonly countPadding?: boolean | undefined;
}

export function pair(value: Pair): readonly [number, number] {
  return typeof value === "number" ? [value, value] : value;
}

export function paddingOf(padding: PaddingOption): Padding {
  if (typeof padding === "object" && "top" in padding) return padding;
  const [vertical, horizontal] = pair(padding);
  return { top: vertical, bottom: vertical, left: horizontal, right: horizontal };
}

/** Options with their defaults filled in. */
export function windowGeometry(kernel: Pair, { stride = 1, padding = 0, dilation = 1 }: WindowOptions = {}): WindowGeometry {
  return { kernel: pair(kernel), stride: pair(stride), padding: paddingOf(padding), dilation: pair(dilation) };
}

/** x Wᵀ + b: x [n, …, in], weight [out, in], bias [out] or null → [n, …, out]. */
export function linear(x: Tensor, weight: Tensor, bias: Tensor | null = null): Tensor {
  return apply("linear", bias ? [x, weight, bias] : [x, weight], {})[0];
}

/**
 * Two-dimensional convolution (cross-correlation): x [n, height, width, in], weight [out, kernelHeight, kernelWidth, in / groups],
 * bias [out] or null → [n, outHeight, outWidth, out].
 */
export function conv2d(x: Tensor, weight: Tensor, bias: Tensor | null = null, options: Conv2dOptions = {}): Tensor {
  const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
  const params = { stride: pair(stride), padding: paddingOf(padding), dilation: pair(dilation), groups };
  return apply("conv2d", bias ? [x, weight, bias] : [x, weight], params)[0];
}

/** Every window of x [n, height, width, channels] as a row: [n, outHeight, outWidth, kernelHeight · kernelWidth · channels]. */
export function im2col(x: Tensor, kernel: Pair, options?: WindowOptions): Tensor {
  return apply("im2col", [x], windowGeometry(kernel, options))[0];
}

/** `scale` · Σ a aᵀ over all windows a of x, with a trailing 1 in a if `bias`: symmetric [d, d]. */
export function patchCovariance(
  x: Tensor,
  kernel: Pair,
  { bias = false, scale = 1, ...options }: WindowOptions & { readonly bias?: boolean; readonly scale?: number } = {},
): Tensor {
  return apply("patchCovariance", [x], { ...windowGeometry(kernel, options), bias, scale })[0];
}

const poolingGeometry = (kernel: Pair, options: WindowOptions): WindowGeometry =>
  windowGeometry(kernel, { ...options, stride: options.stride ?? kernel });

/** Largest element of each window; padding never wins. Stride defaults to the kernel's size. */
export function maxPool2d(x: Tensor, kernel: Pair, options: WindowOptions = {}): Tensor {
  return tidy(() => apply("maxPool2d", [x], poolingGeometry(kernel, options))[0]);
}

/** Mean of each window. Stride defaults to the kernel's size; zeros of the padding count unless `countPadding` is false. */
export function averagePool2d(x: Tensor, kernel: Pair, { countPadding = true, ...options }: AveragePoolOptions = {}): Tensor {
  return apply("averagePool2d", [x], { ...poolingGeometry(kernel, options), countPadding })[0];
}

/**
 * Normalises each channel (last axis) over all other axes: y = γ (x − mean) · rstd + β, rstd = (var + ε)^(−1/2) with the biased
 * variance. Gives y and the statistics, each differentiable.
 */
export function batchNorm(x: Tensor, scale: Tensor, shift: Tensor, epsilon = 1e-5): { y: Tensor; mean: Tensor; rstd: Tensor } {
  const [y, mean, rstd] = apply("batchNorm", [x, scale, shift], { epsilon });
  return { y, mean, rstd };
}

/** Cross-entropy of each row of logits [n, classes] against int32 labels [n] → [n]. */
export function softmaxCrossEntropy(logits: Tensor, labels: Tensor, options: Partial<LabelSmoothing> = {}): Tensor {
  const { smoothing = 0, smoothingKind = "uniform" } = options;
  return tidy(() => apply("softmaxCrossEntropy", [logits, labels], { smoothing, smoothingKind })[0]);
}

/** Σ_j (prediction_ij − target_ij)² of each sample i → [n]. */
export function squaredError(prediction: Tensor, target: Tensor): Tensor {
  return apply("squaredError", [prediction, target], {})[0];
}

/** `a` where the int32 condition is not 0, `b` elsewhere; all three broadcast. */
export function where(condition: Tensor, a: Tensor, b: Tensor): Tensor {
  return apply("where", [condition, a, b], {})[0];
}

/** Joins tensors along an existing axis. */
export function concat(tensors: readonly Tensor[], axis = 0): Tensor {
  const [first] = tensors;
  if (!first) throw new ShapeError("concat: needs at least one tensor");
  return apply("concat", [...tensors], { axis: normalizeAxis("concat", axis, first.rank) })[0];
}

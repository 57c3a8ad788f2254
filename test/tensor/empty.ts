import type { KernelName, Params, Shape } from "../../src/tensor/index.ts";
import type { HostTensor, Sample } from "../samples.ts";

/*
 * For every primitive with a kernel, the operands without elements that its signature allows: no rows, no images, no channels,
 * an inner extent of zero. Some of their results do have elements, which are then sums of nothing.
 */

interface EmptySample<K extends KernelName = KernelName> {
  readonly name: K;
  readonly what: string;
  readonly sample: Sample<K>;
}

/** Numbers of order one that differ. */
const floats = (...shape: number[]): HostTensor => ({ kind: "float", shape, values: valuesOf(shape, (i) => ((i * 7) % 11) / 4 - 1) });
const ints = (...shape: number[]): HostTensor => ({ kind: "int", shape, values: valuesOf(shape, (i) => i % 2) });
const positive = (...shape: number[]): HostTensor => ({ kind: "float", shape, values: valuesOf(shape, (i) => 1 + (i % 3)) });

function valuesOf(shape: Shape, f: (i: number) => number): number[] {
  return Array.from({ length: shape.reduce((size, extent) => size * extent, 1) }, (_, i) => f(i));
}

function* of<K extends KernelName>(name: K, cases: Readonly<Record<string, Sample<K>>>): Generator<EmptySample> {
  for (const [what, sample] of Object.entries(cases)) yield { name, what, sample };
}

const plain = { transposeA: false, transposeB: false };
const rim = { top: 1, bottom: 1, left: 1, right: 1 };
const window = { stride: [1, 1], padding: rim, dilation: [1, 1] } as const;
const convolution = { ...window, groups: 1 };
const windows = { ...window, kernel: [3, 3] } as const;
const averages: Params<"averagePool2d"> = { ...windows, countPadding: false };
const smoothing: Params<"softmaxCrossEntropy"> = { smoothing: 0.1, smoothingKind: "uniform" };
const stream = { dtype: "float64", key: [1, 2], offset: 3 } as const;

const unaries = ["negative", "abs", "sign", "reciprocal", "sqrt", "exp", "log", "sin", "cos", "tanh", "sigmoid"] as const;
const others = ["softplus", "erf", "relu", "logSoftmax"] as const;
const binaries = ["add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "equal", "less", "lessEqual"] as const;

export const emptySamples: readonly EmptySample[] = [
  ...of("fill", { "no rows": { inputs: [], params: { shape: [0, 3], dtype: "float64", value: 1 } } }),
  ...of("arange", { "length 0": { inputs: [], params: { start: 1, step: 1, length: 0, dtype: "float64" } } }),
  ...of("uniform", { "no rows": { inputs: [], params: { ...stream, shape: [0, 3] } } }),
  ...of("normal", { "no columns": { inputs: [], params: { ...stream, shape: [3, 0] } } }),

  ...of("cast", {
    "no floats": { inputs: [floats(0)], params: { dtype: "int32" } },
    "no integers": { inputs: [ints(2, 0)], params: { dtype: "float64" } },
  }),
  ...of("permute", { "no columns": { inputs: [floats(2, 0, 3)], params: { axes: [2, 0, 1] } } }),
  ...of("broadcastTo", {
    "one row to none": { inputs: [floats(1, 3)], params: { shape: [0, 3] } },
    "no rows": { inputs: [floats(0, 1)], params: { shape: [2, 0, 3] } },
  }),
  ...of("slice", {
    "no rows": { inputs: [floats(0, 3)], params: { start: [0, 1], size: [0, 2], step: [1, 1] } },
    "some rows, taking none": { inputs: [floats(4, 3)], params: { start: [4, 0], size: [0, 3], step: [2, 1] } },
  }),
  ...of("pad", {
    "no rows, giving some": { inputs: [floats(0, 2)], params: { before: [2, 0], after: [1, 1], between: [3, 0] } },
    "no rows": { inputs: [ints(0, 2)], params: { before: [0, 1], after: [0, 1], between: [0, 1] } },
  }),
  ...of("concat", {
    "one empty part": { inputs: [floats(2, 3), floats(2, 0), floats(2, 1)], params: { axis: 1 } },
    "only empty parts": { inputs: [floats(0, 3), floats(0, 3)], params: { axis: 0 } },
    "parts without rows": { inputs: [floats(0, 3), floats(0, 1)], params: { axis: 1 } },
  }),
  ...of("gather", {
    "no indices": { inputs: [floats(4, 3), ints(0)], params: {} },
    "no rows by no indices": { inputs: [floats(0, 3), ints(0)], params: {} },
    "rows without elements": { inputs: [floats(4, 0), ints(2)], params: {} },
  }),
  ...of("scatterAdd", {
    "no rows into some": { inputs: [floats(0, 3), ints(0)], params: { rows: 4 } },
    "no rows into none": { inputs: [floats(0, 3), ints(0)], params: { rows: 0 } },
    "rows without elements": { inputs: [floats(2, 0), ints(2)], params: { rows: 3 } },
  }),

  ...unaries.flatMap((name) => [...of(name, { nothing: { inputs: [floats(0)], params: {} } })]),
  ...others.flatMap((name) => [
    ...of(name, { "no rows": { inputs: [floats(0, 3)], params: {} }, "no columns": { inputs: [floats(3, 0)], params: {} } }),
  ]),
  ...of("reluGradient", { "no rows": { inputs: [floats(0, 3), floats(0, 3)], params: {} } }),
  ...binaries.flatMap((name) => [
    ...of(name, {
      "no rows": { inputs: [positive(0, 3), positive(0, 3)], params: {} },
      "no rows and a row": { inputs: [positive(0, 3), positive(3)], params: {} },
      "a scalar and no rows": { inputs: [positive(), positive(2, 0)], params: {} },
      "one row, stretched to none": { inputs: [positive(1, 3), positive(0, 1)], params: {} },
    }),
  ]),
  ...of("where", {
    "no rows": { inputs: [ints(0, 3), floats(3), floats(0, 1)], params: {} },
    "one condition for nothing": { inputs: [ints(), floats(0), floats(1)], params: {} },
  }),

  ...of("sum", {
    "no rows, over them": { inputs: [floats(0, 3)], params: { axes: [0], keepDims: false } },
    "no rows, over columns": { inputs: [floats(0, 3)], params: { axes: [1], keepDims: true } },
    "no columns, over them": { inputs: [floats(3, 0)], params: { axes: [1], keepDims: false } },
    "nothing, over all": { inputs: [floats(2, 0, 3)], params: { axes: [0, 1, 2], keepDims: false } },
    "no integers": { inputs: [ints(0, 3)], params: { axes: [0], keepDims: false } },
  }),
  ...of("max", {
    "no rows, over columns": { inputs: [floats(0, 3)], params: { axes: [1], keepDims: false } },
    "no integers, over columns": { inputs: [ints(0, 3)], params: { axes: [1], keepDims: true } },
    "no columns, over rows": { inputs: [floats(3, 0)], params: { axes: [0], keepDims: false } },
  }),
  ...of("argmax", {
    "no rows, over columns": { inputs: [floats(0, 3)], params: { axis: 1 } },
    "no columns, over rows": { inputs: [floats(3, 0)], params: { axis: 0 } },
  }),

  ...of("matmul", {
    "no rows": { inputs: [floats(0, 3), floats(3, 2)], params: plain },
    "no columns": { inputs: [floats(2, 3), floats(3, 0)], params: plain },
    "depth 0": { inputs: [floats(2, 0), floats(0, 3)], params: plain },
    "depth 0, transposed": { inputs: [floats(0, 9), floats(17, 0)], params: { transposeA: true, transposeB: true } },
    "no matrices": { inputs: [floats(0, 2, 3), floats(3, 2)], params: plain },
    "no matrices, stretched": { inputs: [floats(2, 0, 2, 3), floats(2, 1, 3, 2)], params: plain },
    "matrices of depth 0": { inputs: [floats(2, 2, 0), floats(0, 3)], params: plain },
  }),
  ...of("gram", {
    "no rows": { inputs: [floats(0, 5)], params: { scale: 2 } },
    "no columns": { inputs: [floats(5, 0)], params: { scale: 2 } },
  }),
  ...of("linear", {
    "no rows": { inputs: [floats(0, 3), floats(2, 3), floats(2)], params: {} },
    "no features": { inputs: [floats(4, 0), floats(2, 0)], params: {} },
    "no features but a bias": { inputs: [floats(2, 2, 0), floats(3, 0), floats(3)], params: {} },
    "no outputs": { inputs: [floats(4, 3), floats(0, 3), floats(0)], params: {} },
  }),

  ...of("conv2d", {
    "no images": { inputs: [floats(0, 4, 5, 2), floats(3, 3, 3, 2), floats(3)], params: convolution },
    "no input channels": { inputs: [floats(2, 4, 5, 0), floats(3, 3, 3, 0)], params: convolution },
    "no input channels but a bias": { inputs: [floats(2, 4, 5, 0), floats(3, 3, 3, 0), floats(3)], params: convolution },
    "no output channels": { inputs: [floats(2, 4, 5, 2), floats(0, 3, 3, 2)], params: convolution },
    "padding around nothing": { inputs: [floats(2, 0, 5, 2), floats(3, 2, 3, 2), floats(3)], params: convolution },
  }),
  ...of("conv2dInputGradient", {
    "no images": { inputs: [floats(0, 4, 5, 3), floats(3, 3, 3, 2)], params: { ...convolution, inputSize: [4, 5] } },
    "no output channels": { inputs: [floats(2, 4, 5, 0), floats(0, 3, 3, 2)], params: { ...convolution, inputSize: [4, 5] } },
    "no input channels": { inputs: [floats(2, 4, 5, 3), floats(3, 3, 3, 0)], params: { ...convolution, inputSize: [4, 5] } },
  }),
  ...of("conv2dWeightGradient", {
    "no images": { inputs: [floats(0, 4, 5, 2), floats(0, 4, 5, 3)], params: { ...convolution, kernel: [3, 3] } },
    "no input channels": { inputs: [floats(2, 4, 5, 0), floats(2, 4, 5, 3)], params: { ...convolution, kernel: [3, 3] } },
    "no output channels": { inputs: [floats(2, 4, 5, 2), floats(2, 4, 5, 0)], params: { ...convolution, kernel: [3, 3] } },
    "padding around nothing": { inputs: [floats(2, 0, 5, 2), floats(2, 1, 5, 3)], params: { ...convolution, kernel: [2, 3] } },
  }),
  ...of("im2col", {
    "no images": { inputs: [floats(0, 4, 5, 2)], params: windows },
    "no channels": { inputs: [floats(2, 4, 5, 0)], params: windows },
  }),
  ...of("col2im", {
    "no images": { inputs: [floats(0, 4, 5, 18)], params: { ...windows, inputSize: [4, 5] } },
    "no channels": { inputs: [floats(2, 4, 5, 0)], params: { ...windows, inputSize: [4, 5] } },
  }),
  ...of("patchCovariance", {
    "no images": { inputs: [floats(0, 4, 5, 1)], params: { ...windows, bias: true, scale: 2 } },
    "no channels": { inputs: [floats(2, 4, 5, 0)], params: { ...windows, bias: false, scale: 2 } },
    "no channels but a bias": { inputs: [floats(2, 4, 5, 0)], params: { ...windows, bias: true, scale: 2 } },
  }),

  ...of("maxPool2d", {
    "no images": { inputs: [floats(0, 4, 5, 2)], params: windows },
    "no channels": { inputs: [floats(2, 4, 5, 0)], params: windows },
  }),
  ...of("maxPool2dScatter", {
    "no images": { inputs: [floats(0, 2, 2, 3), ints(0, 2, 2, 3)], params: { inputSize: [4, 5] } },
    "no windows": { inputs: [floats(2, 0, 2, 3), ints(2, 0, 2, 3)], params: { inputSize: [4, 5] } },
    "no windows into no pixels": { inputs: [floats(2, 0, 2, 3), ints(2, 0, 2, 3)], params: { inputSize: [0, 5] } },
    "no channels": { inputs: [floats(2, 2, 2, 0), ints(2, 2, 2, 0)], params: { inputSize: [4, 5] } },
  }),
  ...of("maxPool2dGather", {
    "no images": { inputs: [floats(0, 4, 5, 3), ints(0, 2, 2, 3)], params: {} },
    "no windows": { inputs: [floats(2, 4, 5, 3), ints(2, 2, 0, 3)], params: {} },
    "no windows from no pixels": { inputs: [floats(2, 0, 5, 3), ints(2, 2, 0, 3)], params: {} },
  }),
  ...of("averagePool2d", {
    "no images": { inputs: [floats(0, 4, 5, 2)], params: averages },
    "no channels": { inputs: [floats(2, 4, 5, 0)], params: averages },
  }),
  ...of("averagePool2dGradient", {
    "no images": { inputs: [floats(0, 4, 5, 2)], params: { ...averages, inputSize: [4, 5] } },
    "no channels": { inputs: [floats(2, 4, 5, 0)], params: { ...averages, inputSize: [4, 5] } },
  }),

  ...of("batchNorm", { "no channels": { inputs: [floats(4, 0), floats(0), floats(0)], params: { epsilon: 1e-5 } } }),
  ...of("batchNormGradient", {
    "no channels": { inputs: [floats(4, 0), floats(0), floats(0), positive(0), floats(4, 0)], params: {} },
    "no rows": { inputs: [floats(0, 3), floats(3), floats(3), positive(3), floats(0, 3)], params: {} },
  }),

  ...of("softmaxCrossEntropy", {
    "no samples": { inputs: [floats(0, 3), ints(0)], params: smoothing },
    "no samples of no classes": { inputs: [floats(0, 0), ints(0)], params: smoothing },
  }),
  ...of("softmaxCrossEntropyGradient", { "no samples": { inputs: [floats(0, 3), ints(0), floats(0)], params: smoothing } }),
  ...of("squaredError", {
    "no samples": { inputs: [floats(0, 3), floats(0, 3)], params: {} },
    "samples without elements": { inputs: [floats(3, 0), floats(3, 0)], params: {} },
  }),
];

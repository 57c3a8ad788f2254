import type { DType } from "./dtype.ts";
import type { Padding, Shape, WindowGeometry } from "./shape.ts";

/**
 * Everything that a backend can compute, as a type: from a primitive's name to what it takes and gives. `T` stands for
 * whatever represents a tensor at the place where the table is used: a `Tensor` in `apply`, a shape and dtype in the
 * signatures, a buffer view in a backend's kernels, a recorded value in autograd's rules.
 *
 * Tables over `PrimitiveName` are total: adding a row here without a signature, a kernel in each backend, a derivative rule
 * and a test sample does not compile.
 *
 * Images are [n, height, width, channels]; convolution weights [out, kernelHeight, kernelWidth, in / groups].
 */
export interface Primitives<T> {
  // ── creation ────────────────────────────────────────────────────────────────────────────────────────────────────────
  /** Every element equal to `value`. */
  fill: { inputs: []; params: { shape: Shape; dtype: DType; value: number }; outputs: [T] };
  /** `start, start + step, …`, `length` of them. */
  arange: { inputs: []; params: { start: number; step: number; length: number; dtype: DType }; outputs: [T] };
  /** Uniform on [0, 1), from the Philox stream `key` at block `offset`. */
  uniform: { inputs: []; params: RandomParams; outputs: [T] };
  /** Standard normal, from the Philox stream `key` at block `offset`. */
  normal: { inputs: []; params: RandomParams; outputs: [T] };

  // ── movement ────────────────────────────────────────────────────────────────────────────────────────────────────────
  /** The same elements in another shape; free, since data is contiguous. The only primitive without a kernel. */
  reshape: { inputs: [x: T]; params: { shape: Shape }; outputs: [T] };
  /** Another number type; float to int32 truncates towards zero. */
  cast: { inputs: [x: T]; params: { dtype: DType }; outputs: [T] };
  /** Axis `i` of the output is axis `axes[i]` of the input. */
  permute: { inputs: [x: T]; params: { axes: readonly number[] }; outputs: [T] };
  /** Repeats along axes of extent 1 and new leading axes. */
  broadcastTo: { inputs: [x: T]; params: { shape: Shape }; outputs: [T] };
  /** `size` elements an axis from `start` on, every `step`-th. */
  slice: { inputs: [x: T]; params: { start: readonly number[]; size: readonly number[]; step: readonly number[] }; outputs: [T] };
  /** Zeros `before` and `after` each axis and `between` neighbours: the transpose of `slice`. */
  pad: { inputs: [x: T]; params: { before: readonly number[]; after: readonly number[]; between: readonly number[] }; outputs: [T] };
  /** Joins along an existing axis. */
  concat: { inputs: readonly T[]; params: { axis: number }; outputs: [T] };
  /** Rows of `x` [rows, …] picked by an int32 vector of indices. */
  gather: { inputs: [x: T, indices: T]; params: NoParams; outputs: [T] };
  /** Adds row `i` of `x` to row `indices[i]` of zeros [rows, …]: the transpose of `gather`. */
  scatterAdd: { inputs: [x: T, indices: T]; params: { rows: number }; outputs: [T] };

  // ── elementwise, one operand ────────────────────────────────────────────────────────────────────────────────────────
  negative: Unary<T>;
  abs: Unary<T>;
  /** −1, 0 or 1. */
  sign: Unary<T>;
  reciprocal: Unary<T>;
  sqrt: Unary<T>;
  exp: Unary<T>;
  log: Unary<T>;
  sin: Unary<T>;
  cos: Unary<T>;
  tanh: Unary<T>;
  /** 1 / (1 + exp(−x)), without overflow. */
  sigmoid: Unary<T>;
  /** log(1 + exp(x)), without overflow. */
  softplus: Unary<T>;
  /** The error function 2/√π ∫₀ˣ exp(−t²) dt. */
  erf: Unary<T>;
  /** max(x, 0). */
  relu: Unary<T>;
  /** `gradient` where the ReLU's output is positive, 0 elsewhere. */
  reluGradient: { inputs: [output: T, gradient: T]; params: NoParams; outputs: [T] };

  // ── elementwise, two operands that broadcast ────────────────────────────────────────────────────────────────────────
  add: Binary<T>;
  subtract: Binary<T>;
  multiply: Binary<T>;
  divide: Binary<T>;
  maximum: Binary<T>;
  minimum: Binary<T>;
  power: Binary<T>;
  /** Comparisons give int32 0 or 1. */
  equal: Binary<T>;
  less: Binary<T>;
  lessEqual: Binary<T>;
  /** `a` where the int32 condition is not 0, `b` elsewhere. */
  where: { inputs: [condition: T, a: T, b: T]; params: NoParams; outputs: [T] };

  // ── elementwise, fused for optimizers: operands of one shape ────────────────────────────────────────────────────────
  /** a · x + b · y: momentum, moving averages, weight decay, the step itself. */
  linearCombination: { inputs: [x: T, y: T]; params: { a: number; b: number }; outputs: [T] };
  /** scale · x / (rootScale · √square + ε): a step over the root of its second moment. */
  divideByRoot: { inputs: [x: T, square: T]; params: RootParams; outputs: [T] };

  // ── reductions ──────────────────────────────────────────────────────────────────────────────────────────────────────
  sum: { inputs: [x: T]; params: ReductionParams; outputs: [T] };
  max: { inputs: [x: T]; params: ReductionParams; outputs: [T] };
  /** int32 position of the largest element along an axis, the first one among equals; of the first NaN if there is one. */
  argmax: { inputs: [x: T]; params: { axis: number }; outputs: [T] };

  // ── products ────────────────────────────────────────────────────────────────────────────────────────────────────────
  /** Matrix product over the last two axes; leading axes broadcast. */
  matmul: { inputs: [a: T, b: T]; params: { transposeA: boolean; transposeB: boolean }; outputs: [T] };
  /** `scale` · XᵀX of a matrix X [rows, d] (SYRK): symmetric [d, d]. */
  gram: { inputs: [x: T]; params: { scale: number }; outputs: [T] };
  /** x Wᵀ + b for x [n, …, in], W [out, in], b [out]. The bias is inside, so that one record holds the whole layer. */
  linear: { inputs: [x: T, weight: T] | [x: T, weight: T, bias: T]; params: NoParams; outputs: [T] };

  // ── convolution ─────────────────────────────────────────────────────────────────────────────────────────────────────
  /** Cross-correlation, as every deep-learning library calls convolution; bias inside. */
  conv2d: { inputs: [x: T, weight: T] | [x: T, weight: T, bias: T]; params: Conv2dParams; outputs: [T] };
  /** Transpose of `conv2d` in its input: from [n, outHeight, outWidth, out] back to [n, …inputSize, in]. */
  conv2dInputGradient: { inputs: [gradient: T, weight: T]; params: Conv2dParams & { inputSize: Size2d }; outputs: [T] };
  /** Transpose of `conv2d` in its weight. */
  conv2dWeightGradient: { inputs: [x: T, gradient: T]; params: Conv2dParams & { kernel: Size2d }; outputs: [T] };
  /** Every window as a row: [n, outHeight, outWidth, kernelHeight · kernelWidth · channels]. */
  im2col: { inputs: [x: T]; params: WindowGeometry; outputs: [T] };
  /** Adds every row back to its window: the transpose of `im2col`. */
  col2im: { inputs: [columns: T]; params: WindowGeometry & { inputSize: Size2d }; outputs: [T] };
  /** `scale` · Σ a aᵀ over all windows `a` of all images, with a trailing 1 in `a` if `bias`: K-FAC's input factor. */
  patchCovariance: { inputs: [x: T]; params: WindowGeometry & { bias: boolean; scale: number }; outputs: [T] };

  // ── pooling ─────────────────────────────────────────────────────────────────────────────────────────────────────────
  /** Largest element of each window and its int32 position `row · width + column` in the image. Padding never wins. */
  maxPool2d: { inputs: [x: T]; params: WindowGeometry; outputs: [y: T, indices: T] };
  /** Adds each element to the place its index names: the transpose of `maxPool2d` at fixed indices. */
  maxPool2dScatter: { inputs: [y: T, indices: T]; params: { inputSize: Size2d }; outputs: [T] };
  /** Reads the place each index names. */
  maxPool2dGather: { inputs: [x: T, indices: T]; params: NoParams; outputs: [T] };
  /** Mean of each window; zeros of the padding count as elements if `countPadding`. */
  averagePool2d: { inputs: [x: T]; params: AveragePoolParams; outputs: [T] };
  /** Transpose of `averagePool2d`. */
  averagePool2dGradient: { inputs: [gradient: T]; params: AveragePoolParams & { inputSize: Size2d }; outputs: [T] };

  // ── normalisation ───────────────────────────────────────────────────────────────────────────────────────────────────
  /** Normalises each channel (last axis) over all others: y = γ (x − mean) · rstd + β with rstd = (var + ε)^(−1/2), biased var. */
  batchNorm: { inputs: [x: T, scale: T, shift: T]; params: { epsilon: number }; outputs: [y: T, mean: T, rstd: T] };
  /** From y's gradient to those of x, scale and shift, mean and rstd being functions of x. */
  batchNormGradient: {
    inputs: [x: T, scale: T, mean: T, rstd: T, gradient: T];
    params: NoParams;
    outputs: [x: T, scale: T, shift: T];
  };
  /** (x − mean) · gain + shift along the last axis, and max(·, 0) of that if `relu`: batch norm with statistics of its own. */
  normalize: { inputs: [x: T, mean: T, gain: T, shift: T]; params: { relu: boolean }; outputs: [T] };
  /** max(·, 0) of `batchNorm` in one pass. */
  batchNormRelu: { inputs: [x: T, scale: T, shift: T]; params: { epsilon: number }; outputs: [y: T, mean: T, rstd: T] };
  /** `batchNormGradient` of the gradient where the output is positive, 0 elsewhere. */
  batchNormReluGradient: {
    inputs: [x: T, scale: T, mean: T, rstd: T, output: T, gradient: T];
    params: NoParams;
    outputs: [x: T, scale: T, shift: T];
  };

  // ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────────────
  /** x − log Σ exp(x) along the last axis. */
  logSoftmax: Unary<T>;
  /** Loss of each row of logits [n, classes] against int32 labels [n], and the softmax. */
  softmaxCrossEntropy: { inputs: [logits: T, labels: T]; params: LabelSmoothing; outputs: [loss: T, probabilities: T] };
  /** gradient_i · (p_i − q_i), q the smoothed target distribution. */
  softmaxCrossEntropyGradient: {
    inputs: [probabilities: T, labels: T, gradient: T];
    params: LabelSmoothing;
    outputs: [T];
  };
  /** Σ_j (x_ij − y_ij)² of each row i; all axes but the first are summed. */
  squaredError: { inputs: [prediction: T, target: T]; params: NoParams; outputs: [T] };
}

export type PrimitiveName = keyof Primitives<unknown>;
export type Inputs<K extends PrimitiveName, T> = Primitives<T>[K]["inputs"];
export type Params<K extends PrimitiveName> = Primitives<unknown>[K]["params"];
export type Outputs<K extends PrimitiveName, T> = Primitives<T>[K]["outputs"];

export type NoParams = Record<never, never>;
export type Size2d = readonly [height: number, width: number];

export interface Unary<T> {
  inputs: [x: T];
  params: NoParams;
  outputs: [T];
}

export interface Binary<T> {
  inputs: [a: T, b: T];
  params: NoParams;
  outputs: [T];
}

export interface RootParams {
  readonly scale: number;
  readonly rootScale: number;
  readonly epsilon: number;
}

export interface RandomParams {
  readonly shape: Shape;
  readonly dtype: DType;
  /** The two 32-bit words that name the stream. */
  readonly key: readonly [number, number];
  /** First 128-bit block of the stream to use; below 2⁵³. */
  readonly offset: number;
}

export interface ReductionParams {
  /** Normal, sorted, distinct axes. */
  readonly axes: readonly number[];
  /** Leave an extent of 1 in place of each reduced axis. */
  readonly keepDims: boolean;
}

export interface Conv2dParams {
  readonly stride: readonly [number, number];
  readonly padding: Padding;
  readonly dilation: readonly [number, number];
  readonly groups: number;
}

export interface AveragePoolParams extends WindowGeometry {
  readonly countPadding: boolean;
}

export interface LabelSmoothing {
  /** ε: the probability moved away from the true class. */
  readonly smoothing: number;
  /** `uniform`: q = (1 − ε) e_y + ε / K (PyTorch). `off-target`: q_y = 1 − ε, all others ε / (K − 1) (SENG's code). */
  readonly smoothingKind: "uniform" | "off-target";
}

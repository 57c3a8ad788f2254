import { requireFloat, type DType } from "./dtype.ts";
import { DTypeError, ShapeError, UsageError } from "./errors.ts";
import { requireInt32 } from "./host.ts";
import type { Conv2dParams, Inputs, LabelSmoothing, Outputs, Params, PrimitiveName, ReductionParams, Size2d } from "./primitives.ts";
import {
  broadcastShapes,
  checkShape,
  formatShape,
  reducedShape,
  sameShape,
  sizeOf,
  windowOutput,
  type Shape,
  type WindowGeometry,
} from "./shape.ts";

/** What is known of a tensor without its numbers. */
export interface Meta {
  readonly shape: Shape;
  readonly dtype: DType;
}

/** From the operands' shapes and types to the results'; throws when they do not fit. */
export type Signature<K extends PrimitiveName> = (inputs: Inputs<K, Meta>, params: Params<K>) => Outputs<K, Meta>;

const meta = (shape: Shape, dtype: DType): Meta => ({ shape, dtype });

function sameDType(operation: string, ...operands: Meta[]): DType {
  const first = operands[0] as Meta;
  if (operands.some((m) => m.dtype !== first.dtype)) {
    throw new DTypeError(
      `${operation}: operands have types ${operands.map((m) => m.dtype).join(", ")}; there is no implicit promotion, use cast(…)`,
    );
  }
  return first.dtype;
}

function floats(operation: string, ...operands: Meta[]): DType {
  return requireFloat(operation, sameDType(operation, ...operands));
}

function requireInt(operation: string, role: string, operand: Meta): void {
  if (operand.dtype !== "int32") {
    throw new DTypeError(`${operation}: ${role} must be int32 but are ${operand.dtype}; use cast("int32")`);
  }
}

function rank(operation: string, role: string, operand: Meta, expected: string, ok: (rank: number) => boolean): void {
  if (!ok(operand.shape.length)) throw new ShapeError(`${operation}: ${role} must be ${expected} but is ${formatShape(operand.shape)}`);
}

function equalShapes(operation: string, roleA: string, a: Shape, roleB: string, b: Shape): void {
  if (!sameShape(a, b))
    throw new ShapeError(`${operation}: ${roleA} ${formatShape(a)} and ${roleB} ${formatShape(b)} must have equal shapes`);
}

// Rules that many rows share; their types name the operands instead of the primitive, so that one function fits every row.
const unary = ([x]: [x: Meta]): [Meta] => [meta(x.shape, x.dtype)];
const unaryFloat =
  (name: string) =>
  ([x]: [x: Meta]): [Meta] => [meta(x.shape, floats(name, x))];
const binary =
  (name: string) =>
  ([a, b]: [a: Meta, b: Meta]): [Meta] => [meta(broadcastShapes(name, a.shape, b.shape), sameDType(name, a, b))];
const binaryFloat =
  (name: string) =>
  ([a, b]: [a: Meta, b: Meta]): [Meta] => [meta(broadcastShapes(name, a.shape, b.shape), floats(name, a, b))];
const comparison =
  (name: string) =>
  ([a, b]: [a: Meta, b: Meta]): [Meta] => {
    sameDType(name, a, b);
    return [meta(broadcastShapes(name, a.shape, b.shape), "int32")];
  };

function checkAxes(operation: string, x: Meta, axes: readonly number[]): void {
  const fits = (axis: number, i: number): boolean =>
    Number.isInteger(axis) && axis >= 0 && axis < x.shape.length && axis > (axes[i - 1] ?? -1);
  if (!axes.every(fits))
    throw new ShapeError(`${operation}: axes [${axes.join(", ")}] must be sorted, distinct axes of ${formatShape(x.shape)}`);
}

function reduction(name: "sum" | "max", x: Meta, params: ReductionParams): [Meta] {
  checkAxes(name, x, params.axes);
  if (name === "max" && params.axes.some((axis) => x.shape[axis] === 0)) {
    throw new ShapeError(`max: an axis of extent 0 in ${formatShape(x.shape)} has no largest element`);
  }
  return [meta(reducedShape(x.shape, params.axes, params.keepDims), x.dtype)];
}

function image(operation: string, x: Meta): [n: number, height: number, width: number, channels: number] {
  rank(operation, "the input", x, "[n, height, width, channels]", (r) => r === 4);
  return x.shape as unknown as [number, number, number, number];
}

/** Shared by the three convolutions: checks weight against channels and groups; returns the output size. */
function convolution(operation: string, channels: number, input: Shape, size: Size2d, weight: Shape, params: Conv2dParams): Size2d {
  const [out, kh, kw, perGroup] = weight as unknown as [number, number, number, number];
  const { groups } = params;
  if (!Number.isInteger(groups) || groups < 1 || channels % groups !== 0 || out % groups !== 0) {
    throw new ShapeError(`${operation}: groups ${groups} must divide the ${channels} input channels and the ${out} output channels`);
  }
  if (channels !== perGroup * groups) {
    throw new ShapeError(
      `${operation}: input has ${channels} channels but the weight expects ${perGroup * groups} ` +
        `(input ${formatShape(input)}, weight ${formatShape(weight)}, groups ${groups})`,
    );
  }
  return windowOutput(operation, size, { ...params, kernel: [kh, kw] });
}

function pooledShape(operation: string, x: Meta, geometry: WindowGeometry): Shape {
  const [n, height, width, channels] = image(operation, x);
  return [n, ...windowOutput(operation, [height, width], geometry), channels];
}

/** A window that lies wholly in the padding, or around the image with a hole of dilation on it, has no element to pool. */
function checkPoolPadding(operation: string, [, height, width]: Shape, { kernel, dilation, padding }: WindowGeometry): void {
  const reach = [dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1] as const;
  const pads = [Math.max(padding.top, padding.bottom), Math.max(padding.left, padding.right)] as const;
  if (pads[0] >= reach[0] || pads[1] >= reach[1]) {
    throw new ShapeError(`${operation}: padding must be smaller than the window of ${reach[0]} × ${reach[1]}, else a window is empty`);
  }
  if ((pads[0] > 0 && (height as number) < dilation[0]) || (pads[1] > 0 && (width as number) < dilation[1])) {
    throw new ShapeError(
      `${operation}: a padded image of ${height} × ${width} is smaller than the dilation ${dilation.join(" × ")}, so a window may be empty`,
    );
  }
}

function channelVector(operation: string, role: string, vector: Meta, channels: number): void {
  if (!sameShape(vector.shape, [channels])) {
    throw new ShapeError(`${operation}: ${role} must be [${channels}], one for each channel, but is ${formatShape(vector.shape)}`);
  }
}

function checkLogits(operation: string, logits: Meta, labels: Meta): void {
  rank(operation, "the logits", logits, "[n, classes]", (r) => r === 2);
  requireInt(operation, "labels", labels);
  if (!sameShape(labels.shape, [logits.shape[0] as number])) {
    throw new ShapeError(
      `${operation}: logits are ${formatShape(logits.shape)}, so labels must be [${logits.shape[0]}] but are ${formatShape(labels.shape)}`,
    );
  }
}

function checkSmoothing(operation: string, classes: number, { smoothing, smoothingKind }: LabelSmoothing): void {
  if (!(smoothing >= 0 && smoothing < 1)) throw new UsageError(`${operation}: smoothing must be in [0, 1) but is ${smoothing}`);
  const kinds: readonly string[] = ["uniform", "off-target"];
  if (!kinds.includes(smoothingKind)) {
    throw new UsageError(`${operation}: there is no smoothingKind "${smoothingKind}"; known: ${kinds.join(", ")}`);
  }
  if (smoothingKind === "off-target" && smoothing > 0 && classes < 2) {
    throw new ShapeError(`${operation}: off-target smoothing needs two classes or more`);
  }
}

function batchNormOutputs(operation: PrimitiveName, x: Meta, scale: Meta, shift: Meta): [Meta, Meta, Meta] {
  rank(operation, "the input", x, "[n, …, channels]", (r) => r >= 2);
  const channels = x.shape.at(-1) as number;
  channelVector(operation, "the scale", scale, channels);
  channelVector(operation, "the shift", shift, channels);
  if (sizeOf(x.shape.slice(0, -1)) === 0) throw new ShapeError(`${operation}: ${formatShape(x.shape)} has no elements to take a mean of`);
  const dtype = floats(operation, x, scale, shift);
  return [meta(x.shape, dtype), meta([channels], dtype), meta([channels], dtype)];
}

function batchNormGradients(operation: PrimitiveName, x: Meta, scale: Meta, mean: Meta, rstd: Meta, gradient: Meta): [Meta, Meta, Meta] {
  const channels = x.shape.at(-1) as number;
  channelVector(operation, "the scale", scale, channels);
  channelVector(operation, "the mean", mean, channels);
  channelVector(operation, "the rstd", rstd, channels);
  equalShapes(operation, "the input", x.shape, "the gradient", gradient.shape);
  const dtype = floats(operation, x, scale, mean, rstd, gradient);
  return [meta(x.shape, dtype), meta([channels], dtype), meta([channels], dtype)];
}

/** The one table of shape and type rules. */
export const signatures: { readonly [K in PrimitiveName]: Signature<K> } = {
  fill: (_, { shape, dtype, value }) => {
    checkShape("fill", shape);
    if (dtype === "int32") requireInt32("fill", value);
    return [meta(shape, dtype)];
  },
  arange: (_, { start, step, length, dtype }) => {
    checkShape("arange", [length]);
    if (dtype === "int32") for (const value of [start, step, start + step * Math.max(0, length - 1)]) requireInt32("arange", value);
    return [meta([length], dtype)];
  },
  uniform: (_, { shape, dtype }) => {
    checkShape("uniform", shape);
    return [meta(shape, requireFloat("uniform", dtype))];
  },
  normal: (_, { shape, dtype }) => {
    checkShape("normal", shape);
    return [meta(shape, requireFloat("normal", dtype))];
  },

  reshape: ([x], { shape }) => {
    checkShape("reshape", shape);
    if (sizeOf(shape) !== sizeOf(x.shape)) {
      throw new ShapeError(
        `reshape: ${formatShape(x.shape)} has ${sizeOf(x.shape)} elements but ${formatShape(shape)} has ${sizeOf(shape)}`,
      );
    }
    return [meta(shape, x.dtype)];
  },
  cast: ([x], { dtype }) => [meta(x.shape, dtype)],
  permute: ([x], { axes }) => {
    const sorted = [...axes].sort((p, q) => p - q);
    if (axes.length !== x.shape.length || sorted.some((axis, i) => axis !== i)) {
      throw new ShapeError(`permute: [${axes.join(", ")}] is not an order of the ${x.shape.length} axes of ${formatShape(x.shape)}`);
    }
    return [
      meta(
        axes.map((axis) => x.shape[axis] as number),
        x.dtype,
      ),
    ];
  },
  broadcastTo: ([x], { shape }) => {
    checkShape("broadcastTo", shape);
    if (!sameShape(broadcastShapes("broadcastTo", x.shape, shape), shape)) {
      throw new ShapeError(`broadcastTo: ${formatShape(x.shape)} does not stretch to ${formatShape(shape)}`);
    }
    return [meta(shape, x.dtype)];
  },
  slice: ([x], { start, size, step }) => {
    const fits = x.shape.every((extent, axis) => {
      const [a, n, s] = [start[axis] ?? -1, size[axis] ?? -1, step[axis] ?? 0];
      if (![a, n, s].every(Number.isInteger) || a < 0 || n < 0 || s < 1) return false;
      return n === 0 ? a <= extent : a + (n - 1) * s < extent;
    });
    if (!fits || [start, size, step].some((list) => list.length !== x.shape.length)) {
      throw new ShapeError(
        `slice: start [${start.join(", ")}], size [${size.join(", ")}], step [${step.join(", ")}] must be whole numbers, ` +
          `one for each axis, that stay inside of ${formatShape(x.shape)}`,
      );
    }
    return [meta(size, x.dtype)];
  },
  pad: ([x], { before, after, between }) => {
    const lists = [before, after, between];
    if (lists.some((list) => list.length !== x.shape.length || list.some((v) => !Number.isInteger(v) || v < 0))) {
      throw new ShapeError(`pad: before, after and between need a whole number of at least 0 for each axis of ${formatShape(x.shape)}`);
    }
    const shape = x.shape.map(
      (extent, axis) => (before[axis] as number) + extent + Math.max(0, extent - 1) * (between[axis] as number) + (after[axis] as number),
    );
    return [meta(shape, x.dtype)];
  },
  concat: (inputs, { axis }) => {
    const [first] = inputs;
    if (first === undefined) throw new ShapeError("concat: needs at least one tensor");
    checkAxes("concat", first, [axis]);
    const dtype = sameDType("concat", ...inputs);
    for (const x of inputs) {
      if (x.shape.length !== first.shape.length || x.shape.some((extent, i) => i !== axis && extent !== first.shape[i])) {
        throw new ShapeError(`concat: ${formatShape(x.shape)} differs from ${formatShape(first.shape)} in more than axis ${axis}`);
      }
    }
    const total = inputs.reduce((sum, x) => sum + (x.shape[axis] as number), 0);
    return [
      meta(
        first.shape.map((extent, i) => (i === axis ? total : extent)),
        dtype,
      ),
    ];
  },
  gather: ([x, indices]) => {
    requireInt("gather", "indices", indices);
    rank("gather", "the indices", indices, "a vector", (r) => r === 1);
    rank("gather", "the input", x, "of rank 1 or more", (r) => r >= 1);
    return [meta([indices.shape[0] as number, ...x.shape.slice(1)], x.dtype)];
  },
  scatterAdd: ([x, indices], { rows }) => {
    checkShape("scatterAdd", [rows]);
    requireInt("scatterAdd", "indices", indices);
    if (x.shape.length < 1 || !sameShape(indices.shape, [x.shape[0] as number])) {
      throw new ShapeError(`scatterAdd: ${formatShape(x.shape)} needs one index a row but indices are ${formatShape(indices.shape)}`);
    }
    return [meta([rows, ...x.shape.slice(1)], x.dtype)];
  },

  negative: unary,
  abs: unary,
  sign: unary,
  reciprocal: unaryFloat("reciprocal"),
  sqrt: unaryFloat("sqrt"),
  exp: unaryFloat("exp"),
  log: unaryFloat("log"),
  sin: unaryFloat("sin"),
  cos: unaryFloat("cos"),
  tanh: unaryFloat("tanh"),
  sigmoid: unaryFloat("sigmoid"),
  softplus: unaryFloat("softplus"),
  erf: unaryFloat("erf"),
  relu: unaryFloat("relu"),
  reluGradient: ([output, gradient]) => {
    equalShapes("reluGradient", "the output", output.shape, "the gradient", gradient.shape);
    return [meta(output.shape, floats("reluGradient", output, gradient))];
  },

  add: binary("add"),
  subtract: binary("subtract"),
  multiply: binary("multiply"),
  divide: binaryFloat("divide"),
  maximum: binary("maximum"),
  minimum: binary("minimum"),
  power: binaryFloat("power"),
  equal: comparison("equal"),
  less: comparison("less"),
  lessEqual: comparison("lessEqual"),
  where: ([condition, a, b]) => {
    requireInt("where", "conditions", condition);
    const shape = broadcastShapes("where", condition.shape, broadcastShapes("where", a.shape, b.shape));
    return [meta(shape, sameDType("where", a, b))];
  },
  linearCombination: ([x, y]) => {
    equalShapes("linearCombination", "the first operand", x.shape, "the second", y.shape);
    return [meta(x.shape, floats("linearCombination", x, y))];
  },
  divideByRoot: ([x, square]) => {
    equalShapes("divideByRoot", "the operand", x.shape, "the square", square.shape);
    return [meta(x.shape, floats("divideByRoot", x, square))];
  },

  sum: ([x], params) => reduction("sum", x, params),
  max: ([x], params) => reduction("max", x, params),
  argmax: ([x], { axis }) => {
    checkAxes("argmax", x, [axis]);
    if (x.shape[axis] === 0) throw new ShapeError(`argmax: axis ${axis} of ${formatShape(x.shape)} is empty`);
    return [meta(reducedShape(x.shape, [axis], false), "int32")];
  },

  matmul: ([a, b], { transposeA, transposeB }) => {
    rank("matmul", "the first operand", a, "of rank 2 or more", (r) => r >= 2);
    rank("matmul", "the second operand", b, "of rank 2 or more", (r) => r >= 2);
    const [ra, rb] = [a.shape.length, b.shape.length];
    const [m, ka] = (transposeA ? [a.shape[ra - 1], a.shape[ra - 2]] : [a.shape[ra - 2], a.shape[ra - 1]]) as [number, number];
    const [kb, n] = (transposeB ? [b.shape[rb - 1], b.shape[rb - 2]] : [b.shape[rb - 2], b.shape[rb - 1]]) as [number, number];
    if (ka !== kb) {
      throw new ShapeError(
        `matmul: inner extents ${ka} and ${kb} differ (${formatShape(a.shape)}${transposeA ? "ᵀ" : ""} by ` +
          `${formatShape(b.shape)}${transposeB ? "ᵀ" : ""})`,
      );
    }
    const batch = broadcastShapes("matmul", a.shape.slice(0, -2), b.shape.slice(0, -2));
    return [meta([...batch, m, n], floats("matmul", a, b))];
  },
  gram: ([x]) => {
    rank("gram", "the input", x, "a matrix [rows, d]", (r) => r === 2);
    const d = x.shape[1] as number;
    return [meta([d, d], floats("gram", x))];
  },
  linear: ([x, weight, bias]) => {
    rank("linear", "the input", x, "[n, …, in]", (r) => r >= 2);
    rank("linear", "the weight", weight, "[out, in]", (r) => r === 2);
    const [out, width] = weight.shape as unknown as [number, number];
    if (x.shape.at(-1) !== width) {
      throw new ShapeError(
        `linear: input has ${x.shape.at(-1)} features but the weight expects ${width} (input ${formatShape(x.shape)}, weight ${formatShape(weight.shape)})`,
      );
    }
    if (bias) channelVector("linear", "the bias", bias, out);
    return [meta([...x.shape.slice(0, -1), out], bias ? floats("linear", x, weight, bias) : floats("linear", x, weight))];
  },

  conv2d: ([x, weight, bias], params) => {
    const [n, height, width, channels] = image("conv2d", x);
    rank("conv2d", "the weight", weight, "[out, kernelHeight, kernelWidth, in / groups]", (r) => r === 4);
    const size = convolution("conv2d", channels, x.shape, [height, width], weight.shape, params);
    const out = weight.shape[0] as number;
    if (bias) channelVector("conv2d", "the bias", bias, out);
    return [meta([n, ...size, out], bias ? floats("conv2d", x, weight, bias) : floats("conv2d", x, weight))];
  },
  conv2dInputGradient: ([gradient, weight], params) => {
    const [n, height, width, out] = image("conv2dInputGradient", gradient);
    rank("conv2dInputGradient", "the weight", weight, "[out, kernelHeight, kernelWidth, in / groups]", (r) => r === 4);
    const channels = (weight.shape[3] as number) * params.groups;
    const shape = [n, ...params.inputSize, channels];
    const size = convolution("conv2dInputGradient", channels, shape, params.inputSize, weight.shape, params);
    equalShapes("conv2dInputGradient", "the gradient", [n, height, width, out], "the convolution's output", [
      n,
      ...size,
      weight.shape[0] as number,
    ]);
    return [meta(shape, floats("conv2dInputGradient", gradient, weight))];
  },
  conv2dWeightGradient: ([x, gradient], params) => {
    const [n, height, width, channels] = image("conv2dWeightGradient", x);
    const out = image("conv2dWeightGradient", gradient)[3];
    const weight = [out, ...params.kernel, channels / params.groups];
    const size = convolution("conv2dWeightGradient", channels, x.shape, [height, width], weight, params);
    equalShapes("conv2dWeightGradient", "the gradient", gradient.shape, "the convolution's output", [n, ...size, out]);
    return [meta(weight, floats("conv2dWeightGradient", x, gradient))];
  },
  im2col: ([x], params) => {
    const [n, height, width, channels] = image("im2col", x);
    const size = windowOutput("im2col", [height, width], params);
    return [meta([n, ...size, params.kernel[0] * params.kernel[1] * channels], floats("im2col", x))];
  },
  col2im: ([columns], params) => {
    const [n, height, width, d] = image("col2im", columns);
    const size = windowOutput("col2im", params.inputSize, params);
    const channels = d / (params.kernel[0] * params.kernel[1]);
    if (!Number.isInteger(channels)) {
      throw new ShapeError(`col2im: rows of ${d} elements are not windows of ${params.kernel[0]} × ${params.kernel[1]}`);
    }
    equalShapes("col2im", "the columns", [n, height, width, d], "the windows", [n, ...size, d]);
    return [meta([n, ...params.inputSize, channels], floats("col2im", columns))];
  },
  patchCovariance: ([x], params) => {
    const [, height, width, channels] = image("patchCovariance", x);
    windowOutput("patchCovariance", [height, width], params);
    const d = params.kernel[0] * params.kernel[1] * channels + (params.bias ? 1 : 0);
    return [meta([d, d], floats("patchCovariance", x))];
  },

  maxPool2d: ([x], params) => {
    const shape = pooledShape("maxPool2d", x, params);
    checkPoolPadding("maxPool2d", x.shape, params);
    return [meta(shape, floats("maxPool2d", x)), meta(shape, "int32")];
  },
  maxPool2dScatter: ([y, indices], { inputSize }) => {
    checkShape("maxPool2dScatter", inputSize);
    const [n, , , channels] = image("maxPool2dScatter", y);
    requireInt("maxPool2dScatter", "indices", indices);
    equalShapes("maxPool2dScatter", "the input", y.shape, "the index tensor", indices.shape);
    return [meta([n, ...inputSize, channels], floats("maxPool2dScatter", y))];
  },
  maxPool2dGather: ([x, indices]) => {
    const [n, , , channels] = image("maxPool2dGather", x);
    const [m, , , others] = image("maxPool2dGather", indices);
    requireInt("maxPool2dGather", "indices", indices);
    equalShapes("maxPool2dGather", "the input's [n, channels]", [n, channels], "the index tensor's", [m, others]);
    return [meta(indices.shape, floats("maxPool2dGather", x))];
  },
  averagePool2d: ([x], params) => {
    const shape = pooledShape("averagePool2d", x, params);
    checkPoolPadding("averagePool2d", x.shape, params);
    return [meta(shape, floats("averagePool2d", x))];
  },
  averagePool2dGradient: ([gradient], params) => {
    const [n, , , channels] = image("averagePool2dGradient", gradient);
    const size = windowOutput("averagePool2dGradient", params.inputSize, params);
    equalShapes("averagePool2dGradient", "the gradient", gradient.shape, "the pooled image", [n, ...size, channels]);
    return [meta([n, ...params.inputSize, channels], floats("averagePool2dGradient", gradient))];
  },

  batchNorm: ([x, scale, shift]) => batchNormOutputs("batchNorm", x, scale, shift),
  batchNormGradient: ([x, scale, mean, rstd, gradient]) => batchNormGradients("batchNormGradient", x, scale, mean, rstd, gradient),
  normalize: ([x, mean, gain, shift]) => {
    rank("normalize", "the input", x, "[n, …, channels]", (r) => r >= 2);
    const channels = x.shape.at(-1) as number;
    channelVector("normalize", "the mean", mean, channels);
    channelVector("normalize", "the gain", gain, channels);
    channelVector("normalize", "the shift", shift, channels);
    return [meta(x.shape, floats("normalize", x, mean, gain, shift))];
  },
  batchNormRelu: ([x, scale, shift]) => batchNormOutputs("batchNormRelu", x, scale, shift),
  batchNormReluGradient: ([x, scale, mean, rstd, output, gradient]) => {
    equalShapes("batchNormReluGradient", "the output", output.shape, "the gradient", gradient.shape);
    floats("batchNormReluGradient", output, gradient);
    return batchNormGradients("batchNormReluGradient", x, scale, mean, rstd, gradient);
  },

  logSoftmax: ([x]) => {
    rank("logSoftmax", "the input", x, "of rank 1 or more", (r) => r >= 1);
    return [meta(x.shape, floats("logSoftmax", x))];
  },
  softmaxCrossEntropy: ([logits, labels], smoothing) => {
    checkLogits("softmaxCrossEntropy", logits, labels);
    checkSmoothing("softmaxCrossEntropy", logits.shape[1] as number, smoothing);
    const dtype = floats("softmaxCrossEntropy", logits);
    return [meta(labels.shape, dtype), meta(logits.shape, dtype)];
  },
  softmaxCrossEntropyGradient: ([probabilities, labels, gradient]) => {
    checkLogits("softmaxCrossEntropyGradient", probabilities, labels);
    equalShapes("softmaxCrossEntropyGradient", "the labels", labels.shape, "the gradient", gradient.shape);
    return [meta(probabilities.shape, floats("softmaxCrossEntropyGradient", probabilities, gradient))];
  },
  squaredError: ([prediction, target]) => {
    rank("squaredError", "the prediction", prediction, "[n, …]", (r) => r >= 1);
    equalShapes("squaredError", "the prediction", prediction.shape, "the target", target.shape);
    return [meta([prediction.shape[0] as number], floats("squaredError", prediction, target))];
  },
};

/** Primitives whose kernel may write its result over an input of its shape: each output element depends on the element at its place. */
export const worksInPlace: ReadonlySet<PrimitiveName> = new Set<PrimitiveName>([
  "negative",
  "abs",
  "sign",
  "reciprocal",
  "sqrt",
  "exp",
  "log",
  "sin",
  "cos",
  "tanh",
  "sigmoid",
  "softplus",
  "erf",
  "relu",
  "reluGradient",
  "add",
  "subtract",
  "multiply",
  "divide",
  "maximum",
  "minimum",
  "power",
  "linearCombination",
  "divideByRoot",
]);

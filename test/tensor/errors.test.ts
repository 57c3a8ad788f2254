import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  apply,
  averagePool2d,
  BackendError,
  batchNorm,
  concat,
  conv2d,
  DataError,
  defaultBackend,
  type Backend,
  DTypeError,
  Generator,
  im2col,
  KfacetError,
  linear,
  maxPool2d,
  openBackend,
  patchCovariance,
  setDefaultBackend,
  ShapeError,
  softmaxCrossEntropy,
  squaredError,
  Tensor,
  tidy,
  UsageError,
  Variable,
  where,
} from "../../src/tensor/index.ts";
import { openReference } from "../../src/tensor/backends/reference/index.ts";

/* Bad operands give an error of the right class that names the operation and what it received. */

const zeros = (...shape: number[]): Tensor => Tensor.zeros(shape);
const whole = (...shape: number[]): Tensor => Tensor.zeros(shape, { dtype: "int32" });
const double = (...shape: number[]): Tensor => Tensor.zeros(shape, { dtype: "float64" });
const indices = (...values: number[]): Tensor => Tensor.from(Int32Array.from(values));
const window = { stride: [1, 1], padding: { top: 0, bottom: 0, left: 0, right: 0 }, dilation: [1, 1] } as const;
const convolution = { ...window, groups: 1 };

type ErrorClass = new (message: string) => KfacetError;
type Case = readonly [what: string, call: () => unknown, error: ErrorClass, fragment: RegExp];

/** Each call throws, says what it should, and leaves no buffer behind. */
function refuses(cases: readonly Case[]): void {
  test.each(cases)("%s", (_, call, error, fragment) => {
    tidy(() => {
      expect(call).toThrow(error);
      expect(call).toThrow(fragment);
    });
  });
}

const buffersBefore = defaultBackend().memory().buffers;
afterEach(() => {
  expect(defaultBackend().memory().buffers).toBe(buffersBefore);
});

describe("elementwise primitives refuse", () => {
  refuses([
    ["shapes that do not broadcast", () => zeros(2, 3).add(zeros(4)), ShapeError, /add: shapes \[2, 3\] and \[4\] do not broadcast/],
    ["two types", () => zeros(2).multiply(double(2)), DTypeError, /multiply: operands have types float32, float64.*cast/],
    ["a comparison of two types", () => zeros(2).less(whole(2)), DTypeError, /less: operands have types float32, int32/],
    ["division of integers", () => whole(2).divide(whole(2)), DTypeError, /divide: needs float32 or float64 but got int32.*cast/],
    ["a power of integers", () => whole(2).power(2), DTypeError, /power: needs/],
    ["a fractional number beside integers", () => whole(2).add(0.5), DTypeError, /0.5 is not an int32/],
    ["the exponential of integers", () => whole(2).exp(), DTypeError, /exp: needs/],
    [
      "a condition that is not int32",
      () => where(zeros(2), zeros(2), zeros(2)),
      DTypeError,
      /where: conditions must be int32 but are float32/,
    ],
    ["branches of two types", () => where(whole(2), zeros(2), double(2)), DTypeError, /where: operands have types/],
    ["branches that do not broadcast", () => where(whole(2), zeros(3), zeros(3)), ShapeError, /where: shapes \[2\] and \[3\]/],
    [
      "a ReLU gradient of another shape",
      () => apply("reluGradient", [zeros(2), zeros(3)], {}),
      ShapeError,
      /reluGradient: the output \[2\] and the gradient \[3\] must have equal shapes/,
    ],
  ]);

  const unaries = ["reciprocal", "sqrt", "exp", "log", "sin", "cos", "tanh", "sigmoid", "softplus", "erf", "relu", "logSoftmax"] as const;
  refuses(unaries.map((name): Case => [`${name} of integers`, () => whole(2)[name](), DTypeError, new RegExp(`${name}: needs float32`)]));
});

describe("creation refuses", () => {
  const params = { shape: [2], dtype: "int32", key: [0, 0], offset: 0 } as const;
  refuses([
    ["a negative extent", () => Tensor.zeros([2, -1]), ShapeError, /fill: extents must be whole numbers of at least 0 .* \[2, -1\]/],
    ["a fractional extent", () => Tensor.zeros([1.5]), ShapeError, /fill: extents/],
    ["a negative length", () => Tensor.arange(-1), ShapeError, /arange: extents/],
    ["uniform integers", () => apply("uniform", [], params), DTypeError, /uniform: needs/],
    ["normal integers", () => apply("normal", [], params), DTypeError, /normal: needs/],
    ["a random shape that is none", () => new Generator(1).uniform([-1]), ShapeError, /uniform: extents/],
    [
      "data that do not fit the shape",
      () => Tensor.from([1, 2, 3], { shape: [2, 2] }),
      ShapeError,
      /shape \[2, 2\] needs 4 elements but the data has 3/,
    ],
    ["a shape that is none", () => Tensor.from([1], { shape: [-1] }), ShapeError, /Tensor.from: extents/],
    ["ragged rows", () => Tensor.from([[1, 2], [3]]), ShapeError, /ragged: at depth 1 an entry does not match shape \[2, 2\]/],
    ["a number among rows", () => Tensor.from([[1], 2]), ShapeError, /ragged/],
    ["a row among numbers", () => Tensor.from([1, [2]]), ShapeError, /ragged/],
  ]);
});

describe("movement refuses", () => {
  refuses([
    ["another number of elements", () => zeros(2, 3).reshape([4]), ShapeError, /reshape: \[2, 3\] has 6 elements but \[4\] has 4/],
    ["an extent that does not work out", () => zeros(2, 3).reshape([4, -1]), ShapeError, /reshape: \[2, 3\] does not fit into \[4, -1\]/],
    ["two open extents", () => zeros(2, 3).reshape([-1, -1]), ShapeError, /at most one extent may be -1/],
    ["an axis twice", () => zeros(2, 3).permute([0, 0]), ShapeError, /permute: \[0, 0\] is not an order of the 2 axes of \[2, 3\]/],
    ["too few axes", () => zeros(2, 3).permute([0]), ShapeError, /permute/],
    ["an axis out of range", () => zeros(2, 3).permute([0, 2]), ShapeError, /permute: axis 2 is outside of a tensor of rank 2/],
    ["to transpose a vector", () => zeros(2).transpose(), ShapeError, /transpose: needs rank 2 or more but the shape is \[2\]/],
    ["to stretch an extent that is not 1", () => zeros(2).broadcastTo([3]), ShapeError, /broadcastTo: shapes \[2\] and \[3\]/],
    ["to shrink", () => zeros(2, 3).broadcastTo([3]), ShapeError, /broadcastTo: \[2, 3\] does not stretch to \[3\]/],
    ["to stretch to no shape", () => zeros(1).broadcastTo([-1]), ShapeError, /broadcastTo: extents/],
    ["a slice that reaches outside", () => zeros(4).slice([2], [3]), ShapeError, /slice: start \[2\], size \[3\], step \[1\] .* \[4\]/],
    ["a stepped slice that reaches outside", () => zeros(4).slice([0], [3], [2]), ShapeError, /slice/],
    ["a slice before the start", () => zeros(4).slice([-1], [2]), ShapeError, /slice/],
    ["a fractional slice", () => zeros(4).slice([0.5], [2]), ShapeError, /slice: .* whole numbers/],
    ["a slice of step 0", () => zeros(4).slice([0], [2], [0]), ShapeError, /slice/],
    ["a slice of other rank", () => zeros(4).slice([0, 0], [1, 1]), ShapeError, /slice/],
    ["a negative padding", () => zeros(4).pad([-1], [0]), ShapeError, /pad: .* at least 0 for each axis of \[4\]/],
    ["a padding of other rank", () => zeros(4).pad([1, 1], [0, 0]), ShapeError, /pad/],
    [
      "to join shapes that differ elsewhere",
      () => concat([zeros(2, 3), zeros(2, 4)]),
      ShapeError,
      /concat: \[2, 4\] differs from \[2, 3\] in more than axis 0/,
    ],
    ["to join ranks that differ", () => concat([zeros(2, 3), zeros(2)]), ShapeError, /concat/],
    ["to join two types", () => concat([zeros(2), double(2)]), DTypeError, /concat/],
    ["to join nothing", () => concat([]), ShapeError, /concat: needs at least one tensor/],
    ["to join along no axis", () => concat([zeros(2)], 1), ShapeError, /concat: axis 1 is outside/],
    ["to join scalars", () => apply("concat", [zeros()], { axis: 0 }), ShapeError, /concat/],
    ["fractional indices", () => zeros(4, 2).gather(zeros(2)), DTypeError, /gather: indices must be int32 but are float32/],
    ["a matrix of indices", () => zeros(4, 2).gather(whole(2, 2)), ShapeError, /gather: the indices must be a vector but is \[2, 2\]/],
    ["to gather from a scalar", () => zeros().gather(whole(2)), ShapeError, /gather/],
    ["an index out of range", () => zeros(4, 2).gather(indices(0, 4)), DataError, /gather: index 4 at position 1 is outside of 4 rows/],
    ["a negative index", () => zeros(4, 2).gather(indices(-1)), DataError, /gather: index -1 at position 0/],
    [
      "another number of indices than rows",
      () => zeros(4, 2).scatterAdd(whole(3), 5),
      ShapeError,
      /scatterAdd: \[4, 2\] .* indices are \[3\]/,
    ],
    [
      "to scatter out of range",
      () => zeros(1, 2).scatterAdd(indices(5), 5),
      DataError,
      /scatterAdd: index 5 at position 0 is outside of 5 rows/,
    ],
    ["to scatter into −1 rows", () => zeros(1, 2).scatterAdd(indices(0), -1), ShapeError, /scatterAdd: extents/],
    ["to scatter by fractions", () => zeros(1, 2).scatterAdd(zeros(1), 2), DTypeError, /scatterAdd: indices must be int32/],
  ]);
});

describe("reductions refuse", () => {
  refuses([
    ["an axis out of range", () => zeros(2, 3).sum(2), ShapeError, /sum: axis 2 is outside of a tensor of rank 2/],
    ["an axis twice", () => zeros(2, 3).sum([0, -2]), ShapeError, /sum: axes \[0, -2\] name one axis twice/],
    [
      "axes that are not normal, in apply",
      () => apply("sum", [zeros(2, 3)], { axes: [-1], keepDims: false }),
      ShapeError,
      /sum: axes \[-1\]/,
    ],
    [
      "axes that are not sorted, in apply",
      () => apply("max", [zeros(2, 3)], { axes: [1, 0], keepDims: false }),
      ShapeError,
      /max: axes \[1, 0\]/,
    ],
    ["the largest of nothing", () => zeros(2, 0).max(1), ShapeError, /max: an axis of extent 0 in \[2, 0\]/],
    ["the place of the largest of nothing", () => zeros(2, 0).argmax(), ShapeError, /argmax: axis 1 of \[2, 0\] is empty/],
    ["argmax of a scalar", () => zeros().argmax(), ShapeError, /argmax: axis -1 is outside/],
    ["the mean of nothing", () => zeros(0).mean(), ShapeError, /mean: \[0\] has no elements/],
    ["the softmax of a scalar", () => zeros().softmax(), ShapeError, /logSoftmax: the input must be of rank 1 or more/],
  ]);
});

describe("products refuse", () => {
  refuses([
    [
      "inner extents that differ",
      () => zeros(2, 3).matmul(zeros(2, 3)),
      ShapeError,
      /matmul: inner extents 3 and 2 differ \(\[2, 3\] by \[2, 3\]\)/,
    ],
    [
      "them transposed too",
      () => zeros(2, 3).matmul(zeros(2, 4), { transposeA: true, transposeB: true }),
      ShapeError,
      /inner extents 2 and 4 differ \(\[2, 3\]ᵀ by \[2, 4\]ᵀ\)/,
    ],
    ["a vector", () => zeros(3).matmul(zeros(3, 2)), ShapeError, /matmul: the first operand must be of rank 2 or more but is \[3\]/],
    ["a vector on the right", () => zeros(3, 3).matmul(zeros(3)), ShapeError, /matmul: the second operand/],
    ["batches that do not broadcast", () => zeros(2, 3, 3).matmul(zeros(4, 3, 3)), ShapeError, /matmul: shapes \[2\] and \[4\]/],
    ["integers", () => whole(2, 2).matmul(whole(2, 2)), DTypeError, /matmul: needs/],
    ["two types", () => zeros(2, 2).matmul(double(2, 2)), DTypeError, /matmul: operands have types/],
    [
      "the Gram matrix of a batch",
      () => zeros(2, 2, 2).gram(),
      ShapeError,
      /gram: the input must be a matrix \[rows, d\] but is \[2, 2, 2\]/,
    ],
    [
      "another number of features",
      () => linear(zeros(5, 3), zeros(2, 4)),
      ShapeError,
      /linear: input has 3 features .* 4 \(input \[5, 3\], weight \[2, 4\]\)/,
    ],
    [
      "another number of biases",
      () => linear(zeros(5, 3), zeros(2, 3), zeros(3)),
      ShapeError,
      /linear: the bias must be \[2\].* but is \[3\]/,
    ],
    [
      "a single sample without batch",
      () => linear(zeros(3), zeros(2, 3)),
      ShapeError,
      /linear: the input must be \[n, …, in\] but is \[3\]/,
    ],
    ["a weight that is no matrix", () => linear(zeros(5, 3), zeros(2, 3, 1)), ShapeError, /linear: the weight must be \[out, in\]/],
    ["a bias of another type", () => linear(zeros(5, 3), zeros(2, 3), double(2)), DTypeError, /linear: operands have types/],
  ]);
});

describe("convolutions refuse", () => {
  const [x, weight] = [(): Tensor => zeros(8, 32, 32, 3), (): Tensor => zeros(16, 3, 3, 4)];
  refuses([
    [
      "another number of channels",
      () => conv2d(x(), weight()),
      ShapeError,
      /conv2d: input has 3 channels but the weight expects 4 \(input \[8, 32, 32, 3\], weight \[16, 3, 3, 4\], groups 1\)/,
    ],
    [
      "groups that do not divide the channels",
      () => conv2d(x(), weight(), null, { groups: 2 }),
      ShapeError,
      /groups 2 must divide the 3 input channels and the 16/,
    ],
    ["no groups", () => conv2d(x(), weight(), null, { groups: 0 }), ShapeError, /groups 0/],
    [
      "a single image without batch",
      () => conv2d(zeros(8, 8, 3), weight()),
      ShapeError,
      /conv2d: the input must be \[n, height, width, channels\] but is \[8, 8, 3\]/,
    ],
    ["a weight of rank 2", () => conv2d(x(), zeros(16, 27)), ShapeError, /conv2d: the weight must be \[out, kernelHeight, kernelWidth, in/],
    ["another number of biases", () => conv2d(x(), zeros(16, 3, 3, 3), zeros(3)), ShapeError, /conv2d: the bias must be \[16\].* \[3\]/],
    [
      "a kernel larger than the image",
      () => conv2d(zeros(1, 2, 5, 3), zeros(4, 3, 3, 3)),
      ShapeError,
      /window of 3 × 3 .* does not fit into an image of 2 × 5/,
    ],
    [
      "a dilation that enlarges it so",
      () => conv2d(zeros(1, 4, 4, 1), zeros(1, 3, 3, 1), null, { dilation: 2 }),
      ShapeError,
      /dilation 2 × 2/,
    ],
    ["a fractional stride", () => conv2d(zeros(1, 4, 4, 1), zeros(1, 3, 3, 1), null, { stride: 1.5 }), ShapeError, /stride \[1.5, 1.5\]/],
    [
      "a negative padding",
      () => conv2d(zeros(1, 4, 4, 1), zeros(1, 3, 3, 1), null, { padding: -1 }),
      ShapeError,
      /padding \[-1, -1, -1, -1\]/,
    ],
    ["two types", () => conv2d(zeros(1, 4, 4, 1), double(1, 3, 3, 1)), DTypeError, /conv2d: operands have types/],
    [
      "a gradient that is no output of the convolution",
      () => apply("conv2dInputGradient", [zeros(1, 4, 4, 2), zeros(2, 3, 3, 1)], { ...convolution, inputSize: [5, 5] }),
      ShapeError,
      /conv2dInputGradient: the gradient \[1, 4, 4, 2\] and the convolution's output \[1, 3, 3, 2\] must have equal shapes/,
    ],
    [
      "an input size that is none",
      () => apply("conv2dInputGradient", [zeros(1, 3, 3, 2), zeros(2, 3, 3, 1)], { ...convolution, inputSize: [5.5, 5] }),
      ShapeError,
      /conv2dInputGradient: extents/,
    ],
    [
      "a gradient of another batch",
      () => apply("conv2dWeightGradient", [zeros(1, 5, 5, 1), zeros(2, 3, 3, 2)], { ...convolution, kernel: [3, 3] }),
      ShapeError,
      /conv2dWeightGradient: the gradient \[2, 3, 3, 2\] and the convolution's output \[1, 3, 3, 2\] must have equal shapes/,
    ],
    ["windows of integers", () => im2col(whole(1, 4, 4, 1), 2), DTypeError, /im2col: needs/],
    ["windows of a matrix", () => im2col(zeros(4, 4), 2), ShapeError, /im2col: the input must be \[n, height, width, channels\]/],
    ["patches of a matrix", () => patchCovariance(zeros(4, 4), 2), ShapeError, /patchCovariance: the input/],
    ["patches larger than the image", () => patchCovariance(zeros(1, 4, 4, 1), 5), ShapeError, /patchCovariance: a window of 5 × 5/],
    [
      "columns that are no windows",
      () => apply("col2im", [zeros(1, 3, 3, 5)], { ...window, kernel: [2, 2], inputSize: [4, 4] }),
      ShapeError,
      /col2im: rows of 5 elements are not windows of 2 × 2/,
    ],
    [
      "another number of columns",
      () => apply("col2im", [zeros(1, 2, 3, 4)], { ...window, kernel: [2, 2], inputSize: [4, 4] }),
      ShapeError,
      /col2im: the columns \[1, 2, 3, 4\] and the windows \[1, 3, 3, 4\] must have equal shapes/,
    ],
  ]);
});

describe("pooling refuses", () => {
  refuses([
    [
      "a padding as large as the window",
      () => maxPool2d(zeros(1, 4, 4, 1), 2, { padding: 2 }),
      ShapeError,
      /maxPool2d: padding must be smaller than the window of 2 × 2/,
    ],
    [
      "it for averages too",
      () => averagePool2d(zeros(1, 4, 4, 1), 2, { padding: 2 }),
      ShapeError,
      /averagePool2d: padding must be smaller/,
    ],
    [
      "a dilation around the whole image",
      () => maxPool2d(zeros(1, 1, 1, 1), 2, { dilation: 2, padding: 1 }),
      ShapeError,
      /maxPool2d: a padded image of 1 × 1 is smaller than the dilation 2 × 2/,
    ],
    ["integers", () => maxPool2d(whole(1, 4, 4, 1), 2), DTypeError, /maxPool2d: needs/],
    ["a window larger than the image", () => averagePool2d(zeros(1, 4, 4, 1), 5), ShapeError, /averagePool2d: a window of 5 × 5/],
    [
      "indices of another shape",
      () => apply("maxPool2dScatter", [zeros(1, 2, 2, 1), whole(1, 2, 2, 2)], { inputSize: [4, 4] }),
      ShapeError,
      /maxPool2dScatter: the input \[1, 2, 2, 1\] and the index tensor \[1, 2, 2, 2\] must have equal shapes/,
    ],
    ["fractional indices", () => apply("maxPool2dGather", [zeros(1, 4, 4, 1), zeros(1, 2, 2, 1)], {}), DTypeError, /indices must be int32/],
    [
      "indices of another batch",
      () => apply("maxPool2dGather", [zeros(1, 4, 4, 1), whole(2, 2, 2, 1)], {}),
      ShapeError,
      /\[1, 1\] and the index tensor's \[2, 1\] must have equal shapes/,
    ],
    [
      "a pixel beyond the image",
      () => apply("maxPool2dScatter", [zeros(2, 1, 1, 1), indices(15, 16).reshape([2, 1, 1, 1])], { inputSize: [4, 4] }),
      DataError,
      /maxPool2dScatter: index 16 at position 1 is outside of an image of 16 pixels/,
    ],
    [
      "a negative pixel",
      () => apply("maxPool2dGather", [zeros(1, 2, 2, 1), indices(-1).reshape([1, 1, 1, 1])], {}),
      DataError,
      /maxPool2dGather: index -1 at position 0 is outside of an image of 4 pixels/,
    ],
    [
      "a size that is none",
      () => apply("maxPool2dScatter", [zeros(1, 2, 2, 1), whole(1, 2, 2, 1)], { inputSize: [-4, 4] }),
      ShapeError,
      /extents/,
    ],
    [
      "a gradient that is no pooled image",
      () => apply("averagePool2dGradient", [zeros(1, 3, 3, 1)], { ...window, kernel: [2, 2], countPadding: true, inputSize: [5, 5] }),
      ShapeError,
      /averagePool2dGradient: the gradient \[1, 3, 3, 1\] and the pooled image \[1, 4, 4, 1\] must have equal shapes/,
    ],
  ]);
});

describe("apply refuses", () => {
  const nowhere = "nowhere" as "add";
  refuses([
    ["a name that no primitive has", () => apply(nowhere, [zeros(1), zeros(1)], {}), UsageError, /there is no primitive "nowhere"/],
    ["an int32 that is not whole", () => Tensor.full([2], 0.5, { dtype: "int32" }), DTypeError, /fill: 0.5 is not an int32/],
  ]);

  test("to assign a value of another device to a variable", () => {
    using stranger = Tensor.from([1], { backend: openReference() });
    using own = zeros(1);
    const variable = new Variable("v", own);
    expect(() => variable.assign(stranger)).toThrow(BackendError);
    expect(() => variable.assign(stranger)).toThrow(/"v" lives on "wasm"/);
    variable.dispose();
  });

  test("what the device cannot allocate, and gives back what it had of it", () => {
    const backend = openReference();
    const x = Tensor.zeros([2, 2, 2, 1], { backend });
    const before = backend.memory().buffers;
    let left = 1;
    const alloc = backend.alloc.bind(backend);
    backend.alloc = (dtype, size) => {
      if (left-- === 0) throw new BackendError("no memory left");
      return alloc(dtype, size);
    };
    expect(() => maxPool2d(x, 2)).toThrow("no memory left"); // its second output, the indices
    expect(backend.memory().buffers).toBe(before);
  });
});

describe("normalisation and losses refuse", () => {
  const statistics = (n: number): [Tensor, Tensor, Tensor] => [zeros(n), zeros(n), zeros(n)];
  const smooth = (options: Parameters<typeof softmaxCrossEntropy>[2], classes = 3): Tensor =>
    softmaxCrossEntropy(zeros(2, classes), indices(0, 0), options);
  const misspelt = "offTarget" as "off-target";
  refuses([
    ["smoothing outside of [0, 1)", () => smooth({ smoothing: 1 }), UsageError, /smoothing must be in \[0, 1\) but is 1/],
    ["an unknown smoothing", () => smooth({ smoothingKind: misspelt }), UsageError, /"offTarget"; known: uniform, off-target/],
    [
      "off-target smoothing of one class",
      () => smooth({ smoothing: 0.1, smoothingKind: "off-target" }, 1),
      ShapeError,
      /needs two classes/,
    ],
    [
      "another number of scales",
      () => batchNorm(zeros(4, 3), zeros(2), zeros(3)),
      ShapeError,
      /batchNorm: the scale must be \[3\].* but is \[2\]/,
    ],
    ["another number of shifts", () => batchNorm(zeros(4, 3), zeros(3), zeros(2)), ShapeError, /batchNorm: the shift must be \[3\]/],
    ["a vector", () => batchNorm(zeros(3), zeros(3), zeros(3)), ShapeError, /batchNorm: the input must be \[n, …, channels\] but is \[3\]/],
    [
      "an empty batch",
      () => batchNorm(zeros(0, 3), zeros(3), zeros(3)),
      ShapeError,
      /batchNorm: \[0, 3\] has no elements to take a mean of/,
    ],
    ["a scale of another type", () => batchNorm(zeros(4, 3), double(3), zeros(3)), DTypeError, /batchNorm: operands have types/],
    [
      "a batch norm gradient of another shape",
      () => apply("batchNormGradient", [zeros(4, 3), ...statistics(3), zeros(5, 3)], {}),
      ShapeError,
      /the input \[4, 3\] and the gradient \[5, 3\] must have equal shapes/,
    ],
    [
      "other statistics",
      () => apply("batchNormGradient", [zeros(4, 3), ...statistics(2), zeros(4, 3)], {}),
      ShapeError,
      /batchNormGradient: the scale must be \[3\]/,
    ],
    [
      "logits that are no matrix",
      () => softmaxCrossEntropy(zeros(3), whole(3)),
      ShapeError,
      /softmaxCrossEntropy: the logits must be \[n, classes\] but is \[3\]/,
    ],
    ["labels that are not int32", () => softmaxCrossEntropy(zeros(2, 3), zeros(2)), DTypeError, /labels must be int32 but are float32/],
    [
      "another number of labels",
      () => softmaxCrossEntropy(zeros(2, 3), whole(3)),
      ShapeError,
      /logits are \[2, 3\], so labels must be \[2\] but are \[3\]/,
    ],
    [
      "a label that is no class",
      () => softmaxCrossEntropy(zeros(2, 3), indices(0, 3)),
      DataError,
      /label 3 of sample 1 is out of range; with 3 classes labels go from 0 to 2/,
    ],
    ["a negative label", () => softmaxCrossEntropy(zeros(1, 3), indices(-1)), DataError, /label -1 of sample 0/],
    [
      "a loss gradient of another shape",
      () => apply("softmaxCrossEntropyGradient", [zeros(2, 3), whole(2), zeros(3)], { smoothing: 0, smoothingKind: "uniform" }),
      ShapeError,
      /the labels \[2\] and the gradient \[3\] must have equal shapes/,
    ],
    [
      "a target of another shape",
      () => squaredError(zeros(2, 3), zeros(2, 1)),
      ShapeError,
      /squaredError: the prediction \[2, 3\] and the target \[2, 1\] must have equal shapes/,
    ],
    ["a scalar prediction", () => squaredError(zeros(), zeros()), ShapeError, /squaredError: the prediction must be \[n, …\]/],
  ]);
});

test("apply refuses a name that is no primitive", () => {
  const call = (): unknown => apply("convolve" as "relu", [zeros(1)], {});
  tidy(() => {
    expect(call).toThrow(UsageError);
    expect(call).toThrow(/no primitive "convolve"/);
  });
});

describe("backends", () => {
  test("do not mix in one operation", () => {
    const other = openReference();
    tidy(() => {
      const [a, b] = [zeros(2), Tensor.zeros([2], { backend: other })];
      expect(() => a.add(b)).toThrow(BackendError);
      expect(() => a.add(b)).toThrow(/add: operands live on ".*" and "reference"/);
    });
    expect(other.memory().buffers).toBe(0);
  });

  test("keep what is computed from theirs", () => {
    const other = openReference();
    tidy(() => {
      const x = Tensor.from([1, 2], { backend: other });
      expect(x.exp().add(1).mean().backend).toBe(other);
      expect(new Generator(1).normal([2], { backend: other }).backend).toBe(other);
    });
    expect(other.memory().buffers).toBe(0);
  });

  test("that do not exist cannot be opened, and one that was not opened is no default", async () => {
    await expect(openBackend("abacus")).rejects.toThrow(BackendError);
    await expect(openBackend("abacus")).rejects.toThrow(/no backend "abacus"; known: .*reference/);
    expect(() => setDefaultBackend(openReference())).toThrow(UsageError);
  });

  test("open once: a second time gives the same", async () => {
    expect(await openBackend("reference")).toBe(await openBackend("reference"));
  });

  describe("in a process that has none open yet", () => {
    beforeEach(() => {
      vi.resetModules();
    });
    const registry = (): Promise<typeof import("../../src/tensor/registry.ts")> => import("../../src/tensor/registry.ts");

    test("open once, however many ask at the same time", async () => {
      const { openBackend, defaultBackend } = await registry();
      const [first, second] = await Promise.all([openBackend("wasm"), openBackend("wasm")]);
      expect(second).toBe(first);
      expect(defaultBackend()).toBe(first);
    });

    test("are the default's, if that opened in between", async () => {
      const { openBackend, defaultBackend, setDefaultBackend } = await registry();
      const opening = openBackend("wasm");
      const first = defaultBackend();
      expect(await opening).toBe(first);
      expect(await openBackend("wasm")).toBe(first);
      expect(() => {
        setDefaultBackend(first);
      }).not.toThrow();
    });
  });

  test("that have no memory left say how much was asked for", () => {
    const huge = (backend: Backend) => (): Tensor => Tensor.zeros([2 ** 26, 2 ** 26], { backend });
    expect(huge(openReference())).toThrow(BackendError);
    expect(huge(openReference())).toThrow(/cannot allocate 18014398509481984 bytes for 4503599627370496 float32/);
    expect(huge(defaultBackend())).toThrow(BackendError);
    expect(huge(defaultBackend())).toThrow(/no memory for 17179869184.0 MiB wanted by fill: .* of at most 4095.9 MiB .*smaller batch/);
  });
});

test("every error is a KfacetError that carries its class's name", () => {
  const caught = (): KfacetError => {
    try {
      tidy(() => zeros(2).add(zeros(3)));
    } catch (error) {
      if (error instanceof KfacetError) return error;
    }
    throw new Error("nothing was thrown");
  };
  expect(caught().name).toBe("ShapeError");
});

import fc, { type Arbitrary } from "fast-check";
import {
  defaultBackend,
  sizeOf,
  Tensor,
  windowOutput,
  type Backend,
  type FloatDType,
  type Inputs,
  type LabelSmoothing,
  type Params,
  type PrimitiveName,
  type Shape,
} from "../src/tensor/index.ts";
import { axesOf, broadcastable, extents, permutationsOf, shapes, stretchableTo, windows } from "./arbitraries/shapes.ts";

/**
 * For every primitive, operands and parameters on which it is defined and, where it has a derivative, differentiable: away from
 * kinks, ties and poles. Derivatives are checked on these samples, and backends are compared on them.
 *
 * Samples live on the host. Float values are small multiples of powers of two, hence the same numbers in float32 and float64.
 */

/** A tensor before a float type and a backend are chosen. */
export interface HostTensor {
  readonly kind: "float" | "int";
  readonly shape: Shape;
  readonly values: readonly number[];
}

export interface Sample<K extends PrimitiveName> {
  readonly inputs: Inputs<K, HostTensor>;
  readonly params: Params<K>;
}

export type Samples = { readonly [K in PrimitiveName]: Arbitrary<Sample<K>> };

/** The operands as tensors, and the parameters with `dtype` in place of any other float type. Nobody but the caller owns them. */
export function realize<K extends PrimitiveName>(
  sample: Sample<K>,
  dtype: FloatDType,
  backend: Backend = defaultBackend(),
): { readonly inputs: Inputs<K, Tensor>; readonly params: Params<K> } {
  const operands: readonly HostTensor[] = sample.inputs;
  const inputs: unknown = operands.map(({ kind, shape, values }) =>
    Tensor.from(values, { shape, dtype: kind === "int" ? "int32" : dtype, backend }),
  );
  const params: object = sample.params;
  const retyped: unknown = "dtype" in params && params.dtype !== "int32" ? { ...params, dtype } : params;
  return { inputs: inputs as Inputs<K, Tensor>, params: retyped as Params<K> };
}

// ── values ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

type Values = (shape: Shape) => Arbitrary<HostTensor>;

const floats =
  (element: Arbitrary<number>): Values =>
  (shape) =>
    fc.array(element, { minLength: sizeOf(shape), maxLength: sizeOf(shape) }).map((values) => ({ kind: "float", shape, values }));

const grid = (min: number, max: number): Arbitrary<number> => fc.integer({ min, max }).map((k) => k / 16);

/** From −2 to 2. */
const anything = floats(grid(-32, 32));
/** From 1/4 to 4. */
const positive = floats(grid(4, 64));
/** From −2 to 2, but not within 1/4 of zero: no kink of abs or ReLU, no pole of the reciprocal. */
const nonzero = floats(fc.integer({ min: -28, max: 27 }).map((k) => (k < 0 ? k - 4 : k + 5) / 16));
/** Odd and even multiples of 1/16: two operands that are equal nowhere. */
const odd = floats(grid(-16, 15).map((x) => 2 * x + 1 / 16));
const even = floats(grid(-16, 16).map((x) => 2 * x));
/** No two elements equal, a quarter apart: unique maxima, and a variance well above every ε. */
const distinct: Values = (shape) =>
  fc
    .uniqueArray(fc.integer({ min: -48, max: 48 }), { minLength: sizeOf(shape), maxLength: sizeOf(shape) })
    .map((values) => ({ kind: "float", shape, values: values.map((k) => k / 4) }));
/** From −2 to 2 in halves: equal elements are common. */
const coarse = floats(fc.integer({ min: -4, max: 4 }).map((k) => k / 2));

const ints =
  (min: number, max: number): Values =>
  (shape) =>
    fc
      .array(fc.integer({ min, max }), { minLength: sizeOf(shape), maxLength: sizeOf(shape) })
      .map((values) => ({ kind: "int", shape, values }));
const integers = ints(-9, 9);

/** Mostly floats, sometimes integers: for the primitives that take both. The second is for all operands of one call. */
const either = (float: Values): Arbitrary<Values> =>
  fc.oneof({ arbitrary: fc.constant(float), weight: 5 }, { arbitrary: fc.constant(integers), weight: 1 });

// ── elementwise ───────────────────────────────────────────────────────────────────────────────────────────────────────────

interface UnarySample {
  readonly inputs: [x: HostTensor];
  readonly params: Params<"negative">;
}
interface BinarySample {
  readonly inputs: [a: HostTensor, b: HostTensor];
  readonly params: Params<"add">;
}

function unary(values: Values): Arbitrary<UnarySample> {
  return shapes({ minExtent: 0 })
    .chain(values)
    .map((x) => ({ inputs: [x], params: {} }));
}

function unaryAny(values: Values): Arbitrary<UnarySample> {
  return either(values).chain(unary);
}

function binary(valuesA: Values, valuesB: Values = valuesA): Arbitrary<BinarySample> {
  return broadcastable(2, { minExtent: 0 }).chain(([a = [], b = []]) =>
    fc.tuple(valuesA(a), valuesB(b)).map((inputs) => ({ inputs, params: {} })),
  );
}

function binaryAny(valuesA: Values, valuesB: Values = valuesA): Arbitrary<BinarySample> {
  return fc.oneof({ arbitrary: binary(valuesA, valuesB), weight: 5 }, { arbitrary: binary(integers), weight: 1 });
}

// ── windows and images ────────────────────────────────────────────────────────────────────────────────────────────────────

const fewImages = extents(1, 2);
const fewChannels = extents(1, 2);

interface ConvolutionCase {
  readonly input: Shape;
  readonly weight: Shape;
  readonly output: Shape;
  readonly params: Params<"conv2d">;
}

/** Stride, dilation, uneven padding and groups; at most 40 elements a tensor. */
const convolutions: Arbitrary<ConvolutionCase> = fc
  .record({ window: windows(), n: fewImages, perIn: fewChannels, perOut: fewChannels, groups: fc.integer({ min: 1, max: 2 }) })
  .map(({ window: { geometry, size }, n, perIn, perOut, groups }) => {
    const { kernel, ...params } = geometry;
    return {
      input: [n, ...size, perIn * groups],
      weight: [perOut * groups, ...kernel, perIn],
      output: [n, ...windowOutput("sample", size, geometry), perOut * groups],
      params: { ...params, groups },
    };
  })
  .filter(({ input, weight, output }) => [input, weight, output].every((shape) => sizeOf(shape) <= 40));

const images = (pooling: boolean) =>
  fc
    .record({ window: windows({ pooling }), n: fewImages, channels: fewChannels })
    .map(({ window: { geometry, size }, n, channels }) => ({
      geometry,
      size,
      input: [n, ...size, channels],
      output: [n, ...windowOutput("sample", size, geometry), channels],
    }))
    .filter(({ input, output }) => sizeOf(input) <= 40 && sizeOf(output) <= 40);

/** An image batch and, for a pooled image of it, the pixels that each element came from. */
const pooledPixels = fc
  .record({ n: fewImages, channels: fewChannels, inputSize: fc.tuple(extents(), extents()), size: fc.tuple(extents(1, 3), extents(1, 3)) })
  .chain(({ n, channels, inputSize, size }) =>
    ints(0, sizeOf(inputSize) - 1)([n, ...size, channels]).map((indices) => ({ indices, inputSize, input: [n, ...inputSize, channels] })),
  );

// ── losses ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

const smoothings: Arbitrary<LabelSmoothing> = fc.record({
  smoothing: fc.constantFrom(0, 0.1, 0.5),
  smoothingKind: fc.constantFrom("uniform", "off-target"),
});
/** At least two classes: with one, nothing is off the target. */
const classification = fc.record({ n: fc.integer({ min: 1, max: 4 }), classes: fc.integer({ min: 2, max: 5 }) });

// ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

const dtypes = fc.constantFrom("float32", "float64", "int32");
const words = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const streams = fc.record({
  shape: shapes({ minExtent: 0 }),
  dtype: fc.constantFrom("float32", "float64"),
  key: fc.tuple(words, words),
  offset: fc.oneof(fc.nat(1000), fc.constant(2 ** 32 - 1)),
});
const scales = fc.constantFrom(1, 0.5, -2);

const batchNormSamples: Arbitrary<Sample<"batchNorm">> = fc
  .record({ lead: shapes({ minRank: 1, maxRank: 3, maxSize: 10 }), channels: extents(1, 3), epsilon: fc.constantFrom(1e-1, 1e-3, 1e-5) })
  .chain(({ lead, channels, epsilon }) =>
    fc
      .tuple(distinct([...lead, channels]), anything([channels]), anything([channels]))
      // One element has no variance: only a large ε makes differences of rstd meaningful.
      .map((inputs) => ({ inputs, params: { epsilon: sizeOf(lead) === 1 ? 1 : epsilon } })),
  );

/** What batch norm makes of a sample's input. */
function normalized({ inputs: [x, scale, shift], params: { epsilon } }: Sample<"batchNorm">): number[] {
  const channels = scale.values.length;
  const count = x.values.length / channels;
  const mean = (f: (value: number) => number, c: number): number =>
    x.values.reduce((sum, value, i) => sum + (i % channels === c ? f(value) / count : 0), 0);
  const means = scale.values.map((_, c) => mean((value) => value, c));
  const variances = means.map((m, c) => mean((value) => (value - m) ** 2, c));
  return x.values.map((value, i) => {
    const [m, v] = [means[i % channels] as number, variances[i % channels] as number];
    return ((value - m) / Math.sqrt(v + epsilon)) * (scale.values[i % channels] as number) + (shift.values[i % channels] as number);
  });
}

export const samples: Samples = {
  fill: fc
    .record({ shape: shapes({ minExtent: 0 }), dtype: dtypes, value: fc.integer({ min: -9, max: 9 }) })
    .map((params) => ({ inputs: [], params })),
  arange: fc
    .record({ start: fc.integer({ min: -9, max: 9 }), step: fc.integer({ min: -3, max: 3 }), length: fc.nat(20), dtype: dtypes })
    .map((params) => ({ inputs: [], params })),
  uniform: streams.map((params) => ({ inputs: [], params })),
  normal: streams.map((params) => ({ inputs: [], params })),

  reshape: shapes({ minExtent: 0 }).chain((shape) =>
    fc
      .record({ x: either(anything).chain((values) => values(shape)), to: permutationsOf(shape.length), split: fc.boolean() })
      .map(({ x, to, split }) => {
        const permuted = to.map((axis) => shape[axis] as number);
        return { inputs: [x], params: { shape: split ? [1, ...permuted] : [sizeOf(shape)] } };
      }),
  ),
  cast: fc
    .record({ x: shapes({ minExtent: 0 }).chain(unaryOperand), dtype: dtypes })
    .map(({ x, dtype }) => ({ inputs: [x], params: { dtype } })),
  permute: shapes({ minExtent: 0 }).chain((shape) =>
    fc.record({ x: unaryOperand(shape), axes: permutationsOf(shape.length) }).map(({ x, axes }) => ({ inputs: [x], params: { axes } })),
  ),
  broadcastTo: shapes({ minExtent: 0 }).chain((shape) =>
    stretchableTo(shape)
      .chain(unaryOperand)
      .map((x) => ({ inputs: [x], params: { shape } })),
  ),
  slice: fc
    .array(fc.record({ start: fc.nat(2), size: extents(0, 3), step: fc.integer({ min: 1, max: 3 }), after: fc.nat(2) }), { maxLength: 3 })
    .map((axes) => ({
      shape: axes.map(({ start, size, step, after }) => start + (size === 0 ? 0 : (size - 1) * step + 1) + after),
      params: { start: axes.map((a) => a.start), size: axes.map((a) => a.size), step: axes.map((a) => a.step) },
    }))
    .filter(({ shape }) => sizeOf(shape) <= 40)
    .chain(({ shape, params }) => unaryOperand(shape).map((x) => ({ inputs: [x], params }))),
  pad: fc
    .array(fc.record({ extent: extents(0, 3), before: fc.nat(2), after: fc.nat(2), between: fc.nat(2) }), { maxLength: 3 })
    .filter((axes) => axes.reduce((size, { extent, before, after, between }) => size * (before + extent * (1 + between) + after), 1) <= 60)
    .chain((axes) =>
      unaryOperand(axes.map((a) => a.extent)).map((x) => ({
        inputs: [x],
        params: { before: axes.map((a) => a.before), after: axes.map((a) => a.after), between: axes.map((a) => a.between) },
      })),
    ),
  concat: fc
    .record({
      shape: shapes({ minRank: 1, maxRank: 3, maxSize: 12 }),
      at: fc.nat(2),
      lengths: fc.array(extents(0, 3), { minLength: 1, maxLength: 3 }),
    })
    .chain(({ shape, at, lengths }) => {
      const axis = at % shape.length;
      const operands = either(anything).chain((values) =>
        fc.tuple(...lengths.map((length) => values(shape.map((extent, i) => (i === axis ? length : extent))))),
      );
      return operands.map((inputs) => ({ inputs, params: { axis } }));
    }),
  gather: fc
    .record({ rest: shapes({ maxRank: 2, maxSize: 6, minExtent: 0 }), rows: extents(), count: fc.nat(5) })
    .chain(({ rest, rows, count }) => fc.tuple(unaryOperand([rows, ...rest]), ints(0, rows - 1)([count])))
    .map((inputs) => ({ inputs, params: {} })),
  scatterAdd: fc
    .record({ rest: shapes({ maxRank: 2, maxSize: 6, minExtent: 0 }), rows: extents(), count: fc.nat(5) })
    .chain(({ rest, rows, count }) =>
      fc.tuple(unaryOperand([count, ...rest]), ints(0, rows - 1)([count])).map((inputs) => ({ inputs, params: { rows } })),
    ),

  negative: unaryAny(anything),
  abs: unaryAny(nonzero),
  sign: unaryAny(nonzero),
  reciprocal: unary(nonzero),
  sqrt: unary(positive),
  exp: unary(anything),
  log: unary(positive),
  sin: unary(anything),
  cos: unary(anything),
  tanh: unary(anything),
  sigmoid: unary(anything),
  softplus: unary(anything),
  erf: unary(anything),
  relu: unary(nonzero),
  reluGradient: shapes({ minExtent: 0 })
    .chain((shape) => fc.tuple(nonzero(shape), anything(shape)))
    .map((inputs) => ({ inputs, params: {} })),

  add: binaryAny(anything),
  subtract: binaryAny(anything),
  multiply: binaryAny(anything),
  divide: binary(anything, nonzero),
  maximum: binaryAny(odd, even),
  minimum: binaryAny(even, odd),
  power: binary(positive, anything),
  linearCombination: fc
    .record({ shape: shapes({ minExtent: 0 }), a: grid(-32, 32), b: grid(-32, 32) })
    .chain(({ shape, a, b }) => fc.tuple(anything(shape), anything(shape)).map((inputs) => ({ inputs, params: { a, b } }))),
  divideByRoot: fc
    .record({ shape: shapes({ minExtent: 0 }), scale: grid(-32, 32), rootScale: grid(4, 32), epsilon: fc.constantFrom(0, 1 / 64, 1) })
    .chain(({ shape, ...params }) => fc.tuple(anything(shape), positive(shape)).map((inputs) => ({ inputs, params }))),
  equal: binaryAny(coarse),
  less: binaryAny(coarse),
  lessEqual: binaryAny(coarse),
  where: fc
    .tuple(broadcastable(3, { minExtent: 0 }), either(anything))
    .chain(([[condition = [], a = [], b = []], values]) => fc.tuple(ints(0, 2)(condition), values(a), values(b)))
    .map((inputs) => ({ inputs, params: {} })),

  sum: fc
    .tuple(shapes({ minExtent: 0 }), fc.boolean())
    .chain(([shape, keepDims]) =>
      fc.record({ x: unaryOperand(shape), axes: axesOf(shape.length) }).map(({ x, axes }) => ({ inputs: [x], params: { axes, keepDims } })),
    ),
  max: fc
    .tuple(shapes(), fc.boolean(), either(distinct))
    .chain(([shape, keepDims, values]) =>
      fc.record({ x: values(shape), axes: axesOf(shape.length) }).map(({ x, axes }) => ({ inputs: [x], params: { axes, keepDims } })),
    ),
  argmax: fc
    .tuple(shapes({ minRank: 1 }), fc.nat(3), either(coarse))
    .chain(([shape, at, values]) => values(shape).map((x) => ({ inputs: [x], params: { axis: at % shape.length } }))),

  matmul: fc
    .record({
      batches: broadcastable(2, { maxRank: 2, maxSize: 4, minExtent: 0 }),
      sizes: fc.tuple(extents(0, 3), extents(0, 3), extents(0, 3)),
      transposeA: fc.boolean(),
      transposeB: fc.boolean(),
    })
    .chain(({ batches: [batchA = [], batchB = []], sizes: [m, k, n], ...params }) => {
      const a = anything([...batchA, ...(params.transposeA ? [k, m] : [m, k])]);
      const b = anything([...batchB, ...(params.transposeB ? [n, k] : [k, n])]);
      return fc.tuple(a, b).map((inputs) => ({ inputs, params }));
    }),
  gram: fc
    .record({ x: fc.tuple(extents(0, 6), extents(0, 6)).chain(anything), scale: scales })
    .map(({ x, scale }) => ({ inputs: [x], params: { scale } })),
  linear: fc
    .record({ lead: shapes({ minRank: 1, maxRank: 3, maxSize: 8, minExtent: 0 }), width: extents(), out: extents(), bias: fc.boolean() })
    .chain(({ lead, width, out, bias }) => layerOperands([...lead, width], [out, width], bias))
    .map((inputs) => ({ inputs, params: {} })),

  conv2d: fc
    .tuple(convolutions, fc.boolean())
    .chain(([{ input, weight, params }, bias]) => layerOperands(input, weight, bias).map((inputs) => ({ inputs, params }))),
  conv2dInputGradient: convolutions.chain(({ input, weight, output, params }) => {
    const inputSize = [input[1] as number, input[2] as number] as const;
    return fc.tuple(anything(output), anything(weight)).map((inputs) => ({ inputs, params: { ...params, inputSize } }));
  }),
  conv2dWeightGradient: convolutions.chain(({ input, weight, output, params }) => {
    const kernel = [weight[1] as number, weight[2] as number] as const;
    return fc.tuple(anything(input), anything(output)).map((inputs) => ({ inputs, params: { ...params, kernel } }));
  }),
  im2col: images(false).chain(({ input, geometry }) => anything(input).map((x) => ({ inputs: [x], params: geometry }))),
  col2im: images(false)
    .map(({ output, geometry, size }) => ({ columns: columnsOf(output, geometry.kernel), params: { ...geometry, inputSize: size } }))
    .filter(({ columns }) => sizeOf(columns) <= 72)
    .chain(({ columns, params }) => anything(columns).map((x) => ({ inputs: [x], params }))),
  patchCovariance: fc
    .record({ image: images(false), bias: fc.boolean(), scale: scales })
    .filter(({ image: { input, geometry } }) => sizeOf(geometry.kernel) * (input[3] as number) <= 9)
    .chain(({ image: { input, geometry }, bias, scale }) =>
      anything(input).map((x) => ({ inputs: [x], params: { ...geometry, bias, scale } })),
    ),

  maxPool2d: images(true).chain(({ input, geometry }) => distinct(input).map((x) => ({ inputs: [x], params: geometry }))),
  maxPool2dScatter: pooledPixels.chain(({ indices, inputSize }) =>
    anything(indices.shape).map((y) => ({ inputs: [y, indices], params: { inputSize } })),
  ),
  maxPool2dGather: pooledPixels.chain(({ indices, input }) => anything(input).map((x) => ({ inputs: [x, indices], params: {} }))),
  averagePool2d: fc
    .tuple(images(true), fc.boolean())
    .chain(([{ input, geometry }, countPadding]) => anything(input).map((x) => ({ inputs: [x], params: { ...geometry, countPadding } }))),
  averagePool2dGradient: fc
    .tuple(images(true), fc.boolean())
    .chain(([{ output, size, geometry }, countPadding]) =>
      anything(output).map((g) => ({ inputs: [g], params: { ...geometry, countPadding, inputSize: size } })),
    ),

  batchNorm: batchNormSamples,
  batchNormGradient: fc
    .record({ lead: shapes({ minRank: 1, maxRank: 3, maxSize: 8 }), channels: extents(1, 3) })
    .chain(({ lead, channels }) => {
      const shape = [...lead, channels];
      return fc.tuple(anything(shape), anything([channels]), anything([channels]), positive([channels]), anything(shape));
    })
    .map((inputs) => ({ inputs, params: {} })),
  // Sixteenths and their products: an odd number of 512ths is never at the kink of the ReLU.
  normalize: fc
    .record({ lead: shapes({ minRank: 1, maxRank: 3, maxSize: 10, minExtent: 0 }), channels: extents(1, 3), relu: fc.boolean() })
    .chain(({ lead, channels, relu }) =>
      fc
        .tuple(anything([...lead, channels]), anything([channels]), nonzero([channels]), anything([channels]))
        .map(([x, mean, gain, shift]) => ({
          inputs: [x, mean, gain, { ...shift, values: shift.values.map((value) => value + 1 / 512) }],
          params: { relu },
        })),
    ),
  // Without elements at the kink of the ReLU.
  batchNormRelu: batchNormSamples
    .filter((sample) => normalized(sample).every((y) => Math.abs(y) > 1 / 32))
    .map(({ inputs, params }) => ({ inputs, params })),
  batchNormReluGradient: fc
    .record({ lead: shapes({ minRank: 1, maxRank: 3, maxSize: 8 }), channels: extents(1, 3) })
    .chain(({ lead, channels }) => {
      const shape = [...lead, channels];
      return fc.tuple(anything(shape), anything([channels]), anything([channels]), positive([channels]), nonzero(shape), anything(shape));
    })
    .map((inputs) => ({ inputs, params: {} })),

  logSoftmax: shapes({ minRank: 1, minExtent: 0 })
    .chain(anything)
    .map((x) => ({ inputs: [x], params: {} })),
  softmaxCrossEntropy: fc
    .tuple(classification, smoothings)
    .chain(([{ n, classes }, params]) => fc.tuple(anything([n, classes]), ints(0, classes - 1)([n])).map((inputs) => ({ inputs, params }))),
  softmaxCrossEntropyGradient: fc
    .tuple(classification, smoothings)
    .chain(([{ n, classes }, params]) =>
      fc.tuple(positive([n, classes]), ints(0, classes - 1)([n]), anything([n])).map((inputs) => ({ inputs, params })),
    ),
  squaredError: shapes({ minRank: 1, minExtent: 0 })
    .chain((shape) => fc.tuple(anything(shape), anything(shape)))
    .map((inputs) => ({ inputs, params: {} })),
};

/** The names of the table, in its order. */
export const sampledNames = Object.keys(samples) as PrimitiveName[];

function unaryOperand(shape: Shape): Arbitrary<HostTensor> {
  return either(anything).chain((values) => values(shape));
}

function layerOperands(input: Shape, weight: Shape, bias: boolean): Arbitrary<Inputs<"linear" | "conv2d", HostTensor>> {
  const [x, w] = [anything(input), anything(weight)];
  return bias ? fc.tuple(x, w, anything([weight[0] as number])) : fc.tuple(x, w);
}

function columnsOf(output: Shape, kernel: readonly [number, number]): Shape {
  return [...output.slice(0, 3), sizeOf(kernel) * (output[3] as number)];
}

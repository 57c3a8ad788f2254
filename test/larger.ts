import fc, { type Arbitrary } from "fast-check";
import {
  sizeOf,
  windowOutput,
  type DType,
  type FloatDType,
  type Inputs,
  type KernelName,
  type LabelSmoothing,
  type Padding,
  type Params,
  type PrimitiveName,
  type Shape,
  type WindowGeometry,
} from "../src/tensor/index.ts";
import { axesOf, broadcastable, permutationsOf, stretchableTo, windows } from "./arbitraries/shapes.ts";
import type { HostTensor, Sample } from "./samples.ts";

/**
 * For every primitive with a kernel, operands of hundreds to a hundred thousand elements: beyond the vectors, tiles, blocks and
 * chunks into which fast kernels divide their work, and just at their borders. Backends are compared with each other on them.
 *
 * The numbers follow from a seed, so that a counterexample is a few words. They are float32 numbers with all their digits, so
 * that sums round, and most of them are positive, so that sums do not cancel.
 */

/** A tensor in few words. */
export interface Draft {
  readonly numbers: Numbers;
  readonly shape: Shape;
  readonly seed: number;
}

export interface LargerSample<K extends PrimitiveName> {
  readonly inputs: Inputs<K, Draft>;
  readonly params: Params<K>;
}

/** What a tensor holds; whole numbers below 10 are an int32 tensor's, and so are indices below the number. */
type Numbers = keyof typeof floating | "integers" | { readonly below: number };

/** From 24 random bits, as a number in [0, 1). */
const floating = {
  "from -1/2 to 3/2": (u: number) => Math.fround(2 * u - 0.5),
  "from 1/2 to 3/2": (u: number) => u + 0.5,
  "±, from 1/2 to 3/2": (u: number) => (u < 0.5 ? 2 * u - 1.5 : 2 * u - 0.5),
  "from -10⁴ to 10⁴": (u: number) => Math.fround(2e4 * (u - 0.5)),
  halves: (u: number) => Math.floor(9 * u) / 2 - 2,
} as const;
const usual = "from -1/2 to 3/2";
const positive = "from 1/2 to 3/2";
const nonzero = "±, from 1/2 to 3/2";

function written({ numbers, shape, seed }: Draft): HostTensor {
  const isFloat = typeof numbers === "string" && numbers !== "integers";
  const below = typeof numbers === "object" ? numbers.below : 0;
  const f = isFloat ? floating[numbers] : (u: number) => Math.floor(below > 0 ? below * u : 19 * u - 9);
  const values = new Array<number>(sizeOf(shape));
  let state = seed;
  for (let i = 0; i < values.length; i++) {
    // mulberry32: short, and good enough for test data
    state = (state + 0x6d2b79f5) | 0;
    let word = Math.imul(state ^ (state >>> 15), 1 | state);
    word = (word + Math.imul(word ^ (word >>> 7), 61 | word)) ^ word;
    values[i] = f(((word ^ (word >>> 14)) >>> 8) * 2 ** -24);
  }
  return { kind: isFloat ? "float" : "int", shape, values };
}

export function writtenOut<K extends PrimitiveName>({ inputs, params }: LargerSample<K>): Sample<K> {
  const drafts: readonly Draft[] = inputs;
  return { inputs: drafts.map(written), params };
}

// ── shapes ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

const borders = [4, 8, 16, 32, 64, 128, 256, 512, 1024].flatMap((size) => [size - 1, size, size + 1]);
const primes = [1, 2, 11, 13, 23, 47, 97, 251, 509];

/** Powers of two and their neighbours, primes, and any. */
function extent(max: number, min = 1): Arbitrary<number> {
  const fitting = (list: readonly number[]): number[] => list.filter((size) => size >= min && size <= max);
  return fc.oneof(fc.constantFrom(...fitting(borders)), fc.constantFrom(...fitting([...primes, max])), fc.integer({ min, max }));
}

const shape: Arbitrary<Shape> = fc.oneof(
  fc.oneof(extent(1025), fc.integer({ min: 1000, max: 50_000 })).map((n) => [n]),
  fc.tuple(extent(257), extent(129)),
  fc.tuple(extent(17), extent(23), extent(65)),
  fc.tuple(extent(5), extent(9), extent(9), extent(65)),
);
/** One axis is 10⁵ long. */
const longShape: Arbitrary<Shape> = fc
  .record({ long: fc.constantFrom(65_537, 99_991, 100_000), other: extent(3), first: fc.boolean() })
  .map(({ long, other, first }) => (first ? [long, other] : [other, long]));

const draft = (numbers: Numbers, ofShape: Shape): Arbitrary<Draft> =>
  fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 })).map((seed) => ({ numbers, shape: ofShape, seed }));
/** Mostly floats, sometimes integers. */
const either = (float: Numbers): Arbitrary<Numbers> =>
  fc.oneof({ arbitrary: fc.constant(float), weight: 3 }, { arbitrary: fc.constant<Numbers>("integers"), weight: 1 });
const eitherDraft = (float: Numbers, ofShape: Shape): Arbitrary<Draft> => either(float).chain((numbers) => draft(numbers, ofShape));

interface One {
  readonly inputs: [x: Draft];
  readonly params: Params<"negative">;
}
interface Two {
  readonly inputs: [a: Draft, b: Draft];
  readonly params: Params<"add">;
}
const one = (numbers: Arbitrary<Numbers>): Arbitrary<One> =>
  fc.tuple(shape, numbers).chain(([s, n]) => draft(n, s).map((x) => ({ inputs: [x], params: {} })));
const unary = (numbers: Numbers): Arbitrary<One> => one(fc.constant(numbers));
const unaryAny = (numbers: Numbers): Arbitrary<One> => one(either(numbers));

/** As often as not the shape itself. */
const stretched = (to: Shape): Arbitrary<Shape> => fc.oneof(fc.constant(to), stretchableTo(to));
const two = (numbers: Arbitrary<readonly [Numbers, Numbers]>): Arbitrary<Two> =>
  fc
    .tuple(shape, numbers)
    .chain(([to, [a, b]]) =>
      fc.tuple(
        stretched(to).chain((s) => draft(a, s)),
        stretched(to).chain((s) => draft(b, s)),
      ),
    )
    .map((inputs) => ({ inputs, params: {} }));
const binary = (a: Numbers, b: Numbers = a): Arbitrary<Two> => two(fc.constant([a, b] as const));
const binaryAny = (numbers: Numbers): Arbitrary<Two> => two(either(numbers).map((n) => [n, n] as const));

// ── products and images ───────────────────────────────────────────────────────────────────────────────────────────────────

/** Multiply-adds of the plain sums of one sample. */
const mostWork = 3e6;

const products = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({ batches: fc.constant<Shape[]>([[], []]), sizes: fc.tuple(extent(257), extent(513), extent(257)) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ batches: broadcastable(2, { maxRank: 2, maxSize: 6 }), sizes: fc.tuple(extent(65), extent(65), extent(65)) }),
  },
);

const around = (pixels: number): Padding => ({ top: pixels, bottom: pixels, left: pixels, right: pixels });
const imageSize = fc.tuple(extent(20), extent(20));
/** 3 × 3 with a rim of zeros, which has algorithms of its own; and anything. */
const geometries = fc.oneof(
  imageSize.map((size) => ({
    size,
    geometry: { kernel: [3, 3], stride: [1, 1], padding: around(1), dilation: [1, 1] } satisfies WindowGeometry,
  })),
  windows({ maxKernel: 5, slack: 16, maxPixels: 400 }),
);
const channelling = fc.oneof(
  { weight: 3, arbitrary: fc.record({ perIn: extent(40), perOut: extent(40), groups: fc.constantFrom(1, 1, 2, 3) }) },
  { weight: 1, arbitrary: fc.record({ perIn: fc.constant(1), perOut: fc.constantFrom(1, 2), groups: extent(40) }) },
);

const convolutions = fc
  .record({ window: geometries, n: fc.integer({ min: 1, max: 3 }), channels: channelling })
  .map(({ window: { geometry, size }, n, channels: { perIn, perOut, groups } }) => {
    const { kernel, ...params } = geometry;
    return {
      input: [n, ...size, perIn * groups],
      weight: [perOut * groups, ...kernel, perIn],
      output: [n, ...windowOutput("larger", size, geometry), perOut * groups],
      params: { ...params, groups },
    };
  })
  .filter(({ weight, output }) => sizeOf(output) * sizeOf(weight.slice(1)) <= mostWork);

const images = (pooling: boolean) =>
  fc
    .record({
      window: pooling ? windows({ pooling, maxKernel: 4, slack: 16, maxPixels: 400 }) : geometries,
      n: fc.integer({ min: 1, max: 3 }),
      channels: extent(40),
    })
    .map(({ window: { geometry, size }, n, channels }) => {
      const [height, width] = windowOutput("larger", size, geometry);
      return { geometry, inputSize: size, input: [n, ...size, channels], output: [n, height, width, channels] };
    });
const columnsOf = ({ output, geometry }: { output: Shape; geometry: WindowGeometry }): number =>
  sizeOf(geometry.kernel) * (output[3] as number);
const unfolded = images(false).filter((image) => sizeOf(image.output.slice(0, 3)) * columnsOf(image) <= 2e5);

const pooledPixels = fc
  .record({ n: fc.integer({ min: 1, max: 3 }), channels: extent(40), inputSize: imageSize, size: fc.tuple(extent(12), extent(12)) })
  .chain(({ n, channels, inputSize, size }) =>
    draft({ below: sizeOf(inputSize) }, [n, ...size, channels]).map((indices) => ({
      indices,
      inputSize,
      input: [n, ...inputSize, channels],
    })),
  );

// ── normalisation, losses ─────────────────────────────────────────────────────────────────────────────────────────────────

/** Sixteen rows at least: the variance of fewer may be nearly zero. */
const normalised = fc
  .record({
    lead: fc.oneof(
      extent(4000, 16).map((rows) => [rows]),
      fc.tuple(extent(8), extent(20, 4), extent(20, 4)),
    ),
    channels: extent(70),
  })
  .map(({ lead, channels }) => ({ shape: [...lead, channels], channels }));

const smoothings: Arbitrary<LabelSmoothing> = fc.record({
  smoothing: fc.constantFrom(0, 0.1),
  smoothingKind: fc.constantFrom("uniform", "off-target"),
});
const classification = fc
  .record({ n: extent(257), classes: extent(1025, 2) })
  .filter(({ n, classes }) => n * classes <= 50_000)
  .chain(({ n, classes }) =>
    draft({ below: classes }, [n]).chain((labels) => smoothings.map((params) => ({ rows: [n], matrix: [n, classes], labels, params }))),
  );

// ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

const dtypes = fc.constantFrom<DType>("float32", "float64", "int32");
const word = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const streams = fc.record({
  shape,
  dtype: fc.constantFrom<FloatDType>("float32", "float64"),
  key: fc.tuple(word, word),
  // Blocks are counted by two words: the lower one overflows here.
  offset: fc.constantFrom(0, 1000, 2 ** 32 - 5, 2 ** 52),
});

export const larger: { readonly [K in KernelName]: Arbitrary<LargerSample<K>> } = {
  fill: fc.record({ shape, dtype: dtypes, value: fc.integer({ min: -9, max: 9 }) }).map((params) => ({ inputs: [], params })),
  arange: fc
    .record({ start: fc.integer({ min: -9, max: 9 }), step: fc.integer({ min: -3, max: 3 }), length: fc.nat(50_000), dtype: dtypes })
    .map((params) => ({ inputs: [], params })),
  uniform: streams.map((params) => ({ inputs: [], params })),
  normal: streams.map((params) => ({ inputs: [], params })),

  cast: fc
    .tuple(shape, either("from -10⁴ to 10⁴"), dtypes)
    .chain(([s, numbers, dtype]) => draft(numbers, s).map((x) => ({ inputs: [x], params: { dtype } }))),
  permute: fc
    .oneof(shape, fc.tuple(extent(5), extent(7), extent(9), extent(9), extent(17)))
    .chain((s) => fc.tuple(eitherDraft(usual, s), permutationsOf(s.length)).map(([x, axes]) => ({ inputs: [x], params: { axes } }))),
  broadcastTo: shape.chain((to) =>
    stretchableTo(to)
      .chain((s) => eitherDraft(usual, s))
      .map((x) => ({ inputs: [x], params: { shape: to } })),
  ),
  slice: fc
    .array(fc.record({ start: fc.nat(5), size: extent(33), step: fc.integer({ min: 1, max: 3 }), after: fc.nat(5) }), {
      minLength: 1,
      maxLength: 4,
    })
    .map((axes) => ({
      shape: axes.map(({ start, size, step, after }) => start + (size - 1) * step + 1 + after),
      params: { start: axes.map((a) => a.start), size: axes.map((a) => a.size), step: axes.map((a) => a.step) },
    }))
    .filter((sliced) => sizeOf(sliced.shape) <= 1e5)
    .chain((sliced) => eitherDraft(usual, sliced.shape).map((x) => ({ inputs: [x], params: sliced.params }))),
  pad: fc
    .array(fc.record({ size: extent(33), before: fc.nat(5), after: fc.nat(5), between: fc.nat(2) }), { minLength: 1, maxLength: 4 })
    .filter((axes) => sizeOf(axes.map(({ size, before, after, between }) => before + size * (1 + between) + after)) <= 1e5)
    .chain((axes) =>
      eitherDraft(
        usual,
        axes.map((a) => a.size),
      ).map((x) => ({
        inputs: [x],
        params: { before: axes.map((a) => a.before), after: axes.map((a) => a.after), between: axes.map((a) => a.between) },
      })),
    ),
  concat: fc
    .record({
      s: fc.tuple(extent(17), extent(17), extent(17)),
      axis: fc.nat(2),
      lengths: fc.array(extent(33), { minLength: 1, maxLength: 5 }),
      numbers: either(usual),
    })
    .chain(({ s, axis, lengths, numbers }) => {
      const parts = lengths.map((length) =>
        draft(
          numbers,
          s.map((n, i) => (i === axis ? length : n)),
        ),
      );
      return fc.tuple(...parts).map((inputs) => ({ inputs, params: { axis } }));
    }),
  gather: fc
    .record({
      rows: extent(257),
      rest: fc.oneof(fc.constant([]), fc.tuple(extent(65)), fc.tuple(extent(9), extent(17))),
      count: extent(513),
    })
    .chain(({ rows, rest, count }) => fc.tuple(eitherDraft(usual, [rows, ...rest]), draft({ below: rows }, [count])))
    .map((inputs) => ({ inputs, params: {} })),
  scatterAdd: fc
    .record({
      rows: extent(257),
      rest: fc.oneof(fc.constant([]), fc.tuple(extent(65)), fc.tuple(extent(9), extent(17))),
      count: extent(513),
    })
    .chain(({ rows, rest, count }) =>
      fc.tuple(eitherDraft(usual, [count, ...rest]), draft({ below: rows }, [count])).map((inputs) => ({ inputs, params: { rows } })),
    ),

  negative: unaryAny(usual),
  abs: unaryAny(usual),
  sign: unaryAny("halves"),
  reciprocal: unary(nonzero),
  sqrt: unary(positive),
  exp: unary(usual),
  log: unary(positive),
  sin: unary(usual),
  cos: unary(usual),
  tanh: unary(usual),
  sigmoid: unary(usual),
  softplus: unary(usual),
  erf: unary(usual),
  relu: unary(usual),
  reluGradient: shape.chain((s) => fc.tuple(draft(usual, s), draft(usual, s))).map((inputs) => ({ inputs, params: {} })),
  linearCombination: shape.chain((s) =>
    fc.tuple(draft(usual, s), draft(usual, s)).map((inputs) => ({ inputs, params: { a: 0.75, b: -1.5 } })),
  ),
  divideByRoot: shape.chain((s) =>
    fc.tuple(draft(usual, s), draft(positive, s)).map((inputs) => ({ inputs, params: { scale: 0.75, rootScale: 1.5, epsilon: 1e-3 } })),
  ),

  add: binaryAny(usual),
  subtract: binaryAny(usual),
  multiply: binaryAny(usual),
  divide: binary(usual, nonzero),
  maximum: binaryAny(usual),
  minimum: binaryAny(usual),
  power: binary(positive, usual),
  equal: binaryAny("halves"),
  less: binaryAny("halves"),
  lessEqual: binaryAny("halves"),
  where: fc
    .tuple(shape, either(usual))
    .chain(([to, numbers]) =>
      fc.tuple(
        stretched(to).chain((s) => draft({ below: 3 }, s)),
        stretched(to).chain((s) => draft(numbers, s)),
        stretched(to).chain((s) => draft(numbers, s)),
      ),
    )
    .map((inputs) => ({ inputs, params: {} })),

  sum: reductions(usual),
  max: reductions(usual),
  argmax: fc
    .tuple(fc.oneof(shape, longShape), fc.constantFrom<Numbers>(usual, "halves", "integers"))
    .chain(([s, numbers]) => fc.tuple(draft(numbers, s), fc.nat(s.length - 1)).map(([x, axis]) => ({ inputs: [x], params: { axis } }))),

  matmul: fc
    .tuple(products, fc.boolean(), fc.boolean())
    .filter(([{ batches, sizes }]) => sizeOf(sizes) * batches.reduce((size, batch) => Math.max(size, sizeOf(batch)), 1) <= mostWork)
    .chain(
      ([
        {
          batches: [batchA = [], batchB = []],
          sizes: [m, k, n],
        },
        transposeA,
        transposeB,
      ]) =>
        fc
          .tuple(draft(usual, [...batchA, ...(transposeA ? [k, m] : [m, k])]), draft(usual, [...batchB, ...(transposeB ? [n, k] : [k, n])]))
          .map((inputs) => ({ inputs, params: { transposeA, transposeB } })),
    ),
  gram: fc
    .oneof(fc.tuple(extent(3000), extent(257)), fc.tuple(fc.integer({ min: 1000, max: 3000 }), fc.constantFrom(4, 8, 16, 24, 32)))
    .filter(([rows, d]) => rows * d * d <= mostWork)
    .chain((s) => draft(usual, s))
    .chain((x) => fc.constantFrom(1, 0.25).map((scale) => ({ inputs: [x], params: { scale } }))),
  linear: fc
    .record({
      lead: fc.oneof(fc.tuple(extent(129)), fc.tuple(extent(5), extent(33))),
      sizes: fc.tuple(extent(513), extent(257)),
      bias: fc.boolean(),
    })
    .filter(({ lead, sizes }) => sizeOf(lead) * sizeOf(sizes) <= mostWork)
    .chain(({ lead, sizes: [width, out], bias }) => layer([...lead, width], [out, width], bias))
    .map((inputs) => ({ inputs, params: {} })),

  conv2d: fc
    .tuple(convolutions, fc.boolean())
    .chain(([{ input, weight, params }, bias]) => layer(input, weight, bias).map((inputs) => ({ inputs, params }))),
  conv2dInputGradient: convolutions.chain(({ input, weight, output, params }) => {
    const inputSize = [input[1] as number, input[2] as number] as const;
    return fc.tuple(draft(usual, output), draft(usual, weight)).map((inputs) => ({ inputs, params: { ...params, inputSize } }));
  }),
  conv2dWeightGradient: convolutions.chain(({ input, weight, output, params }) => {
    const kernel = [weight[1] as number, weight[2] as number] as const;
    return fc.tuple(draft(usual, input), draft(usual, output)).map((inputs) => ({ inputs, params: { ...params, kernel } }));
  }),
  im2col: unfolded.chain(({ input, geometry }) => draft(usual, input).map((x) => ({ inputs: [x], params: geometry }))),
  col2im: unfolded.chain(({ output, geometry, inputSize }) =>
    draft(usual, [...output.slice(0, 3), columnsOf({ output, geometry })]).map((x) => ({
      inputs: [x],
      params: { ...geometry, inputSize },
    })),
  ),
  patchCovariance: fc
    .tuple(images(false), fc.boolean(), fc.constantFrom(1, 0.25))
    .filter(([image]) => sizeOf(image.output.slice(0, 3)) * columnsOf(image) ** 2 <= 2 * mostWork)
    .chain(([{ input, geometry }, bias, scale]) => draft(usual, input).map((x) => ({ inputs: [x], params: { ...geometry, bias, scale } }))),

  maxPool2d: fc
    .tuple(images(true), fc.constantFrom<Numbers>(usual, "halves"))
    .chain(([{ input, geometry }, numbers]) => draft(numbers, input).map((x) => ({ inputs: [x], params: geometry }))),
  maxPool2dScatter: pooledPixels.chain(({ indices, inputSize }) =>
    draft(usual, indices.shape).map((y) => ({ inputs: [y, indices], params: { inputSize } })),
  ),
  maxPool2dGather: pooledPixels.chain(({ indices, input }) => draft(usual, input).map((x) => ({ inputs: [x, indices], params: {} }))),
  averagePool2d: fc
    .tuple(images(true), fc.boolean())
    .chain(([{ input, geometry }, countPadding]) =>
      draft(usual, input).map((x) => ({ inputs: [x], params: { ...geometry, countPadding } })),
    ),
  averagePool2dGradient: fc
    .tuple(images(true), fc.boolean())
    .chain(([{ output, geometry, inputSize }, countPadding]) =>
      draft(usual, output).map((g) => ({ inputs: [g], params: { ...geometry, countPadding, inputSize } })),
    ),

  batchNorm: normalised.chain(({ shape: s, channels }) =>
    fc.tuple(draft(usual, s), draft(usual, [channels]), draft(usual, [channels])).map((inputs) => ({ inputs, params: { epsilon: 1e-5 } })),
  ),
  batchNormGradient: normalised
    .chain(({ shape: s, channels: c }) =>
      fc.tuple(draft(usual, s), draft(usual, [c]), draft(usual, [c]), draft(positive, [c]), draft(usual, s)),
    )
    .map((inputs) => ({ inputs, params: {} })),
  normalize: normalised.chain(({ shape: s, channels: c }) =>
    fc
      .tuple(draft(usual, s), draft(usual, [c]), draft(usual, [c]), draft(usual, [c]), fc.boolean())
      .map(([x, mean, gain, shift, relu]) => ({ inputs: [x, mean, gain, shift], params: { relu } })),
  ),
  batchNormRelu: normalised.chain(({ shape: s, channels }) =>
    fc.tuple(draft(usual, s), draft(usual, [channels]), draft(usual, [channels])).map((inputs) => ({ inputs, params: { epsilon: 1e-5 } })),
  ),
  batchNormReluGradient: normalised
    .chain(({ shape: s, channels: c }) =>
      fc.tuple(draft(usual, s), draft(usual, [c]), draft(usual, [c]), draft(positive, [c]), draft(usual, s), draft(usual, s)),
    )
    .map((inputs) => ({ inputs, params: {} })),

  logSoftmax: unary(usual),
  softmaxCrossEntropy: classification.chain(({ matrix, labels, params }) =>
    draft(usual, matrix).map((logits) => ({ inputs: [logits, labels], params })),
  ),
  softmaxCrossEntropyGradient: classification.chain(({ rows, matrix, labels, params }) =>
    fc.tuple(draft(positive, matrix), draft(usual, rows)).map(([p, g]) => ({ inputs: [p, labels, g], params })),
  ),
  squaredError: shape.chain((s) => fc.tuple(draft(usual, s), draft(usual, s))).map((inputs) => ({ inputs, params: {} })),
};

/** The names of the table, in its order. */
export const kernelNames = Object.keys(larger) as KernelName[];

function reductions(numbers: Numbers): Arbitrary<{ readonly inputs: [x: Draft]; readonly params: Params<"sum"> }> {
  return fc
    .tuple(fc.oneof(shape, longShape), fc.boolean())
    .chain(([s, keepDims]) =>
      fc.tuple(eitherDraft(numbers, s), axesOf(s.length)).map(([x, axes]) => ({ inputs: [x], params: { axes, keepDims } })),
    );
}

function layer(input: Shape, weight: Shape, bias: boolean): Arbitrary<Inputs<"linear" | "conv2d", Draft>> {
  const [x, w] = [draft(usual, input), draft(usual, weight)];
  return bias ? fc.tuple(x, w, draft(usual, [weight[0] as number])) : fc.tuple(x, w);
}

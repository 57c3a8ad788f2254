import fc, { type Arbitrary } from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import {
  apply,
  Generator,
  sizeOf,
  Tensor,
  tidy,
  windowOutput,
  type Backend,
  type Conv2dParams,
  type FloatDType,
  type Padding,
  type Shape,
  type TypedArray,
  type WindowGeometry,
} from "../../../src/tensor/index.ts";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import { openWasm } from "../../../src/tensor/backends/wasm/index.ts";

const engines = [1, 2, 3].map((threads) => openWasm({ threads, precision: "exact" }));
const fast = openWasm({ threads: 1 });
const oracle = openReference();
afterAll(() => {
  for (const { engine } of [...engines, fast]) engine.close();
});
const [first, ...others] = engines as unknown as [Backend, ...Backend[]];

interface Case {
  readonly n: number;
  readonly size: readonly [number, number];
  readonly channels: number;
  readonly out: number;
  readonly geometry: WindowGeometry;
  readonly groups: number;
}

/** Along one direction; the image has at least one window. */
const directions = fc
  .record({
    kernel: fc.constantFrom(1, 2, 3, 3, 5),
    stride: fc.constantFrom(1, 1, 2, 3),
    dilation: fc.constantFrom(1, 1, 1, 2, 3),
    before: fc.integer({ min: 0, max: 4 }),
    after: fc.integer({ min: 0, max: 4 }),
    slack: fc.integer({ min: 0, max: 14 }),
  })
  .map(({ kernel, stride, dilation, before, after, slack }) => {
    const extent = Math.max(1, dilation * (kernel - 1) + 1 - before - after) + slack;
    return { kernel, stride, dilation, before, after, extent };
  });

const cases: Arbitrary<Case> = fc
  .record({
    n: fc.constantFrom(0, 1, 2, 3),
    vertical: directions,
    horizontal: directions,
    perIn: fc.constantFrom(1, 3, 7, 16, 17, 33),
    perOut: fc.constantFrom(1, 3, 8, 11, 16, 19),
    groups: fc.constantFrom(1, 1, 1, 2, 3),
  })
  .map(({ n, vertical: v, horizontal: h, perIn, perOut, groups }) => ({
    n,
    size: [v.extent, h.extent],
    channels: perIn * groups,
    out: perOut * groups,
    geometry: geometryOf([v.kernel, h.kernel], [v.stride, h.stride], [v.dilation, h.dilation], {
      top: v.before,
      bottom: v.after,
      left: h.before,
      right: h.after,
    }),
    groups,
  }));

const pad = (p: number): Padding => ({ top: p, bottom: p, left: p, right: p });
const none = pad(0);

function geometryOf(
  kernel: readonly [number, number],
  stride: readonly [number, number] = [1, 1],
  dilation: readonly [number, number] = [1, 1],
  padding: Padding = none,
): WindowGeometry {
  return { kernel, stride, dilation, padding };
}

/** What the five primitives make of a case with random numbers. */
function results({ n, size, channels, out, geometry, groups }: Case, dtype: FloatDType, backend: Backend): [string, TypedArray][] {
  const { kernel, ...rest } = geometry;
  const params: Conv2dParams = { ...rest, groups };
  const [height, width] = windowOutput("case", size, geometry);
  const drawn = normal(7, dtype, backend);
  return tidy(() => {
    const [x, weight, bias] = [drawn([n, ...size, channels]), drawn([out, ...kernel, channels / groups]), drawn([out])];
    const gradient = drawn([n, height, width, out]);
    const columns = drawn([n, height, width, sizeOf(kernel) * channels]);
    const outputs = {
      conv2d: apply("conv2d", [x, weight], params),
      "conv2d with bias": apply("conv2d", [x, weight, bias], params),
      conv2dInputGradient: apply("conv2dInputGradient", [gradient, weight], { ...params, inputSize: size }),
      conv2dWeightGradient: apply("conv2dWeightGradient", [x, gradient], { ...params, kernel }),
      im2col: apply("im2col", [x], geometry),
      col2im: apply("col2im", [columns], { ...geometry, inputSize: size }),
    };
    return Object.entries(outputs).map(([name, [y]]) => [name, y.dataSync()]);
  });
}

/** Draws tensors of normal numbers: the same ones on every backend, which need not have a generator of its own. */
function normal(seed: number, dtype: FloatDType, backend: Backend): (shape: Shape) => Tensor {
  const random = new Generator(seed);
  return (shape) => {
    const values = tidy(() => random.normal(shape, { dtype: "float32", backend: oracle }).dataSync());
    return Tensor.from(Array.from(values), { shape, dtype, backend });
  };
}

/** The convolution and its gradients for positive operands, whose sums grow with every term. */
function positiveResults({ n, size, channels, out, geometry, groups }: Case, dtype: FloatDType, backend: Backend): [string, TypedArray][] {
  const { kernel, ...rest } = geometry;
  const params: Conv2dParams = { ...rest, groups };
  const drawn = normal(8, dtype, backend);
  return tidy(() => {
    const [x, weight] = [drawn([n, ...size, channels]).abs(), drawn([out, ...kernel, channels / groups]).abs()];
    const gradient = drawn([n, ...windowOutput("case", size, geometry), out]).abs();
    const outputs = {
      conv2d: apply("conv2d", [x, weight], params),
      conv2dInputGradient: apply("conv2dInputGradient", [gradient, weight], { ...params, inputSize: size }),
      conv2dWeightGradient: apply("conv2dWeightGradient", [x, gradient], { ...params, kernel }),
    };
    return Object.entries(outputs).map(([name, [y]]) => [name, y.dataSync()]);
  });
}

const tolerance = { float32: 1e-6, float64: 1e-14 } as const;

function expectAgreement(example: Case, dtype: FloatDType, resultsOf = results): void {
  const actual = resultsOf(example, dtype, first);
  const expected = resultsOf(example, "float64", oracle);
  for (const [i, [name, data]] of actual.entries()) {
    const reference = expected[i]?.[1] ?? [];
    expect([...data, 1], name).toBeAllclose([...reference, 1], { relative: tolerance[dtype] });
  }
  for (const backend of others) {
    // Bytes, so that −0 and 0 differ.
    const bytes = resultsOf(example, dtype, backend).map(([, data]) => Buffer.from(data.buffer));
    for (const [i, [name, data]] of actual.entries()) {
      expect(bytes[i]?.equals(Buffer.from(data.buffer)), `${name} on several threads`).toBe(true);
    }
  }
}

describe.each(["float32", "float64"] as const)("convolutions in %s equal the reference, on one thread and on more:", (dtype) => {
  test("any geometry", () => {
    fc.assert(
      fc.property(cases, (example) => expectAgreement(example, dtype)),
      { numRuns: 60 },
    );
  });

  const plain = { n: 2, channels: 16, out: 16, groups: 1 };
  test.each<[string, Case]>([
    ["3 × 3 over several blocks of rows", { ...plain, size: [37, 41], geometry: geometryOf([3, 3], [1, 1], [1, 1], pad(1)) }],
    ["many small images", { n: 67, size: [4, 4], channels: 33, out: 20, geometry: geometryOf([3, 3], [1, 1], [1, 1], pad(1)), groups: 1 }],
    ["many channels", { n: 1, size: [6, 6], channels: 260, out: 136, geometry: geometryOf([3, 3], [1, 1], [1, 1], pad(1)), groups: 1 }],
    ["1 × 1", { n: 3, size: [19, 23], channels: 40, out: 24, geometry: geometryOf([1, 1]), groups: 1 }],
    ["1 × 1 with stride, which skips pixels", { ...plain, size: [15, 16], geometry: geometryOf([1, 1], [2, 2]) }],
    ["1 × 1 in groups", { n: 2, size: [9, 9], channels: 24, out: 48, geometry: geometryOf([1, 1]), groups: 3 }],
    ["without padding", { ...plain, size: [20, 30], geometry: geometryOf([3, 3]) }],
    ["strides beyond the kernel", { ...plain, size: [23, 17], geometry: geometryOf([2, 2], [3, 5]) }],
    ["stride and dilation with common factors", { ...plain, size: [25, 29], geometry: geometryOf([3, 4], [4, 6], [2, 4], pad(3)) }],
    ["padding beyond the kernel", { ...plain, size: [5, 6], geometry: geometryOf([2, 3], [1, 2], [1, 1], pad(5)) }],
    [
      "rows of more than a block",
      { n: 1, size: [3, 1100], channels: 3, out: 5, geometry: geometryOf([3, 3], [1, 1], [1, 1], pad(1)), groups: 1 },
    ],
    ["no channels", { n: 2, size: [5, 6], channels: 0, out: 3, geometry: geometryOf([3, 3], [1, 1], [1, 1], pad(1)), groups: 1 }],
    ["no channels out", { n: 2, size: [5, 6], channels: 3, out: 0, geometry: geometryOf([3, 3], [2, 1], [1, 1], pad(1)), groups: 1 }],
    ["depthwise", { n: 2, size: [20, 13], channels: 37, out: 37, geometry: geometryOf([3, 3], [1, 1], [1, 1], pad(1)), groups: 37 }],
    [
      "depthwise with stride",
      { n: 2, size: [11, 14], channels: 20, out: 20, geometry: geometryOf([3, 2], [2, 3], [2, 1], pad(2)), groups: 20 },
    ],
    ["depthwise, two channels for one", { n: 2, size: [9, 8], channels: 6, out: 12, geometry: geometryOf([3, 3]), groups: 6 }],
  ])("%s", (_, example) => expectAgreement(example, dtype));
});

test("a window that is larger than a thread's scratch memory", () => {
  const geometry = geometryOf([3, 3], [1, 1], [800, 700], { top: 798, bottom: 798, left: 697, right: 699 });
  expectAgreement({ n: 1, size: [6, 7], channels: 4, out: 3, geometry, groups: 1 }, "float32");
});

/**
 * A running sum of n positive float32 numbers has a relative error of at most n u, with u = 2⁻²⁴; as roundings are like random ones,
 * it has about √(n / 3) u (Higham, "Accuracy and stability of numerical algorithms", 4.2 and 4.5): 8e-7 for the 512 terms that the
 * engine sums in a run at most, and 9e-6 for all 65536 of a long row.
 */
test.each<[string, Case]>([
  [
    "one long row",
    {
      n: 1,
      size: [1, 65536],
      channels: 9,
      out: 9,
      geometry: geometryOf([1, 7], [1, 1], [1, 1], { ...none, left: 3, right: 3 }),
      groups: 9,
    },
  ],
  ["a large kernel", { n: 1, size: [31, 33], channels: 5, out: 5, geometry: geometryOf([31, 31], [1, 1], [1, 1], pad(15)), groups: 5 }],
  [
    "a long kernel",
    {
      n: 2,
      size: [1, 700],
      channels: 5,
      out: 5,
      geometry: geometryOf([1, 700], [1, 1], [1, 1], { ...none, left: 350, right: 349 }),
      groups: 5,
    },
  ],
])("depthwise sums stay accurate for positive numbers: %s", (_, example) => expectAgreement(example, "float32", positiveResults));

/** Images with fewer pixels than a kernel, many enough for products of whole images. */
const tiny: [string, Case][] = [
  ["narrow images", { n: 9, size: [2, 4], channels: 5, out: 6, geometry: geometryOf([3, 3], [1, 1], [1, 1], pad(1)), groups: 1 }],
  ["dilated kernels", { n: 8, size: [2, 3], channels: 4, out: 3, geometry: geometryOf([3, 3], [1, 1], [2, 1], pad(2)), groups: 1 }],
  ["strides", { n: 8, size: [4, 4], channels: 3, out: 5, geometry: geometryOf([5, 5], [2, 2], [1, 1], pad(2)), groups: 1 }],
  [
    "images that windows cover",
    { n: 8, size: [2, 2], channels: 4, out: 4, geometry: geometryOf([3, 3], [1, 1], [1, 1], pad(1)), groups: 1 },
  ],
];

test.each(tiny)("convolutions of tiny images are direct sums in fast float32 too: %s", (_, example) => {
  const expected = results(example, "float64", oracle);
  for (const [i, [name, data]] of results(example, "float32", fast).entries()) {
    expect(data, name).toBeAllclose(expected[i]?.[1] ?? [], { relative: tolerance.float32 });
  }
});

describe("a number that is not finite", () => {
  /** Results, with an infinity and a NaN in the second image of what is convolved. */
  function spread({ n, size, channels, out, geometry, groups }: Case, dtype: FloatDType, backend: Backend, values = [Infinity, NaN]) {
    const { kernel, ...rest } = geometry;
    const params: Conv2dParams = { ...rest, groups };
    const drawn = normal(9, dtype, backend);
    const marked = (shape: Shape): Tensor => {
      const numbers = Array.from(drawn(shape).dataSync());
      const image = numbers.length / n;
      // At the first pixel and at the last one.
      if (values.length > 0) [numbers[image], numbers[2 * image - 1]] = values as [number, number];
      return Tensor.from(numbers, { shape, dtype, backend });
    };
    return tidy(() => {
      const [x, weight] = [marked([n, ...size, channels]), drawn([out, ...kernel, channels / groups])];
      const gradient = marked([n, ...windowOutput("case", size, geometry), out]);
      return {
        conv2d: apply("conv2d", [x, weight], params)[0].dataSync(),
        conv2dInputGradient: apply("conv2dInputGradient", [gradient, weight], { ...params, inputSize: size })[0].dataSync(),
      };
    });
  }

  /** All finite numbers are of one kind. */
  const kind = (x: number): number => (Number.isFinite(x) ? 0 : x);

  test.each(tiny)("stays where direct sums have it, in exact float32 and in float64: %s", (_, example) => {
    const expected = spread(example, "float64", oracle);
    for (const actual of [spread(example, "float32", first), spread(example, "float64", first), spread(example, "float64", fast)]) {
      for (const name of ["conv2d", "conv2dInputGradient"] as const) {
        expect(Array.from(actual[name], kind), name).toEqual(Array.from(expected[name], kind));
      }
    }
  });

  test.each<[string, Case]>([
    ...tiny,
    ["Winograd tiles", { n: 8, size: [9, 8], channels: 32, out: 32, geometry: geometryOf([3, 3], [1, 1], [1, 1], pad(1)), groups: 1 }],
  ])("leaves other images as they are in fast float32: %s", (_, example) => {
    const [actual, without] = [spread(example, "float32", fast), spread(example, "float32", fast, [])];
    for (const name of ["conv2d", "conv2dInputGradient"] as const) {
      const image = without[name].length / example.n;
      expect(actual[name].subarray(0, image)).toHaveSameBits(without[name].subarray(0, image));
      expect(actual[name].subarray(2 * image)).toHaveSameBits(without[name].subarray(2 * image));
    }
  });
});

import fc, { type Arbitrary } from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import {
  sizeOf,
  typedArray,
  windowOutput,
  type Backend,
  type FloatDType,
  type Params,
  type Shape,
  type TypedArray,
} from "../../../src/tensor/index.ts";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import { openWasm, type WasmBackend } from "../../../src/tensor/backends/wasm/index.ts";

const reference = openReference();

/**
 * The engine's patch covariance is a sum over displacements, in fast float32 interpolated from products of pairs of rows where that takes
 * less time; the reference backend multiplies the patches as defined.
 */

interface Case {
  readonly shape: Shape;
  readonly params: Params<"patchCovariance">;
}

/** Numbers from −1 to 1 without a pattern, the same in both float types. */
function numbers<T extends TypedArray>(array: T): T {
  let state = 1;
  for (let i = 0; i < array.length; i++) {
    state = (state * 48271) % 2147483647;
    array[i] = Math.fround(state / 2 ** 30 - 1);
  }
  return array;
}

const columnsOf = ({ shape, params }: Case): number => sizeOf(params.kernel) * (shape[3] as number) + (params.bias ? 1 : 0);

function covarianceOn<Buffer>(backend: Backend<Buffer>, dtype: FloatDType, { shape, params }: Case): TypedArray {
  const columns = columnsOf({ shape, params });
  const x = backend.alloc(dtype, sizeOf(shape));
  const y = backend.alloc(dtype, columns * columns);
  try {
    backend.upload(x, numbers(typedArray(dtype, sizeOf(shape))));
    backend.upload(y, typedArray(dtype, columns * columns).fill(NaN));
    backend.run("patchCovariance", [{ buffer: x, shape, dtype }], params, [{ buffer: y, shape: [columns, columns], dtype }]);
    if (!backend.downloadSync) throw new Error(`${backend.name} is not synchronous`);
    return backend.downloadSync(y);
  } finally {
    backend.free(x);
    backend.free(y);
  }
}

const engines = {
  fast: [1, 2, 3].map((threads) => openWasm({ threads })),
  exact: [1, 2, 3].map((threads) => openWasm({ threads, precision: "exact" })),
};
afterAll(() => {
  for (const { engine } of [...engines.fast, ...engines.exact]) engine.close();
});

/** One direction: a window, and an image that it fits into. */
const direction = fc
  .record({
    kernel: fc.integer({ min: 1, max: 5 }),
    stride: fc.oneof({ arbitrary: fc.constant(1), weight: 3 }, { arbitrary: fc.integer({ min: 2, max: 3 }), weight: 2 }),
    dilation: fc.oneof({ arbitrary: fc.constant(1), weight: 3 }, { arbitrary: fc.integer({ min: 2, max: 3 }), weight: 1 }),
    before: fc.integer({ min: 0, max: 3 }),
    after: fc.integer({ min: 0, max: 3 }),
    extent: fc.integer({ min: 1, max: 12 }),
  })
  .map((line) => ({ ...line, extent: Math.max(line.extent, line.dilation * (line.kernel - 1) + 1 - line.before - line.after, 1) }));

const cases: Arbitrary<Case> = fc
  .record({
    n: fc.integer({ min: 0, max: 5 }),
    channels: fc.integer({ min: 1, max: 40 }),
    vertical: direction,
    horizontal: direction,
    bias: fc.boolean(),
    scale: fc.constantFrom(1, -0.5, 1 / 3, 0),
  })
  .map(({ n, channels, vertical, horizontal, bias, scale }): Case => ({
    shape: [n, vertical.extent, horizontal.extent, channels],
    params: {
      kernel: [vertical.kernel, horizontal.kernel],
      stride: [vertical.stride, horizontal.stride],
      dilation: [vertical.dilation, horizontal.dilation],
      padding: { top: vertical.before, bottom: vertical.after, left: horizontal.before, right: horizontal.after },
      bias,
      scale,
    },
  }))
  .filter((sample) => workOf(sample) <= 4e6);

/**
 * Shapes for many of which rows are tiled: a window of three rows that moves row by row, enough channels, and several images. Too large for
 * the reference backend: direct sums in float64, which it verifies, stand for it.
 */
const tiled = fc
  .record({
    n: fc.integer({ min: 16, max: 40 }),
    channels: fc.integer({ min: 25, max: 72 }),
    height: fc.integer({ min: 6, max: 15 }),
    vertical: fc.record({ before: fc.integer({ min: 0, max: 3 }), after: fc.integer({ min: 0, max: 3 }) }),
    horizontal: direction.filter(({ kernel }) => kernel === 2 || kernel === 3),
    bias: fc.boolean(),
  })
  .map(({ n, channels, height, vertical, horizontal, bias }): Case => ({
    shape: [n, height, 4 + horizontal.extent, channels],
    params: {
      kernel: [3, horizontal.kernel],
      stride: [1, horizontal.stride],
      dilation: [1, horizontal.dilation],
      padding: { top: vertical.before, bottom: vertical.after, left: horizontal.before, right: horizontal.after },
      bias,
      scale: 1 / n,
    },
  }));

/** Multiplications of the definition. */
function workOf({ shape, params }: Case): number {
  const stops = windowOutput("patchCovariance", [shape[1] as number, shape[2] as number], params);
  return columnsOf({ shape, params }) ** 2 * sizeOf(stops) * (shape[0] as number);
}

const square = (kernel: number, padding: number, bias = true): Params<"patchCovariance"> => ({
  kernel: [kernel, kernel],
  stride: [1, 1],
  dilation: [1, 1],
  padding: { top: padding, bottom: padding, left: padding, right: padding },
  bias,
  scale: 1 / 7,
});

/** Sizes at which the sums are cut into groups of images, parts, and blocks of the result. */
const large: readonly (readonly [string, Case])[] = [
  ["many small images", { shape: [300, 4, 4, 9], params: square(3, 1) }],
  ["images of one pixel", { shape: [700, 1, 1, 17], params: square(3, 1) }],
  ["images of two by two", { shape: [70, 2, 2, 24], params: square(3, 1, false) }],
  ["many images, rows in pairs", { shape: [40, 33, 9, 24], params: square(3, 1) }],
  ["more images than are packed at once, rows in pairs", { shape: [23, 62, 61, 16], params: square(3, 1, false) }],
  ["more than one block of channels, rows in pairs", { shape: [2, 7, 6, 136], params: square(3, 2) }],
  ["a long row", { shape: [2, 1, 1500, 8], params: { ...square(3, 2), kernel: [1, 3] } }],
  ["more than one block of channels", { shape: [2, 5, 4, 72], params: square(3, 1) }],
  ["more images than are packed at once", { shape: [40, 65, 61, 16], params: square(2, 1) }],
  ["one channel and a large window", { shape: [6, 14, 14, 1], params: square(9, 3) }],
  ["a window as large as the image", { shape: [9, 6, 5, 11], params: { ...square(5, 0), kernel: [6, 5] } }],
  ["a window of one pixel with a stride", { shape: [3, 9, 8, 20], params: { ...square(1, 0), stride: [2, 3] } }],
  [
    "a window of one pixel that stops as often as the image has pixels, outside too",
    { shape: [2, 3, 2, 4], params: { ...square(1, 0), stride: [2, 2], padding: { top: 0, bottom: 2, left: 0, right: 1 } } },
  ],
  ["a stem: few channels, a large window and a stride", { shape: [2, 40, 36, 3], params: { ...square(7, 3), stride: [2, 2] } }],
];

function expectMatch<A, B>(engine: Backend<A>, oracle: Backend<B>, dtype: FloatDType, relative: number, sample: Case): void {
  const actual = covarianceOn(engine, dtype, sample);
  expect(actual).toBeAllclose(covarianceOn(oracle, "float64", sample), { relative });
  const columns = columnsOf(sample);
  const mirrored = actual.map((_, i) => actual[(i % columns) * columns + Math.floor(i / columns)] as number);
  expect(actual.findIndex((value, i) => value !== mirrored[i])).toBe(-1);
}

describe.each([
  ["float64", "fast", 1e-12],
  ["float32", "exact", 1e-6],
  ["float32", "fast", 1e-6],
] as const)("the engine's patch covariance in %s, precision %s", (dtype, precision, relative) => {
  const [one, ...more] = engines[precision] as [WasmBackend, ...WasmBackend[]];

  const expectRight = (sample: Case): void => expectMatch(one, reference, dtype, relative, sample);

  test("is that of the reference backend and symmetric, for every geometry", () => {
    fc.assert(fc.property(cases, expectRight), { numRuns: 150 });
  });

  test.each(large)("is that of the reference backend for %s", (_, sample) => expectRight(sample));

  test("is the same for every geometry in which rows may be tiled", () => {
    const [direct] = engines.exact as [WasmBackend];
    fc.assert(
      fc.property(tiled, (sample) => expectMatch(one, direct, dtype, relative, sample)),
      { numRuns: 60 },
    );
  });

  test("is the same to the bit on any number of threads", () => {
    const same = (sample: Case): void => {
      const expected = covarianceOn(one, dtype, sample);
      for (const engine of more) {
        const actual = covarianceOn(engine, dtype, sample);
        expect(actual.findIndex((value, i) => value !== expected[i])).toBe(-1);
      }
    };
    fc.assert(fc.property(fc.oneof(cases, tiled), same), { numRuns: 30 });
    for (const [, sample] of large) same(sample);
  });

  test("returns the memory that it borrows", () => {
    const before = one.memory().buffers;
    for (const [, sample] of large) covarianceOn(one, dtype, sample);
    expect(one.memory().buffers).toBe(before);
  });
});

test("rows are tiled in fast float32 alone", () => {
  const [fast, exact] = [engines.fast[0], engines.exact[0]] as [WasmBackend, WasmBackend];
  const counts = { float32: 0, float64: 0 };
  for (const sample of fc.sample(tiled, 40)) {
    for (const dtype of ["float32", "float64"] as const) {
      const expected = covarianceOn(exact, dtype, sample);
      if (covarianceOn(fast, dtype, sample).some((value, i) => value !== expected[i])) counts[dtype]++;
    }
  }
  expect(counts.float32).toBeGreaterThan(8);
  expect(counts.float64).toBe(0);
  const pairs = large.filter(([name]) => name.endsWith("rows in pairs"));
  expect(pairs).toHaveLength(3);
  for (const [, sample] of pairs) {
    const expected = covarianceOn(exact, "float32", sample);
    expect(covarianceOn(fast, "float32", sample).some((value, i) => value !== expected[i])).toBe(true);
  }
});

test("rows are not tiled where a single image is large, which would take seven times its memory", () => {
  const sample: Case = { shape: [1, 160, 160, 16], params: square(3, 1) };
  const [fast, exact] = [engines.fast[0], engines.exact[0]] as [WasmBackend, WasmBackend];
  expect(covarianceOn(fast, "float32", sample)).toHaveSameBits(covarianceOn(exact, "float32", sample));
});

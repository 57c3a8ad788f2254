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
import { openWasm } from "../../../src/tensor/backends/wasm/index.ts";

const reference = openReference();

/** The engine's patch covariance is a sum over displacements; the reference backend multiplies the patches as defined. */

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

const engines = [1, 2, 3].map((threads) => openWasm({ threads }));
const [one] = engines as [ReturnType<typeof openWasm>];
afterAll(() => {
  for (const { engine } of engines) engine.close();
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

function expectMatch(dtype: FloatDType, relative: number, sample: Case): void {
  const actual = covarianceOn(one, dtype, sample);
  expect(actual).toBeAllclose(covarianceOn(reference, "float64", sample), { relative });
  const columns = columnsOf(sample);
  const mirrored = actual.map((_, i) => actual[(i % columns) * columns + Math.floor(i / columns)] as number);
  expect(actual.findIndex((value, i) => value !== mirrored[i])).toBe(-1);
}

describe.each([
  ["float64", 1e-12],
  ["float32", 1e-6],
] as const)("the engine's patch covariance in %s", (dtype, relative) => {
  test("is that of the reference backend and symmetric, for every geometry", () => {
    fc.assert(
      fc.property(cases, (sample) => expectMatch(dtype, relative, sample)),
      { numRuns: 150 },
    );
  });

  test.each(large)("is that of the reference backend for %s", (_, sample) => expectMatch(dtype, relative, sample));

  test("is the same to the bit on any number of threads", () => {
    const [, ...more] = engines;
    const same = (sample: Case): void => {
      const expected = covarianceOn(one, dtype, sample);
      for (const engine of more) {
        const actual = covarianceOn(engine, dtype, sample);
        expect(actual.findIndex((value, i) => value !== expected[i])).toBe(-1);
      }
    };
    fc.assert(fc.property(cases, same), { numRuns: 30 });
    for (const [, sample] of large) same(sample);
  });

  test("returns the memory that it borrows", () => {
    const before = one.memory().buffers;
    for (const [, sample] of large) covarianceOn(one, dtype, sample);
    expect(one.memory().buffers).toBe(before);
  });
});

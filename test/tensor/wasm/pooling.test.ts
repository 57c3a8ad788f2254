import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DataError, sizeOf, windowOutput, type Backend, type Shape, type WindowGeometry } from "../../../src/tensor/index.ts";
import { windows } from "../../arbitraries/shapes.ts";
import { engines, expectAgreement, numbers, resultsOn, type Numbers } from "./against.ts";

const reference = openReference();

const backends = engines();
const [single] = backends;
const dtypes = fc.constantFrom("float32", "float64");
/** Around one, two and four elements a vector, and the channels of which the scatter makes a group. */
const channelCounts = fc.constantFrom(1, 2, 3, 4, 6, 8, 17, 33, 67);
const counts = fc.constantFrom(0, 1, 2, 9);

const square = (kernel: number, stride: number, pad = 0): WindowGeometry => ({
  kernel: [kernel, kernel],
  stride: [stride, stride],
  padding: { top: pad, bottom: pad, left: pad, right: pad },
  dilation: [1, 1],
});

/** Any window, and those with kernels of their own: side by side, with pixels left over, over the whole image, large and close. */
const geometries = fc.oneof(
  { arbitrary: windows({ pooling: true, maxPixels: 80 }), weight: 3 },
  fc.constantFrom(
    { geometry: square(2, 2), size: [6, 8] as const },
    { geometry: square(2, 2), size: [7, 5] as const },
    { geometry: square(3, 3), size: [7, 11] as const },
    { geometry: square(9, 1), size: [9, 9] as const },
    { geometry: square(9, 1, 4), size: [13, 11] as const },
    { geometry: square(3, 2, 1), size: [8, 8] as const },
    { geometry: square(2, 2, 1), size: [6, 6] as const },
  ),
);

const cases = fc
  .record({ window: geometries, n: counts, channels: channelCounts, dtype: dtypes, seed: fc.integer({ min: 1, max: 1e6 }) })
  .map(({ window: { geometry, size }, n, channels, dtype, seed }) => ({
    geometry,
    size,
    dtype,
    seed,
    input: [n, ...size, channels] as const,
    output: [n, ...windowOutput("test", size, geometry), channels] as const,
  }));

function indicesFor(output: Shape, pixels: number, seed: number): Numbers {
  const { values } = numbers(output, seed);
  return { shape: output, values: Array.from(values, (u) => Math.min(pixels - 1, Math.floor((u / 2 + 0.5) * pixels))), int: true };
}

describe("pooling equals the reference, with any number of threads:", () => {
  test("maximum, with ties and NaN", () => {
    fc.assert(
      fc.property(cases, ({ geometry, input, dtype, seed }) => {
        expectAgreement(backends, dtype, "maxPool2d", [numbers(input, seed, (u) => Math.round(u * 6))], geometry);
        expectAgreement(backends, dtype, "maxPool2d", [numbers(input, seed, (u) => (u > 0.8 ? NaN : u))], geometry);
      }),
    );
  });
  test("scatter and gather by any indices", () => {
    fc.assert(
      fc.property(cases, ({ size, input, output, dtype, seed }) => {
        const indices = indicesFor(output, sizeOf(size), seed);
        expectAgreement(backends, dtype, "maxPool2dScatter", [numbers(output, seed), indices], { inputSize: size }, 4e-6);
        expectAgreement(backends, dtype, "maxPool2dGather", [numbers(input, seed), indices], {});
      }),
    );
  });
  test("average and its gradient", () => {
    fc.assert(
      fc.property(cases, fc.boolean(), ({ geometry, size, input, output, dtype, seed }, countPadding) => {
        const params = { ...geometry, countPadding };
        expectAgreement(backends, dtype, "averagePool2d", [numbers(input, seed)], params);
        expectAgreement(backends, dtype, "averagePool2dGradient", [numbers(output, seed)], { ...params, inputSize: size });
      }),
    );
  });
  test.each(["float32", "float64"] as const)("images large enough for threads: %s", (dtype) => {
    const [input, output, inputSize] = [[9, 32, 34, 20], [9, 16, 17, 20], [32, 34] as const];
    expectAgreement(backends, dtype, "maxPool2d", [numbers(input, 1)], square(2, 2));
    expectAgreement(backends, dtype, "maxPool2d", [numbers(input, 1)], square(5, 3, 2));
    expectAgreement(backends, dtype, "maxPool2dScatter", [numbers(output, 1), indicesFor(output, 32 * 34, 2)], { inputSize });
    expectAgreement(backends, dtype, "maxPool2dGather", [numbers(input, 1), indicesFor(output, 32 * 34, 2)], {});
    for (const geometry of [square(2, 2), square(5, 3, 2)]) {
      const params = { ...geometry, countPadding: false };
      const pooled = [9, ...windowOutput("test", inputSize, geometry), 20];
      expectAgreement(backends, dtype, "averagePool2d", [numbers(input, 1)], params);
      expectAgreement(backends, dtype, "averagePool2dGradient", [numbers(pooled, 1)], { ...params, inputSize });
    }
    // Every element to one pixel, and from the last pixel to the first.
    const same = { shape: output, values: Array.from({ length: sizeOf(output) }, () => 5), int: true };
    expectAgreement(backends, dtype, "maxPool2dScatter", [numbers(output, 1), same], { inputSize }, 1e-5);
  });
});

describe("an index outside of the image is reported like by the reference:", () => {
  const cases = [3, 17].flatMap((channels) => [1, 9].flatMap((n) => [0.1, 0.5, 0.99].map((at) => ({ channels, n, at }))));
  test.each(cases)("$n images of $channels channels, at $at of all", ({ channels, n, at }) => {
    const shape = [n, 4, 5, channels];
    for (const wrong of [-1, 30, 2 ** 31 - 1]) {
      const indices = indicesFor(shape, 30, 1);
      const values = Array.from(indices.values);
      values[Math.floor(at * values.length)] = wrong;
      values[Math.floor((at + 1) * 0.5 * values.length)] = -7;
      const broken = { ...indices, values };
      const messageOf = (f: () => unknown): string => {
        try {
          f();
        } catch (error) {
          if (error instanceof DataError) return error.message;
          throw error;
        }
        return "none";
      };
      const scatter = (backend: Backend): string =>
        messageOf(() => resultsOn(backend, "float32", "maxPool2dScatter", [numbers(shape, 1), broken], { inputSize: [5, 6] }));
      const gather = (backend: Backend): string =>
        messageOf(() => resultsOn(backend, "float32", "maxPool2dGather", [numbers([n, 5, 6, channels], 1), broken], {}));
      for (const backend of backends) {
        expect(scatter(backend)).toBe(scatter(reference));
        expect(gather(backend)).toBe(gather(reference));
      }
    }
    expect(single.memory().buffers).toBe(0);
  });
});

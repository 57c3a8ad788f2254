import { describe, expect, test } from "vitest";
import type { FloatDType, Shape, TypedArray } from "../../../src/tensor/index.ts";
import { engines, exact, expectAgreement, expectNear, expectSame, numbers, resultsOn, tolerance, type Numbers } from "./against.ts";

const backends = engines();
const [single] = backends;
const dtypes = ["float32", "float64"] as const;

/** Around blocks of rows, groups and chunks: the last block or vector is a part, rows are few and channels many. */
const shapes: Shape[] = [
  [1, 1],
  [5, 3],
  [3, 5, 7, 2],
  [2, 3, 3, 33],
  [9, 64],
  [63, 17],
  [65, 16],
  [128, 512],
  [70, 1030],
  [33, 2100],
  [4099, 5],
  [5000, 17],
  [2, 33, 32, 64],
];
/** Mean and standard deviation of the input; channels have one to three times the mean. */
const distributions = [
  { mean: 0, deviation: 1 },
  { mean: 1e4, deviation: 1 },
  { mean: -3, deviation: 0.01 },
];
type Distribution = (typeof distributions)[number];

const channelsOf = (shape: Shape): number => shape.at(-1) as number;
const epsilon = 1e-5;

function inputsOf(shape: Shape, { mean, deviation }: Distribution): [x: Numbers, scale: Numbers, shift: Numbers] {
  const channels = channelsOf(shape);
  const x = numbers(shape, 1, (u, i) => mean * (1 + ((i % channels) % 3)) + deviation * Math.sqrt(3) * u);
  return [x, numbers([channels], 2, (u) => 2 * u), numbers([channels], 3, (u) => 2 * u)];
}

/** Operands of the gradient: x, scale, and the statistics of x in the precision of the type. */
function savedOf(dtype: FloatDType, shape: Shape, distribution: Distribution): [Numbers, Numbers, Numbers, Numbers] {
  const inputs = inputsOf(shape, distribution);
  const [, mean, rstd] = resultsOn(single, dtype, "batchNorm", inputs, { epsilon });
  const vector = (values: TypedArray): Numbers => ({ shape: [channelsOf(shape)], values });
  return [inputs[0], inputs[1], vector(mean), vector(rstd)];
}

const cases = shapes.flatMap((shape) =>
  dtypes.flatMap((dtype) => distributions.map((distribution) => ({ shape, dtype, ...distribution }))),
);

/** One last digit of a mean of 3e4 is 4e-12 in float64. */
const allowed = (dtype: FloatDType, mean: number): number => (dtype === "float64" && mean === 1e4 ? 2e-11 : tolerance[dtype]);

describe("batchNorm and its gradient equal the reference, with any number of threads", () => {
  test.each(cases)("$dtype $shape, mean $mean, deviation $deviation", ({ shape, dtype, mean, deviation }) => {
    const inputs = inputsOf(shape, { mean, deviation });
    const runs = backends.map((backend) => resultsOn(backend, dtype, "batchNorm", inputs, { epsilon }));
    const expected = exact("batchNorm", inputs, { epsilon });
    for (const run of runs) {
      expectSame(run, runs[0] ?? []);
      expectNear(run[0], expected[0], allowed(dtype, mean));
      expectNear(run[1], expected[1], allowed(dtype, mean));
      // Each relative to itself: it is 1 / √ε where there is no variance.
      const ratios = run[2].map((r, c) => r / (expected[2][c] as number));
      expectNear(ratios, new Float64Array(ratios.length).fill(1), allowed(dtype, mean));
    }
    const operands = [...savedOf(dtype, shape, { mean, deviation }), numbers(shape, 4, (u) => 2 * u)];
    expectAgreement(backends, dtype, "batchNormGradient", operands, {}, allowed(dtype, mean));
  });
});

test("blocks of rows with means far apart", () => {
  // The first block is zero, and its mean is far from that of all; the second half has no spread of its own.
  const shape = [3000, 5];
  const x = numbers(shape, 1, (u, i) => (i < 64 * 5 ? 0 : 1e4 + (i < 7500 ? u : 0)));
  const inputs = [x, numbers([5], 2), numbers([5], 3)];
  const [y, mean, rstd] = exact("batchNorm", inputs, { epsilon });
  const actual = resultsOn(single, "float32", "batchNorm", inputs, { epsilon });
  expectNear(actual[0], y, 1e-6);
  expectNear(actual[1], mean, 1e-6);
  expect(actual[2]).toBeAllclose(rstd, { relative: 1e-6 });
});

test.each(dtypes)("NaN stays in its channel: %s", (dtype) => {
  const shape = [300, 37];
  const [x, scale, shift] = inputsOf(shape, { mean: 0, deviation: 1 });
  const spoilt = numbers(shape, 1, (_, i) => (i === 37 * 150 + 5 || i === 36 ? NaN : (x.values[i] as number)));
  expectAgreement(backends, dtype, "batchNorm", [spoilt, scale, shift], { epsilon });
  const saved = savedOf(dtype, shape, { mean: 0, deviation: 1 });
  expectAgreement(backends, dtype, "batchNormGradient", [...saved, spoilt], {}, 2 * tolerance[dtype]);
});

test("no channels, and a gradient without rows", () => {
  const none = numbers([0], 1);
  const three = numbers([3], 1, (u) => u + 2);
  expect(resultsOn(single, "float32", "batchNorm", [numbers([4, 0], 1), none, none], { epsilon }).map((y) => y.length)).toEqual([0, 0, 0]);
  const [gx, gscale, gshift] = resultsOn(
    single,
    "float32",
    "batchNormGradient",
    [numbers([0, 3], 1), three, three, three, numbers([0, 3], 1)],
    {},
  );
  expect(gx).toHaveLength(0);
  expect([...gscale, ...gshift]).toEqual([0, 0, 0, 0, 0, 0]);
});

describe("batch normalisation with the ReLU in it is the composition of both", () => {
  test.each(cases)("$dtype $shape, mean $mean, deviation $deviation", ({ shape, dtype, mean, deviation }) => {
    const inputs = inputsOf(shape, { mean, deviation });
    const [plain, ...statistics] = resultsOn(single, dtype, "batchNorm", inputs, { epsilon });
    const [exactly] = exact("batchNorm", inputs, { epsilon });
    const [positive] = exact("relu", [{ shape, values: exactly }], {});
    for (const backend of backends) {
      const run = resultsOn(backend, dtype, "batchNormRelu", inputs, { epsilon });
      expectSame(run, [plain.map((v) => (v < 0 ? 0 : v)), ...statistics]);
      expectNear(run[0], positive, allowed(dtype, mean));
    }

    const saved = savedOf(dtype, shape, { mean, deviation });
    const output = { shape, values: plain.map((v) => (v < 0 ? 0 : v)) };
    const gradient = numbers(shape, 4, (u) => 2 * u);
    const [masked] = exact("reluGradient", [output, gradient], {});
    const operands = [...saved, { shape, values: masked }];
    const separate = resultsOn(single, dtype, "batchNormGradient", operands, {});
    const expected = exact("batchNormGradient", operands, {});
    for (const backend of backends) {
      const run = resultsOn(backend, dtype, "batchNormReluGradient", [...saved, output, gradient], {});
      expectSame(run, separate);
      for (const i of [0, 1, 2] as const) expectNear(run[i], expected[i], allowed(dtype, mean));
    }
  });

  test.each(dtypes)("NaN goes through the ReLU: %s", (dtype) => {
    const shape = [130, 6];
    const [x, scale, shift] = inputsOf(shape, { mean: 0, deviation: 1 });
    const spoilt = numbers(shape, 1, (_, i) => (i % 6 === 1 || i === 11 ? NaN : (x.values[i] as number)));
    const [y] = resultsOn(single, dtype, "batchNormRelu", [spoilt, scale, shift], { epsilon });
    expect(Array.from(y, Number.isNaN)).toEqual(Array.from(y, (_, i) => i % 6 === 1 || i % 6 === 5));
  });
});

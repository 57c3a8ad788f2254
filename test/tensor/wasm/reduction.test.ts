import { describe, expect, test } from "vitest";
import { apply, sizeOf, stridesOf, Tensor, tidy, type Shape, type TypedArray } from "../../../src/tensor/index.ts";
import { reducedShape } from "../../../src/tensor/shape.ts";
import { engines, expectAgreement, expectSame, numbers } from "./against.ts";

const backends = engines();
const dtypes = ["float32", "float64"] as const;

/** Rows, columns and both, around the borders of blocks and chunks; several runs of reduced axes; nothing to reduce. */
const cases: { shape: Shape; axes: number[] }[] = [
  { shape: [], axes: [] },
  { shape: [5], axes: [] },
  { shape: [1, 1], axes: [0] },
  { shape: [200_001], axes: [0] },
  { shape: [3, 65_537], axes: [1] },
  { shape: [33, 5000], axes: [1] },
  { shape: [70, 5], axes: [1] },
  { shape: [50_003, 3], axes: [0] },
  { shape: [9001, 16], axes: [0] },
  { shape: [5001, 67], axes: [0] },
  { shape: [129, 2100], axes: [0] },
  { shape: [7, 129, 33], axes: [1] },
  { shape: [3, 5000, 4, 33], axes: [1] },
  { shape: [5, 6, 7, 8], axes: [0, 2] },
  { shape: [5, 6, 7, 8], axes: [1, 3] },
  { shape: [50, 60, 70], axes: [0, 2] },
  { shape: [1, 60, 1, 70], axes: [0, 1] },
  { shape: [2, 3, 4, 5, 3], axes: [0, 2, 4] },
  { shape: [8, 9], axes: [0, 1] },
];

describe.each(dtypes)("%s", (dtype) => {
  test.each(cases)("sum and max of $shape over $axes", ({ shape, axes }) => {
    const x = numbers(shape, 1, (u) => u + 0.5);
    expectAgreement(backends, dtype, "sum", [x], { axes, keepDims: false }, dtype === "float32" ? 2e-6 : 1e-12);
    expectAgreement(backends, dtype, "max", [x], { axes, keepDims: true });
  });

  test.each(cases)("NaN in $shape over $axes", ({ shape, axes }) => {
    const x = numbers(shape, 1, (u, i) => (i === Math.floor(sizeOf(shape) * 0.7) ? NaN : u + 0.5));
    expectAgreement(backends, dtype, "sum", [x], { axes, keepDims: false }, dtype === "float32" ? 2e-6 : 1e-12);
    expectAgreement(backends, dtype, "max", [x], { axes, keepDims: false });
  });

  test("largest elements below zero, infinities", () => {
    expectAgreement(backends, dtype, "max", [numbers([37, 41], 1, (u) => u - 5)], { axes: [0], keepDims: false });
    expectAgreement(backends, dtype, "max", [numbers([37, 41], 1, (u) => u - 5)], { axes: [1], keepDims: false });
    expectAgreement(backends, dtype, "max", [numbers([100], 1, () => -Infinity)], { axes: [0], keepDims: false });
  });

  const tensors: Shape[] = [[5], [3, 10], [10, 3], [4, 5, 6], [100, 1000], [1000, 100], [3, 70, 1030], [3, 7, 2001], [7000]];
  test.each(tensors.flatMap((shape) => shape.map((_, axis) => ({ shape, axis }))))("argmax of $shape along $axis", ({ shape, axis }) => {
    // Many equal elements, and now and then NaN.
    const x = numbers(shape, 1, (u) => Math.round(u * 10));
    expectAgreement(backends, dtype, "argmax", [x], { axis });
    expectAgreement(backends, dtype, "argmax", [numbers(shape, 2, (u) => (u > 0.97 ? NaN : Math.round(u * 10)))], { axis });
  });
});

describe("int32", () => {
  /** Big enough to wrap. */
  const integers = (shape: Shape): Int32Array => Int32Array.from(numbers(shape, 1).values, (u) => Math.round(u * (2 ** 31 - 1)));
  const on = (backend: (typeof backends)[number], name: "sum" | "max", shape: Shape, axes: number[]): TypedArray =>
    tidy(() => apply(name, [Tensor.from(integers(shape), { shape, backend })], { axes, keepDims: false })[0].dataSync());

  test.each(cases)("sums of $shape over $axes wrap modulo 2³²; maxima", ({ shape, axes }) => {
    const data = integers(shape);
    const kept = reducedShape(shape, axes, true);
    // Exact: fewer than 2²¹ numbers below 2³¹.
    const sums = new Float64Array(sizeOf(kept));
    const tops = new Int32Array(sums.length).fill(-(2 ** 31));
    const strides = stridesOf(kept);
    data.forEach((value, i) => {
      let [rest, place] = [i, 0];
      for (let axis = shape.length - 1; axis >= 0; axis--) {
        const extent = shape[axis] as number;
        if (!axes.includes(axis)) place += (rest % extent) * (strides[axis] as number);
        rest = Math.floor(rest / extent);
      }
      sums[place] = (sums[place] as number) + value;
      tops[place] = Math.max(tops[place] as number, value);
    });
    const wrapped = Int32Array.from(sums); // modulo 2³²
    for (const backend of backends) {
      expectSame([on(backend, "sum", shape, axes), on(backend, "max", shape, axes)], [wrapped, tops]);
    }
  });
});

test("sums of nothing are zero", () => {
  for (const [shape, axes] of [
    [[0], [0]],
    [[3, 0, 2], [1]],
    [[3, 0], [1]],
    [[0, 4], [0]],
  ] as const) {
    expectAgreement(backends, "float32", "sum", [numbers(shape, 1)], { axes, keepDims: false });
  }
  expect(backends[0].memory().buffers).toBe(0);
});

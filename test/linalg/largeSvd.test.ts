import { afterAll, describe, expect, it } from "vitest";
import { onHost } from "../../src/linalg/arithmetic.ts";
import { openWasm } from "../../src/tensor/backends/wasm/index.ts";
import { expectSvd, expectValues, float32, precisions } from "./bounds.ts";
import { held, onBackend, onEngine, singularValuesBy, svdBy, svdOfTensor } from "./compute.ts";
import { transpose } from "./dense.ts";
import { families } from "./families.ts";

/* Shapes around a panel, a group of reflections and the ratio from which a matrix is made triangular first; and order 1024. */

const backend = openWasm({ threads: 2 });
const onTwoThreads = onBackend(backend);
afterAll(() => {
  backend.engine.close();
});

// prettier-ignore
const shapes = [
  [1, 1], [2, 2], [3, 3], [2, 1], [3, 2], [15, 15], [31, 31], [32, 32], [33, 33], [34, 33], [52, 32], [51, 32], [63, 63], [64, 64], [65, 65], [65, 64],
  [66, 33], [97, 96], [100, 3], [130, 70], [130, 130], [257, 161], [200, 200],
] as const;

describe.each(Object.entries(families))("svd of a matrix with %s", (_, make) => {
  it.each(precisions)("on %s tensors of every shape reconstructs, with orthonormal vectors", async (dtype, precision) => {
    for (const [m, n] of shapes) {
      const a = held(make(m, n), dtype);
      expectSvd(a, await svdOfTensor(a, dtype, backend), precision);
      if (m === n) continue;
      const wide = held(make(n, m), dtype);
      expectSvd(wide, await svdOfTensor(wide, dtype, backend), precision);
    }
  });

  it("has the singular values that QL finds without vectors, those of the plain loops, and those of the transpose", () => {
    const a = make(150, 140);
    const { values } = svdBy(onEngine, a);
    // Each of two is off by the bound at most.
    for (const other of [singularValuesBy(onEngine, a), svdBy(onHost, a).values, svdBy(onEngine, transpose(a)).values]) {
      expectValues(a, other, values, 2);
    }
  });

  it("has the same bits on one and two threads", () => {
    const a = make(260, 200);
    const [one, two] = [svdBy(onEngine, a), svdBy(onTwoThreads, a)];
    expect(two.values).toHaveSameBits(one.values);
    expect(two.u.data).toHaveSameBits(one.u.data);
    expect(two.v.data).toHaveSameBits(one.v.data);
    expect(singularValuesBy(onTwoThreads, a)).toHaveSameBits(singularValuesBy(onEngine, a));
  });
});

describe("svd of order 1024 reconstructs", () => {
  it.each([
    ["normal numbers", 1024, 1024],
    ["a geometric spectrum", 1024, 700],
    ["two clusters", 600, 1024],
    ["bidiagonal, equal blocks glued by 1e-8", 1024, 1024],
    ["values from 1 to 1e-16", 1024, 1024],
  ] as const)("with %s, [%i, %i]", (name, m, n) => {
    const a = families[name](m, n);
    expectSvd(a, svdBy(onTwoThreads, a));
  });

  it("in float32", async () => {
    const a = held(families["0.95·I plus small rank"](1024, 1024), "float32");
    expectSvd(a, await svdOfTensor(a, "float32", backend), float32);
  });
});

import { afterAll, describe, expect, it } from "vitest";
import { onHost } from "../../src/linalg/arithmetic.ts";
import { openWasm } from "../../src/tensor/backends/wasm/index.ts";
import { expectEigh, expectValues, float32, precisions } from "./bounds.ts";
import { eigenvaluesBy, eighBy, eighOfTensor, held, onBackend, onEngine } from "./compute.ts";
import { symmetricFamilies } from "./families.ts";

/* Orders around a panel, a leaf and a group of reflections, and 1024: spectra that deflate fully, partly and not at all. */

const backend = openWasm({ threads: 2 });
const onTwoThreads = onBackend(backend);
afterAll(() => {
  backend.engine.close();
});

const orders = [1, 2, 3, 15, 31, 32, 33, 34, 63, 64, 65, 66, 97, 130, 257];

describe.each(Object.entries(symmetricFamilies))("eigh of %s", (_, make) => {
  it.each(precisions)("on %s tensors of every order reconstructs, with orthonormal vectors", async (dtype, precision) => {
    for (const n of orders) {
      const a = held(make(n), dtype);
      expectEigh(a, await eighOfTensor(a, dtype, backend), precision);
    }
  });

  it("has the eigenvalues that QL finds without vectors, and those of the plain loops", () => {
    const a = make(150);
    const { values } = eighBy(onEngine, a);
    // Each of two is off by the bound at most.
    expectValues(a, eigenvaluesBy(onEngine, a), values, 2);
    expectValues(a, eighBy(onHost, a).values, values, 2);
  });

  it("has the same bits on one and two threads", () => {
    const a = make(260);
    const [one, two] = [eighBy(onEngine, a), eighBy(onTwoThreads, a)];
    expect(two.values).toHaveSameBits(one.values);
    expect(two.vectors.data).toHaveSameBits(one.vectors.data);
  });
});

describe("eigh of order 1024 reconstructs", () => {
  it.each([
    "normal numbers",
    "a geometric spectrum",
    "two clusters",
    "second differences",
    "glued Wilkinson",
    "values from 1 to 1e-16",
  ] as const)("%s", (name) => {
    const a = symmetricFamilies[name](1024);
    expectEigh(a, eighBy(onTwoThreads, a));
  });

  it("in float32", async () => {
    const a = held(symmetricFamilies["0.95·I plus small rank"](1024), "float32");
    expectEigh(a, await eighOfTensor(a, "float32", backend), float32);
  });
});

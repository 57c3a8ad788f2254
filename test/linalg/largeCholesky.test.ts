import { afterAll, describe, expect, it } from "vitest";
import { openWasm } from "../../src/tensor/backends/wasm/index.ts";
import { expectCholesky, expectFactorized, float32, precisions } from "./bounds.ts";
import { attempt, attempted, choleskyBy, choleskyOfTensor, held, onBackend, onEngine } from "./compute.ts";
import { definiteFamilies, symmetricFamilies } from "./families.ts";

/* Orders around a leaf and its doubles, and 1024. */

const backend = openWasm({ threads: 2 });
const onTwoThreads = onBackend(backend);
afterAll(() => {
  backend.engine.close();
});

const orders = [1, 2, 3, 15, 16, 17, 31, 32, 33, 48, 49, 63, 64, 65, 130, 257];

describe.each(Object.entries({ ...symmetricFamilies, ...definiteFamilies }))("cholesky of %s", (_, make) => {
  it.each(precisions)("on %s tensors of every order stays within the bound or names a pivot", async (dtype, precision) => {
    for (const n of orders) {
      const a = held(make(n), dtype);
      expectCholesky(a, await attempted(choleskyOfTensor(a, dtype, backend)), precision);
    }
  });
});

describe.each(Object.entries(definiteFamilies))("cholesky of %s", (_, make) => {
  it("has the same bits on one and two threads, or stops at the same pivot", () => {
    const a = make(260);
    const [one, two] = [attempt(() => choleskyBy(onEngine, a)), attempt(() => choleskyBy(onTwoThreads, a))];
    expect(two).toEqual(one);
  });

  it("of order 1024 stays within the bound or names a pivot", () => {
    expectFactorized(onTwoThreads, make(1024));
  });
});

it("cholesky of order 1024 in float32 stays within the bound", async () => {
  const a = held(definiteFamilies["0.95·I plus small rank"](1024), "float32");
  expectCholesky(a, { result: await choleskyOfTensor(a, "float32", backend) }, float32);
});

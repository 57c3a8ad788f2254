import { afterAll, describe, expect, it } from "vitest";
import { openWasm } from "../../src/tensor/backends/wasm/index.ts";
import { expectQr, float32, precisions } from "./bounds.ts";
import { held, onBackend, onEngine, qrBy, qrOfTensor } from "./compute.ts";
import { families } from "./families.ts";

/* Shapes around a panel, and order 1024. */

const backend = openWasm({ threads: 2 });
const onTwoThreads = onBackend(backend);
afterAll(() => {
  backend.engine.close();
});

// prettier-ignore
const shapes = [
  [1, 1], [2, 2], [3, 3], [2, 1], [3, 2], [15, 15], [31, 31], [32, 32], [33, 33], [33, 32], [64, 63], [64, 64], [65, 65], [97, 96], [130, 3], [130, 70],
  [200, 200], [257, 161],
] as const;

describe.each(Object.entries(families))("qr of a matrix with %s", (_, make) => {
  it.each(precisions)("on %s tensors of every shape reconstructs, with orthonormal columns", async (dtype, precision) => {
    for (const [m, n] of shapes) {
      const a = held(make(m, n), dtype);
      expectQr(a, await qrOfTensor(a, dtype, backend), precision);
      if (m === n) continue;
      const wide = held(make(n, m), dtype);
      expectQr(wide, await qrOfTensor(wide, dtype, backend), precision);
    }
  });

  it("has the same bits on one and two threads", () => {
    const a = make(260, 200);
    const [one, two] = [qrBy(onEngine, a), qrBy(onTwoThreads, a)];
    expect(two.q.data).toHaveSameBits(one.q.data);
    expect(two.r.data).toHaveSameBits(one.r.data);
  });
});

describe("qr of order 1024 reconstructs", () => {
  it.each([
    ["normal numbers", 1024, 1024],
    ["columns graded 1 … 1e-16", 1024, 700],
    ["two clusters", 600, 1024],
    ["Kahan's, almost without full rank and with no small diagonal", 1024, 1024],
  ] as const)("with %s, [%i, %i]", (name, m, n) => {
    const a = families[name](m, n);
    expectQr(a, qrBy(onTwoThreads, a));
  });

  it("in float32", async () => {
    const a = held(families["0.95·I plus small rank"](1024, 1024), "float32");
    expectQr(a, await qrOfTensor(a, "float32", backend), float32);
  });
});

import { setFlagsFromString } from "node:v8";
import fc from "fast-check";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { Arena, type Block } from "../../../src/tensor/backends/wasm/arena.ts";
import type { WasmBackend } from "../../../src/tensor/backends/wasm/index.ts";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import { apply, Tensor, tidy, type Backend, type FloatDType, type KernelName, type TypedArray } from "../../../src/tensor/index.ts";
import { kernelNames, larger, writtenOut, type LargerSample } from "../../larger.ts";
import { realize, sampledNames, samples, type Sample } from "../../samples.ts";
import { expectNear, tolerance } from "./against.ts";
import { cut, openEngine, openUnshared } from "./engines.ts";

/*
 * A result is a function of operands and parameters only: not of threads, of how items are cut, of what memory held before.
 * Statements here are on bits.
 */

function resultsOn<K extends KernelName>(backend: Backend, name: K, sample: Sample<K>, dtype: FloatDType): TypedArray[] {
  return tidy(() => {
    const { inputs, params } = realize(sample, dtype, backend);
    const outputs: readonly Tensor[] = apply(name, inputs, params, { backend });
    return outputs.map((output) => output.dataSync());
  });
}

function expectSameBits(actual: readonly TypedArray[], expected: readonly TypedArray[]): void {
  expect(actual).toHaveLength(expected.length);
  for (const [i, data] of actual.entries()) expect(data).toHaveSameBits(expected[i] as TypedArray);
}

const dtypes = ["float32", "float64"] as const;

describe("a kernel gives the same bits", () => {
  let single: WasmBackend;
  let others: WasmBackend[];

  beforeAll(async () => {
    single = await openEngine({ threads: 1 });
    others = [
      await openUnshared(),
      cut(await openEngine({ threads: 2 }), 2),
      cut(await openEngine({ threads: 2 }), 3),
      cut(await openEngine({ threads: 3 }), 7),
      cut(await openEngine({ threads: 3 }), 61),
    ];
    expect(others.map(({ engine }) => engine.threads)).toEqual([1, 2, 2, 3, 3]);
  });

  test.each(kernelNames)("on one thread and on more, however its items are cut, in shared memory and in other: %s", (name) => {
    fc.assert(
      fc.property(larger[name], fc.constantFrom(...dtypes), (sample: LargerSample<typeof name>, dtype) => {
        const written = writtenOut(sample);
        const expected = resultsOn(single, name, written, dtype);
        for (const backend of others) expectSameBits(resultsOn(backend, name, written, dtype), expected);
      }),
      { numRuns: 10 },
    );
  });
});

describe("a kernel gives the same bits whatever outputs, temporaries and scratch memory held before:", () => {
  const scratches: Block[] = [];
  let clean: WasmBackend;
  let spoilt: WasmBackend;

  beforeAll(async () => {
    clean = await openEngine({ threads: 1 });
    const alloc = vi.spyOn(Arena.prototype, "alloc");
    spoilt = await openEngine({ threads: 1 });
    for (const { type, value } of alloc.mock.results) if (type === "return") scratches.push(value);
    alloc.mockRestore();
    // All bits set are NaN in both float types, and −1, which is no index.
    const { engine } = spoilt;
    const plain = engine.arena.alloc.bind(engine.arena);
    engine.arena.alloc = (bytes, origin) => {
      const block = plain(bytes, origin);
      engine.view("int32", block.start, block.size / 4).fill(-1);
      return block;
    };
    expect(scratches.map(({ origin, size }) => [origin, size])).toEqual([["scratch", 4 * 2 ** 20]]);
  });

  function sameOnSpoilt<K extends KernelName>(name: K, sample: Sample<K>, dtype: FloatDType): void {
    for (const { start, size } of scratches) spoilt.engine.view("int32", start, size / 4).fill(-1);
    expectSameBits(resultsOn(spoilt, name, sample, dtype), resultsOn(clean, name, sample, dtype));
  }

  test.each(kernelNames)("%s", (name) => {
    fc.assert(
      fc.property(samples[name], fc.constantFrom(...dtypes), (sample: Sample<typeof name>, dtype) => sameOnSpoilt(name, sample, dtype)),
      { numRuns: 20 },
    );
    fc.assert(
      fc.property(larger[name], fc.constantFrom(...dtypes), (sample: LargerSample<typeof name>, dtype) =>
        sameOnSpoilt(name, writtenOut(sample), dtype),
      ),
      { numRuns: 8 },
    );
  });

  test("every primitive with a kernel is among them", () => {
    expect([...kernelNames, "reshape"].sort()).toEqual(sampledNames.toSorted());
  });
});

describe("with fused multiply-adds a kernel is as near to the reference:", () => {
  const oracle = openReference();
  let fused: WasmBackend;

  beforeAll(async () => {
    setFlagsFromString("--experimental-wasm-relaxed-simd"); // there without asking in newer engines
    fused = await openEngine({ threads: 2, precision: "exact" });
    expect(fused.engine.fusedMultiplyAdd).toBe(true);
    expect((await openEngine({ threads: 1, relaxedSimd: false })).engine.fusedMultiplyAdd).toBe(false);
  });

  test.each(kernelNames)("%s", (name) => {
    const draws = name === "uniform" || name === "normal";
    fc.assert(
      fc.property(larger[name], fc.constantFrom(...dtypes), (sample: LargerSample<typeof name>, dtype) => {
        const written = writtenOut(sample);
        const expected = resultsOn(oracle, name, written, draws ? dtype : "float64");
        for (const [i, data] of resultsOn(fused, name, written, dtype).entries()) {
          expectNear(data, expected[i] as TypedArray, data instanceof Int32Array ? 0 : tolerance[dtype]);
        }
      }),
      { numRuns: 5 },
    );
  });
});

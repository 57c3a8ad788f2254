import { afterAll, expect } from "vitest";
import {
  apply,
  sizeOf,
  Tensor,
  tidy,
  type Backend,
  type FloatDType,
  type Inputs,
  type Outputs,
  type Params,
  type PrimitiveName,
  type Shape,
  type TypedArray,
} from "../../../src/tensor/index.ts";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import { openWasm, type WasmBackend } from "../../../src/tensor/backends/wasm/index.ts";

/** An operand before a float type and a backend are chosen; `labels` and indices are int32. */
export interface Numbers {
  readonly shape: Shape;
  readonly values: ArrayLike<number>;
  readonly int?: boolean;
}

const reference = openReference();

/** Engines of one, two and three threads, open until the tests of the file are done. */
export function engines(): readonly [WasmBackend, WasmBackend, WasmBackend] {
  const all = [openWasm({ threads: 1 }), openWasm({ threads: 2 }), openWasm({ threads: 3 })] as const;
  afterAll(() => {
    for (const { engine } of all) engine.close();
  });
  return all;
}

/** Numbers from −1 to 1 without a pattern, the same in both float types, and what `f` makes of them. */
export function numbers(shape: Shape, seed: number, f: (x: number, i: number) => number = (x) => x): Numbers {
  let state = seed;
  const values = Float32Array.from({ length: sizeOf(shape) }, (_, i) => {
    state = (state * 48271) % 2147483647;
    return f(state / 2 ** 30 - 1, i);
  });
  return { shape, values };
}

/** The results of a primitive. */
export function resultsOn<K extends PrimitiveName>(
  backend: Backend,
  dtype: FloatDType,
  name: K,
  operands: readonly Numbers[],
  params: Params<K>,
): Outputs<K, TypedArray> {
  return tidy(() => {
    const inputs: unknown = operands.map(({ shape, values, int }) =>
      Tensor.from(Float64Array.from(values), { shape, dtype: int ? "int32" : dtype, backend }),
    );
    const outputs: readonly Tensor[] = apply(name, inputs as Inputs<K, Tensor>, params, { backend });
    // A tuple that depends on K is opaque here; mapping keeps length and order.
    const results: unknown = outputs.map((output) => output.dataSync());
    return results as Outputs<K, TypedArray>;
  });
}

/** The reference backend's results in float64. */
export function exact<K extends PrimitiveName>(name: K, operands: readonly Numbers[], params: Params<K>): Outputs<K, TypedArray> {
  return resultsOn(reference, "float64", name, operands, params);
}

export const tolerance: Readonly<Record<FloatDType, number>> = { float32: 1e-6, float64: 1e-12 };

/** An error relative to the largest number of `expected`, and to 1 at least. NaN is equal to NaN. Quick where matchers are not. */
export function expectNear(actual: ArrayLike<number>, expected: ArrayLike<number>, relative: number): void {
  expect(actual.length).toBe(expected.length);
  let [scale, worst, place] = [1, 0, 0];
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [actual[i] as number, expected[i] as number];
    if (Number.isFinite(b)) scale = Math.max(scale, Math.abs(b));
    const difference = Object.is(a, b) || a === b ? 0 : Math.abs(a - b);
    if (difference <= worst) continue;
    [worst, place] = [Number.isNaN(difference) ? Infinity : difference, i];
  }
  expect(worst / scale, `error at ${place}: ${actual[place]}, expected ${expected[place]}`).toBeLessThanOrEqual(relative);
}

/** Equal bytes. */
export function expectSame(actual: readonly TypedArray[], expected: readonly TypedArray[]): void {
  const bytes = ({ buffer, byteOffset, byteLength }: TypedArray): Buffer => Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength);
  expect(actual.map((array, i) => bytes(array).equals(bytes(expected[i] as TypedArray)))).toEqual(actual.map(() => true));
}

/** Near the reference, and the same bytes on every engine. */
export function expectAgreement<K extends PrimitiveName>(
  backends: readonly WasmBackend[],
  dtype: FloatDType,
  name: K,
  operands: readonly Numbers[],
  params: Params<K>,
  relative = tolerance[dtype],
): void {
  const runs = backends.map((backend): readonly TypedArray[] => resultsOn(backend, dtype, name, operands, params));
  const expected: readonly TypedArray[] = exact(name, operands, params);
  for (const run of runs) {
    expectSame(run, runs[0] ?? []);
    expected.forEach((values, i) => {
      expectNear(run[i] ?? [], values, values instanceof Int32Array ? 0 : relative);
    });
  }
}

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  apply,
  defaultBackend,
  isFloat,
  machineEpsilon,
  sizeOf,
  tidy,
  type DType,
  type FloatDType,
  type PrimitiveName,
  type Tensor,
  type TypedArray,
} from "../../src/tensor/index.ts";
import { realize, sampledNames, samples, type HostTensor, type Sample } from "../samples.ts";
import { definitions } from "./definitions.ts";

interface Result {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly data: TypedArray;
}

function resultsOf<K extends PrimitiveName>(name: K, sample: Sample<K>, dtype: FloatDType): Result[] {
  return tidy(() => {
    const { inputs, params } = realize(sample, dtype);
    const outputs: readonly Tensor[] = apply(name, inputs, params);
    return outputs.map((output) => ({ shape: output.shape, dtype: output.dtype, data: output.dataSync() }));
  });
}

function defined<K extends PrimitiveName>(name: K, { inputs, params }: Sample<K>, dtype: FloatDType): readonly HostTensor[] {
  const typed: object = params;
  return definitions[name](inputs, "dtype" in typed && typed.dtype !== "int32" ? { ...params, dtype } : params);
}

/** Equal to an error relative to max(1, |expected|): samples are of order one, and a difference of theirs may cancel to 1e-17. */
function expectNear(actual: TypedArray, expected: ArrayLike<number>, relative: number): void {
  expect([...actual, 1]).toBeAllclose([...Array.from(expected), 1], { relative });
}

/** Checks a statement for samples of a primitive. */
function forSamples<K extends PrimitiveName>(name: K, statement: (sample: Sample<K>) => void, numRuns = 50): void {
  fc.assert(fc.property(samples[name], statement), { numRuns });
}

describe("in float64 the kernel equals the definition:", () => {
  test.each(sampledNames)("%s", (name) => {
    forSamples(name, (sample) => {
      const expected = defined(name, sample, "float64");
      for (const [i, { shape, dtype, data }] of resultsOf(name, sample, "float64").entries()) {
        const definition = expected[i] as HostTensor;
        expect(shape).toEqual(definition.shape);
        expect(dtype).toBe(definition.kind === "int" ? "int32" : "float64");
        expectNear(data, definition.values, dtype === "int32" ? 0 : 1e-12);
      }
    });
  });
});

describe("sums longer than a block of the kernel, in both float types:", () => {
  /** Deterministic numbers of order one. */
  const numbers = (...shape: number[]): HostTensor => ({
    kind: "float",
    shape,
    values: Array.from({ length: sizeOf(shape) }, (_, i) => (((i * 7919) % 61) - 30) / 16),
  });
  const padding = { top: 1, bottom: 1, left: 1, right: 1 };
  const window = { stride: [1, 1], padding, dilation: [1, 1] } as const;

  function equalsDefinition<K extends PrimitiveName>(name: K, sample: Sample<K>): void {
    const [expected] = defined(name, sample, "float64");
    for (const dtype of ["float32", "float64"] as const) {
      const [actual] = resultsOf(name, sample, dtype);
      expect(actual?.data).toBeAllclose(expected?.values ?? [], { relative: 4 * machineEpsilon[dtype] });
    }
  }

  test.each([255, 256, 257, 600])("matrix products of depth %d", (depth) => {
    for (const transposeA of [false, true]) {
      for (const transposeB of [false, true]) {
        const [a, b] = [transposeA ? [depth, 5] : [5, depth], transposeB ? [9, depth] : [depth, 9]];
        equalsDefinition("matmul", { inputs: [numbers(...a), numbers(...b)], params: { transposeA, transposeB } });
      }
    }
    equalsDefinition("gram", { inputs: [numbers(depth, 7)], params: { scale: 0.5 } });
    equalsDefinition("linear", { inputs: [numbers(3, depth), numbers(6, depth), numbers(6)], params: {} });
  });

  test("convolutions over images of more than 256 pixels", () => {
    equalsDefinition("conv2dWeightGradient", {
      inputs: [numbers(2, 18, 17, 2), numbers(2, 18, 17, 6)],
      params: { ...window, kernel: [3, 3], groups: 2 },
    });
    equalsDefinition("patchCovariance", {
      inputs: [numbers(2, 18, 17, 1)],
      params: { ...window, kernel: [3, 3], bias: true, scale: 1 / 64 },
    });
  });
});

describe("in float32 it equals the rounded result in float64 to 1e-6:", () => {
  const drawsOtherNumbers: readonly PrimitiveName[] = ["uniform", "normal"];
  test.each(sampledNames.filter((name) => !drawsOtherNumbers.includes(name)))("%s", (name) => {
    forSamples(name, (sample) => {
      const double = resultsOf(name, sample, "float64");
      for (const [i, { dtype, data }] of resultsOf(name, sample, "float32").entries()) {
        const expected = double[i] as Result;
        if (isFloat(dtype)) expectNear(data, Float32Array.from(expected.data), 1e-6);
        else expect(data).toEqual(expected.data);
      }
    });
  });

  test.each(drawsOtherNumbers)("%s draws by its own definition", (name) => {
    forSamples(name, (sample) => {
      const [expected] = defined(name, sample, "float32") as [HostTensor];
      expect(resultsOf(name, sample, "float32")[0]?.data).toBeAllclose(expected.values, { relative: machineEpsilon.float32 });
    });
  });
});

describe("a kernel writes every element, whatever its buffers held before:", () => {
  /** Leaves a buffer of NaN, or of a number that is no index, in the pool for each result. */
  function spoilPool(results: readonly Result[]): void {
    const backend = defaultBackend();
    const buffers = results.map(({ dtype, shape }) => {
      const buffer = backend.alloc(dtype, sizeOf(shape)) as TypedArray;
      buffer.fill(isFloat(dtype) ? NaN : -77);
      return buffer;
    });
    for (const buffer of buffers) backend.free(buffer);
  }

  test.each(sampledNames)("%s", (name) => {
    forSamples(
      name,
      (sample) => {
        const first = resultsOf(name, sample, "float32");
        const again = tidy(() => {
          const { inputs, params } = realize(sample, "float32");
          spoilPool(first);
          const outputs: readonly Tensor[] = apply(name, inputs, params);
          return outputs.map((output) => output.dataSync());
        });
        expect(again).toEqual(first.map(({ data }) => data));
      },
      20,
    );
  });
});

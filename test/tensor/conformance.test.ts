import fc from "fast-check";
import { beforeEach, afterEach, describe, expect, test, vi } from "vitest";
import { openReference } from "../../src/tensor/backends/reference/index.ts";
import {
  apply,
  DataError,
  defaultBackend,
  isFloat,
  machineEpsilon,
  openBackend,
  sizeOf,
  Tensor,
  tidy,
  typedArray,
  worksInPlace,
  type Backend,
  type DType,
  type FloatDType,
  type KernelName,
  type PrimitiveName,
  type Shape,
  type TypedArray,
} from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";
import { kernelNames, larger, writtenOut, type LargerSample } from "../larger.ts";
import { realize, sampledNames, samples, type HostTensor, type Sample } from "../samples.ts";
import { definitions } from "./definitions.ts";
import { emptySamples } from "./empty.ts";

/*
 * Every backend computes what the primitives mean: on small samples what their definitions say, on larger ones what the
 * reference backend says.
 */

interface Result {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly data: TypedArray;
}

function resultsOf<K extends PrimitiveName>(name: K, sample: Sample<K>, dtype: FloatDType, backend: Backend = defaultBackend()): Result[] {
  return tidy(() => {
    const { inputs, params } = realize(sample, dtype, backend);
    const outputs: readonly Tensor[] = apply(name, inputs, params, { backend });
    return outputs.map((output) => ({ shape: output.shape, dtype: output.dtype, data: output.dataSync() }));
  });
}

function defined<K extends PrimitiveName>(name: K, { inputs, params }: Sample<K>, dtype: FloatDType): readonly HostTensor[] {
  const typed: object = params;
  return definitions[name](inputs, "dtype" in typed && typed.dtype !== "int32" ? { ...params, dtype } : params);
}

/** Equal to an error relative to max(1, |expected|): samples are of order one, and a difference of theirs may cancel to 1e-17. */
function expectNear(actual: TypedArray, expected: ArrayLike<number>, relative: number): void {
  // The matcher takes copies, which may be long, and says where it went wrong.
  expect(actual.length).toBe(expected.length);
  let [worst, scale] = [0, 1];
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [actual[i] as number, expected[i] as number];
    const difference = a === b ? 0 : Math.abs(a - b);
    worst = Math.max(worst, difference); // keeps NaN
    if (Math.abs(b) > scale) scale = Math.abs(b);
  }
  if (!(worst <= relative * scale)) expect([...actual, 1]).toBeAllclose([...Array.from(expected), 1], { relative });
}

/** Checks a statement for samples of a primitive. */
function forSamples<K extends PrimitiveName>(name: K, statement: (sample: Sample<K>) => void, numRuns = 50): void {
  fc.assert(fc.property(samples[name], statement), { numRuns });
}

/** They draw other numbers in float32 than in float64. */
const drawing: readonly PrimitiveName[] = ["uniform", "normal"];
const float32Error = 1e-6;
const float64Error = 1e-12;

eachBackend((backendName) => {
  let buffersBefore: number;
  beforeEach(() => {
    buffersBefore = defaultBackend().memory().buffers;
  });
  afterEach(() => {
    vi.restoreAllMocks();
    expect(defaultBackend().memory().buffers).toBe(buffersBefore);
  });

  describe("in float64 the kernel equals the definition:", () => {
    const equalsDefinition = <K extends PrimitiveName>(name: K, sample: Sample<K>, dtype: FloatDType, error: number): void => {
      const expected = defined(name, sample, dtype);
      const results = resultsOf(name, sample, dtype);
      expect(results).toHaveLength(expected.length);
      for (const [i, result] of results.entries()) {
        const definition = expected[i] as HostTensor;
        expect(result.shape).toEqual(definition.shape);
        expect(result.dtype).toBe(definition.kind === "int" ? "int32" : dtype);
        expectNear(result.data, definition.values, result.dtype === "int32" ? 0 : error);
      }
    };

    test.each(sampledNames)("%s", (name) => {
      forSamples(name, (sample) => equalsDefinition(name, sample, "float64", float64Error));
    });

    describe("and where an operand has no elements, in both float types:", () => {
      test.each(emptySamples)("$name of $what", ({ name, sample }) => {
        equalsDefinition(name, sample, "float64", float64Error);
        equalsDefinition(name, sample, "float32", float32Error);
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

  describe("in float32 it equals the result in float64 to 1e-6:", () => {
    test.each(sampledNames.filter((name) => !drawing.includes(name)))("%s", (name) => {
      forSamples(name, (sample) => {
        const double = resultsOf(name, sample, "float64");
        for (const [i, { dtype, data }] of resultsOf(name, sample, "float32").entries()) {
          const expected = double[i] as Result;
          expectNear(data, expected.data, isFloat(dtype) ? float32Error : 0);
        }
      });
    });

    test.each(drawing)("%s draws by its own definition", (name) => {
      forSamples(name, (sample) => {
        const [expected] = defined(name, sample, "float32") as [HostTensor];
        expect(resultsOf(name, sample, "float32")[0]?.data).toBeAllclose(expected.values, { relative: machineEpsilon.float32 });
      });
    });
  });

  describe("on larger operands it equals the reference backend in float64:", () => {
    const oracle = openReference();
    // The reference's own float64 is what it is compared with.
    const dtypes = backendName === "reference" ? (["float32"] as const) : (["float64", "float32"] as const);

    /** The engine's convolutions have ten times the error unless it is told to be exact. */
    const quick: readonly KernelName[] = ["conv2d", "conv2dInputGradient", "conv2dWeightGradient"];

    function equalsOracle<K extends KernelName>(name: K, sample: LargerSample<K>, backend = defaultBackend(), single = float32Error): void {
      const written = writtenOut(sample);
      let expected: Result[] | undefined;
      for (const dtype of dtypes) {
        if (drawing.includes(name) || !expected) expected = resultsOf(name, written, drawing.includes(name) ? dtype : "float64", oracle);
        const results = resultsOf(name, written, dtype, backend);
        expect(results).toHaveLength(expected.length);
        for (const [i, result] of results.entries()) {
          const { shape, data } = expected[i] as Result;
          expect(result.shape).toEqual(shape);
          expectNear(result.data, data, !isFloat(result.dtype) ? 0 : dtype === "float32" ? single : float64Error);
        }
      }
    }

    test.each(kernelNames)("%s", (name) => {
      const single = backendName === "wasm" && quick.includes(name) ? 10 * float32Error : float32Error;
      fc.assert(
        fc.property(larger[name], (sample: LargerSample<typeof name>) => equalsOracle(name, sample, defaultBackend(), single)),
        { numRuns: backendName === "reference" ? 5 : 20 },
      );
    });

    test.runIf(backendName === "wasm").each(quick)("%s, told to be exact", async (name) => {
      const exact = await openBackend("wasm", { precision: "exact" });
      fc.assert(
        fc.property(larger[name], (sample: LargerSample<typeof name>) => equalsOracle(name, sample, exact)),
        { numRuns: 20 },
      );
      exact.close?.();
    });

    const draft = (seed: number, ...shape: number[]) => ({ numbers: "from -1/2 to 3/2", shape, seed }) as const;
    const products = [
      [1, 1, 1],
      [17, 13, 31],
      [67, 129, 257],
      [3, 5, 7],
      [4, 8, 8],
      [5, 9, 9],
      [12, 64, 24],
      [13, 65, 25],
      [1, 1000, 1],
      [300, 1, 300],
      [1, 257, 515],
      [515, 257, 1],
      [5, 4099, 9],
    ] as const;

    test.each(products)("matmul, linear and gram of %d × %d by %d", (m, k, n) => {
      for (const transposeA of [false, true]) {
        for (const transposeB of [false, true]) {
          const [a, b] = [transposeA ? [k, m] : [m, k], transposeB ? [n, k] : [k, n]];
          equalsOracle("matmul", { inputs: [draft(1, ...a), draft(2, ...b)], params: { transposeA, transposeB } });
        }
      }
      equalsOracle("matmul", { inputs: [draft(3, 3, m, k), draft(4, k, n)], params: { transposeA: false, transposeB: false } });
      equalsOracle("linear", { inputs: [draft(5, m, k), draft(6, n, k), draft(7, n)], params: {} });
      equalsOracle("gram", { inputs: [draft(8, k, m)], params: { scale: 0.5 } });
      equalsOracle("gram", { inputs: [draft(9, m, n)], params: { scale: 1 } });
    });
  });

  describe("a kernel writes every element, whatever its buffers held before:", () => {
    /** From now on a new buffer holds NaN, or a number that is no index. */
    function spoilBuffers(backend: Backend): void {
      const alloc = backend.alloc.bind(backend);
      vi.spyOn(backend, "alloc").mockImplementation((dtype, size, origin) => {
        const buffer = alloc(dtype, size, origin);
        backend.upload(buffer, typedArray(dtype, size).fill(isFloat(dtype) ? NaN : -77));
        return buffer;
      });
    }

    test.each(sampledNames)("%s", (name) => {
      forSamples(
        name,
        (sample) => {
          const first = resultsOf(name, sample, "float32");
          const again = tidy(() => {
            const { inputs, params } = realize(sample, "float32");
            spoilBuffers(defaultBackend());
            const outputs: readonly Tensor[] = apply(name, inputs, params);
            vi.restoreAllMocks();
            return outputs.map((output) => output.dataSync());
          });
          for (const [i, { data }] of first.entries()) expect(again[i]).toHaveSameBits(data);
        },
        20,
      );
    });
  });

  describe("a result that is written over a donated operand is the same:", () => {
    type InPlaceName = KernelName;

    function sameInPlace<K extends InPlaceName>(name: K, sample: Sample<K>): void {
      for (const dtype of ["float32", "float64"] as const) {
        const [expected] = resultsOf(name, sample, dtype) as [Result];
        for (const position of sample.inputs.keys()) {
          tidy(() => {
            const { inputs, params } = realize(sample, dtype);
            const operand = (inputs as readonly Tensor[])[position] as Tensor;
            const { buffer } = operand.storage;
            const fits = operand.dtype === expected.dtype && operand.shape.join() === expected.shape.join();
            const [output]: readonly Tensor[] = apply(name, inputs, params, { donate: [position] });
            expect(output.storage.buffer === buffer).toBe(fits);
            expect(output.dataSync()).toHaveSameBits(expected.data);
          });
        }
      }
    }

    test.each([...worksInPlace] as InPlaceName[])("%s", (name) => {
      forSamples(name, (sample: Sample<typeof name>) => sameInPlace(name, sample), 20);
      fc.assert(
        fc.property(larger[name], (sample: LargerSample<typeof name>) => sameInPlace(name, writtenOut(sample))),
        { numRuns: 5 },
      );
    });

    test.each(["add", "subtract", "multiply", "divide", "maximum", "minimum", "power"] as const)("%s of a tensor and itself", (name) => {
      for (const dtype of ["float32", "float64"] as const) {
        tidy(() => {
          const x = Tensor.arange(1003, { dtype, start: 1, step: 1 / 512 });
          const [expected] = apply(name, [x, x], {});
          const [actual] = apply(name, [x, x], {}, { donate: [0] });
          expect(actual.dataSync()).toHaveSameBits(expected.dataSync());
        });
      }
    });
  });

  describe("an index that is none is a DataError that names the first one, and costs no memory:", () => {
    const window = { shape: [2, 20, 30, 7] as Shape, image: [5, 6] as const };
    const smoothing = { smoothing: 0.1, smoothingKind: "uniform" } as const;
    const pixels = sizeOf(window.image);
    interface Indexed {
      readonly name: PrimitiveName;
      readonly count: number;
      readonly limit: number;
      readonly call: (indices: Tensor) => unknown;
      readonly message: (index: number, position: number) => string;
    }
    const pooled = sizeOf(window.shape);
    const cases: Indexed[] = [
      {
        name: "gather",
        count: 4001,
        limit: 9,
        call: (indices) => apply("gather", [Tensor.zeros([9, 3]), indices], {}),
        message: (index, position) => `gather: index ${index} at position ${position} is outside of 9 rows`,
      },
      {
        name: "scatterAdd",
        count: 4001,
        limit: 9,
        call: (indices) => apply("scatterAdd", [Tensor.zeros([4001, 3]), indices], { rows: 9 }),
        message: (index, position) => `scatterAdd: index ${index} at position ${position} is outside of 9 rows`,
      },
      {
        name: "maxPool2dScatter",
        count: pooled,
        limit: pixels,
        call: (indices) =>
          apply("maxPool2dScatter", [Tensor.zeros(window.shape), indices.reshape(window.shape)], { inputSize: window.image }),
        message: (index, position) => `maxPool2dScatter: index ${index} at position ${position} is outside of an image of ${pixels} pixels`,
      },
      {
        name: "maxPool2dGather",
        count: pooled,
        limit: pixels,
        call: (indices) => apply("maxPool2dGather", [Tensor.zeros([2, ...window.image, 7]), indices.reshape(window.shape)], {}),
        message: (index, position) => `maxPool2dGather: index ${index} at position ${position} is outside of an image of ${pixels} pixels`,
      },
      {
        name: "softmaxCrossEntropy",
        count: 2003,
        limit: 5,
        call: (labels) => apply("softmaxCrossEntropy", [Tensor.zeros([2003, 5]), labels], smoothing),
        message: (label, sample) =>
          `softmaxCrossEntropy: label ${label} of sample ${sample} is out of range; with 5 classes labels go from 0 to 4`,
      },
      {
        name: "softmaxCrossEntropyGradient",
        count: 2003,
        limit: 5,
        call: (labels) => apply("softmaxCrossEntropyGradient", [Tensor.zeros([2003, 5]), labels, Tensor.zeros([2003])], smoothing),
        message: (label, sample) =>
          `softmaxCrossEntropyGradient: label ${label} of sample ${sample} is out of range; with 5 classes labels go from 0 to 4`,
      },
    ];

    test.each(cases)("$name", ({ count, limit, call, message }) => {
      const bad = fc.constantFrom(-1, limit, limit + 1, 2 ** 31 - 1, -(2 ** 31));
      const places = fc.array(fc.tuple(fc.oneof(fc.nat(20), fc.nat(count - 1), fc.constant(count - 1)), bad), {
        minLength: 1,
        maxLength: 3,
      });
      fc.assert(
        fc.property(places, (spoilt) => {
          tidy(() => {
            const values = Int32Array.from({ length: count }, (_, i) => i % limit);
            for (const [place, value] of spoilt) values[place] = value;
            const first = values.findIndex((value) => value < 0 || value >= limit);
            const attempt = (indices: Int32Array) => () => tidy(() => call(Tensor.from(indices)));
            expect(attempt(values)).toThrow(DataError);
            expect(attempt(values)).toThrow(message(values[first] as number, first));
            expect(attempt(values.map((_, i) => i % limit))).not.toThrow();
          });
        }),
        { numRuns: 20 },
      );
    });
  });
});

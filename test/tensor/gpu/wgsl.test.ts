import { beforeAll, describe, expect, test } from "vitest";
import type { WebGpuBackend as GpuBackend } from "../../../src/tensor/backends/gpu/index.ts";
import type { DeviceArray } from "../../../src/tensor/backends/gpu/kernel.ts";
import { EIGHT_IN_A_ROW, gemmKernel } from "../../../src/tensor/backends/gpu/wgsl/gemm.ts";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import { philoxBlock } from "../../../src/tensor/philox.ts";
import { apply, Tensor, tidy, type Backend, type TypedArray } from "../../../src/tensor/index.ts";
import { describeOnGpu } from "./gpu.ts";

/* Kernels in WGSL where the conformance suite does not reach: long sums, sizes beyond those of a dispatch, bits. */

/** Reads what `f` makes, which is disposed then. */
async function read(f: () => Tensor): Promise<TypedArray> {
  using y = tidy(f);
  return await y.data();
}

/** Numbers with all their digits, from -¼ to ¾, so that sums round and do not cancel. */
function numbers(size: number, seed = 1): Float32Array {
  const data = new Float32Array(size);
  let state = seed;
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    data[i] = (state >>> 8) * 2 ** -24 - 0.25;
  }
  return data;
}

describeOnGpu("kernels in WGSL", (open) => {
  let backend: GpuBackend;
  beforeAll(async () => {
    backend = await open();
  });
  const from = (data: Float32Array, shape: readonly number[] = [data.length]): Tensor => Tensor.from(data, { shape, backend });

  describe("reductions", () => {
    /** [outer, n, inner] of an array whose middle axis is reduced. */
    const extents = [
      [1, 1_000_000, 1],
      [1, 999_983, 1],
      [3, 333_333, 1],
      [1, 100_003, 7],
      [2, 65_537, 3],
      [1, 1025, 97],
      [5, 127, 33],
      [4097, 130, 1],
      [4097, 600, 1],
      [60_001, 513, 1],
      [65_537, 65, 1],
      [1, 65, 65_537],
      [1, 66, 1],
      [1, 64, 1],
      [1, 1, 1],
    ] as const;

    test.each(extents)("of [%i, %i, %i] are those of float64", async (outer, n, inner) => {
      const data = numbers(outer * n * inner);
      const [sums, tops, places] = [new Float64Array(outer * inner), new Float64Array(outer * inner), new Float64Array(outer * inner)];
      tops.fill(-Infinity);
      for (let i = 0; i < data.length; i++) {
        const output = Math.floor(i / (n * inner)) * inner + (i % inner);
        const x = data[i] as number;
        (sums[output] as number) += x;
        if (x <= (tops[output] as number)) continue;
        tops[output] = x;
        places[output] = Math.floor(i / inner) % n;
      }
      using x = from(data, [outer, n, inner]);
      expect(await read(() => x.sum(1))).toBeAllclose(sums, { relative: 1e-6 });
      expect(await read(() => x.max(1))).toBeAllclose(tops, { relative: 0 });
      expect(await read(() => x.argmax(1))).toBeAllclose(places, { relative: 0 });
    });

    test("are the same bits each time", async () => {
      using x = from(numbers(1_000_000));
      const first = await read(() => x.sum());
      for (let again = 0; again < 3; again++) expect(await read(() => x.sum())).toHaveSameBits(first);
    });

    test("keep NaN wherever it is, and infinities", async () => {
      const size = 5000;
      for (const at of [0, 1, 63, 64, 4095, 4096, size - 1]) {
        const data = numbers(size);
        data[at] = NaN;
        using x = from(data);
        expect([...(await read(() => x.max()))]).toEqual([NaN]);
        expect([...(await read(() => x.sum()))]).toEqual([NaN]);
        expect([...(await read(() => x.argmax()))]).toEqual([at]);
      }
      using low = from(new Float32Array(size).fill(-Infinity));
      expect([...(await read(() => low.max()))]).toEqual([-Infinity]);
      expect([...(await read(() => low.argmax()))]).toEqual([0]);
      expect([...(await read(() => low.sum()))]).toEqual([-Infinity]);
    });

    test("of more than 2²⁴ elements", async () => {
      const size = 2 ** 24 + 7;
      using x = tidy(() => Tensor.ones([size], { backend }));
      expect([...(await read(() => x.subtract(0.5).sum()))]).toEqual([Math.fround(size / 2)]);
    });

    test("of a batch norm's channels are as good as float64's", async () => {
      const [count, channels] = [50_021, 5];
      const data = numbers(count * channels).map((x) => x + 3);
      using x = from(data, [count, channels]);
      using ones = tidy(() => Tensor.ones([channels], { backend }));
      using zeros = tidy(() => Tensor.zeros([channels], { backend }));
      const [mean, rstd] = await Promise.all(
        [1, 2].map((i) => read(() => apply("batchNorm", [x, ones, zeros], { epsilon: 1e-5 })[i] as Tensor)),
      );
      const channel = Array.from({ length: channels }, (_, c) => data.filter((_, i) => i % channels === c));
      const means = channel.map((list) => list.reduce((sum, v) => sum + v, 0) / count);
      const roots = channel.map(
        (list, c) => 1 / Math.sqrt(list.reduce((sum, v) => sum + (v - (means[c] as number)) ** 2, 0) / count + 1e-5),
      );
      expect(mean).toBeAllclose(means, { relative: 1e-6 });
      expect(rstd).toBeAllclose(roots, { relative: 1e-6 });
    });
  });

  describe("gram", () => {
    const shapes = [
      [50_021, 3],
      [40_009, 17],
      [30_000, 16],
      [1025, 67],
      [70_001, 1],
      [129, 65],
      [65, 64],
      [1, 5],
      [3, 131],
      [64, 4],
    ] as const;

    test.each(shapes)("of [%i, %i] is that of float64, and symmetric to the last bit", async (rows, d) => {
      const data = numbers(rows * d);
      const expected = new Float64Array(d * d);
      for (let row = 0; row < rows; row++) {
        for (let i = 0; i < d; i++) {
          const a = data[row * d + i] as number;
          for (let j = 0; j < d; j++) (expected[i * d + j] as number) += (a * (data[row * d + j] as number)) / rows;
        }
      }
      using x = from(data, [rows, d]);
      const y = await read(() => apply("gram", [x], { scale: 1 / rows })[0]);
      const transposed = y.map((_, i) => y[(i % d) * d + Math.floor(i / d)] as number);
      expect(y).toBeAllclose(expected, { relative: 1e-6 });
      expect(transposed).toHaveSameBits(y);
      expect(await read(() => apply("gram", [x], { scale: 1 / rows })[0])).toHaveSameBits(y);
    });
  });

  describe("softmax", () => {
    const shapes = [
      [3, 100_003],
      [70_001, 3],
      [20_011, 17],
      [129, 1],
      [1, 65],
      [513, 257],
    ] as const;

    test.each(shapes)("of [%i, %i], its logarithm and cross-entropy are those of float64", async (rows, classes) => {
      const data = numbers(rows * classes).map((x) => 20 * x);
      const labels = Int32Array.from({ length: rows }, (_, i) => (i * 7) % classes);
      const logarithms = new Float64Array(data.length);
      const losses = new Float64Array(rows);
      const smoothing = 0.1;
      for (let row = 0; row < rows; row++) {
        const own = data.subarray(row * classes, (row + 1) * classes);
        const top = own.reduce((most, x) => Math.max(most, x), -Infinity);
        const total = own.reduce((sum, x) => sum + Math.exp(x - top), 0);
        own.forEach((x, i) => {
          const logarithm = x - top - Math.log(total);
          logarithms[row * classes + i] = logarithm;
          (losses[row] as number) -= (smoothing / classes + (i === labels[row] ? 1 - smoothing : 0)) * logarithm;
        });
      }
      using x = from(data, [rows, classes]);
      using label = Tensor.from(labels, { backend });
      expect(await read(() => x.logSoftmax())).toBeAllclose(logarithms, { relative: 1e-6 });
      const params = { smoothing, smoothingKind: "uniform" } as const;
      const both = [0, 1].map((i) => read(() => apply("softmaxCrossEntropy", [x, label], params)[i] as Tensor));
      const [loss, probabilities] = (await Promise.all(both)) as [TypedArray, TypedArray];
      expect(loss).toBeAllclose(losses, { relative: 1e-6 });
      expect(probabilities).toBeAllclose(logarithms.map(Math.exp), { relative: 2e-6 });
    });

    test("of a row with NaN is NaN, and of the others is not", async () => {
      for (const classes of [5, 100, 3000]) {
        const data = numbers(3 * classes);
        data[classes + 3] = NaN;
        using x = from(data, [3, classes]);
        const y = await read(() => x.logSoftmax());
        expect(y.every((value, i) => Number.isNaN(value) === (Math.floor(i / classes) === 1))).toBe(true);
      }
    });
  });

  describe("uniform numbers", () => {
    const offsets = [0, 5, 2 ** 32 - 3, 2 ** 32, 2 ** 32 + 7, 2 ** 40 - 1, 2 ** 53 - 2 ** 20];
    const keys = [
      [0, 0],
      [1, 2],
      [0xffffffff, 0x9e3779b9],
    ] as const;

    test.each(offsets)("from block %i on are the host's, bit for bit", async (offset) => {
      const reference = openReference();
      for (const key of keys) {
        for (const size of [0, 1, 3, 4, 5, 255, 256, 257, 10_001]) {
          const params = { shape: [size], dtype: "float32", key, offset } as const;
          const drawn = (on: Backend): Promise<TypedArray> => read(() => apply("uniform", [], params, { backend: on })[0]);
          expect(await drawn(backend)).toHaveSameBits(await drawn(reference));
        }
      }
    });

    test("are the host's beyond what one row of workgroups draws", async () => {
      const params = { shape: [2 ** 24 + 1001], dtype: "float32", key: [3, 4], offset: 2 ** 32 - 1000 } as const;
      const drawn = await read(() => apply("uniform", [], params, { backend })[0]);
      const words = new Uint32Array(4);
      for (let block = 0; block < drawn.length / 4; block += 997) {
        philoxBlock(params.offset + block, params.key, words);
        expect([...drawn.subarray(4 * block, 4 * block + 4)]).toEqual([...words].map((word) => (word >>> 8) * 2 ** -24));
      }
      expect(drawn.at(-1)).not.toBe(0);
    });
  });

  describe("products of single matrices", () => {
    // Sums of more than 1000 terms among them, where a loop of gpu.js ended if it were let.
    const products = [
      [5, 1500, 7],
      [64, 4099, 3],
      [1, 20_011, 1],
      [33, 1001, 65],
      [2, 1000, 2],
      [2, 1024, 2],
      [130, 66, 127],
    ] as const;

    test.each(products)("of [m, k, n] = [%i, %i, %i], with and without a bias, are those of float64", async (m, k, n) => {
      const reference = openReference();
      const on = (device: Backend, dtype: "float32" | "float64", f: (of: (shape: readonly number[]) => Tensor) => Tensor) =>
        read(() =>
          f((shape) => {
            const size = shape.reduce((product, extent) => product * extent, 1);
            return Tensor.from(numbers(size, size), { shape, backend: device, dtype });
          }),
        );
      for (const f of [
        (of: (shape: readonly number[]) => Tensor) => of([m, k]).matmul(of([k, n])),
        (of: (shape: readonly number[]) => Tensor) => of([k, m]).matmul(of([k, n]), { transposeA: true }),
        (of: (shape: readonly number[]) => Tensor) => of([m, k]).matmul(of([n, k]), { transposeB: true }),
        (of: (shape: readonly number[]) => Tensor) => apply("linear", [of([m, k]), of([n, k]), of([n])], {})[0],
      ])
        expect(await on(backend, "float32", f)).toBeAllclose(await on(reference, "float64", f), { relative: 1e-6 });
    });

    describe("whatever threads are a subgroup", () => {
      const [m, k, n] = [37, 4 * 35, 4 * 21];
      const arrayOf = ({ storage }: Tensor): DeviceArray => storage.buffer as DeviceArray;

      /** In workgroups of `across` × 8 threads. */
      async function product(a: Tensor, b: Tensor, eights: boolean, across: number): Promise<TypedArray> {
        using c = Tensor.zeros([m, n], { backend });
        const groups = [Math.ceil(n / 4 / across), Math.ceil(m / 32), 1] as const;
        const parameters = [{ u: m }, { u: n }, { u: k / 4 }, { u: n / 4 }, { f: 1 }];
        backend.queue.runWgsl(gemmKernel({ bias: false, eights, across }), groups, [arrayOf(a), arrayOf(b)], [arrayOf(c)], parameters);
        return await c.data();
      }

      // With four threads in a row, eight have different rows.
      test.each([1, 4, 8, 16])("they are the same, in workgroups of %i × 8", async (across) => {
        using a = from(numbers(m * k), [m, k]);
        using b = from(numbers(k * n, 2), [k, n]);
        const reference = openReference();
        const exact = await read(() => {
          const [p, q] = [a, b].map(({ shape, size }, i) => Tensor.from(numbers(size, i + 1), { shape, backend: reference }));
          return (p as Tensor).matmul(q as Tensor);
        });
        const forms = backend.queue.subgroupsOfEight ? [false, true] : [false];
        for (const eights of forms) expect(await product(a, b, eights, across)).toBeAllclose(exact, { relative: 1e-6 });
      });

      test("eight threads in a row are one where the device has such subgroups", async ({ skip }) => {
        skip(!backend.queue.subgroupsOfEight, "this device has none");
        const code = `enable subgroups; diagnostic(off, subgroup_uniformity);
          @group(0) @binding(0) var<storage, read_write> c : array<f32>;
          @compute @workgroup_size(64) fn main(
            @builtin(local_invocation_index) i : u32, @builtin(subgroup_invocation_id) lane : u32, @builtin(subgroup_size) lanes : u32
          ) {
            let y = i / 8u;
            c[i] = select(0.0, 1.0, ${EIGHT_IN_A_ROW});
          }`;
        using c = Tensor.zeros([64], { backend });
        backend.queue.runWgsl({ name: "eights", code, reads: 0, writes: 1 }, [1, 1, 1], [], [arrayOf(c)], []);
        expect([...(await c.data())]).toEqual(Array.from({ length: 64 }, () => 1));
      });
    });
  });

  describe("products of batches", () => {
    /** Leading axes of both, and m, k, n. */
    const products = [
      [[3], [3], [67, 33, 47]],
      [
        [2, 1],
        [1, 3],
        [13, 97, 31],
      ],
      [[5], [1], [64, 64, 64]],
      [[], [4], [129, 65, 5]],
      [[2], [2], [8, 20_011, 8]],
      [[65_537], [65_537], [5, 2, 7]],
      [[70_001], [1], [1, 3, 2]],
      [[2], [2], [65_537, 2, 3]],
      [[2], [2], [3, 1, 65_537]],
      [[3], [3], [7, 0, 9]],
      [[0], [1], [7, 3, 9]],
    ] as const;

    test.each(products)("of %j by %j, of [m, k, n] = %j, are those of float64", async (leadA, leadB, [m, k, n]) => {
      const reference = openReference();
      for (const [transposeA, transposeB] of [
        [false, false],
        [true, false],
        [false, true],
      ] as const) {
        const shapes = [
          [...leadA, ...(transposeA ? [k, m] : [m, k])],
          [...leadB, ...(transposeB ? [n, k] : [k, n])],
        ] as const;
        const on = (device: Backend, dtype: "float32" | "float64"): Promise<TypedArray> =>
          read(() => {
            const [a, b] = shapes.map((shape, i) => {
              const size = shape.reduce<number>((product, extent) => product * extent, 1);
              return Tensor.from(numbers(size, i + 1), { shape, backend: device, dtype });
            }) as [Tensor, Tensor];
            return apply("matmul", [a, b], { transposeA, transposeB })[0];
          });
        expect(await on(backend, "float32")).toBeAllclose(await on(reference, "float64"), { relative: 1e-6 });
      }
    });
  });
});

import { beforeAll, describe, expect, test } from "vitest";
import type { WebGpuBackend as GpuBackend } from "../../../src/tensor/backends/gpu/index.ts";
import {
  portable,
  type ArgumentsOf,
  type DeviceArray,
  type PortableKernel,
  type Takes,
  type Threads,
} from "../../../src/tensor/backends/gpu/kernel.ts";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import { apply, BackendError, Generator, maxPool2d, Tensor, tidy, Variable, type TypedArray } from "../../../src/tensor/index.ts";
import { describeOnGpu } from "./gpu.ts";

/*
 * What gpu.js and graphics drivers get wrong in silence, one test each, named by what would be wrong: mostly without kernels in WGSL, which
 * do not come this way.
 */

const HELD = 2 ** 24; // float32 holds whole numbers up to here

/** Reads what `f` makes, which is disposed then. */
async function read(f: () => Tensor): Promise<TypedArray> {
  using y = tidy(f);
  return await y.data();
}

const numbers = async (f: () => Tensor): Promise<number[]> => [...(await read(f))];

/** What a kernel computes for threads of these extents. */
function computed<T extends Takes>(
  backend: GpuBackend,
  kernel: PortableKernel<T>,
  threads: Threads,
  values: ArgumentsOf<T>,
): Promise<TypedArray> {
  return read(() => {
    const y = Tensor.zeros([threads.reduce<number>((product, extent = 1) => product * extent, 1)], { backend });
    backend.queue.run(kernel, threads, y.storage.buffer as DeviceArray, values);
    return y;
  });
}

/** The first place where they differ: toEqual takes seconds for long arrays. */
function expectSame(actual: ArrayLike<number>, expected: (i: number) => number): void {
  for (let i = 0; i < actual.length; i++) {
    if (!Object.is(actual[i], expected(i))) expect([i, actual[i]]).toEqual([i, expected(i)]);
  }
}

describeOnGpu("on a GPU", (open) => {
  let backend: GpuBackend;
  beforeAll(async () => {
    backend = await open({ overrides: false });
  });
  const from = (data: number[], shape: readonly number[] = [data.length]): Tensor => Tensor.from(data, { shape, backend });

  test("a loop whose bound is an argument runs more than 1000 rounds", async () => {
    const count = portable("count", { n: "integer" }, "let total = 0; for (let i = 0; i < n; i++) { total += 1; } return total;");
    for (const n of [999, 1000, 1001, 1500, 100_000]) expect([...(await computed(backend, count, [1], { n }))]).toEqual([n]);
    const product = await numbers(() => Tensor.ones([2, 1500], { backend }).matmul(Tensor.ones([1500, 2], { backend })));
    expect(product).toEqual([1500, 1500, 1500, 1500]);
    expect(await numbers(() => Tensor.ones([5000], { backend }).sum())).toEqual([5000]);
  });

  test("integer arguments above 2²⁴ keep their last digits", async () => {
    const pick = portable("pick", { x: "array", n: "integer", m: "integer" }, "return x[this.thread.x * n - m];");
    using x = from([10, 11, 12, 13, 14]);
    const picked = (n: number, m: number): Promise<TypedArray> =>
      computed(backend, pick, [2], { x: x.storage.buffer as DeviceArray, n, m });
    // Only the second thread's place is that of an element: the other one reads some element or other.
    for (const n of [HELD + 1, HELD + 3, 2 ** 30 + 1, 2 ** 31 - 1])
      for (const i of [0, 1, 2, 4]) expect((await picked(n, n - i))[1]).toBe(10 + i);
  });

  test("places beyond 2²⁴ elements are those of neighbours, not of every other one", async () => {
    const size = HELD + 7;
    const data = Float32Array.from({ length: size }, (_, i) => i % 1013);
    using x = Tensor.from(data, { backend });
    using y = x.add(1); // walks by strides
    using z = y.add(x);
    expectSame(await z.data(), (i) => 2 * (i % 1013) + 1);
    const tail = await numbers(() => z.slice([HELD - 3], [10]));
    expect(tail).toEqual(Array.from({ length: 10 }, (_, i) => 2 * ((HELD - 3 + i) % 1013) + 1));
    expectSame(await read(() => Tensor.full([size], 3, { backend })), () => 3);
  });

  test("whole numbers of a range are exact wherever they lie", async () => {
    const size = HELD + 7;
    expectSame(await read(() => Tensor.arange(size, { start: -HELD, dtype: "int32", backend })), (i) => i - HELD);
  });

  test("places beyond 2²⁴, which float32 rounds, are refused as results and as indices", () => {
    using x = Tensor.zeros([HELD + 1], { backend });
    using image = x.reshape([1, HELD + 1, 1, 1]);
    using indices = Tensor.zeros([1], { dtype: "int32", backend });
    using one = Tensor.ones([1], { backend });
    for (const [name, f] of [
      ["argmax", () => x.argmax()],
      ["maxPool2d", () => maxPool2d(image, [HELD + 1, 1])],
      ["scatterAdd", () => one.scatterAdd(indices, HELD + 1)],
    ] as const) {
      expect(f).toThrow(BackendError);
      expect(f).toThrow(new RegExp(`gpu: ${name} .*16777217.*2²⁴.*"wasm"`));
    }
  });

  test("integers are divided as integers, where float32 would round up (165 / 15 = 11.000001)", async () => {
    const quotients = portable(
      "quotients",
      { start: "integer", divisor: "integer", base: "integer" },
      "return quotient(start + this.thread.x, divisor) - base;",
    );
    const remainders = portable(
      "remainders",
      { start: "integer", divisor: "integer" },
      "return remainder(start + this.thread.x, divisor);",
    );
    const threads = 3000;
    for (const start of [0, HELD - 1500, HELD + 1, 2 ** 30 + 7, 2 ** 31 - 1 - threads]) {
      for (const divisor of [1, 2, 3, 5, 7, 10, 15, 49, 113, 1013, 4096, 65537, HELD - 1, HELD + 1]) {
        const base = Math.floor(start / divisor);
        expectSame(
          await computed(backend, quotients, [threads], { start, divisor, base }),
          (i) => Math.floor((start + i) / divisor) - base,
        );
        // What comes out is float32, which holds no larger remainders.
        if (divisor > HELD) continue;
        expectSame(await computed(backend, remainders, [threads], { start, divisor }), (i) => (start + i) % divisor);
      }
    }
  });

  test("a kernel computes as many elements as it is asked for, whatever it was asked for before", async () => {
    for (const size of [5, 70_000, 5, 3]) {
      const data = Float32Array.from({ length: size }, (_, i) => i - 2);
      const y = await read(() => Tensor.from(data, { backend }).relu());
      expect(y).toHaveLength(size);
      expectSame(y, (i) => Math.max(0, i - 2));
    }
    // Two calls with nothing awaited in between.
    using small = from([-1, 1, 2]).relu();
    using large = from([-1, 1, 2, 3, 4]).relu();
    expect([...(await small.data())]).toEqual([0, 1, 2]);
    expect([...(await large.data())]).toEqual([0, 1, 2, 3, 4]);
  });

  test("a smaller argument than last time has no stale tail", async () => {
    expect(await numbers(() => from([9, 9, 9, 9]).sum())).toEqual([36]);
    expect(await numbers(() => from([3, 4]).sum())).toEqual([7]);
    expect(await numbers(() => from([-3, -4]).max())).toEqual([-3]);
    expect(await numbers(() => from([-3, -4]).argmax())).toEqual([0]);
    expect(await numbers(() => from([3, 4]).gather(Tensor.from([1, 0, 1], { dtype: "int32", backend })))).toEqual([4, 3, 4]);
    expect(await numbers(() => from([3, 4], [1, 2]).matmul(from([1, 1], [2, 1])))).toEqual([7]);
  });

  test("a result in the place of its operand is computed from the operand", async () => {
    const { buffers } = backend.memory();
    let x = from([1, 2, 3, -4]);
    using one = Tensor.ones([4], { backend });
    using other = from([5, 6, 7, 8]);
    for (let step = 0; step < 3; step++) x = apply("linearCombination", [x, one], { a: 2, b: 1 }, { donate: [0] })[0];
    expect([...(await x.data())]).toEqual([15, 23, 31, -25]);
    [x] = apply("add", [x, x], {}, { donate: [0] });
    expect([...(await x.data())]).toEqual([30, 46, 62, -50]);
    [x] = apply("subtract", [other, x], {}, { donate: [1] });
    expect([...(await x.data())]).toEqual([-25, -40, -55, 58]);
    expect([...(await other.data())]).toEqual([5, 6, 7, 8]);
    expect(backend.memory().buffers).toBe(buffers + 3);
    x.dispose();
  });

  test("a variable's former value stays as it was for those who hold it", async () => {
    const variable = new Variable(
      "v",
      tidy(() => from([1, 2])),
    );
    const held: Tensor[] = [];
    for (let step = 0; step < 5; step++) {
      held.push(variable.value.hold());
      tidy(() => {
        variable.assign(variable.value.multiply(2));
      });
    }
    const values = await Promise.all([...held, variable.value].map((tensor) => tensor.data()));
    expect(values.map((value) => [...value])).toEqual([1, 2, 4, 8, 16, 32].map((factor) => [factor, 2 * factor]));
    for (const tensor of held) tensor.dispose();
    variable.dispose();
  });

  test("an earlier result is not overwritten by the next call of the same kernel", async () => {
    using first = from([1, 2]).add(from([1, 1]));
    using second = from([5, 6]).add(from([1, 1]));
    using both = first.add(second);
    expect([...(await first.data())]).toEqual([2, 3]);
    expect([...(await second.data())]).toEqual([6, 7]);
    expect([...(await both.data())]).toEqual([8, 10]);
  });

  test("a power of a negative number has the sign of an odd one", async () => {
    const bases = [-2, -2, -2, -2, -3, -1, 0, -0.5, 2];
    const exponents = [3, 2, -1, 0, 5, 1001, 0, 2, -2];
    expect(await read(() => from(bases).power(from(exponents)))).toBeAllclose([-8, 4, -0.5, 1, -243, -1, 1, 0.25, 0.25]);
    expect(await numbers(() => from([-2, -0.1]).power(from([0.5, 1.5])))).toEqual([NaN, NaN]);
  });

  test("a large number's tanh is 1", async () => {
    expect(await numbers(() => from([100, -100, 44, -44, 1e30, -1e30, 0]).tanh())).toEqual([1, -1, 1, -1, 1, -1, 0]);
    expect(await numbers(() => from([100, -100, 1e30, -1e30]).sigmoid())).toEqual([1, 0, 1, 0]);
    expect(await numbers(() => from([-1000, 1000]).softplus())).toEqual([0, 1000]);
  });

  test("the logarithm of 0 is none that could be mistaken for another one's", async () => {
    // WGSL leaves it to the driver: most give -Infinity, some the logarithm of the smallest normal number, which is -87.3, or less.
    const [zero, one] = await numbers(() => from([0, 1]).log());
    expect(zero).toBeLessThan(-87);
    expect(one).toBe(0);
  });

  test("NaN is not lost in comparisons, whatever a driver makes of them", async () => {
    const at = (i: number): Tensor => from([0, 1, 2, 3, 4].map((value, j) => (i === j ? NaN : value - 2)));
    for (let i = 0; i < 5; i++) {
      const kept = [0, 1, 2, 3, 4].map((j) => i === j);
      for (const f of [
        (x: Tensor) => x.relu(),
        (x: Tensor) => x.maximum(0),
        (x: Tensor) => x.minimum(0),
        (x: Tensor) => Tensor.zeros([5], { backend }).maximum(x),
        (x: Tensor) => Tensor.zeros([5], { backend }).minimum(x),
      ])
        expect((await numbers(() => f(at(i)))).map(Number.isNaN)).toEqual(kept);
      expect(await numbers(() => at(i).max())).toEqual([NaN]);
      expect(await numbers(() => at(i).argmax())).toEqual([i]);
      expect(await numbers(() => at(i).sum())).toEqual([NaN]);
      expect(await numbers(() => maxPool2d(at(i).reshape([1, 1, 5, 1]), [1, 5]))).toEqual([NaN]);
    }
    const long = new Float32Array(10_000).fill(-1);
    long[7777] = NaN;
    using x = Tensor.from(long, { backend });
    expect(await numbers(() => x.max())).toEqual([NaN]);
    expect(await numbers(() => x.argmax())).toEqual([7777]);
  });

  test("numbers reach the argument of their place, each as what it is", async () => {
    const mix = portable(
      "mix",
      { a: "array", b: "array", zebra: "float", n: "integer", apple: "float", m: "integer" },
      "return a[this.thread.x + n] * zebra + b[this.thread.x + m] * apple;",
    );
    using a = from([1, 2, 3, 4]);
    using b = from([100, 200, 300, 400]);
    // The order of the values does not matter.
    const values = { m: 2, apple: 0.25, b: b.storage.buffer as DeviceArray, n: 1, a: a.storage.buffer as DeviceArray, zebra: 0.5 };
    expect([...(await computed(backend, mix, [2], values))]).toEqual([1 + 75, 1.5 + 100]);
    const same = portable("same places", { n: "integer", x: "float", m: "integer" }, "return n * 100 + m * 10 + x;");
    expect([...(await computed(backend, same, [1], { x: 0.5, m: 2, n: 3 }))]).toEqual([320.5]);
    expect([...(await computed(backend, same, [1], { x: 0.5, m: 3, n: 2 }))]).toEqual([230.5]);
  });

  test("threads of three extents compute the elements of their places", async () => {
    const places = portable("places", {}, "return this.thread.x + 10 * this.thread.y + 100 * this.thread.z;");
    const expected = [0, 1, 2, 3].flatMap((z) => [0, 1, 2].flatMap((y) => [0, 1].map((x) => x + 10 * y + 100 * z)));
    expect([...(await computed(backend, places, [2, 3, 4], {}))]).toEqual(expected);
  });

  describe.each([true, false])("with kernels in WGSL: %s", (overrides) => {
    test("randomness is the reference's, bit for bit", async () => {
      const device = await open({ overrides });
      const reference = openReference();
      for (const draw of ["uniform", "normal"] as const) {
        const [own, others] = [new Generator(2 ** 40 + 5), new Generator(2 ** 40 + 5)];
        for (const shape of [[1], [3, 5], [10_001]]) {
          const expected = await read(() => others[draw](shape, { backend: reference }));
          expect(await read(() => own[draw](shape, { backend: device }))).toHaveSameBits(expected);
        }
      }
    });
  });
});

import fc from "fast-check";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import type { GpuBackend } from "../../../src/tensor/backends/gpu/index.ts";
import {
  portable,
  type ArgumentsOf,
  type DeviceArray,
  type PortableKernel,
  type Takes,
  type Threads,
} from "../../../src/tensor/backends/gpu/kernel.ts";
import {
  apply,
  BackendError,
  Generator,
  maxPool2d,
  Tensor,
  tidy,
  Variable,
  type KernelName,
  type TypedArray,
} from "../../../src/tensor/index.ts";
import { samples, type Sample } from "../../samples.ts";
import { equalsDefinition, requireNear } from "./checks.ts";

/*
 * What gpu.js and graphics drivers get wrong in silence, one case each, named by what would be wrong: mostly without kernels in WGSL, which
 * do not come this way. They throw what is wrong, since in a browser there is no test runner. What concerns the text of kernels is in
 * dialect.test.ts, and tensors that are dropped in forgotten.test.ts. What build tools make of functions cannot touch kernels, which are text:
 * the page of test/browser is a minified bundle.
 */

const HELD = 2 ** 24; // float32 holds whole numbers up to here

/** Reads what `f` makes, which is disposed then. */
async function read(f: () => Tensor): Promise<TypedArray> {
  using y = tidy(f);
  return await y.data();
}

const numbers = async (f: () => Tensor): Promise<number[]> => [...(await read(f))];

function check(holds: boolean, message: string): void {
  if (!holds) throw new Error(message);
}

function same(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  requireNear(actual, expected, 0);
}

function sameAs(actual: ArrayLike<number>, expected: (i: number) => number): void {
  for (let i = 0; i < actual.length; i++) {
    if (!Object.is(actual[i], expected(i))) throw new Error(`element ${i} is ${actual[i]}, expected ${expected(i)}`);
  }
}

function thrownBy(f: () => unknown): unknown {
  try {
    f();
  } catch (error) {
    return error;
  }
  return undefined;
}

interface Bench {
  readonly backend: GpuBackend;
  readonly from: (data: number[], shape?: readonly number[]) => Tensor;
  /** What a kernel computes for threads of these extents. */
  readonly computed: <T extends Takes>(kernel: PortableKernel<T>, threads: Threads, values: ArgumentsOf<T>) => Promise<TypedArray>;
}

function benchOf(backend: GpuBackend): Bench {
  return {
    backend,
    from: (data, shape = [data.length]) => Tensor.from(data, { shape, backend }),
    computed: (kernel, threads, values) =>
      read(() => {
        const y = Tensor.zeros([threads.reduce<number>((product, extent = 1) => product * extent, 1)], { backend });
        backend.queue.run(kernel, threads, y.storage.buffer as DeviceArray, values);
        return y;
      }),
  };
}

const cases: Readonly<Record<string, (bench: Bench) => Promise<void> | void>> = {
  "a loop whose bound is an argument runs more than 1000 rounds": async ({ backend, computed }) => {
    const count = portable("count", { n: "integer" }, "let total = 0; for (let i = 0; i < n; i++) { total += 1; } return total;");
    for (const n of [999, 1000, 1001, 1500, 100_000]) same(await computed(count, [1], { n }), [n]);
    const product = await numbers(() => Tensor.ones([2, 1500], { backend }).matmul(Tensor.ones([1500, 2], { backend })));
    same(product, [1500, 1500, 1500, 1500]);
    same(await numbers(() => Tensor.ones([5000], { backend }).sum()), [5000]);
  },

  "integer arguments above 2²⁴ keep their last digits": async ({ from, computed }) => {
    const pick = portable("pick", { x: "array", n: "integer", m: "integer" }, "return x[this.thread.x * n - m];");
    using x = from([10, 11, 12, 13, 14]);
    const picked = (n: number, m: number): Promise<TypedArray> => computed(pick, [2], { x: x.storage.buffer as DeviceArray, n, m });
    // Only the second thread's place is that of an element: the other one reads some element or other.
    for (const n of [HELD + 1, HELD + 3, 2 ** 30 + 1, 2 ** 31 - 1])
      for (const i of [0, 1, 2, 4]) same((await picked(n, n - i)).subarray(1), [10 + i]);
  },

  "an index that was read from an array is an integer in places beyond 2²⁴, too": async ({ from, computed }) => {
    const rowOf = portable(
      "rows",
      { x: "array", indices: "array", row: "integer", start: "integer" },
      "const index = indices[this.thread.x]; return x[whole(index) * row - start];",
    );
    using x = from([10, 11, 12, 13, 14]);
    const [array, row] = [x.storage.buffer as DeviceArray, HELD / 2 + 1];
    for (const index of [1, 3, 101, 255]) {
      using indices = from([index]);
      for (const i of [0, 1, 2, 4])
        same(await computed(rowOf, [1], { x: array, indices: indices.storage.buffer as DeviceArray, row, start: index * row - i }), [
          10 + i,
        ]);
    }
  },

  "places beyond 2²⁴ elements are those of neighbours, not of every other one": async ({ backend }) => {
    const size = HELD + 7;
    const data = Float32Array.from({ length: size }, (_, i) => i % 1013);
    using x = Tensor.from(data, { backend });
    using y = x.add(1); // walks by strides
    using z = y.add(x);
    sameAs(await z.data(), (i) => 2 * (i % 1013) + 1);
    const tail = await numbers(() => z.slice([HELD - 3], [10]));
    sameAs(tail, (i) => 2 * ((HELD - 3 + i) % 1013) + 1);
    sameAs(await read(() => Tensor.full([size], 3, { backend })), () => 3);
  },

  "whole numbers of a range are exact wherever they lie": async ({ backend }) => {
    const size = HELD + 7;
    sameAs(await read(() => Tensor.arange(size, { start: -HELD, dtype: "int32", backend })), (i) => i - HELD);
  },

  "places beyond 2²⁴, which float32 rounds, are refused as results and as indices": ({ backend }) => {
    using x = Tensor.zeros([HELD + 1], { backend });
    using image = x.reshape([1, HELD + 1, 1, 1]);
    using indices = Tensor.zeros([1], { dtype: "int32", backend });
    using one = Tensor.ones([1], { backend });
    for (const [name, f] of [
      ["argmax", () => x.argmax()],
      ["maxPool2d", () => maxPool2d(image, [HELD + 1, 1])],
      ["scatterAdd", () => one.scatterAdd(indices, HELD + 1)],
    ] as const) {
      const error = thrownBy(f);
      const says = error instanceof BackendError && new RegExp(`gpu: ${name} .*16777217.*2²⁴.*"wasm"`).test(error.message);
      check(says, `${name} throws ${String(error)}`);
    }
  },

  "integers are divided as integers, where float32 would round up (165 / 15 = 11.000001)": async ({ computed }) => {
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
        sameAs(await computed(quotients, [threads], { start, divisor, base }), (i) => Math.floor((start + i) / divisor) - base);
        // What comes out is float32, which holds no larger remainders.
        if (divisor > HELD) continue;
        sameAs(await computed(remainders, [threads], { start, divisor }), (i) => (start + i) % divisor);
      }
    }
  },

  "a kernel computes as many elements as it is asked for, whatever it was asked for before": async ({ backend, from }) => {
    for (const size of [5, 70_000, 5, 3]) {
      const data = Float32Array.from({ length: size }, (_, i) => i - 2);
      const y = await read(() => Tensor.from(data, { backend }).relu());
      check(y.length === size, `${y.length} elements, expected ${size}`);
      sameAs(y, (i) => Math.max(0, i - 2));
    }
    // Two calls with nothing awaited in between.
    using small = tidy(() => from([-1, 1, 2]).relu());
    using large = tidy(() => from([-1, 1, 2, 3, 4]).relu());
    same(await small.data(), [0, 1, 2]);
    same(await large.data(), [0, 1, 2, 3, 4]);
  },

  "a kernel whose first two calls are not awaited computes as many elements as each is asked for": async ({ backend }) => {
    const fresh = portable("nobody has called this before", { scale: "float" }, "return scale * (this.thread.x + 1);");
    using small = Tensor.zeros([5], { backend });
    using large = Tensor.zeros([5], { backend });
    backend.queue.run(fresh, [3], small.storage.buffer as DeviceArray, { scale: 1 });
    backend.queue.run(fresh, [5], large.storage.buffer as DeviceArray, { scale: 10 });
    const [first, second] = await Promise.all([small.data(), large.data()]);
    same(first.subarray(0, 3), [1, 2, 3]);
    same(second, [10, 20, 30, 40, 50]);
  },

  "a smaller argument than last time has no stale tail": async ({ backend, from }) => {
    same(await numbers(() => from([9, 9, 9, 9]).sum()), [36]);
    same(await numbers(() => from([3, 4]).sum()), [7]);
    same(await numbers(() => from([-3, -4]).max()), [-3]);
    same(await numbers(() => from([-3, -4]).argmax()), [0]);
    same(await numbers(() => from([3, 4]).gather(Tensor.from([1, 0, 1], { dtype: "int32", backend }))), [4, 3, 4]);
    same(await numbers(() => from([3, 4], [1, 2]).matmul(from([1, 1], [2, 1]))), [7]);
  },

  "what lies behind an operand in its block is not read": async ({ backend }) => {
    const names = [
      "sum",
      "max",
      "argmax",
      "logSoftmax",
      "softmaxCrossEntropy",
      "squaredError",
      "batchNorm",
      "gather",
      "scatterAdd",
    ] as const;
    const windows = ["conv2d", "im2col", "patchCovariance", "maxPool2d", "maxPool2dScatter", "averagePool2d"] as const;
    for (const name of [...names, ...windows, "pad", "concat", "slice", "matmul", "linear", "gram"] as const) {
      await onPoisonedBlocks(name, backend, 2);
    }
  },

  "an index out of range reads nothing from outside, and adds nothing": async ({ backend, from }) => {
    const integers = (data: number[], shape: readonly number[] = [data.length]): Tensor =>
      Tensor.from(data, { shape, dtype: "int32", backend });
    const x = (): Tensor => from([1, 2, 3, 4, 5, 6], [3, 2]);
    const wild = [-1, 3, HELD, -HELD, 1];
    same(await numbers(() => x().gather(integers(wild))), [1, 2, 5, 6, 5, 6, 1, 2, 3, 4]);
    const ones = (): Tensor => Tensor.ones([5, 2], { backend });
    same(await numbers(() => ones().scatterAdd(integers(wild), 3)), [0, 0, 1, 1, 0, 0]);

    // A label that is none has no term of its own in the loss, and takes nothing from the gradient.
    const params = { smoothing: 0, smoothingKind: "uniform" } as const;
    const labels = (): Tensor => integers([2, -1, 3]);
    const logits = (): Tensor => from([0, 0, 0, 0, 0, 0, 0, 0, 0], [3, 3]);
    requireNear(await read(() => apply("softmaxCrossEntropy", [logits(), labels()], params)[0]), [Math.log(3), 0, 0], 1e-6);
    const third = 1 / 3;
    const gradient = await read(() => {
      const probabilities = apply("softmaxCrossEntropy", [logits(), labels()], params)[1];
      return apply("softmaxCrossEntropyGradient", [probabilities, labels(), Tensor.ones([3], { backend })], params)[0];
    });
    requireNear(gradient, [third, third, third - 1, third, third, third, third, third, third], 1e-6);

    // Of pooling, an index is a place in the image: nearest, and nowhere.
    const places = (): Tensor => integers([-1, 4, HELD, 2], [1, 2, 2, 1]);
    const image = (): Tensor => from([1, 2, 3, 4], [1, 2, 2, 1]);
    same(await numbers(() => apply("maxPool2dGather", [image(), places()], {})[0]), [1, 4, 4, 3]);
    same(await numbers(() => apply("maxPool2dScatter", [image(), places()], { inputSize: [2, 2] })[0]), [0, 0, 4, 0]);
  },

  "a result in the place of its operand is computed from the operand": async ({ backend, from }) => {
    const { buffers } = backend.memory();
    let x = from([1, 2, 3, -4]);
    using one = Tensor.ones([4], { backend });
    using other = from([5, 6, 7, 8]);
    for (let step = 0; step < 3; step++) x = apply("linearCombination", [x, one], { a: 2, b: 1 }, { donate: [0] })[0];
    same(await x.data(), [15, 23, 31, -25]);
    [x] = apply("add", [x, x], {}, { donate: [0] });
    same(await x.data(), [30, 46, 62, -50]);
    [x] = apply("subtract", [other, x], {}, { donate: [1] });
    same(await x.data(), [-25, -40, -55, 58]);
    same(await other.data(), [5, 6, 7, 8]);
    same([backend.memory().buffers], [buffers + 3]);
    x.dispose();
  },

  "a variable's former value stays as it was for those who hold it": async ({ from }) => {
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
    values.forEach((value, step) => {
      same(value, [2 ** step, 2 ** (step + 1)]);
    });
    for (const tensor of held) tensor.dispose();
    variable.dispose();
  },

  "an earlier result is not overwritten by the next call of the same kernel": async ({ from }) => {
    using first = tidy(() => from([1, 2]).add(from([1, 1])));
    using second = tidy(() => from([5, 6]).add(from([1, 1])));
    using both = first.add(second);
    same(await first.data(), [2, 3]);
    same(await second.data(), [6, 7]);
    same(await both.data(), [8, 10]);
  },

  "nothing is kept of a result that was disposed, by its kernel neither": async ({ backend, from }) => {
    using x = from([1, 2, 3]);
    const { buffers, bytes } = backend.memory();
    for (let round = 0; round < 5; round++) {
      const y = tidy(() => x.add(round).exp());
      same([backend.memory().buffers], [buffers + 1]);
      await y.data();
      y.dispose();
      same([backend.memory().buffers, backend.memory().bytes], [buffers, bytes]);
    }
  },

  "a long sum keeps the digits that one number after the other would lose": async ({ backend }) => {
    const n = 2 ** 18;
    const data = Float32Array.from({ length: n }, (_, i) => 0.75 + ((i * 7919) % 1021) / 4096);
    const expected = data.reduce((total, v) => total + v, 0);
    // What the others must not be.
    let plain = 0;
    for (const v of data) plain = Math.fround(plain + v);
    check(Math.abs(plain - expected) > 1e-5 * expected, "a plain sum would do");
    using x = Tensor.from(data, { backend });
    using ones = Tensor.ones([n], { backend });
    using zeros = Tensor.zeros([n], { dtype: "int32", backend });
    for (const [name, f] of [
      ["sum", () => x.sum()],
      ["matmul", () => x.reshape([1, n]).matmul(ones.reshape([n, 1]))],
      ["linear", () => apply("linear", [x.reshape([1, n]), ones.reshape([1, n]), Tensor.zeros([1], { backend })], {})[0]],
      ["scatterAdd", () => x.scatterAdd(zeros, 1)],
      ["squaredError", () => apply("squaredError", [x.sqrt().reshape([1, n]), zeros.cast("float32").reshape([1, n])], {})[0]],
    ] as const) {
      const [found] = await read(f);
      check(Math.abs((found as number) - expected) < 1e-6 * expected, `${name} gives ${found}, expected ${expected}`);
    }
  },

  "sine and cosine are right to float32, near 0 and far from it": async ({ backend }) => {
    const near = Array.from({ length: 200 }, (_, i) => (i - 100) / 16);
    const far = Array.from({ length: 400 }, (_, i) => (i - 200) * 40.9);
    const turns = Array.from({ length: 64 }, (_, i) => (i - 32) * (Math.PI / 2));
    const x = Float32Array.from([...near, ...far, ...turns, 1e-20, -0, 8000, -8191]);
    const expected = (f: (v: number) => number): number[] => Array.from(x, f);
    requireNear(await read(() => Tensor.from(x, { backend }).sin()), expected(Math.sin), 1e-6);
    requireNear(await read(() => Tensor.from(x, { backend }).cos()), expected(Math.cos), 1e-6);
    const beyond = [2e5, -1e6, 1e9, -3e30];
    for (const y of await read(() => Tensor.from(beyond, { backend }).sin())) check(Math.abs(y) <= 1, `a sine is ${y}`);
    same(await numbers(() => Tensor.from([Infinity, NaN], { backend }).cos()), [NaN, NaN]);
  },

  "a power of a negative number has the sign of an odd one": async ({ from }) => {
    const bases = [-2, -2, -2, -2, -3, -1, 0, -0.5, 2];
    const exponents = [3, 2, -1, 0, 5, 1001, 0, 2, -2];
    requireNear(await read(() => from(bases).power(from(exponents))), [-8, 4, -0.5, 1, -243, -1, 1, 0.25, 0.25], 1e-6);
    same(await numbers(() => from([-2, -0.1]).power(from([0.5, 1.5]))), [NaN, NaN]);
  },

  "a large number's tanh is 1": async ({ from }) => {
    same(await numbers(() => from([100, -100, 44, -44, 1e30, -1e30, 0]).tanh()), [1, -1, 1, -1, 1, -1, 0]);
    same(await numbers(() => from([100, -100, 1e30, -1e30]).sigmoid()), [1, 0, 1, 0]);
    same(await numbers(() => from([-1000, 1000]).softplus()), [0, 1000]);
  },

  "a small tanh has all its digits": async ({ from }) => {
    const x = [1e-8, -1e-6, 1e-4, -0.01, 0.1, 0.3, -0.62, 0.63, 0.9, -2, 5, 8.9];
    for (const [i, y] of (await numbers(() => from(x).tanh())).entries()) {
      const ratio = y / Math.tanh(Math.fround(x[i] as number));
      check(Math.abs(ratio - 1) <= 8 * 2 ** -23, `tanh(${x[i]}) is ${ratio} times what it is`);
    }
    same(await numbers(() => from([NaN, 0]).tanh()), [NaN, 0]);
  },

  "what is no integer is cast to 0, on the device as where it is read": async ({ from }) => {
    const cast = (): Tensor => from([NaN, Infinity, -Infinity, -1.5, 2.9, 0, 1e7]).cast("int32");
    same(await numbers(cast), [0, 0, 0, -1, 2, 0, 1e7]);
    same(await numbers(() => cast().equal(0)), [1, 1, 1, 0, 0, 1, 0]);
    same(await numbers(() => cast().cast("float32")), [0, 0, 0, -1, 2, 0, 1e7]);
  },

  "a small softplus has all its digits": async ({ from }) => {
    const x = Array.from({ length: 81 }, (_, i) => (i - 60) / 1.0078125);
    const ratios = (await numbers(() => from(x).softplus())).map((y, i) => y / (Math.max(0, x[i] as number) + Math.log1p(Math.exp(-Math.abs(x[i] as number))))); // prettier-ignore
    // WGSL allows exp(x) an error of 3 + 2|x| units in the last place.
    for (const [i, ratio] of ratios.entries()) {
      const allowed = (8 + 2 * Math.abs(x[i] as number)) * 2 ** -23;
      check(Math.abs(ratio - 1) <= allowed, `softplus(${x[i]}) is ${ratio} times what it is`);
    }
  },

  "the logarithm of 0 is none that could be mistaken for another one's": async ({ from }) => {
    // WGSL leaves it to the driver: most give -Infinity, some the logarithm of the smallest normal number, which is -87.3, or less.
    const [zero, one] = await numbers(() => from([0, 1]).log());
    check((zero as number) < -87 && one === 0, `log 0 is ${zero}, and log 1 ${one}`);
  },

  "NaN is not lost in comparisons, whatever a driver makes of them": async ({ backend, from }) => {
    const at = (i: number): Tensor => from([0, 1, 2, 3, 4].map((value, j) => (i === j ? NaN : value - 2)));
    for (let i = 0; i < 5; i++) {
      const kept = [0, 1, 2, 3, 4].map((j) => Number(i === j));
      for (const f of [
        (x: Tensor) => x.relu(),
        (x: Tensor) => x.maximum(0),
        (x: Tensor) => x.minimum(0),
        (x: Tensor) => Tensor.zeros([5], { backend }).maximum(x),
        (x: Tensor) => Tensor.zeros([5], { backend }).minimum(x),
      ])
        same(
          (await numbers(() => f(at(i)))).map((value) => Number(Number.isNaN(value))),
          kept,
        );
      same(await numbers(() => at(i).max()), [NaN]);
      same(await numbers(() => at(i).argmax()), [i]);
      same(await numbers(() => at(i).sum()), [NaN]);
      same(await numbers(() => maxPool2d(at(i).reshape([1, 1, 5, 1]), [1, 5])), [NaN]);
    }
    const long = new Float32Array(10_000).fill(-1);
    long[7777] = NaN;
    using x = Tensor.from(long, { backend });
    same(await numbers(() => x.max()), [NaN]);
    same(await numbers(() => x.argmax()), [7777]);
  },

  "numbers reach the argument of their place, each as what it is": async ({ from, computed }) => {
    const mix = portable(
      "mix",
      { a: "array", b: "array", zebra: "float", n: "integer", apple: "float", m: "integer" },
      "return a[this.thread.x + n] * zebra + b[this.thread.x + m] * apple;",
    );
    using a = from([1, 2, 3, 4]);
    using b = from([100, 200, 300, 400]);
    // The order of the values does not matter.
    const values = { m: 2, apple: 0.25, b: b.storage.buffer as DeviceArray, n: 1, a: a.storage.buffer as DeviceArray, zebra: 0.5 };
    same(await computed(mix, [2], values), [1 + 75, 1.5 + 100]);
    const places = portable("same places", { n: "integer", x: "float", m: "integer" }, "return n * 100 + m * 10 + x;");
    same(await computed(places, [1], { x: 0.5, m: 2, n: 3 }), [320.5]);
    same(await computed(places, [1], { x: 0.5, m: 3, n: 2 }), [230.5]);
  },

  "threads of three extents compute the elements of their places": async ({ computed }) => {
    const places = portable("places", {}, "return this.thread.x + 10 * this.thread.y + 100 * this.thread.z;");
    const expected = [0, 1, 2, 3].flatMap((z) => [0, 1, 2].flatMap((y) => [0, 1].map((x) => x + 10 * y + 100 * z)));
    same(await computed(places, [2, 3, 4], {}), expected);
  },

  "randomness is the reference's, bit for bit": async ({ backend }) => {
    const reference = openReference();
    for (const draw of ["uniform", "normal"] as const) {
      const [own, others] = [new Generator(2 ** 40 + 5), new Generator(2 ** 40 + 5)];
      for (const shape of [[1], [3, 5], [10_001]]) {
        const expected = await read(() => others[draw](shape, { backend: reference }));
        same(await read(() => own[draw](shape, { backend })), expected);
      }
    }
  },
};

/** A primitive on samples whose blocks hold NaN behind what they are asked to hold: a kernel that read any of it would show. */
export async function onPoisonedBlocks(name: KernelName, backend: GpuBackend, numRuns: number): Promise<void> {
  await fc.assert(
    fc.asyncProperty(samples[name], async (sample: Sample<typeof name>) => {
      const blocks: Tensor[] = [];
      for (let size = 64; size <= 1024; size *= 2) {
        const nans = new Float32Array(size).fill(NaN);
        for (let i = 0; i < 12; i++) blocks.push(Tensor.from(nans, { backend }));
      }
      for (const block of blocks) block.dispose(); // to be taken for the operands, and for the result
      await equalsDefinition(name, sample, backend);
    }),
    { numRuns, seed: 20260101, includeErrorInReport: true },
  );
}

export const traps = Object.keys(cases);

/** @throws Error for what is wrong. */
export async function avoids(trap: string, backend: GpuBackend): Promise<void> {
  await (cases[trap] as (typeof cases)[string])(benchOf(backend));
}

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import type { WebGpuBackend as GpuBackend } from "../../../src/tensor/backends/gpu/index.ts";
import { portable, type DeviceArray } from "../../../src/tensor/backends/gpu/kernel.ts";
import { WebGpuQueue } from "../../../src/tensor/backends/gpu/webgpu.ts";
import type { GpuJs } from "../../../src/tensor/backends/gpu/compiler.ts";
import type { WgslKernel } from "../../../src/tensor/backends/gpu/queue.ts";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import { BackendError, DTypeError, Tensor, tidy } from "../../../src/tensor/index.ts";
import { describeOnGpu } from "./gpu.ts";
import { thrown } from "./refusals.ts";

/* What the queue and the memory of a device promise: order, refusals that say what to do, and that everything comes back. */

const arrayOf = (tensor: Tensor): DeviceArray => tensor.storage.buffer as DeviceArray;
const values = async (tensor: Tensor): Promise<number[]> => [...(await tensor.data())];

describeOnGpu("a GPU's queue", (open) => {
  let backend: GpuBackend;
  let atStart: number;
  beforeAll(async () => {
    backend = await open();
    atStart = backend.memory().buffers;
  });
  afterAll(() => {
    expect(backend.memory().buffers).toBe(atStart);
  });
  const from = (data: number[]): Tensor => Tensor.from(data, { backend });

  test("float64 is refused by name", async () => {
    using x = from([1, 2]);
    for (const [name, f] of [
      ["Tensor.from", () => Tensor.from(new Float64Array(2), { backend })],
      ["fill", () => Tensor.zeros([2], { dtype: "float64", backend })],
      ["arange", () => Tensor.arange(2, { dtype: "float64", backend })],
      ["cast", () => x.cast("float64")],
    ] as const) {
      const error = await thrown(f);
      expect(error).toBeInstanceOf(DTypeError);
      expect(error.message).toMatch(new RegExp(`^gpu: ${name} wants float64.*cast to float32.*"wasm"`));
    }
  });

  test("int32 that float32 cannot hold is refused; up to 2²⁴ it is exact", async () => {
    const device = await open();
    const int32 = { dtype: "int32", backend: device } as const;
    const most = 2 ** 24;
    for (const f of [
      () => Tensor.from([1, most + 1], int32),
      () => Tensor.from(Int32Array.of(-most - 1), { backend: device }),
      () => Tensor.full([2], most + 1, int32),
      () => Tensor.arange(3, { start: most - 1, ...int32 }),
      () => Tensor.arange(3, { start: -most, step: -1, ...int32 }),
    ]) {
      const error = await thrown(f);
      expect(error).toBeInstanceOf(BackendError);
      expect(error.message).toMatch(/^gpu: (Tensor.from|fill|arange) has the int32 -?1677721[78].*16777216 \(2²⁴\).*"wasm"/);
    }
    using x = Tensor.from([most, -most, most - 1], int32);
    expect(await x.data()).toEqual(Int32Array.of(most, -most, most - 1));
    using range = Tensor.arange(3, { start: most - 2, ...int32 });
    expect(await range.data()).toEqual(Int32Array.of(most - 2, most - 1, most));
  });

  test("a tensor that no kernel could see whole is refused by name, with the limit", async () => {
    const { maxStorageBufferBindingSize, maxBufferSize } = backend.device.limits;
    const limit = Math.min(maxStorageBufferBindingSize, maxBufferSize);
    const most = Math.floor(limit / 4);
    using x = from([1]);
    for (const [name, f] of [
      ["fill", () => Tensor.zeros([most + 1], { backend })],
      ["broadcastTo", () => x.broadcastTo([most + 1])],
    ] as const) {
      const error = await thrown(f);
      expect(error).toBeInstanceOf(BackendError);
      expect(error.message).toContain(`gpu: ${name} needs ${4 * (most + 1)} bytes`);
      const by = limit === maxStorageBufferBindingSize ? "maxStorageBufferBindingSize" : "maxBufferSize";
      expect(error.message).toContain(`at most ${limit} (${by})`);
    }
  });

  test.each([
    ["maxBufferSize", 4096, 1000],
    ["maxStorageBufferBindingSize", 1000, 4096],
    ["maxStorageBufferBindingSize", 1003, 4096], // of which a binding can have 1000
  ])("the limit that is named is the smaller one: %s", async (name, maxStorageBufferBindingSize, maxBufferSize) => {
    const device = {
      limits: { maxStorageBufferBindingSize, maxBufferSize },
      lost: new Promise(() => undefined),
      pushErrorScope: () => undefined,
      createBuffer: () => ({}),
      createBindGroupLayout: () => ({}),
      createBindGroup: () => ({}),
    };
    const { memory } = new WebGpuQueue(device as unknown as GPUDevice, {} as GpuJs, true);
    expect((await thrown(() => memory.take(1001, "fill"))).message).toContain(`gpu: fill needs 1001 bytes in one tensor`);
    expect((await thrown(() => memory.take(1001, "fill"))).message).toContain(`see at most 1000 (${name})`);
  });

  test("a kernel of more workgroups than an axis has computes every element, and once", async () => {
    const size = 65535 * 64 + 100;
    const count = portable("count", { x: "array" }, "return x[this.thread.x] + this.thread.x;");
    using x = Tensor.full([size], 0.5, { backend });
    using y = Tensor.zeros([size], { backend });
    backend.queue.run(count, [size], arrayOf(y), { x: arrayOf(x) });
    expect((await y.data()).findIndex((value, i) => value !== i + 0.5)).toBe(-1);
    using sum = x.sum();
    expect(await sum.item()).toBe(size / 2);
  });

  test("WGSL is refused more workgroups than an axis has", async () => {
    const none: WgslKernel = { name: "too wide", code: "@compute @workgroup_size(1) fn main() {}", reads: 0, writes: 0 };
    const error = await thrown(() => backend.queue.runWgsl(none, [1, 65536, 1], [], [], []));
    expect(error).toBeInstanceOf(BackendError);
    expect(error.message).toMatch(/too wide would take 65536 workgroups.*65535; use a smaller batch, or .*overrides: false/);
  });

  test("operands of two backends are refused", async () => {
    const reference = openReference();
    using x = from([1]);
    using y = Tensor.from([1], { backend: reference });
    const [one, other] = [await thrown(() => x.add(y)), await thrown(() => y.add(x))];
    for (const error of [one, other]) expect(error).toBeInstanceOf(BackendError);
    expect(one.message).toContain('add: operands live on "gpu" and "reference"');
    expect(other.message).toContain('add: operands live on "reference" and "gpu"');
    using z = Tensor.from([1], { backend: await open() });
    expect((await thrown(() => x.add(z))).message).toContain('add: operands live on "gpu" and another "gpu"');
  });

  test("an upload does not overtake kernels that still read what its block held", async () => {
    const size = 3000;
    const results: Tensor[] = [];
    const blocks = new Set<unknown>();
    for (let round = 1; round <= 20; round++) {
      const x = Tensor.from(new Float32Array(size).fill(round), { backend });
      blocks.add(arrayOf(x).block);
      results.push(x.multiply(x));
      x.dispose(); // the next round's data would go where this one's were, before anything is submitted
    }
    expect(blocks.size).toBe(20);
    for (const [i, result] of results.entries()) {
      expect(new Set(await result.data())).toEqual(new Set([(i + 1) ** 2]));
      result.dispose();
    }
  });

  test("neither an upload nor a kernel overtakes a read that is under way", async () => {
    const array = backend.alloc("float32", 3);
    const twice = portable("twice", { x: "array" }, "return 2 * x[this.thread.x];");
    using y = Tensor.zeros([3], { backend });
    backend.upload(array, Float32Array.of(1, 2, 3));
    const before = backend.download(array);
    backend.upload(array, Float32Array.of(4, 5, 6));
    const between = [backend.download(array), backend.download(array)];
    backend.queue.run(twice, [3], arrayOf(y), { x: array });
    backend.queue.run(portable("seven", {}, "return 7;"), [3], array, {});
    const after = backend.download(array);
    backend.free(array);
    const read = await Promise.all([before, ...between, after, y.data()]);
    expect(read.map((data) => [...data])).toEqual([
      [1, 2, 3],
      [4, 5, 6],
      [4, 5, 6],
      [7, 7, 7],
      [8, 10, 12],
    ]);
  });

  test("operations across batches of 256 come one after the other", async () => {
    for (const count of [255, 256, 257, 300, 700]) {
      let x = from([0, 1]);
      for (let i = 0; i < count; i++) {
        const next = tidy(() => (i % 2 === 0 ? x.add(1) : x.add(x.multiply(0)).add(2)));
        x.dispose();
        x = next;
      }
      const total = Math.ceil(count / 2) + 2 * Math.floor(count / 2);
      expect(await values(x)).toEqual([total, total + 1]);
      x.dispose();
    }
  });

  test("kernels are submitted once there are 256 of them, or their results have 256 MiB, and when something is read", async () => {
    const mebibyte = 2 ** 20;
    const set = portable("set", { value: "float" }, "return value;");
    const code = `@group(0) @binding(0) var<storage, read_write> y : array<f32>;
      @compute @workgroup_size(1) fn main() { y[0] = 7.0; }`;
    const raw: WgslKernel = { name: "set to 7", code, reads: 0, writes: 1 };
    const large = backend.alloc("float32", 16 * mebibyte);
    const small = backend.alloc("float32", 1);
    const { queue } = backend;
    queue.flush();
    const submit = vi.spyOn(backend.device.queue, "submit");
    /** How many submissions `f`, repeated, leads to. */
    const submissions = (times: number, f: () => void): number => {
      const before = submit.mock.calls.length;
      for (let i = 0; i < times; i++) f();
      return submit.mock.calls.length - before;
    };
    try {
      const setSmall = (): void => queue.run(set, [1], small, { value: 1 });
      expect(submissions(255, setSmall)).toBe(0);
      expect(submissions(1, setSmall)).toBe(1);
      for (const setLarge of [
        () => queue.run(set, [1], large, { value: 3 }),
        () => queue.runWgsl(raw, [1, 1, 1], [], [large], []),
      ] as const) {
        expect(submissions(3, setLarge)).toBe(0);
        expect(submissions(1, setLarge)).toBe(1);
        expect(submissions(3, setLarge)).toBe(0);
        expect(submissions(200, setSmall)).toBe(0);
        expect(submissions(1, setLarge)).toBe(1);
      }
      expect(submissions(10, setSmall)).toBe(0);
      expect([...(await backend.download(small))]).toEqual([1]);
      expect(submissions(255, setSmall)).toBe(0);
      queue.flush();
    } finally {
      submit.mockRestore();
      for (const array of [large, small]) backend.free(array);
    }
  });

  test("numbers of a kernel's arguments are those of its own call", async () => {
    const fills = Array.from({ length: 600 }, (_, i) => Tensor.full([1], i, { backend }));
    const read = await Promise.all(fills.map((fill) => fill.item()));
    expect(read).toEqual(Array.from({ length: 600 }, (_, i) => i));
    for (const fill of fills) fill.dispose();
  });

  test("of a temporary that was written to, the block that it has in the end comes back", () => {
    const { queue } = backend;
    const size = 5 * 2 ** 20; // no other test has blocks of that size
    const { buffers, bytes } = backend.memory();
    const blocks = queue.temporary(size, "a test", (array) => {
      const first = array.block;
      queue.run(portable("zero", {}, "return 0;"), [1], array, {});
      queue.write(array, Float32Array.of(1));
      return [first, array.block];
    });
    expect(blocks[0]).not.toBe(blocks[1]);
    expect(backend.memory()).toMatchObject({ buffers, bytes });
    const arrays = [1, 2, 3].map(() => backend.alloc("float32", size));
    expect(new Set(arrays.map(({ block }) => block)).size).toBe(3);
    expect(arrays.map(({ block }) => block)).toEqual(expect.arrayContaining(blocks));
    for (const array of arrays) backend.free(array);
  });

  test("buffers come back, and are used again", async () => {
    const work = (): Promise<number> => {
      using y = tidy(() => {
        const x = Tensor.arange(6000, { backend }).reshape([60, 100]);
        return x.matmul(x, { transposeB: true }).softmax().argmax().cast("float32").sum();
      });
      return y.item();
    };
    const { buffers, bytes } = backend.memory();
    const first = await work();
    const { pooledBytes } = backend.memory();
    for (let round = 0; round < 20; round++) expect(await work()).toBe(first);
    const after = backend.memory();
    expect(after.buffers).toBe(buffers);
    expect(after.bytes).toBe(bytes);
    expect(after.pooledBytes).toBe(pooledBytes);
    expect(after.peakBuffers).toBeGreaterThan(buffers);
    backend.resetPeak();
    expect(backend.memory().peakBuffers).toBe(buffers);
  });

  test("what an operation took before it failed comes back", async () => {
    const { buffers } = backend.memory();
    for (let round = 0; round < 3; round++) {
      await thrown(() => Tensor.full([2], 2 ** 24 + 1, { dtype: "int32", backend }));
      await thrown(() => Tensor.from(new Float64Array(2), { backend }));
    }
    expect(backend.memory().buffers).toBe(buffers);
  });

  test("what an upload took before it was refused comes back", async () => {
    const device = await open();
    await thrown(() => Tensor.from([2 ** 24 + 1], { dtype: "int32", backend: device }));
    expect(device.memory().buffers).toBe(0);
  });

  test("tensors that everybody has forgotten are reclaimed", async () => {
    setFlagsFromString("--expose-gc");
    const collectGarbage = runInNewContext("gc") as () => void;
    const { buffers } = backend.memory();
    const forget = (): void => {
      for (let i = 0; i < 10; i++) from([i]).exp();
    };
    forget();
    expect(backend.memory().buffers).toBe(buffers + 20);
    await vi.waitFor(
      () => {
        collectGarbage();
        expect(backend.memory().buffers).toBe(buffers);
      },
      { timeout: 10_000 },
    );
  });

  test("more freed memory than is kept is given back to the device, but not before what still reads it", async () => {
    const mebibyte = 2 ** 20;
    const set = portable("set", { value: "float" }, "return value;");
    const get = portable("get", { x: "array" }, "return x[0];");
    const arrays = Array.from({ length: 9 }, (_, i) => {
      const array = backend.alloc("float32", 16 * mebibyte);
      backend.queue.run(set, [1], array, { value: i });
      return array;
    });
    const read = arrays.map(async (array) => {
      using first = Tensor.zeros([1], { backend });
      backend.queue.run(get, [1], arrayOf(first), { x: array });
      return await first.item();
    });
    using last = Tensor.zeros([1], { backend });
    backend.queue.run(get, [1], arrayOf(last), { x: arrays[8] as DeviceArray });
    for (const array of arrays) backend.free(array);
    expect(backend.memory().pooledBytes).toBeLessThanOrEqual(512 * mebibyte);
    expect(await Promise.all(read)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
    expect(await last.item()).toBe(8);
  });
});

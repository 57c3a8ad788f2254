import ndarray from "ndarray";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { Engine } from "../../../src/tensor/backends/wasm/engine.ts";
import { planEngine } from "../../../src/tensor/backends/wasm/plan.ts";
import { openWasm, type WasmBackend, type WasmOptions } from "../../../src/tensor/backends/wasm/index.ts";
import { BatchNorm2d, Conv2d, crossEntropy, Flatten, Linear, MaxPool2d, ReLU, Sequential } from "../../../src/nn/index.ts";
import { Adam, Kfac, Sgd, type Optimizer } from "../../../src/optim/index.ts";
import type { Parameter } from "../../../src/nn/index.ts";
import {
  apply,
  BackendError,
  defaultBackend,
  Generator,
  openBackend,
  setDefaultBackend,
  Tensor,
  tidy,
  UsageError,
  type Backend,
  type TypedArray,
} from "../../../src/tensor/index.ts";
import { cut, openEngine, openUnshared } from "./engines.ts";

/* The engine as a whole: what it needs to open, its memory, and trainings on it. */

const MIB = 2 ** 20;

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  vi.unstubAllGlobals();
});

/** Opens an engine to look at it. */
function looking<T>(options: WasmOptions, look: (backend: WasmBackend) => T): T {
  const backend = openWasm(options);
  try {
    return look(backend);
  } finally {
    backend.engine.close();
  }
}
const threadsOf = (options: WasmOptions): number => looking(options, ({ engine }) => engine.threads);

describe("an engine opens with", () => {
  test("the threads that it is told to, else KFACET_THREADS, else one a core", () => {
    expect(threadsOf({ threads: 3 })).toBe(3);
    vi.stubEnv("KFACET_THREADS", "5");
    expect(threadsOf({})).toBe(5);
    expect(threadsOf({ threads: 1 })).toBe(1);
    for (const nothing of ["", undefined]) {
      vi.stubEnv("KFACET_THREADS", nothing);
      vi.spyOn(process.getBuiltinModule("node:os"), "availableParallelism").mockReturnValue(2);
      expect(threadsOf({})).toBe(2);
    }
  });

  test.each([0, -1, 1.5, NaN, Infinity, 257])("no number of threads like %d", (threads) => {
    expect(() => openWasm({ threads })).toThrow(UsageError);
    expect(() => openWasm({ threads })).toThrow(`wasm: threads must be a whole number from 1 to 256 but is ${threads}`);
  });

  test.each(["x", "0", "1.5", "-2", " ", "2 threads"])('no KFACET_THREADS="%s"', async (threads) => {
    vi.stubEnv("KFACET_THREADS", threads);
    expect(() => openWasm()).toThrow(UsageError);
    expect(() => openWasm()).toThrow(`wasm: KFACET_THREADS must be a whole number from 1 to 256 but is ${threads}`);
    await expect(openBackend("wasm", {})).rejects.toThrow(UsageError);
  });

  test("a memory limit from 8 MiB to 4 GiB", () => {
    for (const memoryLimit of [0, -1, NaN, 2 ** 16, 2 ** 23 - 1, 2 ** 32 + 1]) {
      expect(() => openWasm({ memoryLimit })).toThrow(UsageError);
      expect(() => openWasm({ memoryLimit })).toThrow(`wasm: memoryLimit must be from 2²³ to 2³² bytes but is ${memoryLimit}`);
    }
    expect(threadsOf({ threads: 1, memoryLimit: 2 ** 23 })).toBe(1);
    expect(threadsOf({ threads: 1, memoryLimit: 2 ** 32 })).toBe(1);
  });

  test("no more threads than its memory has scratch for", () => {
    const open = (): unknown => openWasm({ threads: 4, memoryLimit: 2 ** 23 });
    expect(open).toThrow(UsageError);
    expect(open).toThrow("wasm: 4 threads need 17825792 bytes but memoryLimit is 8388608; use fewer threads, or raise it");
  });

  test("no WebAssembly and no SIMD are an error that says what to do", async () => {
    vi.spyOn(WebAssembly, "validate").mockReturnValue(false);
    const remedy = /has no 128-bit SIMD for WebAssembly; update it, or use the "reference" backend/;
    expect(() => openWasm()).toThrow(BackendError);
    expect(() => openWasm()).toThrow(remedy);
    await expect(openBackend("wasm", {})).rejects.toThrow(remedy);
    vi.stubGlobal("WebAssembly", undefined);
    expect(() => openWasm()).toThrow(BackendError);
    expect(() => openWasm()).toThrow(/has no WebAssembly; use the "reference" backend/);
  });

  test("no address space for its memory is an error that says what to do", () => {
    const { Memory } = WebAssembly;
    vi.spyOn(WebAssembly, "Memory").mockImplementation(
      class extends Memory {
        constructor() {
          super({ initial: 65537, maximum: 65537 });
        }
      },
    );
    expect(() => openWasm({ threads: 1 })).toThrow(BackendError);
    expect(() => openWasm({ threads: 1 })).toThrow(/no address space .*"reference" backend/);
  });

  test("no other precision than fast and exact", () => {
    const open = (): unknown => openWasm({ precision: "Exact" as "exact" });
    expect(open).toThrow(UsageError);
    expect(open).toThrow('wasm: precision must be "fast" or "exact" but is "Exact"');
  });

  test("memory whose end is an address too", () => {
    for (const memoryLimit of [undefined, 2 ** 32]) {
      const { pages } = planEngine({ threads: 1, ...(memoryLimit && { memoryLimit }) });
      expect(pages * 2 ** 16).toBe(2 ** 32 - 2 ** 16);
    }
  });

  test("kernels that may not be compiled are an error that says what to do", async () => {
    const blocked = (): never => {
      throw new Error("blocked by CSP");
    };
    vi.spyOn(WebAssembly, "compile").mockImplementation(() => Promise.resolve().then(blocked));
    vi.spyOn(WebAssembly, "Module").mockImplementation(function () {
      return blocked();
    });
    const message = /^wasm: the kernels cannot be compiled \(Error: blocked by CSP\); .*'wasm-unsafe-eval'; the "reference" backend/;
    await expect(openBackend("wasm", {})).rejects.toThrow(message);
    expect(() => openWasm()).toThrow(BackendError);
    expect(() => openWasm()).toThrow(message);
  });

  test("a bundle's own idea of `process`", () => {
    // For no longer than it takes to open an engine: Node itself, and vitest, use the real one between any two statements that wait.
    const scope = globalThis as { process: unknown };
    const real = scope.process;
    const threads = [undefined, {}, { env: {} }, { env: { KFACET_THREADS: "1" } }].map((process, i) => {
      scope.process = process;
      try {
        return threadsOf(i < 3 ? { threads: 1 } : {});
      } finally {
        scope.process = real;
      }
    });
    expect(threads).toEqual([1, 1, 1, 1]);
  });

  test("one thread and memory of its own where memory cannot be shared", async () => {
    for (const missing of [{ SharedArrayBuffer: undefined }, { crossOriginIsolated: false }]) {
      for (const [name, value] of Object.entries(missing)) vi.stubGlobal(name, value);
      const backend = (await openBackend("wasm", { threads: 3 })) as WasmBackend;
      vi.unstubAllGlobals();
      const { engine } = backend;
      expect(engine.threads).toBe(1);
      expect(engine.features.sharedMemory).toBe(false);
      expect(engine.view("int32", 0, 1).buffer).toBeInstanceOf(ArrayBuffer);
      expect(backend.describe()).toMatch(/one thread, .*no shared memory, hence no threads/);
    }
    looking({ threads: 1 }, ({ engine }) => expect(engine.view("int32", 0, 1).buffer).toBeInstanceOf(SharedArrayBuffer));
  });
});

describe.each([
  ["shared", (): Promise<WasmBackend> => openEngine({ threads: 2, memoryLimit: 64 * MIB })],
  ["unshared", (): Promise<WasmBackend> => openUnshared({ memoryLimit: 64 * MIB })],
])("in %s memory of 64 MiB", (_, open) => {
  let backend: WasmBackend;
  beforeAll(async () => {
    backend = await open();
  });
  const zeros = (...shape: number[]): Tensor => Tensor.zeros(shape, { backend });

  test("an engine starts with no buffers, and counts what it gives out", () => {
    const nothing = { buffers: 0, bytes: 0, peakBuffers: 0, peakBytes: 0, pooledBytes: 0, bySize: [] };
    expect(backend.memory()).toEqual(nothing);
    const x = zeros(1000);
    const y = Tensor.from([1, 2, 3], { backend });
    expect(backend.memory()).toEqual({
      buffers: 2,
      bytes: 4032 + 64,
      peakBuffers: 2,
      peakBytes: 4032 + 64,
      pooledBytes: 0,
      bySize: [
        { size: 4032, count: 1 },
        { size: 64, count: 1 },
      ],
    });
    x.dispose();
    expect(backend.memory()).toMatchObject({ buffers: 1, bytes: 64, peakBuffers: 2, peakBytes: 4096, pooledBytes: 4032 });
    backend.resetPeak();
    expect(backend.memory()).toMatchObject({ peakBuffers: 1, peakBytes: 64 });
    y.dispose();
    expect(backend.memory()).toMatchObject({ buffers: 0, bytes: 0, pooledBytes: 4096 });
  });

  test("a request beyond the end is an error that says who holds what, and smaller work goes on", () => {
    tidy(() => {
      const kept = [Tensor.from(new Float32Array(2 * MIB).fill(7), { backend }), zeros(4 * MIB)] as const;
      const more = kept[1].add(1);
      const before = backend.memory();
      const large = (): Tensor => zeros(7 * MIB);
      expect(large).toThrow(BackendError);
      expect(large).toThrow(
        /^wasm: no memory for 28\.0 MiB wanted by fill: 4[48]\.0 MiB of at most 64\.0 MiB are in use, most by (fill|add) 16\.0 MiB, .*Tensor\.from 8\.0 MiB.*; the largest free piece has (15\.9|19\.9) MiB; use a smaller batch, or free tensors with tidy\(…\) or dispose\(\)$/,
      );
      // The second output, the indices, no longer fits: the first goes back.
      const image = zeros(1, 1024, 256, 7);
      const pool = { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], padding: { top: 0, bottom: 0, left: 0, right: 0 } } as const;
      expect(() => apply("maxPool2d", [image], pool)).toThrow(/wanted by maxPool2d/);
      image.dispose();
      expect(backend.memory()).toMatchObject({ buffers: before.buffers, bytes: before.bytes, bySize: before.bySize ?? [] });
      const read = (f: () => Tensor): number | undefined => tidy(() => f().dataSync()[0]);
      expect(read(() => kept[0].sum())).toBe(14 * MIB);
      expect(read(() => more.max())).toBe(1);
      more.dispose();
      kept[1].dispose();
      expect(read(() => large().sum())).toBe(0);
    });
    expect(backend.memory().buffers).toBe(0);
  });

  test("a kernel whose temporary memory does not fit leaves nothing behind either", () => {
    const { engine } = backend;
    const before = backend.memory();
    expect(() => engine.temporary(64 * MIB, "conv2d", () => expect.fail("there is no room"))).toThrow(/wanted by conv2d/);
    expect(() => engine.temporary(100, "conv2d", () => expect.fail("bang"))).toThrow("bang");
    expect(backend.memory()).toMatchObject({ buffers: before.buffers, bytes: before.bytes });
  });

  test.each([
    [[70_000, 70_000], "18692.0 MiB"],
    [[2 ** 15, 2 ** 15, 4], "16384.0 MiB"],
    [[2 ** 26, 2 ** 26], "17179869184.0 MiB"],
  ])("shape %j is beyond what 32 bits address", (shape, size) => {
    const make = (): Tensor => Tensor.zeros(shape, { backend });
    expect(make).toThrow(BackendError);
    expect(make).toThrow(`wasm: no memory for ${size} wanted by fill`);
    expect(make).toThrow(/use a smaller batch, or free tensors/);
  });

  test("tensors stay what they are while the memory grows", () => {
    tidy(() => {
      const first = Tensor.from([1, 2, 3], { backend });
      const doubled = first.multiply(2);
      for (let size = 1; size <= 4; size *= 2) zeros(size * MIB); // as many floats
      expect([...first.dataSync()]).toEqual([1, 2, 3]);
      expect([...doubled.add(first).dataSync()]).toEqual([3, 6, 9]);
    });
  });

  test("tensors without elements are tensors", async () => {
    for (const dtype of ["float32", "float64", "int32"] as const) {
      const empty = Tensor.from([], { shape: [3, 0], dtype, backend });
      expect([empty.dataSync().length, (await empty.data()).length]).toEqual([0, 0]);
      tidy(() => expect([...empty.sum(1).dataSync()]).toEqual([0, 0, 0]));
      empty.dispose();
    }
    expect(backend.memory().buffers).toBe(0);
  });

  test("data of any strides and types are uploaded in order, and reading gives copies", () => {
    tidy(() => {
      const matrix = ndarray(
        Float64Array.from({ length: 24 }, (_v, i) => i),
        [2, 3, 4],
      );
      const view = matrix.transpose(2, 0, 1).step(-1, 1, -2).hi(3, 2, 2);
      const expected: number[] = [];
      for (let i = 0; i < 3; i++) for (let j = 0; j < 2; j++) for (let k = 0; k < 2; k++) expected.push(view.get(i, j, k));
      const x = Tensor.from(view, { backend });
      expect([x.dtype, x.shape, [...x.dataSync()]]).toEqual(["float64", [3, 2, 2], expected]);
      const bytes = Tensor.from(Uint8Array.of(0, 128, 255), { backend });
      expect([bytes.dtype, [...bytes.dataSync()]]).toEqual(["float32", [0, 128, 255]]);
      const part = new Int32Array(new Int32Array(10).fill(5).buffer, 8, 3);
      const ints = Tensor.from(part, { backend });
      part[0] = 9;
      const read = ints.dataSync();
      read[1] = 9;
      expect([...ints.dataSync()]).toEqual([5, 5, 5]);
      expect(read.buffer).toBeInstanceOf(ArrayBuffer); // not of the engine's memory
    });
  });
});

// ── trainings ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

async function onBackend<T>(backend: Backend, f: () => Promise<T>): Promise<T> {
  const before = defaultBackend();
  setDefaultBackend(backend);
  try {
    return await f();
  } finally {
    setDefaultBackend(before);
  }
}

/** Large enough for its kernels to be shared among threads, with sizes that are no multiples of anything. */
function network(generator: Generator): Sequential {
  return new Sequential(
    new Conv2d(3, 19, 3, { padding: 1, generator }),
    new BatchNorm2d(19, { generator }),
    new ReLU(),
    new MaxPool2d(2),
    new Conv2d(19, 21, 3, { padding: 1, generator }),
    new BatchNorm2d(21, { generator }),
    new ReLU(),
    new MaxPool2d(2),
    new Flatten(),
    new Linear(21 * 9, 10, { generator }),
  );
}

/** All parameters and statistics after some steps on random images, with the losses on the way. */
async function trained(backend: Backend, make: (parameters: Parameter[]) => Optimizer, steps: number): Promise<Map<string, TypedArray>> {
  return onBackend(backend, async () => {
    const generator = new Generator(7);
    const model = network(generator);
    const optimizer = make(model.parameters());
    const losses: number[] = [];
    for (let step = 0; step < steps; step++) {
      const images = generator.normal([33, 13, 13, 3]);
      const labels = Tensor.from(Int32Array.from({ length: 33 }, (_, i) => (i * 7 + step) % 10));
      const loss = await optimizer.minimize(() => crossEntropy(model.forward(images), labels));
      losses.push(loss.dataSync()[0] as number);
      for (const tensor of [images, labels]) tensor.dispose();
    }
    const state = tidy(() => [...model.stateDict()].map(([name, tensor]) => [name, tensor.dataSync()] as const));
    optimizer.dispose();
    model.dispose();
    expect(losses.every(Number.isFinite)).toBe(true);
    return new Map<string, TypedArray>([...state, ["losses", Float64Array.from(losses)]]);
  });
}

const optimizers: [name: string, steps: number, make: (parameters: Parameter[]) => Optimizer][] = [
  ["SGD", 20, (parameters) => new Sgd(parameters, { learningRate: 0.05, momentum: 0.9, weightDecay: 1e-4 })],
  ["Adam", 20, (parameters) => new Adam(parameters, { learningRate: 1e-3 })],
  ["K-FAC", 6, (parameters) => new Kfac(parameters, { learningRate: 0.03, momentum: 0.9, inverse: "eigh", inversionEvery: 3 })],
];

describe("a training has the same bits on any number of threads, and without shared memory:", () => {
  test.each(optimizers)("%s", async (_, steps, make) => {
    const expected = await trained(await openEngine({ threads: 1 }), make, steps);
    const others = {
      "two threads": await openEngine({ threads: 2 }),
      "three threads": await openEngine({ threads: 3 }),
      "three threads, finely cut": cut(await openEngine({ threads: 3 }), 40),
      "memory of its own": await openUnshared(),
    };
    for (const [name, backend] of Object.entries(others)) {
      const state = await trained(backend, make, steps);
      expect([...state.keys()]).toEqual([...expected.keys()]);
      for (const [key, data] of state) expect(data, `${key} with ${name}`).toHaveSameBits(expected.get(key) as TypedArray);
      expect(backend.memory().buffers).toBe(0);
      backend.engine.close();
    }
  });

  test("a step has the loss of the reference backend", async () => {
    const [, , make] = optimizers[0] as (typeof optimizers)[0];
    const [fast, exact] = [await openEngine({}), await openEngine({ precision: "exact" })];
    const expected = (await trained(await openBackend("reference"), make, 3)).get("losses") as TypedArray;
    expect((await trained(fast, make, 3)).get("losses")).toBeAllclose(expected, { relative: 1e-4 });
    expect((await trained(exact, make, 3)).get("losses")).toBeAllclose(expected, { relative: 1e-4 });
  });
});

test("500 steps of a small training need no more memory than 20", async () => {
  const backend = await openEngine({ threads: 2 });
  await onBackend(backend, async () => {
    const generator = new Generator(3);
    const model = new Sequential(
      new Conv2d(1, 4, 3, { padding: 1, generator }),
      new BatchNorm2d(4, { generator }),
      new ReLU(),
      new MaxPool2d(2),
      new Flatten(),
      new Linear(36, 4, { generator }),
    );
    const optimizer = new Kfac(model.parameters(), { learningRate: 0.01, momentum: 0.9, inversionEvery: 10 });
    const peaks = new Map<number, number>();
    for (let step = 1; step <= 500; step++) {
      const images = generator.normal([20, 6, 6, 1]);
      const labels = Tensor.from(Int32Array.from({ length: 20 }, (_, i) => (i + step) % 4));
      await optimizer.minimize(() => crossEntropy(model.forward(images), labels));
      for (const tensor of [images, labels]) tensor.dispose();
      if (step === 20 || step === 500) peaks.set(step, backend.memory().peakBytes);
    }
    optimizer.dispose();
    model.dispose();
    expect(peaks.get(500)).toBe(peaks.get(20));
  });
  const { buffers, bytes, peakBytes, pooledBytes } = backend.memory();
  expect([buffers, bytes]).toEqual([0, 0]);
  expect(pooledBytes).toBeLessThan(2 * peakBytes); // with what lay between blocks
});

describe("the engine that openBackend shares", () => {
  test("is opened again after it was closed, and the closed one computes no more", async () => {
    const first = (await openBackend("wasm")) as WasmBackend;
    setDefaultBackend(first);
    expect((await openBackend("wasm")) === first).toBe(true); // a message that shows both would show all their memory
    const x = Tensor.ones([3], { backend: first });
    first.engine.close();
    expect(first.closed).toBe(true);
    const second = (await openBackend("wasm")) as WasmBackend;
    expect(second === first).toBe(false);
    expect((await openBackend("wasm")) === second).toBe(true);
    expect(defaultBackend() === second).toBe(true); // the closed one was the default
    expect([...tidy(() => Tensor.ones([2], { backend: second }).add(1).dataSync())]).toEqual([2, 2]);
    expect(() => x.add(1)).toThrow(BackendError);
    expect(() => x.add(1)).toThrow('wasm: the engine was closed; open another with openBackend("wasm")');
    x.dispose();
  });

  test("is the default again after one of somebody's own was closed, once it is asked for", async () => {
    const own = (await openBackend("wasm", { threads: 1 })) as WasmBackend;
    setDefaultBackend(own);
    own.engine.close();
    expect(() => Tensor.ones([2])).toThrow('open another with openBackend("wasm")');
    const shared = await openBackend("wasm");
    expect(defaultBackend() === shared).toBe(true);
  });

  test("closes with one thread too", () => {
    const backend = openWasm({ threads: 1 });
    expect(backend.closed).toBe(false);
    backend.engine.close();
    expect(backend.closed).toBe(true);
    expect(() => Tensor.ones([2], { backend })).toThrow("wasm: the engine was closed");
    expect(backend.memory().buffers).toBe(0);
  });
});

test("an engine is one of its own: others do not see its tensors", () => {
  looking({ threads: 1 }, (one) =>
    looking({ threads: 1 }, (other) => {
      expect(one.engine).toBeInstanceOf(Engine);
      tidy(() => {
        const [a, b] = [Tensor.ones([2], { backend: one }), Tensor.ones([2], { backend: other })];
        expect(() => a.add(b)).toThrow(BackendError);
        expect(other.memory().buffers).toBe(1);
      });
    }),
  );
});

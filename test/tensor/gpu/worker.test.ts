import { spawnSync } from "node:child_process";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import type { Reply, Request } from "../../../src/linalg/routines.ts";
import { pack } from "../../../src/linalg/wire.ts";
import { LinalgWorker, routines, type DominantEigenpairs, type Routines } from "../../../src/linalg/index.ts";
import { Conv2d, crossEntropy, Flatten, Linear, ReLU, Sequential } from "../../../src/nn/index.ts";
import { RsKfac } from "../../../src/optim/index.ts";
import { defaultBackend, Generator, openBackend, setDefaultBackend, Tensor, tidy, type Backend } from "../../../src/tensor/index.ts";
import { makeCommand, type Command } from "../../cli/command.ts";
import { describeOnGpu } from "./gpu.ts";

/*
 * Linear algebra beside a training on a GPU: the worker's thread has a WebGPU device of its own, which computes the same bits as the first
 * one, and which its end takes with it.
 */

const { found } = vi.hoisted(() => ({ found: [] as GPUDevice[] }));
vi.mock("../../../src/tensor/backends/gpu/device.ts", async (original) => {
  const module = await original<typeof import("../../../src/tensor/backends/gpu/device.ts")>();
  const findDevice: typeof module.findDevice = async () => {
    const both = await module.findDevice();
    found.push(both.device);
    return both;
  };
  return { ...module, findDevice };
});

/** Positive definite, and so large that its products are shared by threads of the device and of the host. */
const definite = (backend: Backend): Tensor => tidy(() => new Generator(1).normal([300, 200], { backend }).gram());
const search = (): Parameters<Routines["randomizedEigh"]>[1] => ({ rank: 40, oversampling: 8, generator: new Generator(7) });
const release = ({ values, vectors }: DominantEigenpairs): void => {
  for (const tensor of [values, vectors]) tensor.dispose();
};

/** In place of a worker: computes at once, on the thread that asks. */
const onThisThread = (): LinalgWorker =>
  ({ routines, arrivals: () => Promise.resolve(), close: () => undefined }) satisfies Pick<
    LinalgWorker,
    keyof LinalgWorker
  > as unknown as LinalgWorker;

describeOnGpu("a worker beside a GPU", () => {
  /** A thread takes long to start from TypeScript. */
  let worker: LinalgWorker;
  beforeAll(() => {
    worker = new LinalgWorker();
  });
  afterAll(() => {
    worker.close();
  });

  test("gives the bits of the training's device, with its kernels, and not those of another one", async () => {
    const vectors: Float32Array[] = [];
    for (const [name, options] of [
      ["gpu", { overrides: true }],
      ["gpu", { overrides: false }],
      ["wasm", {}],
    ] as const) {
      const backend = await openBackend(name, options);
      using x = definite(backend);
      const [expected, pairs] = [await routines.randomizedEigh(x, search()), await worker.routines.randomizedEigh(x, search())];
      expect(pairs.vectors.backend).toBe(backend);
      for (const part of ["values", "vectors"] as const) expect(await pairs[part].data()).toHaveSameBits(await expected[part].data());
      vectors.push((await pairs.vectors.data()) as Float32Array);
      release(expected);
      release(pairs);
      backend.close?.();
    }
    // Each device's rounding is its own, so that a wrong one would have shown.
    const [own, portable, others] = vectors as [Float32Array, Float32Array, Float32Array];
    expect(own).not.toEqual(portable);
    expect(own).not.toEqual(others);
    expect(portable).not.toEqual(others);
  });

  test("has an engine at its side with as many threads as it was given, which ends with its device", async () => {
    const shared = await openBackend("wasm");
    const backend = await openBackend("gpu", {});
    expect(backend.host).toBe(shared);
    backend.close?.();
    expect(shared.closed).toBe(false);

    const own = await openBackend("gpu", { threads: 1 });
    expect(own.host?.describe()).toMatch(/^WebAssembly: one thread,/);
    own.close?.();
    expect([own.closed, own.host?.closed]).toEqual([true, true]);
    // Without its engine it has no linear algebra: whoever asks for a GPU next gets another one.
    const alone = await openBackend("gpu", { threads: 1 });
    alone.host?.close?.();
    expect(alone.closed).toBe(true);
    alone.close?.();
    await expect(openBackend("gpu", { threads: 0 })).rejects.toThrow(/threads must be a whole number from 1 to 256 but is 0/);
  });

  test("leaves nothing on the device that it answers to", async () => {
    const backend = await openBackend("gpu", {});
    using x = definite(backend);
    const { buffers } = backend.memory();
    for (let round = 0; round < 3; round++) release(await worker.routines.randomizedEigh(x, search()));
    expect(backend.memory().buffers).toBe(buffers);
    backend.close?.();
  });

  test("computes the inversions of a training, step by step, as it would without", async () => {
    const before = defaultBackend();
    const backend = await openBackend("gpu", {});
    setDefaultBackend(backend);
    const parametersOf = async (of: LinalgWorker): Promise<Float32Array[]> => {
      const generator = new Generator(1);
      const layers = [new Conv2d(1, 4, 3, { generator }), new ReLU(), new Flatten(), new Linear(64, 3, { generator })];
      const model = new Sequential(...layers);
      const optimizer = new RsKfac(model.parameters(), {
        learningRate: 0.05,
        damping: 0.1,
        rank: 4,
        oversampling: 2,
        exactUpTo: 0, // what is tried are the randomized decompositions
        factorUpdateEvery: 1,
        inversionEvery: 3,
        inversionLag: 2,
        worker: of,
      });
      for (let step = 0; step < 9; step++) {
        using x = new Generator(100 + step).normal([8, 6, 6, 1]);
        using labels = Tensor.from(Int32Array.from({ length: 8 }, (_, k) => (k + step) % 3));
        (await optimizer.minimize(() => crossEntropy(model.forward(x), labels))).dispose();
      }
      const values = await Promise.all(model.parameters().map(({ value }) => value.data()));
      optimizer.dispose();
      model.dispose();
      return values as Float32Array[];
    };
    try {
      const [here, there] = [await parametersOf(onThisThread()), await parametersOf(worker)];
      there.forEach((values, i) => {
        expect(values).toHaveSameBits(here[i] as Float32Array);
      });
      expect(backend.memory().buffers).toBe(0);
    } finally {
      setDefaultBackend(before);
      backend.close?.();
    }
  });

  test("that is ended while its device computes leaves the training's alone", async () => {
    const backend = await openBackend("gpu", {});
    using x = definite(backend);
    for (const milliseconds of [0, 20, 80]) {
      const ended = new LinalgWorker();
      release(await ended.routines.randomizedEigh(x, search()));
      // So many that it is at work whenever it is ended.
      const calls = Array.from({ length: 20 }, () => ended.routines.randomizedEigh(x, search()).then(release, (error: unknown) => error));
      await new Promise((resolve) => setTimeout(resolve, milliseconds));
      ended.close();
      const outcomes = await Promise.all(calls);
      expect(String(outcomes.at(-1))).toMatch(/UsageError.*worker that was closed/);
      release(await routines.randomizedEigh(x, search()));
    }
    backend.close?.();
  });

  test("opens another device in place of one that is lost, or that there was none of", async () => {
    const replies: Reply[] = [];
    vi.stubGlobal("postMessage", (reply: Reply) => replies.push(reply));
    await import("../../../src/linalg/workerProgram.ts"); // on this thread, where a test can lose its device
    const scope = globalThis as { onmessage?: (event: { readonly data: Request }) => void };
    using matrix = Tensor.from([4, 0, 0, 9], { shape: [2, 2], dtype: "float32" });
    const ask = async (options: object): Promise<Reply> => {
      const call = replies.length;
      const operands = [await pack(matrix)];
      scope.onmessage?.({ data: { call, routine: "cholesky", operands, backend: { name: "gpu", options } } });
      await vi.waitFor(() => {
        expect(replies).toHaveLength(call + 1);
      });
      return replies[call] as Reply;
    };
    const factor = { kind: "tensor", shape: [2, 2], data: Float32Array.of(2, 0, 0, 3) };
    const before = found.length;
    expect(await ask({ threads: 1 })).toMatchObject({ result: factor });
    expect(await ask({ threads: 1 })).toMatchObject({ result: factor });
    expect(found).toHaveLength(before + 1);
    found.at(-1)?.destroy();
    await found.at(-1)?.lost;
    expect(await ask({ threads: 1 })).toMatchObject({ result: factor });
    expect(found).toHaveLength(before + 2);
    // One that cannot be opened is tried anew.
    for (let again = 0; again < 2; again++) {
      expect(await ask({ api: "webgl2", threads: 1 })).toMatchObject({ error: { fault: "BackendError" } });
    }
    delete scope.onmessage;
    vi.unstubAllGlobals();
  });

  let translated: Command;
  beforeAll(() => {
    translated = makeCommand();
  });
  afterAll(() => {
    translated.dispose();
  });
  /** With a call under way, and others that come after it. */
  const script = (calls: number, ending: string): string => `
    import { LinalgWorker } from "./src/linalg/index.js";
    import { Generator, openBackend, tidy } from "./src/tensor/index.js";
    const backend = await openBackend("gpu");
    const worker = new LinalgWorker();
    const x = tidy(() => new Generator(1).normal([300, 200], { backend }).gram());
    const search = () => worker.routines.randomizedEigh(x, { rank: 40, oversampling: 8, generator: new Generator(7) });
    await search();
    console.log("computed");
    const calls = Array.from({ length: ${calls} }, search).map((call) => call.then(() => console.log("answered"), () => console.log("abandoned")));
    await new Promise((resolve) => setTimeout(resolve, 30));
    ${ending}
  `;

  test.each([
    ["waits for what it asked for", 2, "", 0, /^computed\n(answered\n){2}$/, ""],
    [
      "closes it",
      20,
      "worker.close(); await Promise.all(calls); console.log('closed');",
      0,
      /^computed\n(answered\n)*(abandoned\n)+closed\n$/,
      "",
    ],
    ["exits", 20, "process.exit(3);", 3, /^computed\n(answered\n)*$/, ""],
    ["throws", 20, "throw new Error('thrown');", 1, /^computed\n(answered\n)*$/, "Error: thrown"],
  ])("lets a process end in good order that %s", { timeout: 60_000 }, (_, calls, ending, code, output, complaint) => {
    const options = { cwd: translated.folder, encoding: "utf8" } as const;
    const { status, stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script(calls, ending)], options);
    expect(stderr).not.toMatch(/fatal|not resolved/i);
    expect(stderr).toContain(complaint);
    expect(stdout).toMatch(output);
    expect(status).toBe(code);
  });
});

import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import type { ExportName } from "../../../src/tensor/backends/wasm/generated.ts";
import { openWasm } from "../../../src/tensor/backends/wasm/index.ts";
import { mostArguments, Threads } from "../../../src/tensor/backends/wasm/threads.ts";
import { BackendError } from "../../../src/tensor/index.ts";
import { runScript } from "./child.ts";
import { compileTestKernels, type TestKernels } from "./workers.ts";

/* The worker threads: a job is done once and by all, an error in one of them is an error, and nothing ever waits for ever. */

const PAGE = 65536;
const COUNTERS = PAGE;
const OWNERS = 20 * PAGE;
const MOST_ITEMS = 19 * (PAGE / 4);

let kernels: TestKernels;
let pools: Threads[];
/** The workers that were started during a test. */
let workers: Worker[];

beforeAll(async () => {
  kernels = await compileTestKernels();
});
const threadsOfNode = process.getBuiltinModule("node:worker_threads");
class NotedWorker extends Worker {
  constructor(...parameters: ConstructorParameters<typeof Worker>) {
    super(...parameters);
    workers.push(this);
  }
}
beforeEach(() => {
  [pools, workers] = [[], []];
  threadsOfNode.Worker = NotedWorker;
});
afterEach(async () => {
  vi.restoreAllMocks();
  threadsOfNode.Worker = Worker;
  for (const pool of pools) pool.close();
  await Promise.all(workers.map((worker) => worker.terminate()));
});

const scratchOf = (count: number): number[] => Array.from({ length: count }, (_, i) => 1000 + i);
/** A pool of `count` workers with a clean first page. */
function start(count: number): Threads {
  new Uint8Array(kernels.memory.buffer).fill(0);
  const pool = new Threads(kernels.module, kernels.memory, kernels.functions, scratchOf(count));
  pools.push(pool);
  return pool;
}
const int32 = (at: number, size: number): Int32Array => new Int32Array(kernels.memory.buffer, at, size);
const named = (name: string): ExportName => name as ExportName;
const own = (name: string) => kernels.own[name] as (start: number, end: number, ...rest: number[]) => void;

/** Runs the job that counts; how often each item was done, and by whom. */
function countItems(pool: Threads, items: number, chunk: number, pause = 0): { counts: Int32Array; threads: Int32Array } {
  const [counts, threads] = [int32(COUNTERS, items), int32(OWNERS, items)];
  counts.fill(0);
  threads.fill(-1);
  const slowly = (from: number, to: number, ...rest: number[]): void => {
    own("count")(from, to, ...rest);
    for (const end = performance.now() + pause; performance.now() < end;);
  };
  pool.run(named("count"), slowly, items, chunk, [COUNTERS, OWNERS]);
  return { counts, threads };
}

const pause = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

describe("a job", () => {
  test("does every item once, however it is cut", async () => {
    const pool = start(2);
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 5000 }),
        fc.integer({ min: 1, max: 700 }),
        fc.constantFrom(0, 0, 0, 2),
        async (items, chunk, rest) => {
          const { counts } = countItems(pool, items, chunk);
          expect(counts.every((count) => count === 1)).toBe(true);
          if (rest > 0) await pause(rest); // long enough for workers to fall asleep
        },
      ),
      { numRuns: 300 },
    );
  });

  test("after job mixes with none before, in their thousands", () => {
    const pool = start(3);
    for (let job = 0; job < 5000; job++) {
      const items = 1 + ((job * 7919) % 97);
      const { counts } = countItems(pool, items, 1 + (job % 5));
      if (!counts.every((count) => count === 1)) expect.fail(`job ${job} of ${items} items did them ${counts.join()} times`);
    }
  });

  test("is shared by all threads, each with its own scratch memory", async () => {
    const pool = start(3);
    const seen = new Set<number>();
    await vi.waitFor(
      () => {
        for (const thread of countItems(pool, 100, 1, 0.5).threads) seen.add(thread);
        expect([...seen].sort()).toEqual([0, ...scratchOf(3)]); // this thread's instance has the scratch memory that nobody set
      },
      { timeout: 50_000, interval: 20 },
    );
  });

  test("runs while no worker has started yet, and without any", () => {
    const { counts, threads } = countItems(start(2), 1000, 10);
    expect(counts.every((count) => count === 1)).toBe(true);
    expect(threads.includes(-1)).toBe(false);
    expect(countItems(start(0), 1000, 10).counts.every((count) => count === 1)).toBe(true);
  });

  test("is done where this thread may look but not wait, as a browser's main thread", () => {
    const wait = vi.spyOn(Atomics, "wait").mockImplementation(() => {
      throw new TypeError("Atomics.wait cannot be called in this context");
    });
    const pool = start(2);
    expect(wait).toHaveBeenCalledTimes(1); // to find that out
    for (let job = 0; job < 200; job++) {
      const { counts } = countItems(pool, 50, 1, job % 10 === 0 ? 0.1 : 0);
      expect(counts.every((count) => count === 1)).toBe(true);
    }
    expect(wait).toHaveBeenCalledTimes(1);
  });

  test("hands all its numbers to every thread", async () => {
    const pool = start(2);
    const rest = [COUNTERS, ...Array.from({ length: 12 }, (_, i) => 1.25 + i / 3)];
    const expected = rest.slice(1).reduce((sum, value) => sum + value, 0);
    const slowly = (from: number, to: number, ...numbers: number[]): void => {
      own("sum32")(from, to, ...numbers);
      for (const end = performance.now() + 0.1; performance.now() < end;);
    };
    for (let i = 0; i < 20; i++) {
      const results = new Float64Array(kernels.memory.buffer, COUNTERS, 200).fill(0);
      pool.run(named("sum32"), slowly, 200, 1, rest);
      expect(results.every((value) => value === expected)).toBe(true);
      await pause(1);
    }
    expect(mostArguments).toBeGreaterThanOrEqual(13);
  });

  test("of more items than fit into a chunk a thread goes to its end", () => {
    const { counts } = countItems(start(2), MOST_ITEMS, 1);
    expect(counts.every((count) => count === 1)).toBe(true);
  });
});

describe("a kernel that throws", () => {
  /** Waits on this thread, as a kernel does, until a worker has failed: so that it is sure to have taken part. */
  const untilFailed = (): void => {
    for (const end = performance.now() + 20_000; performance.now() < end;) if (Atomics.load(int32(0, 256), 80) === 1) return;
    throw new Error("no worker has failed");
  };

  test("in a worker is an error of the job, and of all that come after", () => {
    const pool = start(2);
    const run = (): void => pool.run(named("fail"), untilFailed, 100, 1, []);
    expect(run).toThrow(BackendError);
    expect(() => pool.check()).toThrow(/^wasm: fail failed in a worker thread: RuntimeError: unreachable$/);
  });

  test("in this thread is an error of the job, and the next one works", () => {
    const pool = start(2);
    const bang = (): void => expect.fail("bang");
    for (let i = 0; i < 50; i++) {
      expect(() => pool.run(named("count"), bang, 100, 1, [COUNTERS, OWNERS])).toThrow("bang");
      const { counts } = countItems(pool, 100, 1);
      expect(counts.every((count) => count === 1)).toBe(true);
    }
  });

  test("in both is not blamed on the next job", () => {
    const pool = start(2);
    const both = (): void => {
      untilFailed();
      throw new Error("bang");
    };
    expect(() => pool.run(named("fail"), both, 100, 1, [])).toThrow("bang");
    expect(() => pool.check()).toThrow(/^wasm: fail failed in a worker thread: RuntimeError: unreachable$/);
  });
});

describe("a worker that", () => {
  test("never finishes is an error once patience ends", () => {
    const pool = start(1);
    const entered = int32(0, 256);
    const untilEntered = (): void => {
      // Its chunk is the second: it has taken it when the number of the next one is 2.
      while (Atomics.load(entered, 32) < 2);
    };
    let calls = 0;
    vi.spyOn(performance, "now").mockImplementation(() => 30_000 * calls++);
    const run = (): void => pool.run(named("forever"), untilEntered, 2, 1, []);
    expect(run).toThrow(BackendError);
    expect(() => pool.check()).toThrow(/^wasm: a worker thread has not finished its part of forever for 60 s$/);
    // Looks half a minute apart are a process that was halted: each of them counts for some seconds only.
    expect(calls).toBeGreaterThan(10);
  });

  test("cannot start is an error of what comes after", async () => {
    const { memory } = kernels;
    const empty = new WebAssembly.Module(Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0));
    const pool = new Threads(empty, memory, [], [1]);
    pools.push(pool);
    await vi.waitFor(() => expect(() => pool.check()).toThrow(BackendError), { timeout: 20_000 });
    expect(() => pool.check()).toThrow(
      /^wasm: a worker thread died \(TypeError: .*\); open another engine with openBackend\("wasm"\), or one with { threads: 1 }$/,
    );
  });

  test("is terminated is an error of what comes after, and no wait", async () => {
    const { engine } = openWasm({ threads: 3 });
    expect(workers).toHaveLength(2);
    await workers[1]?.terminate();
    for (const use of [() => engine.run(named("nothing"), 1000, 1e6), () => engine.call("heapBase")]) {
      expect(use).toThrow(BackendError);
      expect(use).toThrow(/^wasm: a worker thread died \(exit code \d\); open another engine with openBackend\("wasm"\)/);
    }
    engine.close();
  });

  test("may not be started is an error, and leaves none behind", async () => {
    let started = 0;
    threadsOfNode.Worker = class extends NotedWorker {
      constructor(...parameters: ConstructorParameters<typeof Worker>) {
        if (started === 2) throw new Error("no more processes");
        started++;
        super(...parameters);
      }
    };
    const open = (): unknown => openWasm({ threads: 4 });
    expect(open).toThrow(BackendError);
    expect(workers).toHaveLength(2);
    await vi.waitFor(() => expect(workers.map(({ threadId }) => threadId)).toEqual([-1, -1]), { timeout: 20_000 });
    expect(open).toThrow("wasm: a worker thread cannot start (Error: no more processes); open the engine with { threads: 1 }");
  });

  test("was ended by close says that", async () => {
    const { engine } = openWasm({ threads: 2 });
    engine.close();
    expect(() => engine.call("heapBase")).toThrow(BackendError);
    expect(() => engine.call("heapBase")).toThrow("wasm: the engine was closed");
    await vi.waitFor(() => expect(workers[0]?.threadId).toBe(-1), { timeout: 20_000 });
    expect(() => engine.call("heapBase")).toThrow("wasm: the engine was closed");
  });
});

describe("a script", () => {
  const open = `
    import { openBackend, setDefaultBackend, Tensor, tidy } from "./src/tensor/index.ts";
    const backend = await openBackend("wasm");
    setDefaultBackend(backend);
  `;

  test("that computes on several threads exits by itself", async () => {
    const program = `${open}
      const sum = tidy(() => {
        const x = Tensor.ones([700, 700]);
        let y = x;
        for (let i = 0; i < 5; i++) y = y.matmul(x).multiply(1 / 700);
        return y.sum().dataSync()[0];
      });
      console.log(backend.engine.threads, sum);
    `;
    expect(await runScript(program, { KFACET_THREADS: "3" })).toEqual({ code: 0, stdout: "3 490000\n", stderr: "" });
  });

  test("that exits at once, or while the threads sleep, does so too", async () => {
    expect(await runScript(open, { KFACET_THREADS: "4" })).toEqual({ code: 0, stdout: "", stderr: "" });
    const asleep = `${open} await new Promise((resolve) => setTimeout(resolve, 500));`;
    expect(await runScript(asleep, { KFACET_THREADS: "4" })).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("whose preloaded modules compute too starts no more workers than it asks for", async () => {
    const preloaded = `${open.replaceAll("./src", new URL("../../../src", import.meta.url).href)}
      tidy(() => Tensor.ones([300, 300]).matmul(Tensor.ones([300, 300])));
      console.log("preloaded");`;
    const module = `data:text/javascript,${encodeURIComponent(preloaded)}`;
    const { code, stdout } = await runScript("console.log(1)", { KFACET_THREADS: "3" }, ["--import", module]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: "preloaded\n1\n" });
  });

  test("that fails exits with its error", async () => {
    const { code, stderr } = await runScript(`${open} throw new Error("bang");`, { KFACET_THREADS: "3" });
    expect(code).toBe(1);
    expect(stderr).toContain("Error: bang");
  });
});

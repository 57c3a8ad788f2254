import { execFileSync } from "node:child_process";
import { join, resolve } from "node:path";
import { Worker } from "node:worker_threads";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { LinalgWorker, routines, type RoutineName, type Routines } from "../../src/linalg/index.ts";
import { answer } from "../../src/linalg/routines.ts";
import { pack, tensorsIn } from "../../src/linalg/wire.ts";
import {
  BackendError,
  defaultBackend,
  Generator,
  NumericalError,
  openBackend,
  ShapeError,
  Tensor,
  tidy,
  UsageError,
  type Backend,
  type FloatDType,
} from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";
import { settledBuffers } from "../settled.ts";

const root = resolve(import.meta.dirname, "../..");

type Operands = { readonly [Name in RoutineName]: (dtype: FloatDType) => Parameters<Routines[Name]> };

/** Some matrix, the same at each call. */
const matrix = (rows: number, columns: number, dtype: FloatDType): Tensor => new Generator(rows).normal([rows, columns], { dtype });
/** A positive definite one. */
const definite = (n: number, dtype: FloatDType): Tensor => tidy(() => matrix(n, n, dtype).gram().add(Tensor.eye(n, { dtype })));
const sketch = { rank: 5, oversampling: 3 } as const;
const generator = (): Generator => {
  const own = new Generator(7);
  own.numbers(3); // somewhere in its stream
  return own;
};

/** Operands for each routine. */
const operands: Operands = {
  adaptiveEigh: (dtype) => [definite(20, dtype), { tolerance: 0.1, generator: generator() }],
  brandUpdate: (dtype) => {
    const vectors = tidy(() => Tensor.eye(20, { dtype }).slice([0, 0], [20, 3]));
    return [{ vectors, values: Tensor.from([1, 2, 3], { dtype }), trace: 6 }, matrix(20, 4, dtype), { decay: 0.9 }];
  },
  cholesky: (dtype) => [definite(20, dtype)],
  eigh: (dtype) => [definite(20, dtype), { largest: 7 }],
  eigvalsh: (dtype) => [definite(20, dtype)],
  inversePositiveDefinite: (dtype) => [definite(20, dtype)],
  lstsq: (dtype) => [matrix(20, 5, dtype), matrix(20, 2, dtype)],
  matrixPower: (dtype) => [definite(20, dtype), -0.25],
  nystrom: (dtype) => [definite(20, dtype), { ...sketch, testMatrix: matrix(20, 8, dtype) }],
  orthonormalize: (dtype) => [matrix(20, 5, dtype)],
  qr: (dtype) => [matrix(20, 5, dtype)],
  randomizedEigh: (dtype) => [definite(20, dtype), { ...sketch, generator: generator() }],
  randomizedRange: (dtype) => [matrix(20, 15, dtype), { ...sketch, generator: generator() }],
  randomizedSvd: (dtype) => [matrix(20, 15, dtype), { ...sketch, iterations: 2, generator: generator() }],
  singularValues: (dtype) => [matrix(20, 5, dtype)],
  solve: (dtype) => [matrix(20, 20, dtype), matrix(20, 2, dtype)],
  solvePositiveDefinite: (dtype) => [definite(20, dtype), matrix(20, 2, dtype)],
  solveTriangular: (dtype) => [definite(20, dtype), matrix(20, 2, dtype)],
  svd: (dtype) => [matrix(20, 5, dtype)],
};
const names = Object.keys(operands) as RoutineName[];

type Routine = (...operands: readonly unknown[]) => Promise<unknown>;
const call = (own: Routines, name: RoutineName, given: readonly unknown[]): Promise<unknown> => (own[name] as Routine)(...given);

const release = (...values: readonly unknown[]): void => {
  for (const tensor of values.flatMap(tensorsIn)) tensor.dispose();
};

eachBackend((backendName) => {
  let worker: LinalgWorker;
  beforeAll(() => {
    worker = new LinalgWorker();
  });
  afterAll(() => {
    worker.close();
  });

  describe("a routine on a worker thread", () => {
    it("is each one that there is", () => {
      expect(Object.keys(worker.routines).sort()).toEqual([...names].sort());
      expect(Object.keys(routines).sort()).toEqual([...names].sort());
    });

    it.each(names.flatMap((name) => (["float32", "float64"] as const).map((dtype) => [name, dtype] as const)))(
      "gives the bits that it gives here: %s in %s",
      async (name, dtype) => {
        const [here, there] = [operands[name](dtype), operands[name](dtype)];
        const expected = await call(routines, name, here);
        const found = await call(worker.routines, name, there);
        const [own, others] = [tensorsIn(found), tensorsIn(expected)];
        expect(own.length).toBe(others.length);
        expect(own.length).toBeGreaterThan(0);
        own.forEach((tensor, i) => {
          const other = others[i] as Tensor;
          expect([tensor.shape, tensor.dtype, tensor.backend]).toEqual([other.shape, other.dtype, defaultBackend()]);
          expect(tensor.dataSync()).toHaveSameBits(other.dataSync());
        });
        const rest = (value: unknown): unknown => JSON.stringify(value, (_, part: unknown) => (part instanceof Tensor ? null : part));
        expect(rest(found)).toBe(rest(expected));
        release(...here, ...there, found, expected);
      },
    );

    it("takes its operands as they are when it is called: they may be disposed at once", async () => {
      const a = definite(6, "float64");
      const expected = await routines.inversePositiveDefinite(a);
      const found = worker.routines.inversePositiveDefinite(a);
      a.dispose();
      expect((await found).dataSync()).toHaveSameBits(expected.dataSync());
    });

    it("fails as it fails here: with the class and the message", async () => {
      const indefinite = Tensor.from([1, 2, 2, 1], { shape: [2, 2], dtype: "float64" });
      for (const [name, given, Fault] of [
        ["inversePositiveDefinite", [indefinite], NumericalError],
        ["eigh", [matrix(2, 3, "float32")], ShapeError],
        ["randomizedSvd", [indefinite, { rank: 3, generator: generator() }], UsageError],
      ] as const) {
        const errors = await Promise.all([routines, worker.routines].map((own) => call(own, name, given).catch((error: unknown) => error)));
        const [expected, found] = errors as [Error, Error];
        expect(found).toBeInstanceOf(Fault);
        expect(found.message).toBe(expected.message);
        expect(found.name).toBe(expected.name);
      }
    });

    it("leaves nothing on either backend, whether it fails or not", async () => {
      const backend = defaultBackend();
      const before = await settledBuffers();
      const indefinite = Tensor.from([1, 2, 2, 1], { shape: [2, 2], dtype: "float64" });
      await expect(worker.routines.cholesky(indefinite)).rejects.toThrow(NumericalError);
      for (const name of ["eigh", "randomizedSvd", "nystrom"] as const) {
        const given = operands[name]("float32");
        release(await call(worker.routines, name, given));
        // What the other thread does, done here.
        const between = backend.memory().buffers;
        const request = { call: 1, routine: name, operands: await Promise.all(given.map(pack)), backend: { name: "any", options: {} } };
        expect(await answer(request, backend)).toHaveProperty("result");
        expect(backend.memory().buffers).toBe(between);
        release(...given);
      }
      const request = { call: 2, routine: "cholesky", operands: [await pack(indefinite)], backend: { name: "any", options: {} } } as const;
      expect(await answer(request, backend)).toHaveProperty("error");
      indefinite.dispose();
      expect(backend.memory().buffers).toBe(before);
    });

    it("answers calls in their order, however many there are", async () => {
      const order: number[] = [];
      const calls = Array.from({ length: 12 }, async (_, i) => {
        const a = definite(2 + (i % 3) * 20, "float32");
        release(a, await worker.routines.eigh(a));
        order.push(i);
      });
      await Promise.all(calls);
      expect(order).toEqual(order.map((_, i) => i));
    });

    if (backendName === "wasm") {
      it.each([{ precision: "exact" }, { relaxedSimd: false }, { threads: 2 }] as const)(
        "gives the bits of an engine with %o",
        async (options) => {
          const backend: Backend = await openBackend("wasm", options);
          using a = tidy(() => {
            const x = new Generator(1).normal([300, 200], { backend });
            return x.gram();
          });
          const search = (): { rank: number; generator: Generator } => ({ rank: 40, generator: generator() });
          const [expected, found] = [await routines.randomizedSvd(a, search()), await worker.routines.randomizedSvd(a, search())];
          expect(found.v.dataSync()).toHaveSameBits(expected.v.dataSync());
          expect(found.v.backend).toBe(backend);
          release(expected, found);
          backend.close?.();
        },
      );
    }
  });
});

describe("a worker", () => {
  const a = (): Tensor => definite(3, "float64");
  const original = process.getBuiltinModule("node:worker_threads").Worker;
  const workers = process.getBuiltinModule("node:worker_threads") as { Worker: typeof Worker };
  let started: Worker[] = [];
  const noting = class extends Worker {
    constructor(...parameters: ConstructorParameters<typeof Worker>) {
      super(...parameters);
      started.push(this);
    }
  };
  beforeAll(() => {
    workers.Worker = noting;
  });
  afterEach(() => {
    started = [];
  });
  afterAll(() => {
    workers.Worker = original;
  });

  it("starts its thread at the first call, and one for all of them", async () => {
    const worker = new LinalgWorker();
    expect(started).toHaveLength(0);
    await Promise.all([worker.routines.eigh(a()), worker.routines.cholesky(a())]);
    expect(started).toHaveLength(1);
    worker.close();
  });

  it("refuses an option that cannot be cloned, and goes on", async () => {
    const worker = new LinalgWorker();
    const options = { largest: (() => 1) as unknown as number };
    await expect(worker.routines.eigh(a(), options)).rejects.toThrow(UsageError);
    await expect(worker.routines.eigh(a(), options)).rejects.toThrow(
      "linalg: an option of eigh cannot go to another thread: DataCloneError",
    );
    await worker.routines.eigh(a());
    worker.close();
  });

  it("whose thread dies fails what was asked of it, says what to do, and starts another", async () => {
    const worker = new LinalgWorker();
    await worker.routines.eigh(a());
    const call = worker.routines.eigh(definite(400, "float64"));
    await Promise.all([
      expect(call).rejects.toThrow(/^linalg: the worker thread died \(exit code 1\); another call starts another/),
      expect(call).rejects.toThrow(BackendError),
      started[0]?.terminate(),
    ]);
    await worker.routines.eigh(a());
    expect(started).toHaveLength(2);
    worker.close();
  });

  it("whose thread cannot start says why", async () => {
    workers.Worker = class extends Worker {
      constructor(_: string | URL, options?: ConstructorParameters<typeof Worker>[1]) {
        super(new URL("file:///nowhere.js"), options);
      }
    };
    const worker = new LinalgWorker();
    await expect(worker.routines.eigh(a())).rejects.toThrow(/the worker thread died \(.*nowhere\.js/);
    worker.close();
    workers.Worker = noting;
  });

  it("that is closed fails the calls under way and those to come, and ends its thread", async () => {
    const worker = new LinalgWorker();
    const calls = [worker.routines.eigh(a()), worker.routines.eigh(a())];
    await Promise.resolve();
    worker.close();
    for (const call of calls) await expect(call).rejects.toThrow(/worker that was closed/);
    await expect(worker.routines.eigh(a())).rejects.toThrow(UsageError);
    worker.close(); // does nothing
  });

  it("lets a script end that is done, and keeps one alive that waits", { timeout: 60_000 }, () => {
    const script = `
      import { LinalgWorker } from "./src/linalg/index.ts";
      import { Tensor } from "./src/tensor/index.ts";
      const worker = new LinalgWorker();
      const matrix = Tensor.from([2, 0, 0, 3], { shape: [2, 2] });
      const { values } = await worker.routines.eigh(matrix);
      console.log([...values.dataSync()].join());
      void worker.routines.eigh(matrix);
    `;
    const register = join(root, "scripts/typescript/register.js");
    const output = execFileSync(process.execPath, ["--import", register, "--input-type=module", "-e", script], {
      cwd: root,
      encoding: "utf8",
    });
    expect(output).toBe("2,3\n");
  });
});

describe("in a browser", () => {
  type Listener = (event: { readonly data?: unknown; readonly message?: string }) => void;
  interface Scope {
    onmessage?: Listener;
  }

  /** A browser's worker that runs the program in this thread, behind clones of all that passes. */
  class BrowserWorker {
    static made: { readonly url: string; readonly options: unknown; readonly worker: BrowserWorker }[] = [];
    readonly listeners = new Map<string, Listener>();
    terminated = false;
    /** Whether the next message is its end. */
    dies = false;
    constructor(url: URL, options: unknown) {
      BrowserWorker.made.push({ url: url.href, options, worker: this });
      vi.stubGlobal("postMessage", (reply: unknown, transfer: ArrayBuffer[]) => {
        this.listeners.get("message")?.({ data: structuredClone(reply, { transfer }) });
      });
    }
    postMessage(request: unknown, transfer: ArrayBuffer[]): void {
      if (this.dies) queueMicrotask(() => this.listeners.get("error")?.({ message: "out of memory" }));
      else (globalThis as Scope).onmessage?.({ data: structuredClone(request, { transfer }) });
    }
    addEventListener(type: string, listener: Listener): void {
      this.listeners.set(type, listener);
    }
    terminate(): void {
      this.terminated = true;
    }
  }

  beforeAll(async () => {
    defaultBackend(); // opened as in Node
    await import("../../src/linalg/workerProgram.ts");
    vi.stubGlobal("Worker", BrowserWorker);
    vi.spyOn(process, "getBuiltinModule").mockReturnValue(undefined);
  });
  afterAll(() => {
    vi.unstubAllGlobals();
    vi.restoreAllMocks();
    delete (globalThis as Scope).onmessage;
  });

  it("a worker computes, fails, dies and ends as in Node", async () => {
    const worker = new LinalgWorker();
    const given = operands.nystrom("float32");
    const [expected, found] = [await routines.nystrom(...given), await worker.routines.nystrom(...given)];
    expect(found.basis.dataSync()).toHaveSameBits(expected.basis.dataSync());
    await expect(worker.routines.cholesky(matrix(2, 3, "float32"))).rejects.toThrow(ShapeError);
    const [{ url, options, worker: thread }] = BrowserWorker.made as [(typeof BrowserWorker.made)[0]];
    // As bundlers want to see it.
    expect([url.split("/").slice(-2).join("/"), options]).toEqual(["linalg/workerProgram.js", { type: "module" }]);
    thread.dies = true;
    await expect(worker.routines.eigh(definite(20, "float32"))).rejects.toThrow(
      "linalg: the worker thread died (out of memory); another call starts another",
    );
    await worker.routines.eigh(definite(20, "float32"));
    expect(BrowserWorker.made).toHaveLength(2);
    worker.close();
    expect(BrowserWorker.made.map(({ worker: { terminated } }) => terminated)).toEqual([true, true]);
  });
});

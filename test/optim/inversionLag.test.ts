import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { train, type TrainEvent } from "../../src/index.ts";
import { Conv2d, crossEntropy, Flatten, Linear, Module, ReLU, Sequential } from "../../src/nn/index.ts";
import {
  BrandKfac,
  covarianceFactors,
  CurvatureOptimizer,
  EkFac,
  Kfac,
  KroneckerBlock,
  LowRankKfac,
  NysKfac,
  RsKfac,
  SreKfac,
  type KroneckerInverse,
  type KroneckerOptions,
  type OptimizerState,
  type RefreshContext,
  type Refreshed,
} from "../../src/optim/index.ts";
import { LinalgWorker } from "../../src/linalg/index.ts";
import { BackendError, Generator, NumericalError, Tensor, type FloatDType } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";
import { settledBuffers } from "../settled.ts";
import { loaders, smallData, smallModel } from "../train/small.ts";
import type { CommonOptions, Method } from "./properties/methods.ts";

type Settings = Parameters<Method[1]>[1] & Omit<KroneckerOptions, "damping">;
type LaggedMethod = readonly [name: string, make: (parameters: Parameters<Method[1]>[0], options: Settings) => CurvatureOptimizer];

const methods: readonly LaggedMethod[] = [
  ["K-FAC by eigenpairs", (parameters, options) => new Kfac(parameters, { damping: 0.1, ...options, inverse: "eigh" })],
  ["K-FAC by Cholesky", (parameters, options) => new Kfac(parameters, { damping: 0.1, ...options, inverse: "cholesky" })],
  ["RS-KFAC", (parameters, options) => new RsKfac(parameters, { damping: 0.1, ...options, rank: 3, oversampling: 1, exactUpTo: 0 })],
  ["SRE-KFAC", (parameters, options) => new SreKfac(parameters, { damping: 0.1, ...options, rank: 3, oversampling: 1, exactUpTo: 0 })],
  ["Nyström K-FAC", (parameters, options) => new NysKfac(parameters, { damping: 0.1, ...options, rank: 3, oversampling: 1, exactUpTo: 0 })],
  ["B-KFAC", (parameters, options) => new BrandKfac(parameters, { damping: 0.1, ...options, rank: 1, oversampling: 1, exactUpTo: 0 })],
  ["EK-FAC", (parameters, options) => new EkFac(parameters, { damping: 0.1, ...options })],
  ["EK-FAC, intra", (parameters, options) => new EkFac(parameters, { damping: 0.1, ...options, eigenvalues: "intra" })],
];

/** A convolution and a dense layer, so that there are layers with one position a sample and with several. */
function network(dtype: FloatDType = "float32"): Sequential {
  const generator = new Generator(1);
  return new Sequential(new Conv2d(1, 3, 2, { dtype, generator }), new ReLU(), new Flatten(), new Linear(12, 3, { dtype, generator }));
}

const batchOf = (i: number, dtype: FloatDType): { x: Tensor; labels: Tensor } => ({
  x: new Generator(100 + i).normal([4, 3, 3, 1], { dtype }),
  labels: Tensor.from(Int32Array.from({ length: 4 }, (_, k) => (k + i) % 3)),
});

const valuesOf = (model: Module): number[] => [...model.stateDict().values()].flatMap((tensor) => Array.from(tensor.dataSync()));

async function stepsOf(
  model: Module,
  optimizer: CurvatureOptimizer,
  from: number,
  to: number,
  dtype: FloatDType = "float32",
): Promise<void> {
  for (let i = from; i < to; i++) {
    const { x, labels } = batchOf(i, dtype);
    await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
    for (const tensor of [x, labels]) tensor.dispose();
  }
}

const release = ({ transforms }: OptimizerState): void => {
  for (const { tensors } of transforms) for (const tensor of tensors.values()) tensor.dispose();
};

const [EVERY, LAG, STEPS] = [4, 2, 11];
const cadence = { learningRate: 0.05, momentum: 0.5, factorUpdateEvery: 1, inversionEvery: EVERY } as const;
const lagging = { ...cadence, inversionLag: LAG } as const;

/** One for all: a thread takes long to start from TypeScript. */
let worker: LinalgWorker;
beforeAll(() => {
  worker = new LinalgWorker();
});
afterAll(() => {
  worker.close();
});

/** Once the worker has answered what it was asked before. */
async function allAnswered(): Promise<void> {
  using a = Tensor.ones([1, 1]);
  (await worker.routines.eigvalsh(a)).dispose();
}

eachBackend(() => {
  const open: CurvatureOptimizer[] = [];
  /** An optimizer that the test does not have to dispose. */
  const opened = (optimizer: CurvatureOptimizer): CurvatureOptimizer => {
    open.push(optimizer);
    return optimizer;
  };
  afterEach(() => {
    for (const optimizer of open.splice(0)) optimizer.dispose();
  });

  describe("an inversion with a lag", () => {
    it.each(methods)("of %s gives the same parameters on every run, step by step", async (_, make) => {
      const runs = await Promise.all(
        [1, 2].map(async () => {
          const model = network();
          const optimizer = opened(make(model.parameters(), { ...lagging, worker }));
          const values: number[][] = [];
          for (let step = 0; step < STEPS; step++) {
            await stepsOf(model, optimizer, step, step + 1);
            values.push(valuesOf(model));
          }
          return values;
        }),
      );
      expect(runs[0]).toEqual(runs[1]);
    });

    it.each(methods)("of %s goes on bit for bit from a state saved at any step, while one is under way too", async (_, make) => {
      const run = async (interrupted: readonly number[]): Promise<number[]> => {
        const model = network();
        let optimizer = make(model.parameters(), { ...lagging, worker });
        for (let step = 0; step < STEPS; step++) {
          if (interrupted.includes(step)) {
            const state = optimizer.state();
            optimizer.dispose();
            optimizer = make(model.parameters(), { ...lagging, worker });
            optimizer.load(state);
            release(state);
          }
          await stepsOf(model, optimizer, step, step + 1);
        }
        optimizer.dispose();
        return valuesOf(model);
      };
      const whole = await run([]);
      // Inversions run from before step 5 and 9 to step 6 and 10.
      for (const interrupted of [[4], [5], [6], [5, 6, 9, 10]]) expect(await run(interrupted)).toEqual(whole);
    });
  });

  describe("what is installed", () => {
    /** Notes what is asked of it; what it installs is the mean of its input factor's entries. */
    class Noting implements KroneckerInverse {
      readonly method = "noting";
      readonly begun: { readonly step: number; readonly damping: number; readonly mean: number }[] = [];
      installed: number | null = null;
      released = 0;
      failure: (attempt: number) => Error | null = () => null;

      get ready(): boolean {
        return this.installed !== null;
      }
      async refresh(
        { matrix }: Parameters<KroneckerInverse["refresh"]>[0],
        _: unknown,
        { step, damping }: RefreshContext,
      ): Promise<Refreshed> {
        const data = await matrix.data();
        const mean = Array.from(data).reduce((sum, value) => sum + value / data.length, 0);
        this.begun.push({ step, damping, mean });
        const failure = this.failure(this.begun.length);
        if (failure) throw failure;
        return { install: () => void (this.installed = mean), dispose: () => void (this.released += 1) };
      }
      apply(gradient: Tensor): Tensor {
        return gradient.multiply(1);
      }
      describe = (): { figures: Record<string, number>; spectra: Record<string, readonly number[]> } => ({ figures: {}, spectra: {} });
      state = (): { tensors: Map<string, Tensor>; numbers: Record<string, number> } => ({
        tensors: new Map(),
        numbers: this.installed === null ? {} : { installed: this.installed },
      });
      load({ numbers }: { readonly numbers: Readonly<Record<string, number>> }): void {
        this.installed = numbers["installed"] ?? null;
      }
      dispose(): void {
        this.installed = null;
      }
    }

    interface SetUp {
      readonly inverse: Noting;
      readonly optimizer: CurvatureOptimizer;
      readonly model: Module;
      /** What a step throws in its last part, if anything. */
      readonly late: { error: Error | null };
    }

    function setUp(options: Partial<KroneckerOptions> = {}): SetUp {
      const inverse = new Noting();
      const late: SetUp["late"] = { error: null };
      const learningRate = (): number => {
        if (late.error) throw late.error;
        return 0.01;
      };
      const model = new Sequential(new Flatten(), new Linear(9, 3, { dtype: "float64", generator: new Generator(1) }));
      const damping = (step: number): number => 1 + step;
      const optimizer = opened(
        new CurvatureOptimizer(
          model.parameters(),
          "noting",
          (view) => new KroneckerBlock(view, covarianceFactors(view, {}), inverse, { ...lagging, damping, ...options }),
          { learningRate, worker },
        ),
      );
      return { inverse, optimizer, model, late };
    }

    it("at step start + lag is of the factors and the damping of the start; the first one is made at once", async () => {
      const { inverse, optimizer, model } = setUp();
      const installed: (number | null)[] = [];
      const reported: boolean[] = [];
      for (let step = 0; step < STEPS; step++) {
        await stepsOf(model, optimizer, step, step + 1, "float64");
        installed.push(inverse.installed);
        reported.push(optimizer.reports().length > 0);
      }
      expect(inverse.begun.map(({ step, damping }) => [step, damping])).toEqual([
        [0, 1],
        [4, 5],
        [8, 9],
      ]);
      const [first, second, third] = inverse.begun.map(({ mean }) => mean);
      expect(new Set([first, second, third]).size).toBe(3);
      expect(installed).toEqual([...Array<unknown>(6).fill(first), ...Array<unknown>(4).fill(second), third]);
      // What began at step s is told of where it is installed.
      expect(reported.flatMap((told, step) => (told ? [step] : []))).toEqual([0, 6, 10]);
      // The same factors, inverted at once.
      const plain = setUp({ inversionLag: undefined });
      await stepsOf(plain.model, plain.optimizer, 0, STEPS, "float64");
      expect(plain.inverse.begun).toEqual(inverse.begun);
    });

    it("is tried again as it would be at once, with the factors of the start, and says so", async () => {
      const { inverse, optimizer, model } = setUp();
      await stepsOf(model, optimizer, 0, 4, "float64");
      optimizer.reports();
      inverse.failure = (attempt) => (attempt <= 3 ? new NumericalError(`attempt ${attempt} met a pivot of −1`) : null);
      await stepsOf(model, optimizer, 4, 6, "float64");
      expect(optimizer.reports()).toEqual([]);
      await stepsOf(model, optimizer, 6, 7, "float64");
      expect(inverse.begun.map(({ step, damping }) => [step, damping])).toEqual([
        [0, 1],
        [4, 5],
        [4, 5],
        [4, 50],
      ]);
      expect(inverse.installed).toBe(inverse.begun.at(-1)?.mean);
      expect(optimizer.reports()[0]?.problems).toEqual([
        "inverted in float64 with 10 times the damping at step 4, since attempt 2 met a pivot of −1",
      ]);
    });

    it("stays where every attempt fails, which is told", async () => {
      const { inverse, optimizer, model } = setUp();
      await stepsOf(model, optimizer, 0, 4, "float64");
      const before = inverse.installed;
      inverse.failure = () => new NumericalError("no");
      await stepsOf(model, optimizer, 4, 7, "float64");
      expect(inverse.installed).toBe(before);
      expect(optimizer.reports()[0]?.problems).toEqual(["not inverted at step 4, so the inverse from before stays, since no"]);
      inverse.failure = () => null;
      await stepsOf(model, optimizer, 7, STEPS, "float64");
      expect(inverse.installed).toBe(inverse.begun.at(-1)?.mean);
    });

    it("is not begun twice by a step that throws and is tried again, and not lost by one that waited in vain", async () => {
      const { inverse, optimizer, model, late } = setUp();
      await stepsOf(model, optimizer, 0, 4, "float64");
      const fails = async (step: number, message: string): Promise<void> => {
        const { x, labels } = batchOf(step, "float64");
        const failing = optimizer.minimize(() => crossEntropy(model.forward(x), labels));
        await expect(failing).rejects.toThrow(message);
      };
      // The rate is asked for after the inversion has begun.
      late.error = new RangeError("no rate");
      await fails(4, "no rate");
      late.error = null;
      await stepsOf(model, optimizer, 4, 6, "float64");
      expect(inverse.begun.map(({ step }) => step)).toEqual([0, 4]);
      await stepsOf(model, optimizer, 6, 8, "float64");

      inverse.failure = (attempt) => (attempt === 3 ? new BackendError("the worker thread died") : null);
      await stepsOf(model, optimizer, 8, 10, "float64");
      await fails(10, "the worker thread died");
      await stepsOf(model, optimizer, 10, STEPS, "float64");
      expect(inverse.begun.map(({ step }) => step)).toEqual([0, 4, 8, 8]);
      expect(inverse.begun[3]).toEqual(inverse.begun[2]);
      expect(inverse.installed).toBe(inverse.begun[3]?.mean);
    });

    it("may take several calls of its worker, whose answers arrive while the training goes on", async () => {
      const { optimizer, model } = setUp();
      let turns = 0;
      const turned: number[] = [];
      for (let step = 0; step < 8; step++) {
        setImmediate(() => turns++);
        await stepsOf(model, optimizer, step, step + 1, "float64");
        turned.push(turns);
      }
      // A loop that waits for nothing else returns to the event loop in step 5, of those in which one is under way (4 and 5), alone.
      expect(turned.slice(0, 5)).toEqual([0, 0, 0, 0, 0]);
      expect(turned.slice(5)).toEqual([6, 6, 6]);
    });

    it("is released where it comes too late for a disposed optimizer", async () => {
      const { inverse, optimizer, model } = setUp();
      await stepsOf(model, optimizer, 0, 5, "float64");
      optimizer.dispose();
      await settledBuffers();
      expect(inverse.released).toBe(1);
    });

    it.each([
      [{ inversionLag: 4 }, "inversionLag must be below inversionEvery, which is 4 at step 0, but is 4"],
      [{ inversionLag: 0 }, "inversionLag must be a whole number of at least 1 but is 0"],
      [{ inversionLag: 1.5 }, "inversionLag must be a whole number of at least 1 but is 1.5"],
      [{ inversionLag: 2, inversionEvery: (step: number) => (step < 2 ? 4 : 2) }, "which is 2 at step 2"],
    ])("with %o is an error that says what would do", async (options, message) => {
      const { optimizer, model } = setUp(options);
      await expect(stepsOf(model, optimizer, 0, 4, "float64")).rejects.toThrow(message);
    });
  });

  describe("a layer with a lag", () => {
    it.each(methods)("of %s has the inverse that it would have at once, from step start + lag on", async (_, make) => {
      // With a rate of 0 the factors are the same whatever the inverse.
      const still: Settings & CommonOptions = { ...cadence, learningRate: 0 };
      const inversesOf = async (optimizer: CurvatureOptimizer, model: Module): Promise<string[]> => {
        const inverses: string[] = [];
        for (let step = 0; step < STEPS; step++) {
          await stepsOf(model, optimizer, step, step + 1);
          const state = optimizer.state();
          const tensors = state.transforms.flatMap((transform) => [...transform.tensors]);
          const own = tensors.filter(([name]) => name.startsWith("0.weight") && /::inverse\.(in|out)put/.test(name));
          expect(own.length).toBeGreaterThanOrEqual(2);
          inverses.push(own.map(([name, tensor]) => `${name} ${tensor.dataSync().join()}`).join("\n"));
          release(state);
        }
        return inverses;
      };
      const [model, other] = [network(), network()];
      const atOnce = await inversesOf(opened(make(model.parameters(), still)), model);
      const late = await inversesOf(opened(make(other.parameters(), { ...still, inversionLag: LAG, worker })), other);
      expect(new Set(atOnce).size).toBe(3);
      late.forEach((inverse, step) => {
        expect(inverse).toBe(atOnce[step < EVERY + LAG ? 0 : step - LAG]);
      });
    });

    it("retries on its worker as at once: a search that float32 is too short for", async () => {
      const model = network();
      const seen: string[] = [];
      const optimizer = opened(
        new LowRankKfac(
          model.parameters(),
          "choosy",
          {
            crossover: 0,
            async find(matrix, { rank, linalg }) {
              seen.push(matrix.dtype);
              if (matrix.dtype === "float32") throw new NumericalError("float32 has too few digits");
              return linalg.eigh(matrix, { largest: rank });
            },
          },
          { ...lagging, worker, rank: 1, oversampling: 0 },
        ),
      );
      await stepsOf(model, optimizer, 0, 4);
      optimizer.reports();
      await stepsOf(model, optimizer, 4, 7);
      expect(optimizer.reports().map(({ problems }) => problems)).toEqual([
        ["inverted in float64 at step 4, since float32 has too few digits"],
        ["inverted in float64 at step 4, since float32 has too few digits"],
      ]);
      expect(seen).toContain("float64");
    });
  });

  describe("an optimizer that is disposed while an inversion is under way", () => {
    it.each(methods)("%s leaves nothing behind, though its worker goes on", async (_, make) => {
      const model = network();
      await stepsOf(model, opened(make(model.parameters(), cadence)), 0, 1); // workspaces are there
      for (const optimizer of open.splice(0)) optimizer.dispose();
      const before = await settledBuffers();
      // Right after the start, in the middle, with a state that was loaded and has not begun, and after the end.
      for (const steps of [5, 6, 7]) {
        const optimizer = make(model.parameters(), { ...lagging, worker });
        await stepsOf(model, optimizer, 0, steps);
        const state = optimizer.state();
        optimizer.dispose();
        const resumed = make(model.parameters(), { ...lagging, worker });
        resumed.load(state);
        release(state);
        resumed.dispose();
      }
      await allAnswered();
      expect(await settledBuffers()).toBe(before);
    });

    it("ends the thread of its own, and leaves nothing behind", async () => {
      const model = network();
      await stepsOf(model, opened(new Kfac(model.parameters(), { damping: 0.1, ...cadence })), 0, 1);
      for (const optimizer of open.splice(0)) optimizer.dispose();
      const before = await settledBuffers();
      const optimizer = new Kfac(model.parameters(), { damping: 0.1, ...lagging });
      await stepsOf(model, optimizer, 0, 5);
      optimizer.dispose();
      expect(await settledBuffers()).toBe(before);
    });
  });
});

describe("a training with a lag", () => {
  it("tells of an inversion in the step in which it is installed", async () => {
    const data = await smallData();
    const model = smallModel();
    const optimizer = new Kfac(model.parameters(), {
      learningRate: 0.01,
      factorUpdateEvery: 1,
      inversionEvery: 3,
      inversionLag: 2,
      worker,
    });
    const events: TrainEvent[] = [];
    for await (const event of train({ model, optimizer, ...loaders(data), epochs: 2 })) events.push(event);
    const steps = events.filter(({ type }) => type === "step").length;
    const refreshes = events.flatMap((event) => (event.type === "refresh" ? [event.step] : []));
    expect(refreshes).toEqual([0, ...Array.from({ length: Math.floor(steps / 3) }, (_, i) => 3 * i + 5)].filter((step) => step < steps));
    expect(refreshes.length).toBeGreaterThan(1);
    optimizer.dispose();
  });
});

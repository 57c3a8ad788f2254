import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { valueAndGrad } from "../../src/autograd/index.ts";
import { BatchNorm2d, Conv2d, crossEntropy, Flatten, Linear, ReLU, Sequential, type Parameter } from "../../src/nn/index.ts";
import {
  BrandKfac,
  EkFac,
  Kfac,
  NysKfac,
  Optimizer,
  RsKfac,
  SreKfac,
  type CurvatureOptimizer,
  type CurvatureView,
  type OptimizerState,
} from "../../src/optim/index.ts";
import { Precondition } from "../../src/optim/curvature/precondition.ts";
import { CheckpointError, Generator, Tensor } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";

/** The methods that give batch norms a block of their own. */
const methods = [
  ["K-FAC", Kfac],
  ["RS-KFAC", RsKfac],
  ["SRE-KFAC", SreKfac],
  ["Nyström K-FAC", NysKfac],
  ["B-KFAC", BrandKfac],
  ["EK-FAC", EkFac],
] as const;

const options = { dtype: "float64" } as const;

/** A convolution, a batch norm with or without the ReLU that is fused into it, and a dense layer. */
function network(seed: number, relu: boolean, channels = 3): Sequential {
  const generator = new Generator(seed);
  return new Sequential(
    new Conv2d(1, channels, 2, { ...options, generator }),
    new BatchNorm2d(channels, options),
    ...(relu ? [new ReLU()] : []),
    new Flatten(),
    new Linear(4 * channels, 2, { ...options, generator }),
  );
}

/** A step on the batch of a number, its loss times a factor. */
async function step(model: Sequential, optimizer: CurvatureOptimizer, at: number, factor = 1): Promise<void> {
  const x = new Generator(100 + at).normal([5, 3, 3, 1], options);
  const labels = Tensor.from(Int32Array.from({ length: 5 }, (_, i) => (i + at) % 2));
  await optimizer.minimize(() => crossEntropy(model.forward(x), labels).multiply(factor));
}

const valuesOf = (model: Sequential): number[][] => [...model.stateDict().values()].map((tensor) => Array.from(tensor.dataSync()));
const release = ({ transforms }: OptimizerState): void => {
  for (const { tensors } of transforms) for (const tensor of tensors.values()) tensor.dispose();
};
/** The largest eigenvalue of [[a, b], [b, d]]. */
const largestOf = (a: number, b: number, d: number): number => (a + d) / 2 + Math.hypot((a - d) / 2, b);

eachBackend(() => {
  const cases = fc.record({ seed: fc.nat({ max: 1000 }), n: fc.integer({ min: 2, max: 6 }), relu: fc.boolean() });

  describe("the block of a batch norm's scale and shift", () => {
    it("sees the samples' gradients, whose mean is the gradient", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ seed, n, relu }) => {
          const model = network(seed, relu);
          const x = new Generator(seed + 1).normal([n, 3, 3, 1], options);
          const labels = Tensor.from(Int32Array.from({ length: n }, (_, i) => (i + seed) % 2));
          const loss = (): Tensor => crossEntropy(model.forward(x), labels);
          const parameters = model.parameters();
          const [scale, shift] = parameters.filter((p) => p.name.startsWith("1."));
          if (!scale || !shift) throw new Error("there is no batch norm");
          const { gradients } = valueAndGrad(loss, [scale, shift]);
          let seen: Float64Array | null = null;
          const precondition = new Precondition(
            parameters,
            "look",
            () => ({
              method: "look",
              needs: () => ({ curvature: true, gradient: false }),
              observe: (view: CurvatureView) => {
                if (view.kind === "scaleShift") seen = view.channelMoments().dataSync() as Float64Array;
              },
              refresh: () => Promise.resolve(),
              precondition: (gradient) => gradient,
              state: () => ({ tensors: new Map(), numbers: {} }),
              load: () => undefined,
              dispose: () => undefined,
            }),
            { scaleShift: true },
          );
          const optimizer = new Optimizer(parameters, { learningRate: 0, transforms: [precondition], precondition });
          await optimizer.minimize(loss);
          expect(precondition.registration().filter(({ block }) => block !== null)).toHaveLength(6);

          // u by a loss of its own for each sample, all of them through the batch's statistics.
          const own = Array.from({ length: n }, (_, i) => {
            const mask = Tensor.from(Float64Array.from({ length: n }, (_, j) => (j === i ? 1 : 0)));
            const probabilities = (): Tensor => model.forward(x).logSoftmax();
            const picked = (): Tensor => {
              const wanted = Tensor.from(
                Float64Array.from({ length: 2 * n }, (_, at) => (at % 2 === (Math.floor(at / 2) + seed) % 2 ? -1 : 0)),
                { shape: [n, 2] },
              );
              return probabilities().multiply(wanted).sum(1).multiply(mask).sum();
            };
            return valueAndGrad(picked, [scale, shift]).gradients.map((g) => g.dataSync());
          });
          // With train-mode statistics a sample's loss depends on all of them, but the gradients of γ and β come from its own rows alone.
          const mean = (k: 0 | 1): number[] => Array.from({ length: 3 }, (_, c) => own.reduce((sum, u) => sum + (u[k]?.[c] ?? NaN), 0) / n);
          expect(mean(0)).toBeAllclose([...(gradients[0] as Tensor).dataSync()], { relative: 1e-9 });
          const expected = Array.from({ length: 12 }, (_, at) => {
            const [c, i, j] = [Math.floor(at / 4), Math.floor(at / 2) % 2, at % 2];
            return own.reduce((sum, u) => sum + (u[i]?.[c] ?? NaN) * (u[j]?.[c] ?? NaN), 0) / n;
          });
          expect(seen).toBeAllclose(expected, { relative: 1e-9 });
        }),
        { numRuns: 15 },
      );
    });

    it("solves each channel's damped system", async () => {
      const [model, damping] = [network(3, true), 0.1];
      const x = new Generator(4).normal([5, 3, 3, 1], options);
      const labels = Tensor.from(Int32Array.of(0, 1, 1, 0, 1));
      const loss = (): Tensor => crossEntropy(model.forward(x), labels);
      const own = model.parameters().filter((p) => p.name.startsWith("1."));
      const gradients = valueAndGrad(loss, own).gradients.map((g) => g.dataSync());
      const before = own.map((p) => p.value.dataSync());
      const optimizer = new Kfac(model.parameters(), { learningRate: 1, clip: false, damping, scaleShift: true });
      await optimizer.minimize(loss);
      expect(
        optimizer
          .registration()
          .filter(({ block }) => block === "scale and shift")
          .map(({ parameter }) => parameter),
      ).toEqual(["1.weight", "1.bias"]);
      const step = own.map((p, i) => p.value.dataSync().map((value, c) => (before[i]?.[c] ?? 0) - value));
      const moments = [...(optimizer.state().transforms[0]?.tensors ?? [])].find(([name]) => name.endsWith("moments"))?.[1].dataSync();
      if (!moments) throw new Error("no moments are in the state");
      const eigenvalue = (c: number): number => {
        const [a = 0, b = 0, , d = 0] = moments.subarray(4 * c, 4 * c + 4);
        return largestOf(a, b, d);
      };
      const lambda = damping * Math.max(...[0, 1, 2].map(eigenvalue));
      for (let c = 0; c < 3; c++) {
        const [a = 0, b = 0, , d = 0] = moments.subarray(4 * c, 4 * c + 4);
        const [p = 0, q = 0] = step.map((values) => values[c] as number);
        expect([(a + lambda) * p + b * q, b * p + (d + lambda) * q]).toBeAllclose(
          gradients.map((g) => g[c] as number),
          { relative: 1e-9 },
        );
      }
      optimizer.dispose();
    });

    it.each([
      ["scale and shift", 2],
      ["the scale alone", 1],
    ] as const)("tells at each update of the moments of %s how many there were, the largest, and its bytes", async (_, width) => {
      const model = network(3, true);
      const parameters = model.parameters().filter(({ name }) => width === 2 || name !== "1.bias");
      const optimizer = new Kfac(parameters, { learningRate: 0.1, scaleShift: true, factorUpdateEvery: 2, inversionEvery: 4 });
      const told: (number | undefined)[] = [];
      for (let at = 0; at < 5; at++) {
        await step(model, optimizer, at);
        const reports = optimizer.reports().filter(({ method }) => method === "scale and shift");
        if (at % 2 === 1) {
          expect(reports).toEqual([]);
          continue;
        }
        const state = optimizer.state();
        const moments = [...(state.transforms[0]?.tensors.get("1.weight::moments")?.dataSync() ?? [])];
        const eigenvalues = [0, 1, 2].map((c) => {
          const [a = 0, b = 0, , d = 0] = moments.slice(width ** 2 * c, width ** 2 * (c + 1));
          return width === 1 ? a : largestOf(a, b, d);
        });
        const figures = { channels: 3, width, values: at / 2 + 1, largest: expect.closeTo(Math.max(...eigenvalues), 12) as number };
        expect(reports).toEqual([
          {
            layer: "1.weight",
            method: "scale and shift",
            figures: { ...figures, bytes: 8 * 3 * width ** 2 },
            spectra: {},
            problems: [],
            remarks: [],
          },
        ]);
        told.push(reports[0]?.figures["largest"]);
        release(state);
      }
      expect(new Set(told).size).toBe(3);
      optimizer.dispose();
    });
  });

  it("moments that are not finite begin anew with the next value, and say so; no parameter is lost", async () => {
    const model = network(3, true);
    const optimizer = new Kfac(model.parameters(), {
      learningRate: (at) => (at === 2 ? 1e-210 : 0.01), // the other layers go on with the inverses from before
      clip: false,
      scaleShift: true,
      factorUpdateEvery: 2,
      inversionEvery: 2,
    });
    const normOnly = (): string[][] =>
      optimizer.reports().flatMap(({ method, problems }) => (method === "scale and shift" ? [[...problems]] : []));
    const norm = (): number[] => model.parameters().flatMap(({ name, value }) => (name.startsWith("1.") ? [...value.dataSync()] : []));
    await step(model, optimizer, 0);
    await step(model, optimizer, 1);
    expect(normOnly()).toEqual([[]]);
    const before = norm();
    // The squares of its gradients are beyond the range of float64.
    await step(model, optimizer, 2, 1e200);
    expect(normOnly()).toEqual([["the moments are not finite at step 2: their average begins anew with the next value"]]);
    expect(norm()).toEqual(before);
    await step(model, optimizer, 3); // no update is due, but there is no value either
    expect(normOnly()).toEqual([[]]);
    expect(norm()).not.toEqual(before);
    expect(valuesOf(model).flat().every(Number.isFinite)).toBe(true);
    const state = optimizer.state();
    expect(state.transforms[0]?.numbers["1.weight::count"]).toBe(1);
    release(state);
    optimizer.dispose();
  });

  it("a first step that is refused is forgotten: the next batch is seen as the first", async () => {
    const after = async (factors: readonly number[]): Promise<number[][]> => {
      const model = network(3, true);
      const optimizer = new Kfac(model.parameters(), { learningRate: 0.01, scaleShift: true });
      const before = model.stateDict();
      for (const factor of factors.slice(0, -1)) {
        await expect(step(model, optimizer, 0, factor)).rejects.toThrow(/could not be inverted at step 0/);
        model.loadStateDict(before); // the running statistics of the batch norm have seen the batch
      }
      await step(model, optimizer, 0, factors.at(-1));
      optimizer.dispose();
      return valuesOf(model);
    };
    expect(await after([1e200, 1])).toEqual(await after([1]));
  });

  it.each(["empirical", "mc"] as const)(
    "a batch norm first met in a step that updates no factors gets its block in the next one that does: %s",
    async (fisher) => {
      const model = network(3, true);
      const optimizer = new Kfac(model.parameters(), { learningRate: 0.01, scaleShift: true, fisher, factorUpdateEvery: 3 });
      const blocks: (string | null | undefined)[] = [];
      for (let at = 0; at < 5; at++) {
        if (at === 0) model.eval();
        else model.train();
        await step(model, optimizer, at);
        blocks.push(optimizer.registration().find(({ parameter }) => parameter === "1.weight")?.block);
      }
      expect(blocks.slice(0, 1)).toEqual([null]);
      expect(blocks.slice(3)).toEqual(["scale and shift", "scale and shift"]);
      optimizer.dispose();
    },
  );

  describe("a saved state with the moments of a batch norm", () => {
    const settings = { learningRate: 0.1, momentum: 0.9, damping: 0.1, scaleShift: true, factorUpdateEvery: 2, inversionEvery: 4 } as const;

    it.each(methods)("goes on bit for bit with %s, from any step", async (_, Method) => {
      const run = async (interruptAt: readonly number[]): Promise<number[][]> => {
        const model = network(5, true);
        let optimizer: CurvatureOptimizer = new Method(model.parameters(), settings);
        for (let at = 0; at < 7; at++) {
          if (interruptAt.includes(at)) {
            const state = optimizer.state();
            optimizer.dispose();
            optimizer = new Method(model.parameters(), settings);
            optimizer.load(state);
            release(state);
          }
          await step(model, optimizer, at);
        }
        expect(optimizer.registration().find(({ parameter }) => parameter === "1.weight")?.block).toBe("scale and shift");
        optimizer.dispose();
        return valuesOf(model);
      };
      const whole = await run([]);
      // Before an update of the moments, after one, and twice in a row.
      for (const interruptAt of [[1], [2], [3, 4], [6]]) expect(await run(interruptAt)).toEqual(whole);
    });

    /** A state after one step, and a model to load it into. */
    const saved = async (channels: number, parameters: (model: Sequential) => Parameter[]): Promise<OptimizerState> => {
      const model = network(5, true, channels);
      const optimizer = new Kfac(parameters(model), settings);
      await step(model, optimizer, 0);
      const state = optimizer.state();
      optimizer.dispose();
      return state;
    };
    // The batch norm is met before the dense layer, which would be refused for other channels, too.
    const norm = (model: Sequential): Parameter[] => model.parameters().filter(({ name }) => !name.startsWith("0."));
    const scale = (model: Sequential): Parameter[] => norm(model).filter(({ name }) => name !== "1.bias");

    it.each([
      ["of other channels", 4, norm, "[4, 2, 2]"],
      ["without the shift", 3, scale, "[3, 1, 1]"],
    ] as const)("%s is refused, with what to do, in every step until another one is loaded", async (_, channels, parameters, shape) => {
      const state = await saved(channels, parameters);
      // No momentum is saved that would be refused before.
      const transforms = state.transforms.map((transform) =>
        transform.kind === "momentum" ? { ...transform, tensors: new Map() } : transform,
      );
      const model = network(5, true);
      const optimizer = new Kfac(norm(model), settings);
      const [before, fresh] = [norm(model).map(({ value }) => [...value.dataSync()]), optimizer.state()];
      optimizer.load({ ...state, transforms });
      for (let i = 0; i < 2; i++) {
        const failed = step(model, optimizer, 1);
        await expect(failed).rejects.toThrow(CheckpointError);
        await expect(failed).rejects.toThrow(
          `load: the saved moments of "1.weight" are ${shape} but the layer's are [3, 2, 2], a matrix for each channel; load them into`,
        );
      }
      expect(norm(model).map(({ value }) => [...value.dataSync()])).toEqual(before);
      optimizer.load(fresh);
      await step(model, optimizer, 1);
      expect(norm(model).map(({ value }) => [...value.dataSync()])).not.toEqual(before);
      optimizer.dispose();
    });

    it("is refused at once by an optimizer without blocks for batch norms, with the weights that may have one, and what to do", async () => {
      const state = await saved(3, (model) => model.parameters());
      const model = network(5, true);
      const optimizer = new Kfac(model.parameters(), { ...settings, scaleShift: false });
      expect(() => optimizer.load(state)).toThrow(CheckpointError);
      expect(() => optimizer.load(state)).toThrow(
        'load: the curvature state of "1.weight" belongs to no weight of this optimizer that may have a block, which are "0.weight", "4.weight"; ' +
          "load it into the network that it was saved from, with the same options skip and scaleShift",
      );
      optimizer.dispose();
    });
  });
});

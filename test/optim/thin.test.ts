import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import { crossEntropy, Linear, meanSquaredError, Sequential, Tanh } from "../../src/nn/index.ts";
import type { Parameter } from "../../src/nn/index.ts";
import { Kfac, Precondition, RecordedView, Seng, type CurvatureOptimizer, type LowRankOptions } from "../../src/optim/index.ts";
import { Generator, Tensor } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";
import { lowRankMethods } from "./properties/methods.ts";

/*
 * Thin application: a dense layer's gradient is C_g C_aᵀ with n columns each, so that P = (Γ̂⁻¹ C_g)(Ω̂⁻¹ C_a)ᵀ. That is the direction of the
 * whole gradient only if these factors make up the whole gradient.
 */

const options = { dtype: "float64" } as const;

type ThinMethod = readonly [name: string, make: (parameters: readonly Parameter[], options: LowRankOptions) => CurvatureOptimizer];
/** Those that need no more of a gradient than its factors. */
const methods: readonly ThinMethod[] = [
  ...lowRankMethods.map(([name, Method]): ThinMethod => [name, (parameters, own) => new Method(parameters, own)]),
  [
    "K-FAC by Cholesky",
    (parameters, { dampingKind, ...own }) =>
      new Kfac(parameters, { ...own, inverse: "cholesky", dampingKind: dampingKind === "pi" ? "pi" : "factored" }),
  ],
  // Its inner products with the gradient go through the factors.
  ["SENG", (parameters, { learningRate, reduction, thin }) => new Seng(parameters, { learningRate, reduction, thin, refreshEvery: 2 })],
];

const settings: LowRankOptions = { learningRate: 0.1, rank: 3, oversampling: 1, exactUpTo: 0, factorUpdateEvery: 2, inversionEvery: 4 };

interface Training {
  readonly model: Sequential;
  /** The losses of one step, whose mean is minimised. */
  readonly closures: (() => Tensor)[];
}

interface TrainingOptions {
  readonly sizes?: readonly number[];
  readonly reduction?: "mean" | "sum";
  readonly penalty?: number;
}

/** Batches far smaller than the layers are wide: thin application is cheaper there. */
function training(seed: number, { sizes = [2], reduction = "mean", penalty = 0 }: TrainingOptions = {}): Training {
  const generator = new Generator(seed);
  const model = new Sequential(
    new Linear(9, 8, { ...options, generator }),
    new Tanh(),
    new Linear(8, 7, { ...options, generator, bias: false }),
  );
  const weight = model.parameters()[0];
  const closures = sizes.map((n) => {
    const [x, labels] = [generator.normal([n, 9], options), Tensor.from(Int32Array.from({ length: n }, (_, i) => (i * 3 + seed) % 7))];
    return (): Tensor => {
      const loss = crossEntropy(model.forward(x), labels, { reduction });
      return penalty === 0 || !weight ? loss : loss.add(weight.value.square().sum().multiply(penalty));
    };
  });
  return { model, closures };
}

eachBackend(() => {
  afterEach(() => vi.restoreAllMocks());

  /** The parameters after some steps, and how many times a layer was preconditioned by its thin factors. */
  async function run(
    [, make]: ThinMethod,
    { model, closures }: Training,
    own: Partial<LowRankOptions>,
  ): Promise<{ values: number[]; thinly: number }> {
    const read = vi.spyOn(RecordedView.prototype, "thinOutputGradient");
    const optimizer = make(model.parameters(), { ...settings, ...own });
    for (let step = 0; step < 5; step++) await optimizer.minimize(closures);
    optimizer.dispose();
    const thinly = read.mock.calls.filter(([of]) => of === "training").length; // B-KFAC reads those of the Fisher, too
    read.mockRestore();
    return { values: model.parameters().flatMap(({ value }) => [...value.dataSync()]), thinly };
  }

  describe.each(methods)("%s, applied to the thin factors of a gradient,", (...method) => {
    it("goes where it goes applied to the gradient, for any batch", async () => {
      const cases = fc.record({
        seed: fc.nat({ max: 1000 }),
        sizes: fc.constantFrom([1], [2], [1, 2], [1, 1, 1]),
        reduction: fc.constantFrom("mean" as const, "sum" as const),
        dampingKind: fc.constantFrom("relative" as const, "factored" as const, "pi" as const),
        tail: fc.constantFrom("mean" as const, "smallest" as const, "zero" as const),
      });
      await fc.assert(
        fc.asyncProperty(cases, async ({ seed, sizes, reduction, ...own }) => {
          const [thin, dense] = [
            await run(method, training(seed, { sizes, reduction }), { ...own, reduction, thin: true }),
            await run(method, training(seed, { sizes, reduction }), { ...own, reduction, thin: false }),
          ];
          expect(thin.thinly).toBe(2 * 5);
          expect(dense.thinly).toBe(0);
          expect(thin.values).toBeAllclose(dense.values, { relative: 1e-9 });
        }),
        { numRuns: 8 },
      );
    });

    it("is not applied to them where a penalty adds to the gradient", async () => {
      const penalised = (): Training => training(1, { penalty: 0.1 });
      const [thin, dense] = [await run(method, penalised(), { thin: true }), await run(method, penalised(), { thin: false })];
      expect(thin.thinly).toBe(5); // the other layer, whose weight has no penalty
      const own = 9 * 8 + 8;
      expect(thin.values).toBeAllclose(dense.values, { relative: 1e-9 });
      const plain = await run(method, training(1), { thin: true });
      const differs = thin.values.slice(0, own).some((value, i) => Math.abs(value - (plain.values[i] as number)) > 1e-4);
      expect(differs).toBe(true); // the penalty does something, so that to leave it out would be seen
    });

    it("is not applied to them where a step's only penalised layer is all there is: bit for bit the dense direction", async () => {
      const single = (): Training => {
        const generator = new Generator(4);
        const layer = new Linear(9, 8, { ...options, generator });
        const [x, target] = [generator.normal([2, 9], options), generator.normal([2, 8], options)];
        const model = new Sequential(layer);
        return {
          model,
          closures: [() => meanSquaredError(model.forward(x), target).add(layer.weight.value.square().sum().multiply(0.01))],
        };
      };
      const [thin, dense] = [await run(method, single(), { thin: true }), await run(method, single(), { thin: false })];
      expect(thin.thinly).toBe(0);
      expect(thin.values).toEqual(dense.values);
    });

    it("is not applied to them in the steps of a layer that have several positions a sample, though the first had one", async () => {
      const shapes = [[2], [1, 2], [2, 2], [2], [1]];
      const run = async (thin: boolean): Promise<{ values: number[]; thinly: number[] }> => {
        const generator = new Generator(6);
        const layer = new Linear(9, 8, { ...options, generator });
        const optimizer = method[1](layer.parameters(), { ...settings, thin });
        const read = vi.spyOn(RecordedView.prototype, "thinOutputGradient");
        const thinly: number[] = [];
        for (const [step, shape] of shapes.entries()) {
          const [x, target] = [9, 8].map((width) => generator.normal([...shape, width], options)) as [Tensor, Tensor];
          await optimizer.minimize(() => meanSquaredError(layer.forward(x), target));
          if (read.mock.calls.some(([of]) => of === "training")) thinly.push(step);
          read.mockClear();
        }
        optimizer.dispose();
        return { values: layer.parameters().flatMap(({ value }) => [...value.dataSync()]), thinly };
      };
      const [thin, dense] = [await run(true), await run(false)];
      // SENG is refreshed in step 2, by samples of two positions.
      expect(thin.thinly).toEqual(method[0] === "SENG" ? [0] : [0, 3, 4]);
      expect(dense.thinly).toEqual([]);
      expect(thin.values).toBeAllclose(dense.values, { relative: 1e-9 });
    });

    it("is not applied to them where that would cost more, nor with several positions a sample", async () => {
      expect((await run(method, training(2, { sizes: [40] }), { thin: true })).thinly).toBe(0);
      const positions = (): Training => {
        const generator = new Generator(5);
        const model = new Sequential(new Linear(9, 8, { ...options, generator }));
        const [x, target] = [generator.normal([1, 2, 9], options), generator.normal([1, 2, 8], options)];
        return { model, closures: [() => meanSquaredError(model.forward(x), target)] };
      };
      expect((await run(method, positions(), { thin: true })).thinly).toBe(0);
    });

    // Whether SENG's samples are thin is decided when they are frozen.
    it.skipIf(method[0] === "SENG")("asks for them in the steps in which they are used, and for nothing where they are not", async () => {
      const capture = vi.spyOn(Precondition.prototype, "capture");
      const quiet = async (sizes: readonly number[], thin: boolean): Promise<boolean[]> => {
        capture.mockClear();
        await run(method, training(3, { sizes }), { thin });
        // Factors are updated in steps 0, 2 and 4.
        return [1, 3].map((step) => capture.mock.results[step]?.value !== null);
      };
      expect(await quiet([2], true)).toEqual([true, true]);
      expect(await quiet([40], true)).toEqual([false, false]);
      expect(await quiet([2], false)).toEqual([false, false]);
    });

    it("goes on bit for bit after a resume, whatever batch comes first then", async () => {
      const cases = fc.record({
        shapes: fc.array(fc.constantFrom<number[]>([2], [1], [3], [40], [2, 2]), { minLength: 5, maxLength: 5 }),
        at: fc.integer({ min: 1, max: 4 }),
        rising: fc.boolean(),
      });
      await fc.assert(
        fc.asyncProperty(cases, async ({ shapes, at, rising }) => {
          // An inversion in step 3, in which no factor is updated, after which thin application pays for larger batches.
          const own = rising ? { ...settings, rank: (step: number) => (step < 3 ? 1 : 6), inversionEvery: 3 } : settings;
          const layer = (): Linear => new Linear(9, 8, { ...options, generator: new Generator(6) });
          const minimize = async (optimizer: CurvatureOptimizer, model: Linear, from: number, to: number): Promise<void> => {
            for (let step = from; step < to; step++) {
              const generator = new Generator(step);
              const [x, target] = [9, 8].map((width) => generator.normal([...(shapes[step] as number[]), width], options)) as [
                Tensor,
                Tensor,
              ];
              await optimizer.minimize(() => meanSquaredError(model.forward(x), target));
            }
          };
          const whole = layer();
          const first = method[1](whole.parameters(), own);
          await minimize(first, whole, 0, at);
          const saved = first.state();
          const resumed = layer();
          resumed.loadStateDict(whole.stateDict());
          await minimize(first, whole, at, shapes.length);
          const second = method[1](resumed.parameters(), own);
          second.load(saved);
          await minimize(second, resumed, at, shapes.length);
          const values = (parameters: readonly Parameter[]): number[] => parameters.flatMap(({ value }) => [...value.dataSync()]);
          expect(values(resumed.parameters())).toEqual(values(whole.parameters()));
          for (const optimizer of [first, second]) optimizer.dispose();
        }),
        {
          numRuns: 12,
          examples: [
            [{ shapes: [[2], [2], [2, 2], [2], [2]], at: 2, rising: false }],
            [{ shapes: [[2], [2], [40], [2], [2]], at: 2, rising: false }],
            [{ shapes: [[3], [3], [3], [3], [3]], at: 3, rising: true }],
          ],
        },
      );
    });
  });
});

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  BatchNorm1d,
  constantInit,
  Conv2d,
  crossEntropy,
  Dropout,
  Flatten,
  Linear,
  meanSquaredError,
  Module,
  ReLU,
  Sequential,
  Tanh,
} from "../../src/nn/index.ts";
import { verifyCurvature, type CurvatureView, type Fisher, type LayerVerification } from "../../src/optim/index.ts";
import { defaultBackend, Generator, Tensor, type Shape } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";
import { settledBuffers } from "../settled.ts";

const options = { dtype: "float64" } as const;
const normal = (shape: Shape, seed: number): Tensor => new Generator(seed).normal(shape, options);
const labelsOf = (n: number, classes: number): Tensor => Tensor.from(Int32Array.from({ length: n }, (_, i) => (i * 7 + 1) % classes));
const expectationOf = (layers: readonly LayerVerification[]): (string | null)[] => layers.map(({ expected }) => expected);

/** Every figure says that the two are one matrix. */
function expectEqual({ distance, ratios, traces, exact }: LayerVerification): void {
  expect(distance).toBeLessThan(1e-12);
  expect([ratios.smallest, ratios.largest]).toBeAllclose([1, 1], { relative: 1e-6 });
  expect([traces.kronecker]).toBeAllclose([traces.dense], { relative: 1e-12 });
  expect(exact).toBe(true);
}

/** Applies dense layers at each position of [n, T, d], and gives the mean over positions. */
class MeanPooled extends Module {
  readonly inner = new Linear(3, 4, { ...options, generator: new Generator(1) });
  readonly outer = new Linear(4, 2, { ...options, generator: new Generator(2) });
  protected compute(input: Tensor): Tensor {
    return this.outer.forward(this.inner.forward(input)).mean(1);
  }
}

eachBackend(() => {
  const widths = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 2, maxLength: 4 });
  const deep = (sizes: readonly number[], bias: boolean, generator: Generator): Sequential =>
    new Sequential(...sizes.slice(1).map((out, i) => new Linear(sizes[i] as number, out, { ...options, generator, bias })));

  describe("the Kronecker factors are the dense curvature", () => {
    it("of every layer of a deep linear network with squared error and the type-2 Fisher, for any batch", async () => {
      const cases = fc.record({
        sizes: widths,
        n: fc.integer({ min: 2, max: 5 }),
        reduction: fc.constantFrom("mean" as const, "sum" as const),
        bias: fc.boolean(),
        seed: fc.nat({ max: 1000 }),
      });
      await fc.assert(
        fc.asyncProperty(cases, async ({ sizes, n, reduction, bias, seed }) => {
          const model = deep(sizes, bias, new Generator(seed));
          const target = normal([n, sizes.at(-1) as number], seed + 1);
          const { layers, faults, refused } = await verifyCurvature(
            model,
            normal([n, sizes[0] as number], seed + 2),
            (prediction) => meanSquaredError(prediction, target, { reduction }),
            { fisher: "type-2", reduction },
          );
          expect(layers).toHaveLength(sizes.length - 1);
          expect(new Set(expectationOf(layers))).toEqual(new Set(["linear to the prediction"]));
          layers.forEach(expectEqual);
          expect([...faults, ...refused]).toEqual([]);
        }),
        { numRuns: 12 },
      );
    });

    it.each(["type-2", "empirical", "mc"] as const)("of every layer of any network on one datum, %s", async (fisher: Fisher) => {
      await fc.assert(
        fc.asyncProperty(widths, fc.boolean(), fc.nat({ max: 1000 }), async (sizes, bias, seed) => {
          const generator = new Generator(seed);
          const model = new Sequential(
            new Conv2d(2, sizes[0] as number, [2, 3], { ...options, generator, bias }), // one position: the kernel is the image
            new Flatten(),
            new Tanh(),
            deep(sizes, bias, generator),
            new Tanh(),
            new Linear(sizes.at(-1) as number, 3, { ...options, generator, bias }),
          );
          const { layers, faults } = await verifyCurvature(
            model,
            normal([1, 2, 3, 2], seed + 1),
            (logits) => crossEntropy(logits, labelsOf(1, 3), { smoothing: 0.1 }),
            { fisher, fisherSeed: seed },
          );
          expect(layers).toHaveLength(sizes.length + 1);
          expect(new Set(expectationOf(layers))).toEqual(new Set(["one datum"]));
          layers.forEach(expectEqual);
          expect(faults).toEqual([]);
        }),
        { numRuns: 6 },
      );
    });

    it("of every layer of a linear network with positions, if the loss sums over these", async () => {
      const cases = fc.record({
        sizes: widths,
        n: fc.integer({ min: 1, max: 3 }),
        positions: fc.integer({ min: 2, max: 4 }),
        bias: fc.boolean(),
      });
      await fc.assert(
        fc.asyncProperty(cases, fc.nat({ max: 1000 }), async ({ sizes, n, positions, bias }, seed) => {
          const shape = (width: number): Shape => [n, positions, width];
          const target = normal(shape(sizes.at(-1) as number), seed);
          const { layers, faults } = await verifyCurvature(
            deep(sizes, bias, new Generator(seed)),
            normal(shape(sizes[0] as number), seed + 1),
            (prediction) => meanSquaredError(prediction, target),
            { fisher: "type-2" },
          );
          expect(new Set(expectationOf(layers))).toEqual(new Set(["linear to the prediction"]));
          layers.forEach(expectEqual);
          expect(faults).toEqual([]);
        }),
        { numRuns: 10 },
      );
    });

    it("of a convolution whose maps are the prediction, whatever comes before it", async () => {
      const generator = new Generator(3);
      const model = new Sequential(
        new Conv2d(1, 2, 2, { ...options, generator }),
        new Tanh(),
        new Conv2d(2, 2, 2, { ...options, generator, padding: 1 }),
      );
      const target = normal([2, 4, 4, 2], 4);
      const { layers } = await verifyCurvature(model, normal([2, 4, 4, 1], 5), (maps) => meanSquaredError(maps, target), {
        fisher: "type-2",
      });
      expect(expectationOf(layers)).toEqual([null, "linear to the prediction"]);
      expectEqual(layers[1] as LayerVerification);
      expect(layers[0]?.distance).toBeGreaterThan(1e-3);
    });

    describe("of a linear network that takes a mean over positions, in the reduce convention: means of a and sums of g,", () => {
      // Every position has the same g, so that Σ g_t a_tᵀ = (Σ g_t)(mean a_t)ᵀ.
      const meanOfInputs = (view: CurvatureView): Tensor =>
        view
          .perSample(0, view.n)
          .a.mean(1)
          .gram(1 / view.n);

      it("on one datum, empirical", async () => {
        const target = normal([1, 2], 3);
        const { layers } = await verifyCurvature(new MeanPooled(), normal([1, 4, 3], 4), (output) => meanSquaredError(output, target), {
          fisher: "empirical",
          factors: (view) => ({
            input: meanOfInputs(view),
            output: view
              .perSample(0, view.n)
              .g.sum(1)
              .gram(1 / view.n),
          }),
        });
        expect(layers).toHaveLength(2);
        layers.forEach(expectEqual);
      });

      it("on any batch, type-2, whose g is the same for every sample, too", async () => {
        const cases = fc.record({
          n: fc.integer({ min: 2, max: 4 }),
          positions: fc.integer({ min: 2, max: 4 }),
          reduction: fc.constantFrom("mean" as const, "sum" as const),
          seed: fc.nat({ max: 1000 }),
        });
        await fc.assert(
          fc.asyncProperty(cases, async ({ n, positions, reduction, seed }) => {
            const target = normal([n, 2], seed);
            const { layers } = await verifyCurvature(
              new MeanPooled(),
              normal([n, positions, 3], seed + 1),
              (output) => meanSquaredError(output, target, { reduction }),
              {
                fisher: "type-2",
                reduction,
                // Γ is the mean over positions of g gᵀ, and the sum of T equal ones is T g.
                factors: (view) => ({ input: meanOfInputs(view), output: view.outputCovariance().multiply(positions ** 2) }),
              },
            );
            expect(layers).toHaveLength(2);
            layers.forEach(expectEqual);
          }),
          { numRuns: 10 },
        );
      });
    });

    it("of the same draws, if all samples are one datum and only their labels are drawn apart", async () => {
      const generator = new Generator(6);
      const model = new Sequential(new Linear(3, 4, { ...options, generator }), new Tanh(), new Linear(4, 3, { ...options, generator }));
      const inputs = normal([1, 3], 7).broadcastTo([9, 3]);
      const { layers } = await verifyCurvature(model, inputs, (logits) => crossEntropy(logits, labelsOf(9, 3)), {
        fisher: "mc",
        fisherSeed: 5,
      });
      expect(expectationOf(layers)).toEqual([null, null]); // no theorem that is looked for
      layers.forEach(expectEqual);
    });
  });

  describe("the Kronecker factors are an approximation, and nothing is expected of them,", () => {
    it.each(["type-2", "empirical", "mc"] as const)("of a network that is not linear, on a batch, %s", async (fisher) => {
      const generator = new Generator(1);
      const model = new Sequential(new Linear(3, 4, { ...options, generator }), new Tanh(), new Linear(4, 3, { ...options, generator }));
      const verification = await verifyCurvature(model, normal([6, 3], 2), (logits) => crossEntropy(logits, labelsOf(6, 3)), { fisher });
      const { layers, faults } = verification;
      expect(expectationOf(layers)).toEqual([null, null]);
      for (const { distance, exact } of layers) {
        expect(exact).toBe(false);
        expect(distance).toBeGreaterThan(1e-3);
      }
      expect(faults).toEqual([]);
    });

    it("of a linear network that takes a mean over positions: that is what the reduce convention is exact for", async () => {
      const target = normal([3, 2], 3);
      const { layers } = await verifyCurvature(
        new MeanPooled(),
        normal([3, 4, 3], 4),
        (prediction) => meanSquaredError(prediction, target),
        {
          fisher: "type-2",
        },
      );
      expect(expectationOf(layers)).toEqual([null, null]);
      for (const { distance } of layers) expect(distance).toBeGreaterThan(0.01);
    });

    it("of a linear network with cross-entropy, whose second derivative differs from sample to sample", async () => {
      const { layers } = await verifyCurvature(
        deep([3, 4, 3], true, new Generator(1)),
        normal([5, 3], 2),
        (logits) => crossEntropy(logits, labelsOf(5, 3)),
        {
          fisher: "type-2",
        },
      );
      expect(expectationOf(layers)).toEqual([null, null]);
      for (const { distance } of layers) expect(distance).toBeGreaterThan(1e-4);
    });
  });

  describe("a wrong capture", () => {
    const run = (options: Parameters<typeof verifyCurvature>[3]): ReturnType<typeof verifyCurvature> => {
      const target = normal([4, 2], 2);
      return verifyCurvature(
        deep([3, 3, 2], true, new Generator(1)),
        normal([4, 3], 3),
        (prediction) => meanSquaredError(prediction, target),
        { fisher: "type-2", ...options },
      );
    };

    it("is a fault, whose size and sign the figures give", async () => {
      const { layers, faults, table } = await run({
        factors: (view) => ({ input: view.inputCovariance(), output: view.outputCovariance().multiply(1.25) }),
      });
      for (const { distance, ratios, exact } of layers) {
        expect(distance).toBeCloseTo(0.25, 10);
        expect([ratios.smallest, ratios.largest]).toBeAllclose([1.25, 1.25], { relative: 1e-6 });
        expect(exact).toBe(false);
      }
      expect(faults).toEqual([
        '"0.weight" should be exact (linear to the prediction) but is off by 2.5e-1',
        '"1.weight" should be exact (linear to the prediction) but is off by 2.5e-1',
      ]);
      expect(table).toContain("FAULT: ");
    });

    it("is a fault where the empirical Fisher's gradients stand for those of the type-2", async () => {
      // The view of another Fisher: as if the seeds had been forgotten.
      const { faults } = await run({
        factors: (view) => {
          const c = view.thinOutputGradient("training");
          return { input: view.inputCovariance(), output: c.matmul(c, { transposeB: true }) };
        },
      });
      expect(faults).toHaveLength(2);
    });

    it("is none where only the split of the scale differs", async () => {
      const { faults } = await run({
        factors: (view) => ({ input: view.inputCovariance().multiply(1 / 16), output: view.outputCovariance().multiply(16) }),
      });
      expect(faults).toEqual([]);
    });
  });

  describe("verifyCurvature", () => {
    it("refuses layers that are too large, with the remedy, and everything if none is left", async () => {
      const model = new Sequential(
        new Linear(5, 4, { ...options, generator: new Generator(1) }),
        new ReLU(),
        new Linear(4, 2, { ...options, generator: new Generator(2) }),
      );
      const run = (largestBlock: number): ReturnType<typeof verifyCurvature> =>
        verifyCurvature(model, normal([3, 5], 3), (logits) => crossEntropy(logits, labelsOf(3, 2)), { largestBlock });
      const { layers, refused, table } = await run(10);
      expect(layers.map(({ layer, rows }) => [layer, rows])).toEqual([["2.weight", 10]]);
      const reason = "its dense block would be 24 × 24, more than largestBlock: 10; raise that, or take a smaller network";
      expect(refused).toEqual([{ parameter: "0.weight", reason }]);
      expect(table).toContain(`"0.weight" was not verified: ${reason}`);
      await expect(run(9)).rejects.toThrow(/no layer can be verified: "0.weight": its dense block would be 24 × 24.*"2.weight"/);
    });

    it("refuses a prediction without a row for each sample", async () => {
      const model = new Sequential(new Flatten(), new Linear(2, 2, { ...options, generator: new Generator(1) }));
      class Folding extends Module {
        readonly inner = model;
        protected compute(input: Tensor): Tensor {
          return this.inner.forward(input.reshape([4, 2]));
        }
      }
      await expect(verifyCurvature(new Folding(), normal([2, 4], 1), (p) => p.square().sum())).rejects.toThrow(/4 rows for 2 samples/);
    });

    it("changes no parameter, running statistic or random stream, and leaves no tensor behind", async () => {
      const generator = new Generator(1);
      const dropout = new Dropout(0.4, { generator: new Generator(2) });
      const model = new Sequential(
        new Linear(3, 4, { ...options, generator }),
        new BatchNorm1d(4, options),
        new ReLU(),
        dropout,
        new Linear(4, 3, { ...options, generator }),
      );
      const [inputs, labels] = [normal([5, 3], 3), labelsOf(5, 3)];
      const run = (fisher: Fisher): ReturnType<typeof verifyCurvature> =>
        verifyCurvature(model, inputs, (logits) => crossEntropy(logits, labels), { fisher });
      const values = (): unknown => [[...model.stateDict()].map(([, tensor]) => [...tensor.dataSync()]), dropout.generator.state()];
      const before = values();
      const { refused, layers } = await run("mc");
      expect(refused.map(({ parameter }) => parameter)).toEqual(["1.weight", "1.bias"]);
      expect(layers).toHaveLength(2);
      const buffers = await settledBuffers();
      for (const fisher of ["empirical", "mc", "type-2"] as const) await run(fisher);
      expect(defaultBackend().memory().buffers).toBe(buffers);
      expect(values()).toEqual(before);
    });

    it("says by how much curvature is under- and overestimated, of the directions that some sample has", async () => {
      // a₁ = e₁, a₂ = e₂, g = −1 and −3: F = ½ diag(1, 9, 0), Ω = ½ diag(1, 1, 0), Γ = 5.
      const model = new Sequential(new Linear(3, 1, { ...options, bias: false, init: constantInit(0) }));
      const [inputs, target] = [
        [
          [1, 0, 0],
          [0, 1, 0],
        ],
        [[0.5], [1.5]],
      ].map((rows) => Tensor.from(rows, options)) as [Tensor, Tensor];
      const { layers } = await verifyCurvature(model, inputs, (prediction) => meanSquaredError(prediction, target));
      const { ratios, traces, distance } = layers[0] as LayerVerification;
      expect(ratios.smallest).toBeCloseTo(5 / 9, 12);
      expect(ratios.largest).toBeCloseTo(5, 12);
      expect(traces.dense).toBeCloseTo(5, 12);
      expect(traces.kronecker).toBeCloseTo(5, 12);
      expect(distance).toBeCloseTo(Math.hypot(2, 2) / Math.hypot(0.5, 4.5), 12);
    });

    it("of a float32 network is exact to its rounding", async () => {
      const generator = new Generator(1);
      const model = new Sequential(new Linear(3, 3, { generator }), new Linear(3, 2, { generator }));
      const target = new Generator(2).normal([4, 2]);
      const { layers, faults } = await verifyCurvature(model, new Generator(3).normal([4, 3]), (p) => meanSquaredError(p, target), {
        fisher: "type-2",
      });
      for (const { distance, exact } of layers) {
        expect(distance).toBeLessThan(1e-5);
        expect(exact).toBe(true);
      }
      expect(faults).toEqual([]);
    });
  });
});

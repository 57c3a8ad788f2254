import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  BatchNorm1d,
  Conv2d,
  crossEntropy,
  Flatten,
  Linear,
  meanSquaredError,
  Parameter,
  Sequential,
  Tanh,
  type Module,
} from "../../src/nn/index.ts";
import {
  Kfac,
  RsKfac,
  Seng,
  type CurvatureOptimizer,
  type KfacOptions,
  type LayerReport,
  type OptimizerState,
} from "../../src/optim/index.ts";
import {
  CheckpointError,
  Generator,
  linear,
  NumericalError,
  Tensor,
  UsageError,
  type FloatArray,
  type Shape,
} from "../../src/tensor/index.ts";
import { seeds } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { lowRankMethods, positiveMethods, type CommonOptions, type Method } from "./properties/methods.ts";

/*
 * What input gets that does not fit: an error that says so, or what the documentation promises and the report tells. Never a direction that is
 * wrong without a word.
 */

const options = { dtype: "float64" } as const;
const normal = (shape: Shape, seed: number): Tensor => new Generator(seed).normal(shape, options);
const batch = (n: number, seed: number, width = 6): { x: Tensor; labels: Tensor } => ({
  x: normal([n, width], seed),
  labels: Tensor.from(Int32Array.from({ length: n }, (_, i) => (i * 7 + seed) % 3)),
});
const network = (width = 6, hidden = 5): Sequential => {
  const generator = new Generator(1);
  return new Sequential(new Linear(width, hidden, { ...options, generator }), new Tanh(), new Linear(hidden, 3, { ...options, generator }));
};
const valuesOf = (model: Module): number[][] => model.parameters().map(({ value }) => [...value.dataSync()]);
const finite = (model: Module): boolean => valuesOf(model).flat().every(Number.isFinite);

async function step(model: Module, optimizer: CurvatureOptimizer, { x, labels }: { x: Tensor; labels: Tensor }): Promise<void> {
  await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
}
const wordsOf = (reports: readonly LayerReport[], kind: "problems" | "remarks"): string[] =>
  reports.flatMap((report) => report[kind].map((words) => `${report.layer}: ${words}`));

eachBackend(() => {
  describe("a network without a layer to precondition", () => {
    const message = /no parameter of the optimizer is the weight of a linear or conv2d call/;

    it("is an error in every step, and nothing changes: a matrix that no layer applies, or a layer that is not supported", async () => {
      const free = new Parameter("free", normal([2, 2], 1));
      const grouped = new Conv2d(2, 2, 2, { ...options, groups: 2, generator: new Generator(2) });
      const image = normal([3, 2, 2, 2], 3);
      const cases: [Parameter[], () => Tensor, string][] = [
        [[free], () => free.value.square().sum(), '"free": not met yet in a linear or conv2d call'],
        [grouped.parameters(), () => grouped.forward(image).square().mean(), '"weight": a convolution with groups > 1'],
      ];
      for (const [parameters, loss, reason] of cases) {
        const before = parameters.map(({ value }) => [...value.dataSync()]);
        const optimizer = new Kfac(parameters, { learningRate: 0.1 });
        for (let i = 0; i < 3; i++) {
          const failed = optimizer.minimize(loss);
          await expect(failed).rejects.toThrow(UsageError);
          await expect(failed).rejects.toThrow(message);
          await expect(failed).rejects.toThrow(reason);
        }
        expect(parameters.map(({ value }) => [...value.dataSync()])).toEqual(before);
      }
    });

    it("is not one of batch norms alone, whose scales and shifts have blocks of their own", async () => {
      const generator = new Generator(1);
      const model = new Sequential(
        new Linear(6, 4, { ...options, generator }),
        new BatchNorm1d(4, options),
        new Linear(4, 3, { ...options, generator }),
      );
      const optimizer = new Kfac(model.parameters(), { learningRate: 0.1, scaleShift: true, skip: ({ shape }) => shape.length > 1 });
      for (let i = 0; i < 3; i++) await step(model, optimizer, batch(8, i));
      const blocks = optimizer.registration().flatMap(({ parameter, block }) => (block === null ? [] : [`${parameter}: ${block}`]));
      expect(blocks).toEqual(["1.weight: scale and shift", "1.bias: scale and shift"]);
      optimizer.dispose();
    });

    it("is an error at once where no parameter has the shape of a weight, or all are skipped", () => {
      const make = (parameters: Parameter[], skip: string[] = []): unknown => new Kfac(parameters, { learningRate: 0.1, skip });
      expect(() => make(new BatchNorm1d(3, options).parameters())).toThrow(message);
      expect(() => make(network().parameters(), ["*"])).toThrow(message);
      expect(() => make(network().parameters(), ["*"])).toThrow('"0.weight": left out by the option skip');
    });
  });

  describe("a rank above a factor's rows", () => {
    it.each(lowRankMethods)("counts for %s as these rows, which is said once of each factor", async (_, Method) => {
      const [model, other] = [network(), network()];
      const common = { learningRate: 0.1, factorUpdateEvery: 1, inversionEvery: 1, oversampling: 0, thin: false };
      const high = new Method(model.parameters(), { ...common, rank: 100 });
      // 7 and 5 rows, and 6 and 3: at a rank of 7 some are still fewer, and the eigenpairs are the same.
      const low = new Method(other.parameters(), { ...common, rank: 7 });
      for (let i = 0; i < 3; i++) {
        await step(model, high, batch(8, i));
        await step(other, low, batch(8, i));
        const reports = high.reports();
        expect(wordsOf(reports, "problems")).toEqual([]);
        expect(wordsOf(reports, "remarks")).toEqual(
          i > 0
            ? []
            : [
                "0.weight: the rank 100 is more than the input factor has rows, so all its eigenpairs are kept",
                "0.weight: the rank 100 is more than the output factor has rows, so all its eigenpairs are kept",
                "2.weight: the rank 100 is more than the input factor has rows, so all its eigenpairs are kept",
                "2.weight: the rank 100 is more than the output factor has rows, so all its eigenpairs are kept",
              ],
        );
        expect(reports[0]?.figures).toMatchObject({ "input.rank": 7, "output.rank": 5 });
      }
      expect(wordsOf(low.reports(), "remarks").filter((words) => /^0.weight: .* input/.test(words))).toEqual([]);
      expect(valuesOf(model)).toEqual(valuesOf(other));
      for (const optimizer of [high, low]) optimizer.dispose();
    });

    it("is said when a schedule gets there", async () => {
      const model = network();
      const optimizer = new RsKfac(model.parameters(), { learningRate: 0.1, inversionEvery: 1, rank: (at) => (at < 1 ? 3 : 6) });
      const said: string[][] = [];
      for (let i = 0; i < 3; i++) {
        await step(model, optimizer, batch(8, i));
        said.push(wordsOf(optimizer.reports(), "remarks"));
      }
      expect(said).toEqual([
        [],
        [
          "0.weight: the rank 6 is more than the output factor has rows, so all its eigenpairs are kept",
          "2.weight: the rank 6 is more than the output factor has rows, so all its eigenpairs are kept",
        ],
        [],
      ]);
      optimizer.dispose();
    });
  });

  describe("a batch smaller than those before it, in a step that refreshes,", () => {
    const due = { learningRate: 0.05, factorUpdateEvery: 1, inversionEvery: 1 } as Partial<CommonOptions>;

    it.each(positiveMethods.filter(([name]) => !name.startsWith("SENG")))("is a value like any other to %s", async (_, make) => {
      const model = network();
      const optimizer = make(model.parameters(), due as CommonOptions);
      for (const [i, n] of [8, 3, 1, 8].entries()) {
        await step(model, optimizer, batch(n, i));
        const reports = optimizer.reports();
        expect(reports.map(({ layer }) => layer)).toEqual(["0.weight", "2.weight"]);
        expect(wordsOf(reports, "problems")).toEqual([]);
        expect(finite(model)).toBe(true);
      }
      optimizer.dispose();
    });

    it("has the same weight in the factors as a full one: Ω is the mean of the batches' own, of two with ρ = ½ a third and two thirds", async () => {
      const model = network();
      const optimizer = new Kfac(model.parameters(), { ...due, learningRate: 0.05, statDecay: 0.5 });
      const batches = [batch(8, 1), batch(2, 2)];
      for (const own of batches) await step(model, optimizer, own);
      const [first, second] = batches.map(({ x }) => {
        const rows = x.pad([0, 0], [0, 1]).add(Tensor.from([[0, 0, 0, 0, 0, 0, 1]], options));
        return rows.gram(1 / (x.shape[0] as number));
      }) as [Tensor, Tensor];
      const expected = first.multiply(1 / 3).add(second.multiply(2 / 3));
      const state = optimizer.state().transforms[0]?.tensors.get("0.weight::input.matrix");
      expect(state?.dataSync()).toBeAllclose([...expected.dataSync()], { relative: 1e-12 }); // sums of at most 8 terms
      optimizer.dispose();
    });

    it("does not refresh SENG, which says so, once for each refresh that is due; the next full batch does, or the largest of an interval", async () => {
      const model = network();
      const optimizer = new Seng(model.parameters(), { learningRate: 0.05, refreshEvery: 2 });
      const said: [refreshed: boolean, remarks: string[]][] = [];
      for (const [i, n] of [8, 8, 5, 8, 5, 5, 5, 8, 8].entries()) {
        await step(model, optimizer, batch(n, i));
        const reports = optimizer.reports().filter(({ layer }) => layer === "0.weight");
        said.push([reports.some(({ remarks }) => remarks.length === 0), reports.flatMap(({ remarks }) => remarks)]);
      }
      const declined = (at: number): string =>
        `no refresh at step ${at}: a batch of 5 is not full, the largest had 8; the next full one refreshes`;
      // Due are 0, 2, 4, 6 and 8; 3 makes up for 2; and from 4 on there was no full batch up to 6, so that 5 samples are full there.
      expect(said).toEqual([
        [true, []],
        [false, []],
        [false, [declined(2)]],
        [true, []],
        [false, [declined(4)]],
        [false, []],
        [true, []],
        [false, []],
        [true, []],
      ]);
      optimizer.dispose();
    });
  });

  describe("SENG's sketch", () => {
    it.each([1, 2, 3])("needs no number of samples: of batches of %d it makes finite steps downhill", async (n) => {
      for (const settings of [
        { columns: 2, scaling: "paper" },
        { columns: 2, scaling: "paper", explicitUpTo: 0 },
        { columns: 1 },
      ] as const) {
        const model = network();
        const optimizer = new Seng(model.parameters(), { learningRate: 0.01, momentum: 0, ...settings });
        const own = batch(n, 3);
        const losses: number[] = [];
        for (let i = 0; i < 4; i++) {
          losses.push((await optimizer.minimize(() => crossEntropy(model.forward(own.x), own.labels))).dataSync()[0] as number);
        }
        expect(losses).toEqual([...losses].sort((a, b) => b - a));
        expect(wordsOf(optimizer.reports(), "remarks")).toEqual([]);
        optimizer.dispose();
      }
    });
  });

  describe("singular factors", () => {
    // One sample: both factors have rank 1.
    it.each(positiveMethods)("are nothing special to %s with damping", async (_, make) => {
      const model = network();
      const optimizer = make(model.parameters(), { learningRate: 0.01, damping: 0.1 });
      for (let i = 0; i < 2; i++) await step(model, optimizer, batch(1, i));
      expect(wordsOf(optimizer.reports(), "problems")).toEqual([]);
      expect(finite(model)).toBe(true);
      optimizer.dispose();
    });

    it.each(positiveMethods)("without damping end the step of %s with an error, and nothing changes", async (name, make) => {
      const model = network();
      const before = valuesOf(model);
      const optimizer = make(model.parameters(), { learningRate: 0.01, damping: 0 });
      const failed = step(model, optimizer, batch(1, 1));
      await expect(failed).rejects.toThrow(name.startsWith("SENG") ? UsageError : NumericalError);
      await expect(failed).rejects.toThrow(name.startsWith("SENG") ? "damping must be positive but is 0" : /the curvature of "\d.weight"/);
      expect(valuesOf(model)).toEqual(before);
      expect(optimizer.steps).toBe(0);
      optimizer.dispose();
    });
  });

  it("a first step that cannot be inverted is forgotten: the next batch is seen as the first", async () => {
    const after = async (sizes: readonly number[]): Promise<number[][]> => {
      const model = new Sequential(new Linear(2, 3, { ...options, generator: new Generator(1) }));
      // A squared error: the gradients of a cross-entropy add up to 0, so that Γ would be singular for every batch.
      const optimizer = new Kfac(model.parameters(), { learningRate: 0.01, damping: 0, inverse: "cholesky" });
      const square = (n: number): Promise<Tensor> => {
        const [x, target] = [normal([n, 2], n), normal([n, 3], 100 + n)];
        return optimizer.minimize(() => meanSquaredError(model.forward(x), target));
      };
      for (const n of sizes.slice(0, -1)) await expect(square(n)).rejects.toThrow(NumericalError);
      await square(sizes.at(-1) as number);
      optimizer.dispose();
      return valuesOf(model);
    };
    expect(await after([1, 2, 20])).toEqual(await after([20]));
  });

  describe("K-FAC with little damping or none", () => {
    const plain = { learningRate: 1, clip: false, thin: false, damping: 0 } as const;
    const inverses = ["cholesky", "eigh"] as const;
    type Layer = { readonly parameters: Parameter[]; readonly loss: () => Tensor };

    /** A dense layer at 0 with input rows a [n, dIn] and output gradients g [n, dOut]: Ω and Γ are multiples of aᵀa and gᵀg. */
    const layerOf = (a: Tensor, g: Tensor): Layer => {
      const weight = new Parameter("weight", Tensor.zeros([g.shape[1] as number, a.shape[1] as number], { dtype: a.dtype }));
      return { parameters: [weight], loss: () => linear(a, weight.value).multiply(g).sum() };
    };
    const softmaxLayer = (classes: number, seed: number): Layer => {
      const generator = new Generator(seed);
      const model = new Sequential(new Linear(6, classes, { generator }));
      const [x, labels] = [generator.normal([40, 6]), Tensor.from(Int32Array.from({ length: 40 }, (_, i) => (i * 7 + seed) % classes))];
      return { parameters: model.parameters(), loss: () => crossEntropy(model.forward(x), labels) };
    };
    /** What the first step subtracts. */
    const directionOf = async ({ parameters, loss }: Layer, options: KfacOptions): Promise<number[]> => {
      const before = parameters.map(({ value }) => value.dataSync());
      const optimizer = new Kfac(parameters, options);
      try {
        await optimizer.minimize(loss);
        expect(wordsOf(optimizer.reports(), "problems")).toEqual([]);
        return parameters.flatMap(({ value }, i) => Array.from(value.dataSync(), (after, j) => (before[i]?.[j] as number) - after));
      } finally {
        parameters.forEach((parameter, i) => parameter.assign(Tensor.from(before[i] as FloatArray, { shape: parameter.shape })));
        optimizer.dispose();
      }
    };
    async function expectRefused(layer: Layer, name: string, factor: "input" | "output"): Promise<void> {
      for (const inverse of inverses) {
        const before = layer.parameters.map(({ value }) => [...value.dataSync()]);
        const failed = directionOf(layer, { ...plain, inverse });
        await expect(failed).rejects.toThrow(NumericalError);
        // As often as not rounding leaves a pivot below zero, which has words of its own.
        const cause =
          inverse === "eigh"
            ? "applied at step 0: a factor is singular .*; use a positive damping"
            : `inverted at step 0: (the ${factor} factor, .* is singular to rounding: .*; use a positive damping|.*pivot .*; add damping)`;
        await expect(failed).rejects.toThrow(new RegExp(`^the curvature of "${name}" could not be ${cause}`));
        expect(layer.parameters.map(({ value }) => [...value.dataSync()])).toEqual(before);
      }
    }

    it("refuses a factor of rank d − 1, which rounding makes definite as often as not, by Cholesky and by eigenpairs", async () => {
      const cases = fc.record({
        dtype: fc.constantFrom("float32" as const, "float64" as const),
        factor: fc.constantFrom("input" as const, "output" as const),
        width: fc.integer({ min: 2, max: 20 }),
        other: fc.integer({ min: 1, max: 5 }),
        seed: seeds,
      });
      await fc.assert(
        fc.asyncProperty(cases, async ({ dtype, factor, width, other, seed }) => {
          const [generator, n] = [new Generator(seed), 4 * (width + other)];
          const deficient = generator.normal([n, width - 1], { dtype }).matmul(generator.normal([width - 1, width], { dtype }));
          const full = generator.normal([n, other], { dtype });
          await expectRefused(factor === "input" ? layerOf(deficient, full) : layerOf(full, deficient), "weight", factor);
        }),
        { numRuns: 60 },
      );
    });

    it("refuses the output factor of a softmax layer, whose gradients add up to 0 for every sample", async () => {
      await fc.assert(
        fc.asyncProperty(fc.integer({ min: 2, max: 20 }), seeds, async (classes, seed) => {
          await expectRefused(softmaxLayer(classes, seed), "0.weight", "output");
        }),
        { numRuns: 60 },
      );
    });

    it("inverts what is well conditioned, in float32, too: both forms give one direction", async () => {
      await fc.assert(
        fc.asyncProperty(fc.integer({ min: 1, max: 10 }), fc.integer({ min: 1, max: 10 }), seeds, async (dIn, dOut, seed) => {
          const generator = new Generator(seed);
          const n = 4 * (dIn + dOut);
          const layer = layerOf(generator.normal([n, dIn]), generator.normal([n, dOut]));
          const [first, second] = [
            await directionOf(layer, plain),
            await directionOf(layer, { ...plain, inverse: "eigh", dampingKind: "factor-relative" }),
          ];
          expect(first).toBeAllclose(second, { relative: 1e-3 }); // ε times the product of both condition numbers, of some tens each
        }),
        { numRuns: 30 },
      );
    });

    it("takes a damping above rounding as it is: λ = 1e-4 in float32, of the singular factors of softmax layers and of a wide one", async () => {
      const generator = new Generator(3);
      // Of 300 eigenvalues, 280 are 0 to rounding.
      const wide = layerOf(generator.normal([20, 300]), generator.normal([20, 4]));
      for (const layer of [softmaxLayer(10, 1), softmaxLayer(3, 2), wide]) {
        const [first, second] = [
          await directionOf(layer, { ...plain, damping: 1e-4 }),
          await directionOf(layer, { ...plain, damping: 1e-4, inverse: "eigh", dampingKind: "factor-relative" }),
        ];
        // Rounding by some ε, of eigenvalues of 1e-4.
        expect(first).toBeAllclose(second, { relative: 2e-2 });
      }
    });
  });

  describe("a layer that no forward pass reaches", () => {
    it.each(positiveMethods)("stays as it is with %s, and the table says that it was not met", async (_, make) => {
      const [model, lonely] = [network(), new Linear(2, 2, { ...options, generator: new Generator(5) })];
      const [start, before] = [valuesOf(model), valuesOf(lonely)];
      const settings = { learningRate: 0.05, momentum: 0.9, weightDecay: 0.1 } as CommonOptions;
      const optimizer = make([...model.parameters(), ...lonely.parameters()], settings);
      for (let i = 0; i < 3; i++) await step(model, optimizer, batch(6, i));
      expect(valuesOf(lonely)).toEqual(before);
      expect(valuesOf(model)).not.toEqual(start);
      const rows = optimizer.registration().slice(-2);
      expect(rows).toEqual([
        { parameter: "weight", block: null, reason: "not met yet in a linear or conv2d call" },
        { parameter: "bias", block: null, reason: "no weight of a linear or conv2d call, nor the bias of one that has a block" },
      ]);
      optimizer.dispose();
    });
  });

  describe("a layer without any gradient in a step", () => {
    /** Two heads, the second of which counts for nothing, or is not called while its weights are decayed by the loss itself. */
    const heads = (): [Linear, Linear] =>
      [1, 2].map((seed) => new Linear(6, 3, { ...options, generator: new Generator(seed) })) as [Linear, Linear];
    const lossOf = (
      [first, second]: [Linear, Linear],
      { x, labels }: ReturnType<typeof batch>,
      weight: number,
      called: boolean,
    ): Tensor => {
      const loss = crossEntropy(first.forward(x), labels);
      const penalty = second.parameters().reduce((sum, { value }) => sum.add(value.square().sum()), Tensor.zeros([], options));
      return (called ? loss.add(crossEntropy(second.forward(x), labels).multiply(weight)) : loss).add(penalty.multiply(1e-3));
    };

    it.each(positiveMethods)("stays near where it is with %s, and so do all others", async (_, make) => {
      const own = heads();
      const parameters = own.flatMap((head) => head.parameters());
      const settings = { learningRate: 0.05, factorUpdateEvery: 1, inversionEvery: 2, clip: { kl: 1e-3 } };
      const optimizer = make(parameters, settings);
      const steps = [[1, true], [0, true], [1, true], [1, false], [1, false], [1, true]] as const; // prettier-ignore
      for (const [i, [weight, called]] of steps.entries()) {
        const before = own.flatMap(valuesOf).flat();
        await optimizer.minimize(() => lossOf(own, batch(8, i), weight, called));
        const after = own.flatMap(valuesOf).flat();
        expect(Math.max(...after.map((value, at) => Math.abs(value - (before[at] as number))))).toBeLessThan(0.5);
      }
      optimizer.dispose();
    });
  });

  describe("a Fisher that is not the empirical one", () => {
    const targets = (): Tensor => normal([8, 3], 5);

    it.each(["mc", "type-2"] as const)("of a squared error is the same with its arguments exchanged (%s)", async (fisher) => {
      const after = async (exchanged: boolean): Promise<number[][]> => {
        const model = network();
        const optimizer = new Kfac(model.parameters(), { learningRate: 0.1, fisher, adaptDamping: { interval: 1 } });
        for (let i = 0; i < 3; i++) {
          const { x } = batch(8, i);
          await optimizer.minimize(() => {
            const y = model.forward(x);
            return exchanged ? meanSquaredError(targets(), y) : meanSquaredError(y, targets());
          });
        }
        optimizer.dispose();
        return valuesOf(model);
      };
      const [plain, exchanged] = [await after(false), await after(true)];
      // The difference has the other sign, and so has the noise of mc: squares are the same.
      for (const [i, values] of plain.entries()) expect(exchanged[i]).toBeAllclose(values, { relative: 1e-12 });
    });

    it.each(["mc", "type-2"] as const)("is refused of a squared error with parameters on both sides (%s)", async (fisher) => {
      const model = network();
      const before = valuesOf(model);
      const optimizer = new Kfac(model.parameters(), { learningRate: 0.1, fisher });
      const [{ x }, { x: other }] = [batch(8, 1), batch(8, 2)];
      const failed = optimizer.minimize(() => meanSquaredError(model.forward(x), model.forward(other)));
      await expect(failed).rejects.toThrow(UsageError);
      await expect(failed).rejects.toThrow("both its arguments depend on parameters");
      expect(valuesOf(model)).toEqual(before);
      await optimizer.minimize(() => meanSquaredError(model.forward(x), model.forward(other).detach()));
      expect(valuesOf(model)).not.toEqual(before);
      optimizer.dispose();
    });

    it.each(["mc", "type-2"] as const)(
      "leaves a layer to the plain gradient that no such loss depends on, and says so (%s)",
      async (fisher) => {
        const [policy, value] = [1, 2].map((seed) => new Linear(6, 3, { ...options, generator: new Generator(seed) })) as [Linear, Linear];
        const parameters = [...policy.parameters(), ...value.parameters()];
        const optimizer = new Kfac(parameters, { learningRate: 0.1, fisher });
        const { x, labels } = batch(8, 1);
        const loss = (): Tensor => crossEntropy(policy.forward(x), labels).add(value.forward(x).subtract(targets()).square().mean());
        const losses: number[] = [];
        for (let i = 0; i < 4; i++) losses.push((await optimizer.minimize(loss)).dataSync()[0] as number);
        expect(losses.at(-1)).toBeLessThan(losses[0] as number);
        expect(optimizer.registration().map(({ block, reason }) => [block !== null, reason])).toEqual([
          [true, ""],
          [true, ""],
          [false, `fisher "${fisher}" needs a crossEntropy or meanSquaredError of what the layer computes, and there is none`],
          [false, expect.any(String)],
        ]);
        optimizer.dispose();
      },
    );
  });

  it("thin application of exact K-FAC by eigenpairs is refused, with what to do", () => {
    const make = (): unknown => new Kfac(network().parameters(), { learningRate: 0.1, inverse: "eigh", thin: true });
    expect(make).toThrow(UsageError);
    expect(make).toThrow('thin application needs the inverse "cholesky"');
  });

  describe("a state", () => {
    const saved = async (make: Method[1], model: Module, width = 6): Promise<OptimizerState> => {
      const optimizer = make(model.parameters(), { learningRate: 0.05 });
      await step(model, optimizer, batch(6, 1, width));
      const state = optimizer.state();
      optimizer.dispose();
      return state;
    };
    const kindOf = ({ transforms }: OptimizerState): string => transforms[0]?.kind as string;

    it("of another method is refused, whole, and the optimizer is as it was", async () => {
      const states: OptimizerState[] = [];
      for (const [, make] of positiveMethods) states.push(await saved(make, network()));
      const kinds = new Set(states.map(kindOf));
      expect(kinds.size).toBe(9); // by eigenpairs, by Cholesky, RS, SRE, Nyström, Brand, EK-FAC in two forms, SENG
      for (const [i, [, make]] of positiveMethods.entries()) {
        const optimizer = make(network().parameters(), { learningRate: 0.05 });
        for (const state of states) {
          if (kindOf(state) === kindOf(states[i] as OptimizerState)) continue;
          expect(() => optimizer.load(state)).toThrow(CheckpointError);
          expect(() => optimizer.load(state)).toThrow(`[${state.transforms.map(({ kind }) => kind).join(", ")}]`);
        }
        expect(optimizer.steps).toBe(0);
        optimizer.dispose();
      }
    });

    it.each(positiveMethods)(
      "of %s from a network of other widths is refused in every step until it is replaced, and nothing changes",
      async (_, make) => {
        // The second has a first layer with as many entries, transposed but for the bias.
        for (const [width, hidden] of [
          [4, 5],
          [4, 7],
          [6, 4],
        ] as const) {
          const state = await saved(make, network(width, hidden), width);
          const model = network();
          const before = valuesOf(model);
          const optimizer = make(model.parameters(), { learningRate: 0.05 });
          const fresh = optimizer.state();
          optimizer.load(state);
          for (let i = 0; i < 2; i++) {
            const failed = step(model, optimizer, batch(6, 1));
            await expect(failed).rejects.toThrow(CheckpointError);
            await expect(failed).rejects.toThrow('"0.weight"');
          }
          expect(valuesOf(model)).toEqual(before);
          optimizer.load(fresh);
          await step(model, optimizer, batch(6, 1));
          expect(valuesOf(model)).not.toEqual(before);
          optimizer.dispose();
        }
      },
    );

    it("of a network with other names is refused at once", async () => {
      const state = await saved((parameters, common) => new Kfac(parameters, common), network());
      const other = new Sequential(new Flatten(), new Linear(6, 3, { ...options, generator: new Generator(1) }));
      expect(() => new Kfac(other.parameters(), { learningRate: 0.05 }).load(state)).toThrow(
        'curvature state of "0.weight" belongs to no weight of this optimizer',
      );
    });
  });
});

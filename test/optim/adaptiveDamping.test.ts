import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { record, valueAndGrad } from "../../src/autograd/index.ts";
import {
  BatchNorm2d,
  Conv2d,
  crossEntropy,
  Dropout,
  Flatten,
  Linear,
  meanSquaredError,
  Module,
  Parameter,
  ReLU,
  Sequential,
  Tanh,
} from "../../src/nn/index.ts";
import { jacobianOf, lossCurvature } from "../../src/optim/curvature/dense.ts";
import { alongStep } from "../../src/optim/curvature/quadraticModel.ts";
import {
  AdaptiveDamping,
  EkFac,
  Kfac,
  type AdaptDampingOptions,
  type CurvatureOptimizer,
  type KfacOptions,
} from "../../src/optim/index.ts";
import { train, type TrainEvent } from "../../src/index.ts";
import { makeOptimizer, parseConfig } from "../../src/train/index.ts";
import { defaultBackend, Generator, Tensor, tidy, type Shape } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";
import { settledBuffers } from "../settled.ts";
import { loaders, smallData, smallModel } from "../train/small.ts";
import { lowRankMethods } from "./properties/methods.ts";

const options = { dtype: "float64" } as const;
const normal = (shape: Shape, seed: number): Tensor => new Generator(seed).normal(shape, options);

type Common = Pick<
  KfacOptions,
  "learningRate" | "damping" | "adaptDamping" | "clip" | "momentum" | "fisher" | "factorUpdateEvery" | "inversionEvery"
>;
const methods: [name: string, make: (parameters: readonly Parameter[], options: Common) => CurvatureOptimizer][] = [
  ["K-FAC by eigenpairs", (parameters, own) => new Kfac(parameters, { ...own, inverse: "eigh" })],
  ["K-FAC by Cholesky", (parameters, own) => new Kfac(parameters, { ...own, inverse: "cholesky" })],
  ...lowRankMethods.map(([name, Method]): (typeof methods)[number] => [
    name,
    (parameters, own) => new Method(parameters, { ...own, rank: 2, oversampling: 1, exactUpTo: 0 }),
  ]),
  ["EK-FAC", (parameters, own) => new EkFac(parameters, own)],
];

/** Two heads on one trunk, so that a loss may have several parts. */
class Heads extends Module {
  readonly trunk: Sequential;
  readonly one: Linear;
  readonly other: Linear;
  constructor(seed: number) {
    super();
    const generator = new Generator(seed);
    this.trunk = new Sequential(
      new Conv2d(1, 3, 2, { ...options, generator }),
      new BatchNorm2d(3, options),
      new ReLU(),
      new Flatten(),
      new Linear(12, 4, { ...options, generator }),
      new Tanh(),
    );
    this.one = new Linear(4, 3, { ...options, generator });
    this.other = new Linear(4, 2, { ...options, generator });
  }
  protected compute(input: Tensor): Tensor {
    return this.one.forward(this.trunk.forward(input));
  }
}

/** What it says of itself, without a frozen moment: running statistics and random streams. */
const stateOf = (model: Module): unknown => [
  [...model.stateDict()].map(([name, tensor]) => [name, [...tensor.dataSync()]]),
  [...model.namedGenerators().values()].map((generator) => generator.state()),
];

eachBackend(() => {
  describe("along a step δ", () => {
    const n = 4;
    const cases = fc.record({ seed: fc.nat({ max: 1000 }), scale: fc.double({ min: 0.01, max: 10, noNaN: true }) });
    const along = (
      loss: () => Tensor,
      parameters: Parameter[],
      step: ReadonlyMap<Parameter, Tensor>,
    ): { slope: number; curvature: number } =>
      tidy(() => {
        const { slope, curvature } = alongStep(record(loss, parameters), parameters, step);
        return { slope: slope.dataSync()[0] as number, curvature: curvature.dataSync()[0] as number };
      });
    const stepOf = (parameters: Parameter[], seed: number, scale: number): Map<Parameter, Tensor> =>
      new Map(parameters.map((parameter, i) => [parameter, normal(parameter.shape, seed + 10 + i).multiply(scale)]));
    /** Σ over parameters of ⟨x, y⟩. */
    const inner = (x: readonly Tensor[], y: readonly Tensor[]): number =>
      x
        .map(
          (tensor, i) =>
            tensor
              .multiply(y[i] as Tensor)
              .sum()
              .dataSync()[0] as number,
        )
        .reduce((a, b) => a + b);

    it.each(["cross-entropy", "squared error"] as const)(
      "slope and curvature of a %s are ⟨g, δ⟩ and δᵀCδ with the dense Gauss–Newton matrix C, over all parameters",
      async (kind) => {
        await fc.assert(
          fc.asyncProperty(cases, fc.constantFrom("mean" as const, "sum" as const), async ({ seed, scale }, reduction) => {
            const model = new Heads(seed);
            const inputs = normal([n, 3, 3, 1], seed + 1);
            const labels = Tensor.from(Int32Array.from({ length: n }, (_, i) => (i + seed) % 3));
            const target = normal([n, 3], seed + 2);
            const loss = (prediction: Tensor): Tensor =>
              kind === "cross-entropy"
                ? crossEntropy(prediction, labels, { reduction, smoothing: 0.1 })
                : meanSquaredError(prediction, target, { reduction });
            const parameters = [...model.trunk.parameters(), ...model.one.parameters()];
            const step = stepOf(parameters, seed, scale);
            const found = along(() => loss(model.forward(inputs)), parameters, step);

            const { gradients } = valueAndGrad(() => loss(model.forward(inputs)), parameters);
            const expected = inner(gradients, [...step.values()]);
            expect(Math.abs(found.slope - expected)).toBeLessThanOrEqual(
              1e-10 *
                inner(
                  gradients.map((g) => g.abs()),
                  [...step.values()].map((d) => d.abs()),
                ),
            );
            const { rows, prediction } = await jacobianOf(model, inputs, parameters);
            // The second derivative of the whole loss, whatever its reduction.
            const middle = await lossCurvature(prediction, loss, { fisher: "type-2", reduction: "mean", generator: new Generator(0) });
            const t = Float64Array.from({ length: prediction.size }, (_, k) =>
              parameters.reduce((sum, parameter) => {
                const [row, delta] = [rows.get(parameter) as Float64Array, step.get(parameter)?.dataSync() as Float64Array];
                return sum + delta.reduce((part, value, j) => part + value * (row[k * delta.length + j] as number), 0);
              }, 0),
            );
            const dense = t.reduce(
              (sum, a, i) => sum + t.reduce((part, b, j) => part + a * (middle[i * t.length + j] as number) * b, 0),
              0,
            );
            expect([found.curvature]).toBeAllclose([dense], { relative: 1e-9 });
            prediction.dispose();
          }),
          { numRuns: 5 },
        );
      },
    );

    it("curvatures of a loss's parts add up: two heads, weights, and two labels for one prediction", () => {
      fc.assert(
        fc.property(cases, ({ seed, scale }) => {
          const model = new Heads(seed);
          const inputs = normal([n, 3, 3, 1], seed + 1);
          const [labels, others] = [0, 1].map((shift) => Tensor.from(Int32Array.from({ length: n }, (_, i) => (i * 2 + shift) % 3))) as [
            Tensor,
            Tensor,
          ];
          const target = normal([n, 2], seed + 3);
          const parameters = model.parameters();
          const step = stepOf(parameters, seed, scale);
          const parts = [
            (): Tensor => crossEntropy(model.forward(inputs), labels).multiply(0.3),
            (): Tensor => crossEntropy(model.forward(inputs), others).multiply(0.7),
            (): Tensor => meanSquaredError(model.other.forward(model.trunk.forward(inputs)), target).multiply(2),
          ];
          const whole = along(
            () => {
              const hidden = model.trunk.forward(inputs);
              const logits = model.one.forward(hidden);
              const [first, second] = [crossEntropy(logits, labels).multiply(0.3), crossEntropy(logits, others).multiply(0.7)];
              return first.add(second).add(meanSquaredError(model.other.forward(hidden), target).multiply(2));
            },
            parameters,
            step,
          );
          const alone = parts.map((part) => along(part, parameters, step));
          expect(whole.curvature).toBeCloseTo(
            alone.reduce((sum, { curvature }) => sum + curvature, 0),
            8,
          );
          expect([whole.slope]).toBeAllclose([alone.reduce((sum, { slope }) => sum + slope, 0)], { relative: 1e-9 });
        }),
        { numRuns: 5 },
      );
    });

    it("a penalty adds to the slope and not to the curvature", () => {
      const model = new Sequential(new Linear(3, 2, { ...options, generator: new Generator(1) }));
      const [inputs, target] = [normal([n, 3], 2), normal([n, 2], 3)];
      const [weight] = model.parameters() as [Parameter];
      const step = stepOf(model.parameters(), 4, 1);
      const plain = along(() => meanSquaredError(model.forward(inputs), target), model.parameters(), step);
      const penalised = along(
        () => meanSquaredError(model.forward(inputs), target).add(weight.value.square().sum()),
        model.parameters(),
        step,
      );
      expect(penalised.curvature).toBeCloseTo(plain.curvature, 12);
      const own = weight.value
        .multiply(step.get(weight) as Tensor)
        .sum()
        .dataSync()[0] as number;
      expect(penalised.slope).toBeCloseTo(plain.slope + 2 * own, 10);
    });
  });

  describe("the ratio ρ", () => {
    it.each(methods)("of a quadratic objective is 1, whatever the step: %s", async (_, make) => {
      const cases = fc.record({
        seed: fc.nat({ max: 1000 }),
        learningRate: fc.constantFrom(0.01, 0.5, 3),
        momentum: fc.constantFrom(0, 0.9),
        clip: fc.constantFrom(false as const, { kl: 1e-3 }),
        parts: fc.constantFrom([6], [2, 4]),
        penalty: fc.constantFrom(0, 0.1),
      });
      await fc.assert(
        fc.asyncProperty(cases, async ({ seed, parts, penalty, ...own }) => {
          const model = new Sequential(new Linear(3, 2, { ...options, generator: new Generator(seed) }));
          const losses = parts.map((n, i) => {
            const [inputs, target] = [normal([n, 3], seed + i), normal([n, 2], seed + 5 + i)];
            return (): Tensor => {
              const loss = meanSquaredError(model.forward(inputs), target);
              const square = model
                .parameters()
                .map(({ value }) => value.square().sum())
                .reduce((a, b) => a.add(b));
              return loss.add(square.multiply(penalty / 2));
            };
          });
          const damping = 0.3;
          const optimizer = make(model.parameters(), { ...own, damping, adaptDamping: { interval: 2, penalty } });
          for (let i = 0; i < 6; i++) await optimizer.minimize(losses);
          const reports = optimizer.adaptations();
          expect(reports.map(({ step }) => step)).toEqual([1, 3, 5]);
          // Rounding of h(θ + δ) − h(θ), which a converged run leaves little else of, relative to h.
          reports.forEach(({ ratio, predicted }, i) => {
            if (Math.abs(predicted) > 1e-6) expect(Math.abs(ratio - 1)).toBeLessThan(1e-7);
            if (Math.abs(predicted) > 1e-6) expect(reports[i]?.damping).toBeCloseTo(0.9 ** 2 * (reports[i - 1]?.damping ?? damping), 12);
          });
          expect(Math.abs(reports[0]?.predicted as number)).toBeGreaterThan(1e-6);
          optimizer.dispose();
        }),
        { numRuns: 5 },
      );
    });

    it("is small where a step is far too long for the model, and λ grows", async () => {
      const generator = new Generator(1);
      const model = new Sequential(new Linear(3, 4, { ...options, generator }), new Tanh(), new Linear(4, 3, { ...options, generator }));
      const [inputs, labels] = [normal([8, 3], 2), Tensor.from(Int32Array.of(0, 1, 2, 0, 1, 2, 0, 1))];
      const optimizer = new Kfac(model.parameters(), { learningRate: 30, clip: false, damping: 1e-3, adaptDamping: { interval: 1 } });
      await optimizer.minimize(() => crossEntropy(model.forward(inputs), labels));
      const [report] = optimizer.adaptations();
      expect(report?.ratio).toBeLessThan(1 / 4);
      expect(report?.damping).toBeCloseTo(1e-3 / 0.9, 12);
    });

    it("is no number where the loss is none after the step, and λ grows", async () => {
      const model = new Sequential(new Linear(3, 2, { ...options, generator: new Generator(1) }));
      const [inputs, target] = [normal([4, 3], 2), normal([4, 2], 3)];
      const optimizer = new Kfac(model.parameters(), { learningRate: 1e200, clip: false, damping: 0.5, adaptDamping: { interval: 1 } });
      await optimizer.minimize(() => meanSquaredError(model.forward(inputs), target));
      const [report] = optimizer.adaptations();
      expect(report?.ratio).toBeNaN();
      expect(report?.damping).toBeCloseTo(0.5 / 0.9, 12);
    });
  });

  describe("λ", () => {
    /** One step of 1 on ½(p − 3)²·2, whose loss is then shifted so that ρ is what the case says. */
    async function after(ratio: number, damping: number, own: AdaptDampingOptions): Promise<number> {
      const p = new Parameter("p", Tensor.from(Float64Array.of(0), { shape: [1, 1] }));
      const target = Tensor.from(Float64Array.of(3), { shape: [1, 1] });
      let evaluations = 0;
      // h(0) = 9, h(1) = 4: the model is exact, −5.
      const loss = (): Tensor => meanSquaredError(p.value, target).add(evaluations++ === 0 ? 0 : -5 * ratio + 5);
      const review = new AdaptiveDamping(damping, { interval: 1, ...own });
      review.begin(0, [p], [loss]);
      tidy(() => {
        const step = Tensor.from(Float64Array.of(-1), { shape: [1, 1] });
        review.update({ values: new Map([[p, step]]), layers: [] }, { step: 0, learningRate: 1, gradients: new Map() });
      });
      p.assign(Tensor.from(Float64Array.of(1), { shape: [1, 1] }));
      await review.finish();
      review.endStep();
      const [report] = review.reports();
      if (!Number.isNaN(ratio)) expect(report?.ratio).toBeCloseTo(ratio, 10);
      expect(report?.predicted).toBeCloseTo(-5, 12);
      expect(report?.damping).toBe(review.at(1));
      return review.at(1);
    }

    it("is divided by ω^interval for ρ < ¼, multiplied by it for ρ > ¾, and stays in between", async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.double({ min: -1, max: 2, noNaN: true }),
          fc.double({ min: 1e-3, max: 10, noNaN: true }),
          fc.double({ min: 0.5, max: 0.99, noNaN: true }),
          async (ratio, damping, decay) => {
            if (Math.abs(ratio - 0.25) < 1e-6 || Math.abs(ratio - 0.75) < 1e-6) return;
            const by = ratio < 0.25 ? 1 / decay : ratio > 0.75 ? decay : 1;
            expect(await after(ratio, damping, { decay })).toBeCloseTo(damping * by, 10);
          },
        ),
        { numRuns: 30 },
      );
    });

    it("grows where ρ is no number, and where the loss rises", async () => {
      expect(await after(NaN, 0.1, {})).toBeCloseTo(0.1 / 0.9, 12);
      expect(await after(-3, 0.1, {})).toBeCloseTo(0.1 / 0.9, 12);
    });

    it("never falls below its least value, and leaves it at once when ρ says so", async () => {
      expect(await after(1, 1.05e-8, {})).toBe(1e-8);
      expect(await after(1, 0.1, { smallest: 0.095 })).toBe(0.095);
      const model = new Sequential(new Linear(2, 2, { ...options, generator: new Generator(1) }));
      const [inputs, target] = [normal([4, 2], 2), normal([4, 2], 3)];
      const optimizer = new Kfac(model.parameters(), {
        learningRate: (step) => (step < 20 ? 0.01 : 1e200),
        clip: false,
        damping: 0.1,
        adaptDamping: { interval: 1, smallest: 0.05 },
      });
      for (let i = 0; i < 21; i++) await optimizer.minimize(() => meanSquaredError(model.forward(inputs), target));
      const dampings = optimizer.adaptations().map(({ damping }) => damping);
      expect(dampings[19]).toBe(0.05);
      expect(dampings[20]).toBeCloseTo(0.05 / 0.9, 12);
    });

    it("adapts what the schedule says", async () => {
      const model = new Sequential(new Linear(2, 2, { ...options, generator: new Generator(1) }));
      const [inputs, target] = [normal([4, 2], 2), normal([4, 2], 3)];
      const optimizer = new Kfac(model.parameters(), {
        learningRate: 0.01,
        clip: false,
        damping: (step) => 1 / (step + 1),
        adaptDamping: { interval: 1 },
      });
      for (let i = 0; i < 3; i++) await optimizer.minimize(() => meanSquaredError(model.forward(inputs), target));
      expect(optimizer.adaptations().map(({ damping }) => damping)).toBeAllclose([0.9 / 1, 0.9 ** 2 / 2, 0.9 ** 3 / 3], {
        relative: 1e-12,
      });
    });

    it.each(methods)("is what the blocks of %s use from then on: the run is that with the same λ given as a schedule", async (_, make) => {
      const common = { learningRate: 0.5, momentum: 0.3, factorUpdateEvery: 1, inversionEvery: 2 };
      const run = async (own: Partial<Common>): Promise<{ values: number[]; dampings: number[] }> => {
        const generator = new Generator(1);
        const model = new Sequential(new Linear(5, 4, { ...options, generator }), new Tanh(), new Linear(4, 3, { ...options, generator }));
        const [inputs, labels] = [normal([8, 5], 2), Tensor.from(Int32Array.of(0, 1, 2, 0, 1, 2, 0, 1))];
        const optimizer = make(model.parameters(), { ...common, ...own });
        for (let i = 0; i < 7; i++) await optimizer.minimize(() => crossEntropy(model.forward(inputs), labels));
        const dampings = optimizer.adaptations().map(({ damping }) => damping);
        optimizer.dispose();
        return { values: model.parameters().flatMap(({ value }) => [...value.dataSync()]), dampings };
      };
      const adaptive = await run({ damping: 0.2, adaptDamping: { interval: 2 } });
      expect(adaptive.dampings).toHaveLength(3);
      expect(new Set(adaptive.dampings).size).toBe(3);
      const given = [0.2, 0.2, ...adaptive.dampings.flatMap((damping) => [damping, damping])];
      expect((await run({ damping: (step) => given[step] as number })).values).toEqual(adaptive.values);
      expect((await run({ damping: 0.2 })).values).not.toEqual(adaptive.values);
    });
  });

  describe("an adaptation", () => {
    const network = (): Sequential => {
      const generator = new Generator(1);
      return new Sequential(
        new Conv2d(1, 3, 2, { ...options, generator }),
        new BatchNorm2d(3, options),
        new ReLU(),
        new Flatten(),
        new Dropout(0.3, { generator: new Generator(7) }),
        new Linear(12, 3, { ...options, generator }),
      );
    };
    const [inputs, labels] = [
      (i: number): Tensor => normal([6, 3, 3, 1], 20 + i),
      (): Tensor => Tensor.from(Int32Array.of(0, 1, 2, 2, 1, 0)),
    ];
    const step = (model: Sequential, optimizer: CurvatureOptimizer, i: number): Promise<Tensor> => {
      const [x, y] = [inputs(i), labels()];
      return optimizer.minimize(() => crossEntropy(model.forward(x), y));
    };

    it("is made every `interval` steps, changes no running statistic, random stream or step of its own, and evaluates the loss twice more", async () => {
      const [own, plain] = [network(), network()];
      const optimizer = new Kfac(own.parameters(), { learningRate: 0.1, adaptDamping: { interval: 3 } });
      const other = new Kfac(plain.parameters(), { learningRate: 0.1 });
      for (let i = 0; i < 3; i++) {
        let evaluations = 0;
        const [x, y] = [inputs(i), labels()];
        await optimizer.minimize(() => {
          evaluations++;
          return crossEntropy(own.forward(x), y);
        });
        expect(evaluations).toBe(i === 2 ? 3 : 1);
        await step(plain, other, i);
        expect(stateOf(own)).toEqual(stateOf(plain));
      }
      expect(optimizer.adaptations().map(({ step }) => step)).toEqual([2]);
      expect(optimizer.adaptations()).toEqual([]);
      expect(other.adaptations()).toEqual([]);
    });

    it("compares the same dropout: with a rate of nearly 0, ρ is nearly 1", async () => {
      const model = network();
      const optimizer = new Kfac(model.parameters(), { learningRate: 1e-5, clip: false, adaptDamping: { interval: 1 } });
      for (let i = 0; i < 3; i++) await step(model, optimizer, i);
      for (const { ratio } of optimizer.adaptations()) expect(ratio).toBeCloseTo(1, 2);
    });

    it.each(methods)("is in the state of %s: a resumed run goes on bit for bit", async (_, make) => {
      const own = { learningRate: 0.3, factorUpdateEvery: 1, inversionEvery: 2, adaptDamping: { interval: 2 } };
      const [model, other] = [network(), network()];
      const [optimizer, resumed] = [make(model.parameters(), own), make(other.parameters(), own)];
      for (let i = 0; i < 5; i++) await step(model, optimizer, i);
      other.loadStateDict(model.stateDict());
      const streams = [...other.namedGenerators().values()];
      [...model.namedGenerators().values()].forEach((generator, i) => streams[i]?.load(generator.state()));
      resumed.load(optimizer.state());
      optimizer.adaptations();
      for (let i = 5; i < 9; i++) {
        await step(model, optimizer, i);
        await step(other, resumed, i);
      }
      expect(stateOf(other)).toEqual(stateOf(model));
      const reports = optimizer.adaptations();
      expect(reports).toHaveLength(2);
      expect(resumed.adaptations()).toEqual(reports);
      const plain = make(model.parameters(), { ...own, adaptDamping: undefined });
      expect(() => plain.load(optimizer.state())).toThrow(/adaptive damping/);
      for (const each of [optimizer, resumed, plain]) each.dispose();
    });

    it("leaves no tensor behind, not even where the loss has no primitive whose curvature is known", async () => {
      const model = network();
      const optimizer = new Kfac(model.parameters(), { learningRate: 0.01, adaptDamping: { interval: 2 } });
      const [x, y] = [inputs(0), labels()];
      const good = (): Promise<Tensor> => optimizer.minimize(() => crossEntropy(model.forward(x), y));
      for (let i = 0; i < 4; i++) await good();
      const before = await settledBuffers();
      for (let i = 0; i < 4; i++) await good();
      expect(defaultBackend().memory().buffers).toBe(before);
      await optimizer.minimize(() => model.forward(x).square().mean());
      const quiet = await settledBuffers();
      const [parameters, steps] = [model.parameters().map(({ value }) => value.dataSync()), optimizer.steps];
      const failing = optimizer.minimize(() => model.forward(x).square().mean());
      await expect(failing).rejects.toThrow(/adaptDamping: the loss contains no crossEntropy or meanSquaredError/);
      expect(defaultBackend().memory().buffers).toBe(quiet - 1); // the loss of the step before
      // It is said before the step is made.
      expect(model.parameters().map(({ value }) => value.dataSync())).toEqual(parameters);
      expect(optimizer.steps).toBe(steps);
    });

    it("says so, too, where there is such a primitive and the loss does not depend on it", async () => {
      const model = network();
      const optimizer = new Kfac(model.parameters(), { learningRate: 0.01, adaptDamping: { interval: 1 } });
      const [x, y] = [inputs(0), labels()];
      const failing = optimizer.step(() => {
        const output = model.forward(x);
        return { loss: output.square().mean(), beside: crossEntropy(output, y) };
      });
      await expect(failing).rejects.toThrow(/adaptDamping: the loss contains no crossEntropy or meanSquaredError/);
    });

    it("takes options in range", () => {
      const make = (adaptDamping: AdaptDampingOptions) => (): unknown =>
        new Kfac(network().parameters(), { learningRate: 0.1, adaptDamping });
      expect(make({ interval: 0 })).toThrow("adaptDamping.interval must be a whole number of at least 1 but is 0");
      expect(make({ decay: 1 })).toThrow("adaptDamping.decay must be below 1 but is 1");
      expect(make({ decay: 0 })).toThrow("adaptDamping.decay must be positive");
      expect(make({ smallest: 0 })).toThrow("adaptDamping.smallest must be positive");
      expect(make({ penalty: -1 })).toThrow("adaptDamping.penalty must be at least 0");
    });
  });
});

describe("a training", () => {
  it("tells of each adaptation, from the configuration's key on", async () => {
    const data = await smallData();
    const model = smallModel();
    const config = parseConfig({ optimizer: "rs-kfac", rank: 3, adaptDamping: 2, damping: 0.1 });
    const { train: batches, test } = loaders(data);
    const optimizer = makeOptimizer(model.parameters(), config, batches.batches);
    const events: TrainEvent[] = [];
    for await (const event of train({ model, optimizer, train: batches, test, epochs: 2 })) events.push(event);
    const dampings = events.flatMap((event) => (event.type === "damping" ? [event] : []));
    expect(dampings.map(({ step }) => step)).toEqual([1, 3, 5]);
    for (const { ratio, actual, predicted, damping } of dampings) {
      expect(ratio).toBeCloseTo(actual / predicted, 10);
      expect(damping).toBeGreaterThan(0);
    }
    optimizer.dispose();
  });
});

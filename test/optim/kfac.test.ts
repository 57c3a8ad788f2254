import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { valueAndGrad, vjp } from "../../src/autograd/index.ts";
import { kronHost } from "../../src/linalg/index.ts";
import { constantInit, crossEntropy, Linear, meanSquaredError, Parameter, ReLU, Sequential, Tanh } from "../../src/nn/index.ts";
import {
  Kfac,
  MatrixAverage,
  martensDecay,
  Optimizer,
  piShares,
  type AverageForm,
  type CurvatureView,
  type Fisher,
  type KfacOptions,
} from "../../src/optim/index.ts";
import { Precondition } from "../../src/optim/curvature/precondition.ts";
import { defaultBackend, Generator, linear, Tensor, type Shape } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";

const options = { dtype: "float64" } as const;
const normal = (shape: Shape, seed: number): Tensor => new Generator(seed).normal(shape, options);

/** The parameters' joint change of the first step at rate 1, weight rows with the bias last, one array a layer. */
async function firstStep(model: Sequential, loss: () => Tensor, kfac: Partial<KfacOptions>): Promise<Float64Array[]> {
  const parameters = model.parameters();
  const before = parameters.map((p) => p.value.dataSync());
  const optimizer = new Kfac(parameters, { learningRate: 1, clip: false, ...kfac });
  await optimizer.minimize(loss);
  const change = parameters.map((p, i) => p.value.dataSync().map((v, j) => (before[i]?.[j] ?? 0) - v) as Float64Array);
  parameters.forEach((p, i) => {
    p.assign(Tensor.from(before[i] as Float64Array, { shape: p.shape }));
  });
  return change;
}

/** The factors that K-FAC's capture yields for each weight, by a block that only looks. */
async function factors(
  parameters: Parameter[],
  loss: () => Tensor,
  fisher: Fisher,
  reduction: "mean" | "sum" = "mean",
  fisherSeed = 0,
): Promise<Map<string, { a: Float64Array; g: Float64Array; dA: number; dOut: number }>> {
  const found = new Map<string, { a: Float64Array; g: Float64Array; dA: number; dOut: number }>();
  const look = (view: CurvatureView): void => {
    found.set(view.weight.name, {
      a: view.inputCovariance().dataSync() as Float64Array,
      g: view.outputCovariance().dataSync() as Float64Array,
      dA: view.dA,
      dOut: view.dOut,
    });
  };
  const precondition = new Precondition(
    parameters,
    "look",
    () => ({
      method: "look",
      needs: () => ({ curvature: true, gradient: false }),
      observe: look,
      refresh: () => Promise.resolve(),
      precondition: (gradient) => gradient,
      state: () => ({ tensors: new Map(), numbers: {} }),
      load: () => undefined,
      dispose: () => undefined,
    }),
    { fisher, fisherSeed, reduction },
  );
  await new Optimizer(parameters, { learningRate: 0, transforms: [precondition], precondition }).minimize(loss);
  return found;
}

describe("K-FAC with the type-2 Fisher on a deep linear network with squared error", () => {
  const dimensions = fc.record({
    widths: fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 2, maxLength: 4 }),
    n: fc.integer({ min: 1, max: 5 }),
    reduction: fc.constantFrom("mean" as const, "sum" as const),
    bias: fc.boolean(),
    seed: fc.integer({ min: 0, max: 1000 }),
  });

  it("equals the dense Gauss–Newton block of every layer", async () => {
    await fc.assert(
      fc.asyncProperty(dimensions, async ({ widths, n, reduction, bias, seed }) => {
        const generator = new Generator(seed);
        const layers = widths.slice(1).map((out, i) => new Linear(widths[i] as number, out, { ...options, generator, bias }));
        const model = new Sequential(...layers);
        const parameters = model.parameters();
        const [x, classes] = [normal([n, widths[0] as number], seed + 1), widths.at(-1) as number];
        const target = normal([n, classes], seed + 2);
        // A sample's own loss is its sum of squares; the mean here is over samples, not over elements.
        const loss = (): Tensor => meanSquaredError(model.forward(x), target, { reduction }).multiply(reduction === "mean" ? classes : 1);
        const found = await factors(parameters, loss, "type-2", reduction);

        for (const layer of layers) {
          const own = [layer.weight, ...(layer.bias ? [layer.bias] : [])];
          const { a, g, dA, dOut } = found.get(layer.weight.name) as NonNullable<ReturnType<typeof found.get>>;
          // Dense: (1/n) Σ over samples and outputs of 2 J Jᵀ, J the gradient of one output with respect to [W b].
          const size = dOut * dA;
          const dense = new Float64Array(size * size);
          for (let i = 0; i < n; i++) {
            for (let k = 0; k < classes; k++) {
              const seedVector = Tensor.from(
                Float64Array.from({ length: n * classes }, (_, j) => (j === i * classes + k ? 1 : 0)),
                { shape: [n, classes] },
              );
              const { gradients } = valueAndGrad(() => model.forward(x).multiply(seedVector).sum(), own);
              const [w, b] = gradients.map((t) => t.dataSync());
              const row = Float64Array.from({ length: size }, (_, j) => {
                const [o, c] = [Math.floor(j / dA), j % dA];
                return (b && c === dA - 1 ? b[o] : w?.[o * (dA - (b ? 1 : 0)) + c]) as number;
              });
              for (let p = 0; p < size; p++)
                for (let q = 0; q < size; q++)
                  dense[p * size + q] = (dense[p * size + q] as number) + (2 / n) * (row[p] as number) * (row[q] as number);
            }
          }
          expect(kronHost(g, [dOut, dOut], a, [dA, dA])).toBeAllclose(dense, { relative: 1e-10 });
        }
      }),
      { numRuns: 25 },
    );
  });
});

describe("one undamped full-batch step on linear regression", () => {
  const [x, target] = [normal([12, 4], 1), normal([12, 3], 2)];
  const solve = async (fisher: "type-2" | "empirical"): Promise<number> => {
    const model = new Sequential(new Linear(4, 3, { ...options, generator: new Generator(3) }));
    const loss = (): Tensor => meanSquaredError(model.forward(x), target);
    const optimizer = new Kfac(model.parameters(), { learningRate: 1, clip: false, damping: 0, fisher });
    await optimizer.minimize(loss);
    const { gradients } = valueAndGrad(loss, model.parameters());
    return Math.max(...gradients.flatMap((g) => [...g.dataSync()].map(Math.abs)));
  };
  it("reaches the minimiser with the type-2 Fisher", async () => {
    // Rounding: the gradient at the start is of order 1 and the covariance is well conditioned.
    expect(await solve("type-2")).toBeLessThan(1e-13);
  });
  it("does not with the empirical Fisher", async () => {
    expect(await solve("empirical")).toBeGreaterThan(1e-3);
  });
});

describe("a batch of one datum", () => {
  it("makes every block of the type-2 Fisher exact, cross-entropy included", async () => {
    const generator = new Generator(4);
    const [first, second] = [new Linear(3, 4, { ...options, generator }), new Linear(4, 3, { ...options, generator })];
    const model = new Sequential(first, new Tanh(), second);
    const x = normal([1, 3], 5);
    const found = await factors(model.parameters(), () => crossEntropy(model.forward(x), Tensor.from(Int32Array.of(1))), "type-2");
    const logits = model.forward(x);
    const p = logits.softmax().dataSync();
    for (const layer of [first, second]) {
      const { a, g, dA, dOut } = found.get(layer.weight.name) as NonNullable<ReturnType<typeof found.get>>;
      const jacobian = [0, 1, 2].map((k) => {
        const unit = Tensor.from([[0, 1, 2].map((j) => (j === k ? 1 : 0))], options);
        const { gradients } = vjp(
          (w, b) => {
            const hidden = layer === first ? linear(x, w, b).tanh() : first.forward(x).tanh();
            return layer === first ? second.forward(hidden) : linear(hidden, w, b);
          },
          [layer.weight.value, (layer.bias as Parameter).value],
          [unit],
        );
        const [w, b] = gradients.map((t) => t.dataSync()) as [Float64Array, Float64Array];
        return Float64Array.from(
          { length: dOut * dA },
          (_, j) => (j % dA === dA - 1 ? b[Math.floor(j / dA)] : w[Math.floor(j / dA) * (dA - 1) + (j % dA)]) as number,
        );
      });
      const size = dOut * dA;
      const dense = new Float64Array(size * size);
      for (let i = 0; i < 3; i++) {
        for (let k = 0; k < 3; k++) {
          const h = (i === k ? (p[i] as number) : 0) - (p[i] as number) * (p[k] as number); // diag(p) − p pᵀ
          for (let q = 0; q < size; q++)
            for (let r = 0; r < size; r++)
              dense[q * size + r] =
                (dense[q * size + r] as number) +
                h * ((jacobian[i] as Float64Array)[q] as number) * ((jacobian[k] as Float64Array)[r] as number);
        }
      }
      expect(kronHost(g, [dOut, dOut], a, [dA, dA])).toBeAllclose(dense, { relative: 1e-10 });
    }
  });
});

eachBackend(() => {
  describe("the Monte Carlo Fisher", () => {
    const names = ["cross-entropy", "summed cross-entropy and squared error"] as const;
    const setUp = (name: (typeof names)[number]): { parameters: Parameter[]; loss: () => Tensor } => {
      const generator = new Generator(8);
      const model = new Sequential(new Linear(3, 4, { ...options, generator }), new Tanh(), new Linear(4, 3, { ...options, generator }));
      const [x, labels, target] = [normal([4, 3], 9), Tensor.from(Int32Array.of(0, 2, 1, 1)), normal([4, 3], 10)];
      const loss = (): Tensor => {
        const first = crossEntropy(model.forward(x), labels);
        return name === "cross-entropy" ? first : first.add(meanSquaredError(model.forward(x), target));
      };
      return { parameters: model.parameters(), loss };
    };

    it.each(names)("of %s is the type-2 Fisher on average", async (name) => {
      const { parameters, loss } = setUp(name);
      const exact = await factors(parameters, loss, "type-2");
      const sums = new Map([...exact].map(([layer, { g }]) => [layer, g.map(() => 0)]));
      const draws = 800;
      for (let seed = 0; seed < draws; seed++) {
        for (const [layer, { g, a }] of await factors(parameters, loss, "mc", "mean", seed)) {
          const sum = sums.get(layer) as Float64Array;
          g.forEach((value, i) => (sum[i] = (sum[i] as number) + value / draws));
          expect(a).toEqual(exact.get(layer)?.a);
        }
      }
      for (const [layer, { g }] of exact) {
        // Standard deviations are of the order of the largest entry: five of their means' would be 5 / √800 = .18 of it.
        const largest = Math.max(...g.map(Math.abs));
        sums.get(layer)?.forEach((value, i) => expect(Math.abs(value - (g[i] as number))).toBeLessThan(0.18 * largest));
      }
    });

    it("draws anew in each step, and the same again from the same seed", async () => {
      const { parameters, loss } = setUp("cross-entropy");
      const [first, again, other] = [
        await factors(parameters, loss, "mc", "mean", 3),
        await factors(parameters, loss, "mc", "mean", 3),
        await factors(parameters, loss, "mc", "mean", 4),
      ];
      expect(again).toEqual(first);
      expect(other).not.toEqual(first);
    });

    it("needs a loss primitive", async () => {
      const layer = new Linear(2, 2, { generator: new Generator(1) });
      const optimizer = new Kfac(layer.parameters(), { learningRate: 0.1, fisher: "mc" });
      const x = new Generator(2).normal([3, 2]);
      await expect(optimizer.minimize(() => layer.forward(x).square().sum())).rejects.toThrow('fisher "mc": the loss contains no');
    });
  });
});

describe("the type-2 Fisher of several losses", () => {
  const x = normal([5, 3], 1);
  const labels = (...values: number[]): Tensor => Tensor.from(Int32Array.from(values));
  const [one, other] = [labels(0, 1, 2, 0, 1), labels(2, 2, 1, 0, 0)];
  const trunk = (): Linear => new Linear(3, 3, { ...options, generator: new Generator(2) });

  it("on one prediction is that of their weighted mean: mixup's equals that of one label", async () => {
    const model = new Sequential(trunk());
    const single = await factors(model.parameters(), () => crossEntropy(model.forward(x), one), "type-2");
    const mixed = await factors(
      model.parameters(),
      () => {
        const logits = model.forward(x);
        return crossEntropy(logits, one).multiply(0.3).add(crossEntropy(logits, other).multiply(0.7));
      },
      "type-2",
    );
    expect(mixed.get("0.weight")?.g ?? []).toBeAllclose(single.get("0.weight")?.g ?? [], { relative: 1e-12 });
  });

  it("of two heads is, in the trunk, the sum of both", async () => {
    const shared = trunk();
    const heads = [3, 4].map((seed) => new Linear(3, seed - 1, { ...options, generator: new Generator(seed) }));
    const parameters = [shared, ...heads].flatMap((layer, i) => {
      const own = layer.parameters();
      for (const p of own) p.name = `${i}.${p.name}`;
      return own;
    });
    const targets = heads.map((_, i) => normal([5, i + 2], 10 + i));
    // The trunk is called once, whatever the heads.
    const lossOf =
      (...which: number[]) =>
      (): Tensor => {
        const hidden = shared.forward(x);
        return which.map((i) => meanSquaredError((heads[i] as Linear).forward(hidden), targets[i] as Tensor)).reduce((a, b) => a.add(b));
      };
    const both = await factors(parameters, lossOf(0, 1), "type-2");
    const [first, second] = [await factors(parameters, lossOf(0), "type-2"), await factors(parameters, lossOf(1), "type-2")];
    const sum = first.get("0.weight")?.g.map((v, i) => v + (second.get("0.weight")?.g[i] as number)) ?? [];
    expect(both.get("0.weight")?.g ?? []).toBeAllclose(sum, { relative: 1e-12 });
    expect(both.get("1.weight")?.g ?? []).toBeAllclose(first.get("1.weight")?.g ?? [], { relative: 1e-12 });
  });

  it("of a layer that each loss reaches by a call of its own takes in both calls", async () => {
    const layer = trunk();
    const y = normal([5, 3], 6);
    const found = await factors(
      layer.parameters(),
      () => crossEntropy(layer.forward(x), one).add(crossEntropy(layer.forward(y), other)),
      "type-2",
    );
    const [first, second] = [
      await factors(layer.parameters(), () => crossEntropy(layer.forward(x), one), "type-2"),
      await factors(layer.parameters(), () => crossEntropy(layer.forward(y), other), "type-2"),
    ];
    // Two calls are two positions: Ω adds up, Γ is the mean over positions.
    const of = (which: "a" | "g", scale: number): number[] =>
      [...(first.get("weight")?.[which] ?? [])].map((v, i) => scale * (v + (second.get("weight")?.[which][i] as number)));
    expect(found.get("weight")?.a ?? []).toBeAllclose(of("a", 1), { relative: 1e-12 });
    expect(found.get("weight")?.g ?? []).toBeAllclose(of("g", 1 / 2), { relative: 1e-12 });
  });

  it("is refused where positions were folded into the batch", async () => {
    const layer = trunk();
    const sequence = normal([2, 2, 3], 5);
    const optimizer = new Kfac(layer.parameters(), { learningRate: 0.1, fisher: "type-2" });
    await expect(optimizer.minimize(() => crossEntropy(layer.forward(sequence).reshape([4, 3]), labels(0, 1, 2, 0)))).rejects.toThrow(
      /4 rows but "weight" sees 2 samples/,
    );
  });
});

describe("a factor that is zero", () => {
  const x = normal([6, 3], 1);
  const labels = Tensor.from(Int32Array.from([0, 1, 2, 0, 1, 2]));
  const allFinite = (model: Sequential): boolean => model.parameters().every((p) => p.value.dataSync().every(Number.isFinite));

  const forms: [name: string, own: Pick<KfacOptions, "inverse" | "dampingKind">][] = [
    ["by eigenpairs", { inverse: "eigh" }],
    ["by Cholesky, damped relative to each factor", { inverse: "cholesky", dampingKind: "factor-relative" }],
  ];

  it.each(forms)("because the next layer starts at zero leaves its layer still, and is inverted at the next update: %s", async (_, own) => {
    const [first, last] = [
      new Linear(3, 4, { ...options, generator: new Generator(2) }),
      new Linear(4, 3, { ...options, init: constantInit(0) }),
    ];
    const model = new Sequential(first, new Tanh(), last);
    const before = first.weight.value.dataSync();
    const optimizer = new Kfac(model.parameters(), { learningRate: 0.1, factorUpdateEvery: 2, inversionEvery: 100, ...own });
    const step = (): Promise<Tensor> => optimizer.minimize(() => crossEntropy(model.forward(x), labels));
    await step();
    expect(first.weight.value.dataSync()).toEqual(before);
    await step();
    await step();
    expect(first.weight.value.dataSync()).not.toEqual(before);
    expect(allFinite(model)).toBe(true);
  });

  it.each(forms)("because every unit is dead changes nothing in its layer and harms no other: %s", async (_, own) => {
    const dead = new Linear(3, 4, { ...options, generator: new Generator(2), biasInit: constantInit(-100) });
    const model = new Sequential(dead, new ReLU(), new Linear(4, 3, { ...options, generator: new Generator(3) }));
    const before = dead.weight.value.dataSync();
    const optimizer = new Kfac(model.parameters(), { learningRate: 0.1, factorUpdateEvery: 1, inversionEvery: 2, ...own });
    for (let i = 0; i < 4; i++) await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
    expect(dead.weight.value.dataSync()).toEqual(before);
    expect(allFinite(model)).toBe(true);
  });
});

describe("K-FAC's limits and symmetries", () => {
  const make = (): Sequential =>
    new Sequential(
      new Linear(3, 5, { ...options, generator: new Generator(1) }),
      new Tanh(),
      new Linear(5, 4, { ...options, generator: new Generator(2) }),
    );
  const x = normal([7, 3], 3);
  const labels = Tensor.from(Int32Array.from([0, 1, 2, 3, 0, 1, 2]));
  const lossOf =
    (model: Sequential, scale = 1): (() => Tensor) =>
    () =>
      crossEntropy(model.forward(x), labels).multiply(scale);

  it("λ · P tends to the gradient as λ grows, with the identity as limit of the preconditioner", async () => {
    const model = make();
    const { gradients } = valueAndGrad(lossOf(model), model.parameters());
    const lambda = 1e9;
    const steps = await firstStep(model, lossOf(model), { damping: lambda, dampingKind: "absolute" });
    steps.forEach((step, i) => {
      expect(step.map((v) => v * lambda)).toBeAllclose((gradients[i] as Tensor).dataSync(), { relative: 1e-6 });
    });
  });

  it.each(["relative", "absolute", "pi"] as const)("⟨P, J⟩ > 0 with %s damping", async (dampingKind) => {
    const model = make();
    const { gradients } = valueAndGrad(lossOf(model), model.parameters());
    const steps = await firstStep(model, lossOf(model), { damping: 0.01, dampingKind });
    const inner = steps.flatMap((step, i) => [...step].map((v, j) => v * ((gradients[i] as Tensor).dataSync()[j] as number)));
    expect(inner.reduce((a, b) => a + b)).toBeGreaterThan(0);
  });

  it("with relative damping, the step of c · loss is 1/c of the step of loss", async () => {
    const model = make();
    const one = await firstStep(model, lossOf(model), { damping: 0.1 });
    const many = await firstStep(model, lossOf(model, 8), { damping: 0.1 });
    one.forEach((step, i) => {
      expect((many[i] as Float64Array).map((v) => v * 8)).toBeAllclose(step, { relative: 1e-10 });
    });
  });

  it.each(["pi", "factored", "factor-relative"] as const)("Cholesky and eigh agree on %s damping", async (dampingKind) => {
    const model = make();
    const eigh = await firstStep(model, lossOf(model), { damping: 0.05, dampingKind, inverse: "eigh" });
    const cholesky = await firstStep(model, lossOf(model), { damping: 0.05, dampingKind, inverse: "cholesky" });
    eigh.forEach((step, i) => {
      expect(cholesky[i] as Float64Array).toBeAllclose(step, { relative: 1e-10 });
    });
  });

  it("a KL-clipped step satisfies ν² lr² ⟨P, J⟩ ≤ κ and is the plain one when that is so already", async () => {
    const model = make();
    const { gradients } = valueAndGrad(lossOf(model), model.parameters());
    const inner = (steps: Float64Array[]): number =>
      steps.flatMap((step, i) => [...step].map((v, j) => v * ((gradients[i] as Tensor).dataSync()[j] as number))).reduce((a, b) => a + b);
    const plain = await firstStep(model, lossOf(model), {});
    const kappa = inner(plain) / 4;
    const clipped = await firstStep(model, lossOf(model), { clip: { kl: kappa } });
    // P' = νP with ν = 1/2: ⟨P', J⟩ = κ/ν.
    expect(inner(clipped)).toBeCloseTo(inner(plain) / 2, 10);
    const loose = await firstStep(model, lossOf(model), { clip: { kl: inner(plain) * 2 } });
    loose.forEach((step, i) => {
      expect(step).toBeAllclose(plain[i] as Float64Array, { relative: 1e-14 });
    });
  });

  it("an RMS-clipped layer has at most the limit, weight and bias together, and smaller ones are untouched", async () => {
    const model = make();
    const plain = await firstStep(model, lossOf(model), { damping: 1e-3 });
    const rms = (w: Float64Array, b: Float64Array): number =>
      Math.sqrt([...w, ...b].reduce((s, v) => s + v * v, 0) / (w.length + b.length));
    const before = [
      rms(plain[0] as Float64Array, plain[1] as Float64Array),
      rms(plain[2] as Float64Array, plain[3] as Float64Array),
    ] as const;
    const limit = (before[0] + before[1]) / 2;
    const clipped = await firstStep(model, lossOf(model), { damping: 1e-3, clip: { rms: limit } });
    const after = [
      rms(clipped[0] as Float64Array, clipped[1] as Float64Array),
      rms(clipped[2] as Float64Array, clipped[3] as Float64Array),
    ] as const;
    for (const i of [0, 1] as const) expect(after[i]).toBeCloseTo(Math.min(before[i], limit), 10);
  });

  it("a singular factor without damping is an error that names the layer, and nothing changes", async () => {
    const model = make();
    const before = model.parameters().map((p) => p.value.dataSync());
    const optimizer = new Kfac(model.parameters(), { learningRate: 1, damping: 0, inverse: "eigh" });
    const one = x.slice([0, 0], [1, 3]);
    await expect(optimizer.minimize(() => crossEntropy(model.forward(one), Tensor.from(Int32Array.of(0))))).rejects.toThrow(
      /"0.weight" could not be applied at step 0.*singular/,
    );
    expect(model.parameters().map((p) => p.value.dataSync())).toEqual(before);
  });

  it("a damping that falls to 0 over singular factors is an error in that step, and nothing changes", async () => {
    const model = make();
    const optimizer = new Kfac(model.parameters(), { learningRate: 0.1, damping: (step) => (step < 2 ? 0.1 : 0), inverse: "eigh" });
    const one = x.slice([0, 0], [1, 3]);
    const step = (): Promise<Tensor> => optimizer.minimize(() => crossEntropy(model.forward(one), Tensor.from(Int32Array.of(0))));
    await step();
    await step();
    const before = model.parameters().map((p) => p.value.dataSync());
    const buffers = defaultBackend().memory().buffers;
    await expect(step()).rejects.toThrow(/at step 2.*damping is 0/);
    expect(model.parameters().map((p) => p.value.dataSync())).toEqual(before);
    expect(defaultBackend().memory().buffers).toBeLessThanOrEqual(buffers);
  });

  it.each([
    [{ learningRate: Number.NaN }, /learningRate must be at least 0 but is NaN at step 0/],
    [{ damping: -0.5 }, /damping must be at least 0/],
    [{ factorUpdateEvery: 0 }, /factorUpdateEvery must be a whole number of at least 1 but is 0/],
    [{ inversionEvery: 2.5 }, /inversionEvery must be a whole number/],
    [{ clip: { kl: 0 } }, /clip\.kl must be positive/],
    [{ momentum: -1 }, /momentum must be at least 0/],
    [{ statDecay: 1 }, /statDecay must be in \[0, 1\)/],
  ] as const)("hyper-parameters out of range are refused: %o", async (wrong, message) => {
    const model = make();
    const optimizer = new Kfac(model.parameters(), { learningRate: 0.1, ...wrong });
    await expect(optimizer.minimize(lossOf(model))).rejects.toThrow(message);
  });

  it("Cholesky refuses relative damping, with the remedy", () => {
    expect(() => new Kfac(make().parameters(), { learningRate: 1, inverse: "cholesky", dampingKind: "absolute" })).toThrow(/"factored"/);
    expect(() => new Kfac(make().parameters(), { learningRate: 1, inverse: "cholesky", dampingKind: "relative" })).toThrow(
      /use "factor-relative"/,
    );
  });

  it("the type-2 Fisher needs a loss primitive", async () => {
    const model = make();
    const optimizer = new Kfac(model.parameters(), { learningRate: 0.1, fisher: "type-2" });
    await expect(optimizer.minimize(() => model.forward(x).square().mean())).rejects.toThrow(/no crossEntropy or meanSquaredError/);
  });
});

describe("exponential averages of factors", () => {
  const values = fc.array(fc.array(fc.double({ min: -2, max: 2, noNaN: true }), { minLength: 4, maxLength: 4 }), {
    minLength: 1,
    maxLength: 6,
  });
  const average = (form: AverageForm, decay: number, xs: number[][]): MatrixAverage => {
    const m = new MatrixAverage({ form, decay });
    for (const data of xs) m.observe(Tensor.from(Float64Array.from(data), { shape: [2, 2] }));
    return m;
  };
  /** ρᵏ M₀ + (1 − ρ) Σ ρ^(k−i) X_i */
  const closedForm = (start: number[], decay: number, xs: number[][]): number[] =>
    start.map(
      (m0, j) =>
        decay ** xs.length * m0 + xs.reduce((sum, data, i) => sum + (1 - decay) * decay ** (xs.length - 1 - i) * (data[j] as number), 0),
    );

  it("from the identity and from zero have the closed form, and differ by the residual", () => {
    fc.assert(
      fc.property(values, fc.double({ min: 0.1, max: 0.99, noNaN: true }), (xs, decay) => {
        const [identity, zero] = [average("identity", decay, xs), average("zero", decay, xs)];
        expect(identity.value.dataSync()).toBeAllclose(closedForm([1, 0, 0, 1], decay, xs), { relative: 1e-12 });
        expect(zero.residual).toBeCloseTo(decay ** xs.length, 12);
        const sum = [...zero.value.dataSync()].map((v, j) => v + (j % 3 === 0 ? zero.residual : 0));
        expect(sum).toBeAllclose(identity.value.dataSync(), { relative: 1e-12 });
      }),
    );
  });
  it("normalised ones are the weighted mean Σ ρ^(k−i) X_i / Σ ρ^(k−i)", () => {
    fc.assert(
      fc.property(values, fc.double({ min: 0.1, max: 0.99, noNaN: true }), (xs, decay) => {
        const weights = xs.map((_, i) => decay ** (xs.length - 1 - i));
        const total = weights.reduce((a, b) => a + b);
        const expected = [0, 1, 2, 3].map((j) =>
          xs.reduce((sum, data, i) => sum + ((weights[i] as number) / total) * (data[j] as number), 0),
        );
        const scale = Math.max(...xs.flat().map(Math.abs));
        average("normalized", decay, xs)
          .value.dataSync()
          .forEach((v, j) => expect(Math.abs(v - (expected[j] as number))).toBeLessThanOrEqual(1e-13 * scale));
      }),
    );
  });
  it("normalised ones are convex means: constant input gives that constant from the first value on", () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 0.99, noNaN: true }), fc.integer({ min: 1, max: 6 }), (decay, k) => {
        const x = [1.5, -0.25, -0.25, 3];
        expect(
          average(
            "normalized",
            decay,
            Array.from({ length: k }, () => x),
          ).value.dataSync(),
        ).toBeAllclose(x, { relative: 1e-13 });
      }),
    );
  });
  it("starting from the first value take it whole", () => {
    expect(average("first", 0.9, [[1, 2, 3, 4]]).value.dataSync()).toEqual(Float64Array.of(1, 2, 3, 4));
  });
  it("with Martens's decay begin as the plain mean", () => {
    const m = new MatrixAverage({ form: "first", decay: martensDecay(0.95) });
    for (const v of [1, 2, 6]) m.observe(Tensor.from(Float64Array.of(v), { shape: [1, 1] }));
    expect(m.value.dataSync()[0]).toBeCloseTo(3, 12);
  });
});

describe("π-corrected shares", () => {
  const positive = fc.double({ min: 1e-3, max: 1e3, noNaN: true });
  it("multiply to λ and follow the scale of the factors: (cΩ, Γ/c) gets (c s_a, s_g/c)", () => {
    fc.assert(
      fc.property(positive, positive, positive, positive, (lambda, ta, tg, c) => {
        const shares = piShares(lambda, { trace: ta, width: 3 }, { trace: tg, width: 5 });
        expect(shares.input * shares.output).toBeCloseTo(lambda, 6);
        const scaled = piShares(lambda, { trace: ta * c, width: 3 }, { trace: tg / c, width: 5 });
        expect(scaled.input / (shares.input * c)).toBeCloseTo(1, 10);
        expect(scaled.output / (shares.output / c)).toBeCloseTo(1, 10);
      }),
    );
  });
  it("are equal where a trace is zero", () => {
    expect(piShares(0.04, { trace: 0, width: 3 }, { trace: 1, width: 2 })).toEqual({ input: 0.2, output: 0.2 });
  });
});

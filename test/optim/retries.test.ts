import { describe, expect, it } from "vitest";
import { eigh } from "../../src/linalg/index.ts";
import { crossEntropy, Linear, meanSquaredError, Parameter, Sequential } from "../../src/nn/index.ts";
import {
  covarianceFactors,
  CurvatureOptimizer,
  Kfac,
  KroneckerBlock,
  LowRankKfac,
  type FactorSnapshot,
  type KroneckerInverse,
  type RefreshContext,
  type Refreshed,
} from "../../src/optim/index.ts";
import { train, type TrainEvent } from "../../src/index.ts";
import { Generator, linear, NumericalError, Tensor, type DType } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";
import { loaders, smallData, smallModel } from "../train/small.ts";

const options = { dtype: "float64" } as const;

/** An attempt at inversion, as the block made it. */
interface Attempt {
  readonly wide: boolean;
  readonly damping: number;
  /** Mean eigenvalues of the factors, as they are given. */
  readonly means: readonly [input: number, output: number];
}

const meanEigenvalue = ({ matrix, residual }: FactorSnapshot): number => {
  const [d, data] = [matrix.shape[0] as number, matrix.dataSync()];
  return Array.from({ length: d }, (_, i) => data[i * (d + 1)] as number).reduce((sum, value) => sum + value / d, residual);
};

/** An inverse whose first attempts fail; what it installs is a number that says when it was installed. */
class Stubborn implements KroneckerInverse {
  readonly method = "stubborn";
  readonly attempts: Attempt[] = [];
  installed = 0;
  /** Whether the next attempt fails, and with what. */
  failure: (attempt: number) => Error | null = () => null;

  get ready(): boolean {
    return this.installed > 0;
  }
  refresh(input: FactorSnapshot, output: FactorSnapshot, { wide, damping }: RefreshContext): Promise<Refreshed> {
    this.attempts.push({ wide, damping, means: [meanEigenvalue(input), meanEigenvalue(output)] });
    const failure = this.failure(this.attempts.length);
    if (failure) return Promise.reject(failure);
    const attempt = this.attempts.length;
    return Promise.resolve({ install: () => void (this.installed = attempt), dispose: () => undefined });
  }
  apply(gradient: Tensor): Tensor {
    return gradient.multiply(1 / this.installed);
  }
  describe(): { figures: Record<string, number>; spectra: Record<string, readonly number[]> } {
    return { figures: { installed: this.installed }, spectra: {} };
  }
  state(): { tensors: Map<string, Tensor>; numbers: Record<string, number> } {
    return { tensors: new Map(), numbers: {} };
  }
  load(): void {
    this.installed = 0;
  }
  dispose(): void {
    this.installed = 0;
  }
}

const hopeless = (attempt: number): Error => new NumericalError(`attempt ${attempt} met a pivot of −1`);
const firstFail = (count: number) => (attempt: number) => (attempt <= count ? hopeless(attempt) : null);

eachBackend(() => {
  const [damping, n, dIn, dOut] = [0.2, 5, 3, 2];

  function setUp(inverse: Stubborn): {
    model: Sequential;
    optimizer: CurvatureOptimizer;
    step: () => Promise<Tensor>;
    values: () => number[];
  } {
    const model = new Sequential(new Linear(dIn, dOut, { ...options, bias: false, generator: new Generator(1) }));
    const [x, target] = [new Generator(2).normal([n, dIn], options), new Generator(3).normal([n, dOut], options)];
    const optimizer = new CurvatureOptimizer(
      model.parameters(),
      "stubborn",
      (view) => new KroneckerBlock(view, covarianceFactors(view, {}), inverse, { damping, factorUpdateEvery: 1, inversionEvery: 1 }),
      { learningRate: 0.1, clip: false },
    );
    const step = (): Promise<Tensor> => optimizer.minimize(() => meanSquaredError(model.forward(x), target));
    return { model, optimizer, step, values: () => model.parameters().flatMap(({ value }) => [...value.dataSync()]) };
  }

  describe("an inversion", () => {
    it("that succeeds is reported without a problem", async () => {
      const inverse = new Stubborn();
      const { optimizer, step } = setUp(inverse);
      await step();
      expect(inverse.attempts).toMatchObject([{ wide: false, damping }]);
      expect(optimizer.reports().map(({ layer, problems }) => [layer, problems])).toEqual([["0.weight", []]]);
      expect(optimizer.reports()).toEqual([]); // told once
    });

    it("that fails is tried again in float64, with the same damping, and says so", async () => {
      const inverse = new Stubborn();
      inverse.failure = firstFail(1);
      const { optimizer, step } = setUp(inverse);
      await step();
      expect(inverse.attempts).toHaveLength(2);
      const [first, second] = inverse.attempts as [Attempt, Attempt];
      expect(first.wide).toBe(false);
      expect(second).toEqual({ ...first, wide: true });
      expect(optimizer.reports()[0]?.problems).toEqual(["inverted in float64 at step 0, since attempt 1 met a pivot of −1"]);
    });

    it.each([
      [2, 10],
      [3, 100],
      [4, 1000],
    ])(
      "that fails %d times is tried with %d times the damping, in the factors too, relative to their mean eigenvalues, and says so",
      async (failures, more) => {
        const inverse = new Stubborn();
        inverse.failure = firstFail(failures);
        const { optimizer, step } = setUp(inverse);
        await step();
        expect(inverse.attempts).toHaveLength(failures + 1);
        const [first, last] = [inverse.attempts[0], inverse.attempts.at(-1)] as [Attempt, Attempt];
        expect(last.wide).toBe(true);
        expect(last.damping).toBeCloseTo(more * damping, 12);
        expect(last.means).toBeAllclose(
          first.means.map((mean) => mean * (1 + more * damping)),
          { relative: 1e-12 },
        );
        expect(optimizer.reports()[0]?.problems).toEqual([
          `inverted in float64 with ${more} times the damping at step 0, since attempt 1 met a pivot of −1`,
        ]);
      },
    );

    it("that fails in every way leaves the inverse from before, says so, and is tried again when it is due", async () => {
      const inverse = new Stubborn();
      const { optimizer, step, values } = setUp(inverse);
      await step();
      optimizer.reports();
      inverse.failure = hopeless;
      const before = values();
      await step();
      expect(inverse.attempts).toHaveLength(1 + 5);
      expect(inverse.installed).toBe(1);
      expect(values()).not.toEqual(before); // the step is made, with the old inverse
      const [report] = optimizer.reports();
      expect(report?.problems).toEqual(["not inverted at step 1, so the inverse from before stays, since attempt 2 met a pivot of −1"]);
      expect(report?.figures).toMatchObject({ installed: 1, "input.values": 1 });
      inverse.failure = () => null;
      await step();
      expect(inverse.installed).toBe(7);
      expect(optimizer.reports()[0]?.problems).toEqual([]);
    });

    it("that fails in every way and has no inverse from before ends the step: an error with layer, step and first cause, and nothing changed", async () => {
      const inverse = new Stubborn();
      inverse.failure = hopeless;
      const { optimizer, step, values } = setUp(inverse);
      const before = values();
      const failed = step();
      await expect(failed).rejects.toThrow(NumericalError);
      await expect(failed).rejects.toThrow('the curvature of "0.weight" could not be inverted at step 0: attempt 1 met a pivot of −1');
      expect(values()).toEqual(before);
      expect(optimizer.steps).toBe(0);
      inverse.failure = () => null;
      await step();
      expect(optimizer.steps).toBe(1);
    });

    it("that fails for another reason than its numbers is not tried again", async () => {
      const inverse = new Stubborn();
      inverse.failure = () => new RangeError("no memory");
      const { step } = setUp(inverse);
      await expect(step()).rejects.toThrow(RangeError);
      expect(inverse.attempts).toHaveLength(1);
    });
  });

  describe("the ladder of real methods", () => {
    it("gives a low-rank search float64 numbers at the second attempt, and takes float32 ones back", async () => {
      const model = new Sequential(new Linear(6, 5, { generator: new Generator(1) }));
      const [x, labels] = [new Generator(2).normal([4, 6]), Tensor.from(Int32Array.of(0, 1, 2, 3))];
      const seen: DType[] = [];
      const optimizer = new LowRankKfac(
        model.parameters(),
        "choosy",
        {
          crossover: 0,
          async find(matrix, { rank }) {
            seen.push(matrix.dtype);
            if (matrix.dtype === "float32") throw new NumericalError("float32 has too few digits");
            return eigh(matrix, { largest: rank });
          },
        },
        { learningRate: 0.1, rank: 2, oversampling: 1 },
      );
      await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
      expect(seen).toEqual(["float32", "float64", "float64"]); // of the input factor first, which fails
      expect(optimizer.reports()[0]?.problems).toEqual(["inverted in float64 at step 0, since float32 has too few digits"]);
      expect(model.parameters().every(({ value }) => value.dataSync().every(Number.isFinite))).toBe(true);
      const vectors = optimizer.state().transforms.flatMap(({ tensors }) => [...tensors].filter(([name]) => name.endsWith("vectors")));
      expect(vectors.map(([, tensor]) => tensor.dtype)).toEqual(["float32", "float32"]);
      optimizer.dispose();
    });

    it("adds a damping in float64 at the second attempt that float32 rounds away too much of, and takes a float32 inverse back", async () => {
      // One sample of four ones: Ω has a 1 in all its entries, without rounding, and the eigenvalues 4, 0, 0, 0. Rounding might move these by
      // 13 ε‖Ω‖ = 52 ε, and one more rounding, of 1 + √λ, by ε/2 · 4. In between, float32 makes 53 ε of √λ = 52.7 ε.
      const [root, size] = [52.7 * 2 ** -23, 4];
      const weight = new Parameter("weight", Tensor.zeros([2, size]));
      const slope = Tensor.from([[1e-3, -2e-3]]); // so that Γ is small beside √λ
      const optimizer = new Kfac([weight], { learningRate: 1, clip: false, dampingKind: "factored", damping: root ** 2, thin: false });
      await optimizer.minimize(() =>
        linear(Tensor.ones([1, size]), weight.value)
          .multiply(slope)
          .sum(),
      );
      const problems = optimizer.reports()[0]?.problems ?? [];
      expect(problems).toHaveLength(1);
      expect(problems[0]).toMatch(
        /^inverted in float64 at step 0, since the input factor, \[4, 4\] in float32, is singular to rounding: .*; use a larger damping$/,
      );
      const inverse = optimizer.state().transforms[0]?.tensors.get("weight::inverse.input") as Tensor;
      expect(inverse.dtype).toBe("float32");
      // (Ω + √λ I)⁻¹ = I / √λ − Ω / (√λ (4 + √λ)): to some ε, not to the .006 by which float32 rounds √λ.
      expect(inverse.dataSync()).toBeAllclose(
        Array.from({ length: size ** 2 }, (_, at) => ((at % (size + 1) === 0 ? 1 : 0) - 1 / (size + root)) / root),
        { relative: 1e-6 },
      );
      optimizer.dispose();
    });

    it("refuses in float64, too, an inverse that is beyond float32, and damps more", async () => {
      // Γ = 1e-40 and Ω = 1: 1/(Γ + √λ) leaves float32 for √λ = 1e-39, but not for ten times that λ.
      const weight = new Parameter("weight", Tensor.zeros([1, 1]));
      const slope = Tensor.from([[1e-20]]);
      const optimizer = new Kfac([weight], { learningRate: 1, clip: false, dampingKind: "factored", damping: 1e-78, thin: false });
      await optimizer.minimize(() =>
        linear(Tensor.ones([1, 1]), weight.value)
          .multiply(slope)
          .sum(),
      );
      const problems = optimizer.reports()[0]?.problems ?? [];
      expect(problems[0]).toMatch(/^inverted in float64 with 10 times the damping at step 0, since .*beyond the range of float32/);
      optimizer.dispose();
    });

    it("damps singular factors more until Cholesky takes them", async () => {
      // Two samples of nine inputs, bias included: the input factor has rank 2, and √λ = 1e-14 is lost in its rounding.
      const [x, labels] = [new Generator(2).normal([2, 8], options), Tensor.from(Int32Array.of(0, 3))];
      const run = async (damping: number): Promise<readonly string[] | undefined> => {
        const model = new Sequential(new Linear(8, 5, { ...options, generator: new Generator(1) }));
        const optimizer = new Kfac(model.parameters(), { learningRate: 0.01, inverse: "cholesky", dampingKind: "factored", damping });
        await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
        return optimizer.reports()[0]?.problems;
      };
      const cause = "(the input factor, \\[9, 9\\] in float64, is singular to rounding|.*pivot \\d+ of 9 is)";
      expect(await run(1e-20)).toEqual([]);
      const problems = await run(1e-28);
      expect(problems).toHaveLength(1);
      expect(problems?.[0]).toMatch(new RegExp(`^inverted in float64 with (10|100|1000) times the damping at step 0, since ${cause}`));
      // Where even 1000 times λ is lost, there is no inverse, and the error is that of the first attempt.
      await expect(run(1e-40)).rejects.toThrow(new RegExp(`"0.weight" could not be inverted at step 0: ${cause}`));
    });

    it("gives a low-rank search a matrix that it takes", async () => {
      const model = new Sequential(new Linear(6, 5, { ...options, generator: new Generator(1) }));
      const [x, labels] = [new Generator(2).normal([4, 6], options), Tensor.from(Int32Array.of(0, 1, 2, 3))];
      // Wants a definite matrix, which a factor of four samples is not.
      const optimizer = new LowRankKfac(
        model.parameters(),
        "strict",
        {
          crossover: 0,
          async find(matrix, { rank }) {
            const { values, vectors } = await eigh(matrix);
            const smallest = values.dataSync()[0] as number;
            for (const tensor of [values, vectors]) tensor.dispose();
            if (smallest < 1e-9) throw new NumericalError(`the smallest eigenvalue is ${smallest.toFixed(0)}`);
            return eigh(matrix, { largest: rank });
          },
        },
        { learningRate: 0.1, rank: 2, oversampling: 1 },
      );
      await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
      expect(optimizer.reports()[0]?.problems[0]).toMatch(
        /^inverted in float64 with 10 times the damping at step 0, since the smallest eigenvalue is -?0$/,
      );
      optimizer.dispose();
    });
  });
});

describe("a training", () => {
  it("tells of each retry in an event, and goes on", async () => {
    const data = await smallData();
    const model = smallModel();
    let calls = 0;
    const optimizer = new LowRankKfac(
      model.parameters(),
      "choosy",
      {
        crossover: 0,
        async find(matrix, { rank }) {
          calls++;
          if (matrix.dtype === "float32") throw new NumericalError("float32 has too few digits");
          return eigh(matrix, { largest: rank });
        },
      },
      { learningRate: 0.01, rank: 2, oversampling: 0, inversionEvery: 2, factorUpdateEvery: 1 },
    );
    const events: TrainEvent[] = [];
    for await (const event of train({ model, optimizer, ...loaders(data), epochs: 1 })) events.push(event);
    const refreshes = events.flatMap((event) => (event.type === "refresh" ? [event] : []));
    expect(refreshes.map(({ step }) => step)).toEqual([0, 2]);
    for (const { step, layers } of refreshes) {
      expect(layers.map(({ layer }) => layer)).toEqual(["0.weight", "5.weight"]);
      for (const { problems } of layers)
        expect(problems).toEqual([`inverted in float64 at step ${step}, since float32 has too few digits`]);
    }
    expect(calls).toBeGreaterThan(0);
    expect(events.at(-1)?.type).toBe("end");
    optimizer.dispose();
  });
});

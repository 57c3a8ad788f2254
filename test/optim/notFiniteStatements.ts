import { expect, it } from "vitest";
import { Linear, meanSquaredError, Sequential } from "../../src/nn/index.ts";
import { Kfac, NysKfac, RsKfac, SreKfac, type CurvatureOptimizer, type LayerReport } from "../../src/optim/index.ts";
import { Generator, NumericalError, Tensor } from "../../src/tensor/index.ts";

/* What becomes of values that are not finite, on whichever backend is the default one while the tests run. */

/** Squares of this overflow in float32; with so small a loss its gradients do not. */
const [HUGE, FAINT] = [1e20, 1e-22];

const common = { learningRate: 1e-3, damping: 0.1, clip: false, factorUpdateEvery: 1, inversionEvery: 1 } as const;
/** Searches for eigenpairs even in factors as small as these. */
const lowRank = { ...common, rank: 2, oversampling: 1, exactUpTo: 0 } as const;
const methods: readonly (readonly [string, (model: Sequential) => CurvatureOptimizer])[] = [
  ["Kfac", (model) => new Kfac(model.parameters(), common)],
  ["Kfac by eigh", (model) => new Kfac(model.parameters(), { ...common, inverse: "eigh" })],
  ["RsKfac, exact", (model) => new RsKfac(model.parameters(), common)],
  ["RsKfac", (model) => new RsKfac(model.parameters(), lowRank)],
  ["SreKfac", (model) => new SreKfac(model.parameters(), lowRank)],
  ["SreKfac of adaptive rank", (model) => new SreKfac(model.parameters(), { ...lowRank, tolerance: 0.1 })],
  ["NysKfac", (model) => new NysKfac(model.parameters(), lowRank)],
];

export function averagesBeginAnew(): void {
  function setUp(make: (model: Sequential) => CurvatureOptimizer): {
    optimizer: CurvatureOptimizer;
    step: (scale: number) => Promise<readonly LayerReport[]>;
    finite: () => Promise<boolean>;
  } {
    const model = new Sequential(new Linear(4, 3, { bias: false, generator: new Generator(1) }));
    const optimizer = make(model);
    const [x, target] = [new Generator(2).normal([6, 4]), new Generator(3).normal([6, 3])];
    const step = async (scale: number): Promise<readonly LayerReport[]> => {
      const loss = (): Tensor =>
        scale === 1 ? meanSquaredError(model.forward(x), target) : model.forward(x.multiply(scale)).multiply(FAINT).multiply(target).sum();
      await optimizer.minimize(loss);
      return optimizer.reports();
    };
    const finite = async (): Promise<boolean> => {
      const values = await Promise.all(model.parameters().map(({ value }) => value.data()));
      return values.every((data) => data.every(Number.isFinite));
    };
    return { optimizer, step, finite };
  }

  it.each(methods)("%s lets an average begin anew that a value has spoilt", async (_, make) => {
    const { step, finite } = setUp(make);
    await step(1);
    const spoilt = (await step(HUGE)).flatMap(({ problems }) => problems);
    expect(spoilt).toHaveLength(2);
    expect(spoilt[0]).toBe("the input factor is not finite at step 1: its average begins anew with the next value");
    expect(spoilt[1]).toContain("not inverted at step 1, so the inverse from before stays, since");
    expect(await finite()).toBe(true);
    // The next value is the first of a new average, and is inverted.
    const [report] = await step(1);
    expect(report?.problems).toEqual([]);
    expect(report?.figures["input.values"]).toBe(1);
    expect(report?.figures["output.values"]).toBe(3);
  });

  it.each(methods)("%s refuses a first value that is not finite, and goes on with the next", async (_, make) => {
    const { step } = setUp(make);
    await expect(step(HUGE)).rejects.toThrow(NumericalError);
    const [report] = await step(1);
    expect(report?.figures["input.values"]).toBe(1);
    expect(report?.figures["output.values"]).toBe(1); // that of the refused step is forgotten with it
  });
}

import { expect, it } from "vitest";
import { Linear, meanSquaredError, Sequential } from "../../src/nn/index.ts";
import { Kfac, RsKfac, type CurvatureOptimizer, type LayerReport } from "../../src/optim/index.ts";
import { Generator, NumericalError, Tensor } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";

/** Squares of this overflow in float32; with so small a loss its gradients do not. */
const [HUGE, FAINT] = [1e20, 1e-22];

eachBackend(() => {
  const methods: readonly (readonly [string, (model: Sequential) => CurvatureOptimizer])[] = [Kfac, RsKfac].map((Method) => [
    Method.name,
    (model) => new Method(model.parameters(), { learningRate: 1e-3, damping: 0.1, clip: false, factorUpdateEvery: 1, inversionEvery: 1 }),
  ]);

  function setUp(make: (model: Sequential) => CurvatureOptimizer): {
    optimizer: CurvatureOptimizer;
    step: (scale: number) => Promise<readonly LayerReport[]>;
    finite: () => boolean;
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
    return { optimizer, step, finite: () => model.parameters().every(({ value }) => value.dataSync().every(Number.isFinite)) };
  }

  it.each(methods)("%s lets an average begin anew that a value has spoilt", async (_, make) => {
    const { step, finite } = setUp(make);
    await step(1);
    const spoilt = (await step(HUGE)).flatMap(({ problems }) => problems);
    expect(spoilt).toHaveLength(2);
    expect(spoilt[0]).toBe("the input factor is not finite at step 1: its average begins anew with the next value");
    expect(spoilt[1]).toContain("not inverted at step 1, so the inverse from before stays, since");
    expect(finite()).toBe(true);
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
  });
});

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { valueAndGrad } from "../../../src/autograd/index.ts";
import { Linear, meanSquaredError, Sequential } from "../../../src/nn/index.ts";
import { Kfac, type Fisher } from "../../../src/optim/index.ts";
import { Generator, type Tensor } from "../../../src/tensor/index.ts";
import { eachBackend } from "../../backends.ts";

/*
 * That the factors themselves are exact, and where, is in verify.test.ts. Here: what an exact curvature does.
 */

const options = { dtype: "float64" } as const;

eachBackend(() => {
  describe("one K-FAC step at rate 1 on linear regression, with the full batch and without damping,", () => {
    const regressions = fc.record({
      dIn: fc.integer({ min: 1, max: 5 }),
      dOut: fc.integer({ min: 1, max: 4 }),
      bias: fc.boolean(),
      reduction: fc.constantFrom("mean" as const, "sum" as const),
      seed: fc.nat({ max: 1000 }),
    });
    type Regression = typeof regressions extends fc.Arbitrary<infer T> ? T : never;
    /** The largest entry of the gradient after the step, over the largest before. */
    async function left({ dIn, dOut, bias, reduction, seed }: Regression, fisher: Fisher): Promise<number> {
      const generator = new Generator(seed);
      const n = 4 * (dIn + dOut); // more than parameters a row: Ω is well conditioned
      const [x, target] = [generator.normal([n, dIn], options), generator.normal([n, dOut], options)];
      const model = new Sequential(new Linear(dIn, dOut, { ...options, generator, bias }));
      const loss = (): Tensor => {
        const error = meanSquaredError(model.forward(x), target, { reduction });
        return reduction === "mean" ? error.multiply(dOut) : error; // over samples, not over elements
      };
      const largest = (): number =>
        Math.max(...valueAndGrad(loss, model.parameters()).gradients.flatMap((gradient) => Array.from(gradient.dataSync(), Math.abs)));
      const before = largest();
      // The mean of the samples' losses has the curvature that the factors stand for; a sum's gradient is n times as large.
      const learningRate = reduction === "mean" ? 1 : 1 / n;
      const optimizer = new Kfac(model.parameters(), { learningRate, clip: false, damping: 0, fisher, reduction });
      await optimizer.minimize(loss);
      optimizer.dispose();
      return largest() / before;
    }

    it("reaches the minimiser with the type-2 Fisher", async () => {
      await fc.assert(
        fc.asyncProperty(regressions, async (regression) => {
          expect(await left(regression, "type-2")).toBeLessThan(1e-11);
        }),
        { numRuns: 15 },
      );
    });

    it("does not with the empirical Fisher, which is no Gauss–Newton matrix", async () => {
      await fc.assert(
        fc.asyncProperty(regressions, async (regression) => {
          expect(await left(regression, "empirical")).toBeGreaterThan(1e-3);
        }),
        { numRuns: 15 },
      );
    });

    it("does not with damping", async () => {
      const [dIn, dOut] = [3, 2];
      const generator = new Generator(1);
      const model = new Sequential(new Linear(dIn, dOut, { ...options, generator }));
      const [x, target] = [generator.normal([12, dIn], options), generator.normal([12, dOut], options)];
      const loss = (): Tensor => meanSquaredError(model.forward(x), target);
      await new Kfac(model.parameters(), { learningRate: 1, clip: false, damping: 0.1, fisher: "type-2" }).minimize(loss);
      const { gradients } = valueAndGrad(loss, model.parameters());
      expect(Math.max(...gradients.flatMap((gradient) => Array.from(gradient.dataSync(), Math.abs)))).toBeGreaterThan(1e-3);
    });
  });
});

import { describe, expect, it } from "vitest";
import { eigh } from "../../src/linalg/index.ts";
import { crossEntropy, Linear, Sequential } from "../../src/nn/index.ts";
import { LowRankKfac, RsKfac, type Search } from "../../src/optim/index.ts";
import { Generator, Tensor } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";

const options = { dtype: "float64" } as const;

/** Factors of 7 and 5 rows. */
function problem(): { model: Sequential; loss: () => Tensor } {
  const model = new Sequential(new Linear(6, 5, { ...options, generator: new Generator(1) }));
  const [x, labels] = [new Generator(2).normal([9, 6], options), Tensor.from(Int32Array.from({ length: 9 }, (_, i) => i % 5))];
  return { model, loss: () => crossEntropy(model.forward(x), labels) };
}

eachBackend(() => {
  describe("a factor of a low-rank method", () => {
    it.each([
      [undefined, [7]],
      [0, [7, 5]],
      [5, [7]],
      [7, []],
    ])("is searched where it has more rows than exactUpTo (%s), by default the search's own crossover", async (exactUpTo, expected) => {
      const searched: number[] = [];
      const search: Search = {
        crossover: 2, // times rank + oversampling: 6 rows
        async find(matrix, { rank }) {
          searched.push(matrix.shape[0] as number);
          return eigh(matrix, { largest: rank });
        },
      };
      const { model, loss } = problem();
      const optimizer = new LowRankKfac(model.parameters(), "counting", search, { learningRate: 0.1, rank: 2, oversampling: 1, exactUpTo });
      await optimizer.minimize(loss);
      expect(searched).toEqual(expected);
      optimizer.dispose();
    });

    it("has the inverse of the step's own damping, also where that is kept as a matrix between steps", async () => {
      const after = async (damping: (step: number) => number): Promise<number[]> => {
        const { model, loss } = problem();
        // The first step changes nothing but the averages.
        const optimizer = new RsKfac(model.parameters(), { learningRate: (step) => (step === 0 ? 0 : 0.1), damping, rank: 100 });
        for (let step = 0; step < 2; step++) await optimizer.minimize(loss);
        optimizer.dispose();
        return model.parameters().flatMap(({ value }) => [...value.dataSync()]);
      };
      const [constant, changed, other] = [await after(() => 0.5), await after((step) => (step === 0 ? 0.1 : 0.5)), await after(() => 0.1)];
      expect(changed).toEqual(constant);
      expect(changed).not.toEqual(other);
    });

    it.each(["zero", "mean"] as const)("has what is left of the identity outside of its span, too: tail %s", async (tail) => {
      // Of a batch of 3 both factors have rank 3, so that 3 eigenpairs and a tail of nothing are all there is. Another batch's gradient
      // lies outside of their span.
      const after = async (averageForm: "zero" | "identity", rank: number): Promise<number[]> => {
        const { model } = problem();
        const learningRate = (step: number): number => (step === 0 ? 0 : 0.1);
        const optimizer = new RsKfac(model.parameters(), { learningRate, clip: false, averageForm, tail, rank });
        for (const [n, seed] of [
          [3, 5],
          [9, 6],
        ] as const) {
          const [x, labels] = [new Generator(seed).normal([n, 6], options), Tensor.from(Int32Array.from({ length: n }, (_, i) => i % 5))];
          await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
        }
        optimizer.dispose();
        return model.parameters().flatMap(({ value }) => [...value.dataSync()]);
      };
      const whole = await after("identity", 7);
      expect(await after("zero", 7)).toBeAllclose(whole, { relative: 1e-12 });
      expect(await after("zero", 3)).toBeAllclose(whole, { relative: 1e-12 });
    });
  });
});

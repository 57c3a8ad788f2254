import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decompose, type Search } from "../../src/optim/blocks/dominant.ts";
import { ofSpectrum, seeds } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { tensorOf } from "../linalg/compute.ts";
import { epsilon64 } from "../linalg/dense.ts";

eachBackend(() => {
  describe("what a search is told of the condition", () => {
    /** Finds what it is asked for exactly, and says what it was told. */
    const conditionFor = async (...[matrix, options]: [Parameters<typeof decompose>[0], { readonly floor?: number }]): Promise<number> => {
      let told = NaN;
      const search: Search = {
        crossover: 0,
        find(operand, { rank, condition, linalg }) {
          told = condition;
          return linalg.eigh(operand, { largest: rank });
        },
      };
      const pairs = await decompose(matrix, search, { rank: 1, oversampling: 0 }, { step: 0, draw: "any", ...options });
      for (const tensor of [pairs.vectors, pairs.values, pairs.basis]) tensor?.dispose();
      return told;
    };

    it("is a bound, the tighter the nearer the matrix is to its floor, and nothing without one", async () => {
      const cases = fc.record({
        above: fc.array(fc.double({ min: 0, max: 100, noNaN: true }), { minLength: 2, maxLength: 12 }),
        floor: fc.constantFrom(1e-3, 0.3, 0.95),
        seed: seeds,
      });
      await fc.assert(
        fc.asyncProperty(cases, async ({ above, floor, seed }) => {
          const spectrum = above.map((value) => floor + value);
          using matrix = tensorOf(ofSpectrum(spectrum, seed).a, "float64");
          const [condition, rounding] = [Math.max(...spectrum) / Math.min(...spectrum), 100 * above.length ** 2 * epsilon64];
          const told = await conditionFor(matrix, { floor });
          const sum = above.reduce((a, b) => a + b, 0);
          expect(told).toBeGreaterThanOrEqual(condition * (1 - rounding * (1 + sum / floor)));
          expect(told).toBeLessThanOrEqual((1 + sum / floor) * (1 + rounding));
          expect(await conditionFor(matrix, {})).toBe(Infinity);
        }),
        { numRuns: 60 },
      );
    });
  });
});

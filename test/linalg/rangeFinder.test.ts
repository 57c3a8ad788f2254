import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { randomizedRange, type RandomizedRangeOptions } from "../../src/linalg/index.ts";
import { defaultBackend, Generator, NumericalError, ShapeError, Tensor, UsageError } from "../../src/tensor/index.ts";
import { ofSingularValues, seeds } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { spectralNorm } from "./bounds.ts";
import { taken, tensorOf } from "./compute.ts";
import { epsilon64, identity, minus, norm, product, transpose, type Matrix } from "./dense.ts";

type Options = Omit<RandomizedRangeOptions, "generator" | "testMatrix">;

async function rangeOf(a: Matrix, options: Options, seed: number): Promise<Matrix> {
  using x = tensorOf(a, "float64");
  return await taken(await randomizedRange(x, { ...options, generator: new Generator(seed) }));
}
/** A − QQᵀA */
const outside = (a: Matrix, q: Matrix): Matrix => minus(a, product(q, product(transpose(q), a)));
const norm2 = (a: Matrix): number => Math.sqrt(spectralNorm(product(transpose(a), a)));
const tail = (sigma: readonly number[], from: number, power = 1): number => Math.hypot(...sigma.slice(from).map((s) => s ** power));

const DRAWS = 60;
async function meanOf(draw: (seed: number) => Promise<number>): Promise<number> {
  let sum = 0;
  for (let seed = 1; seed <= DRAWS; seed++) sum += await draw(seed);
  return sum / DRAWS;
}

/** Spectra of 18 values: how fast they fall decides what a power iteration gains. */
const spectra: readonly (readonly [name: string, sigma: readonly number[]])[] = [
  ["falls by a fifth", Array.from({ length: 18 }, (_, k) => 0.8 ** k)],
  ["falls like 1/k", Array.from({ length: 18 }, (_, k) => 1 / (k + 1))],
  ["is flat after the fifth", Array.from({ length: 18 }, (_, k) => (k < 5 ? 1 - 0.1 * k : 0.1))],
];

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  describe("randomizedRange", () => {
    it("is an orthonormal basis of as many vectors as the matrix has room for, tall or wide", async () => {
      const shapes = fc.record({
        m: fc.integer({ min: 1, max: 16 }),
        n: fc.integer({ min: 1, max: 16 }),
        rank: fc.nat(),
        oversampling: fc.integer({ min: 0, max: 5 }),
        iterations: fc.integer({ min: 0, max: 3 }),
        ratio: fc.constantFrom(1, 0.5, 0.01),
        seed: seeds,
      });
      await fc.assert(
        fc.asyncProperty(shapes, async ({ m, n, rank, ratio, seed, ...options }) => {
          const most = Math.min(m, n);
          const wanted = rank % (most + 1);
          const a = ofSingularValues(
            m,
            n,
            Array.from({ length: most }, (_, k) => ratio ** k),
            seed,
          );
          const q = await rangeOf(a, { ...options, rank: wanted }, seed);
          expect([q.rows, q.columns]).toEqual([m, Math.min(most, wanted + options.oversampling)]);
          expect(norm(minus(product(transpose(q), q), identity(q.columns)))).toBeLessThanOrEqual(
            Math.sqrt(m) * Math.max(3 * m, 15) * epsilon64,
          );
        }),
        { numRuns: 60 },
      );
    });

    describe.each(spectra)("of a matrix whose spectrum %s", (_, sigma) => {
      const a = ofSingularValues(24, 18, sigma, 7);
      const [rank, oversampling] = [5, 4];

      it("leaves out no less than the best approximation of that size, and on average no more than Halko, Martinsson and Tropp allow", async () => {
        const [r, p] = [rank, oversampling];
        const least = sigma[r + p] as number;
        const measure = (iterations: number, size: (a: Matrix) => number): Promise<number> =>
          meanOf(async (seed) => {
            const rest = outside(a, await rangeOf(a, { rank, oversampling, iterations }, seed));
            expect(norm2(rest)).toBeGreaterThanOrEqual(least * (1 - 1e-10)); // Eckart–Young
            return size(rest);
          });
        // Theorem 10.5, Theorem 10.6 and Corollary 10.10 of SIAM Review 53, 2011.
        expect(await measure(0, norm)).toBeLessThanOrEqual(Math.sqrt(1 + r / (p - 1)) * tail(sigma, r));
        for (const q of [0, 1]) {
          const k = 2 * q + 1;
          const power = (1 + Math.sqrt(r / (p - 1))) * (sigma[r] as number) ** k + ((Math.E * Math.sqrt(r + p)) / p) * tail(sigma, r, k);
          expect(await measure(q, norm2)).toBeLessThanOrEqual(power ** (1 / k));
        }
      });

      it("is no worse on average for more iterations or more vectors besides", async () => {
        const mean = (options: Partial<Options>): Promise<number> =>
          meanOf(async (seed) => norm(outside(a, await rangeOf(a, { rank, oversampling, iterations: 0, ...options }, seed))));
        const more = [[0, 1, 2, 4].map((iterations) => ({ iterations })), [0, 2, 4, 8].map((besides) => ({ oversampling: besides }))];
        for (const steps of more) {
          const means: number[] = [];
          for (const options of steps) means.push(await mean(options));
          // What chance makes of an average of so many draws.
          means.slice(1).forEach((value, i) => expect(value).toBeLessThanOrEqual(1.05 * (means[i] as number)));
        }
      });
    });

    it("gets the directions that power iterations without bases between would lose in float32", async () => {
      const sigma = Array.from({ length: 30 }, (_, k) => 0.5 ** k);
      using x = tensorOf(ofSingularValues(40, 30, sigma, 3), "float32");
      const q = await taken(await randomizedRange(x, { rank: 16, oversampling: 4, iterations: 3, generator: new Generator(1) }));
      // (XXᵀ)³X falls by 2⁻⁷ a direction: the fourth is below ε already. Here σ₂₁ = 1e-6 is what is left out, and rounding of 20 of ε.
      const missed = norm(outside(ofSingularValues(40, 30, sigma, 3), q));
      expect(missed).toBeLessThanOrEqual(2 * tail(sigma, 20) + 20 * 2 ** -23);
      // With a condition that is not true there is none until the end.
      const misled = { rank: 16, oversampling: 4, iterations: 3, condition: 1, generator: new Generator(1) };
      expect(norm(outside(ofSingularValues(40, 30, sigma, 3), await taken(await randomizedRange(x, misled))))).toBeGreaterThan(
        100 * missed,
      );
    });

    it("finds as much without the bases that a known condition makes unnecessary", async () => {
      const known = fc.record({
        m: fc.integer({ min: 2, max: 16 }),
        n: fc.integer({ min: 2, max: 16 }),
        rank: fc.nat(),
        iterations: fc.integer({ min: 0, max: 4 }),
        condition: fc.constantFrom(1, 1.5, 30, 1e6),
        scale: fc.constantFrom(1, 1e-30, 1e30),
        seed: seeds,
      });
      await fc.assert(
        fc.asyncProperty(known, async ({ m, n, rank, iterations, condition, scale, seed }) => {
          const most = Math.min(m, n);
          const sigma = Array.from({ length: most }, (_, k) => scale * condition ** (-k / (most - 1)));
          const a = ofSingularValues(m, n, sigma, seed);
          const options = { rank: rank % most, oversampling: 2, iterations };
          const [by, without] = [await rangeOf(a, { ...options, condition }, seed), await rangeOf(a, options, seed)];
          expect(norm(minus(product(transpose(by), by), identity(by.columns)))).toBeLessThanOrEqual(1e-12);
          expect(norm(outside(a, by))).toBeLessThanOrEqual(norm(outside(a, without)) + 1e-9 * norm(a));
        }),
        { numRuns: 100 },
      );
    });

    it("finds nothing in zeros, and gives a basis all the same", async () => {
      const q = await rangeOf(ofSingularValues(6, 9, [], 1), { rank: 4 }, 1);
      expect(norm(minus(product(transpose(q), q), identity(6)))).toBeLessThanOrEqual(1e-13);
    });

    it("refuses what it cannot do, saying why", async () => {
      using x = Tensor.ones([3, 5], { dtype: "float64" });
      const generator = new Generator(1);
      await expect(randomizedRange(x, { rank: 4, generator })).rejects.toThrow(
        "randomizedRange: rank is 4 but the matrix has shape [3, 5]; ask for at most 3",
      );
      await expect(randomizedRange(x, { rank: 1, generator, iterations: -1 })).rejects.toThrow(UsageError);
      await expect(randomizedRange(x, { rank: 1, generator, oversampling: 0.5 })).rejects.toThrow(UsageError);
      for (const condition of [0.5, NaN]) {
        await expect(randomizedRange(x, { rank: 1, generator, condition })).rejects.toThrow(
          `randomizedRange: condition is at least 1 for any matrix but ${condition} was given`,
        );
      }
      await expect(randomizedRange(x, { rank: 1 })).rejects.toThrow("needs a generator for its random numbers, or a test matrix");
      using wide = Tensor.ones([5, 4], { dtype: "float64" });
      await expect(randomizedRange(x, { rank: 1, testMatrix: wide })).rejects.toThrow(ShapeError);
      await expect(randomizedRange(x, { rank: 1, testMatrix: wide })).rejects.toThrow("[5, s] with s from 1 to 3 but has [5, 4]");
      for (const dtype of ["float32", "float64"] as const) {
        using broken = Tensor.from([1, NaN, 3, 4], { dtype, shape: [2, 2] });
        await expect(randomizedRange(broken, { rank: 1, generator })).rejects.toThrow("entry [0, 1] of the [2, 2] input is NaN");
        using fine = Tensor.ones([2, 2], { dtype });
        using endless = Tensor.full([2, 1], Infinity, { dtype });
        await expect(randomizedRange(fine, { rank: 1, testMatrix: endless })).rejects.toThrow("randomizedRange, test matrix: entry [0, 0]");
      }
      using huge = Tensor.full([4, 4], 3e38);
      using ones = Tensor.ones([4, 2]);
      const overflow = randomizedRange(huge, { rank: 2, testMatrix: ones });
      await expect(overflow).rejects.toThrow(NumericalError);
      await expect(overflow).rejects.toThrow("a product with the [4, 4] matrix is beyond the range of float32; scale the input");
    });
  });
});

import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { adaptiveEigh, type AdaptiveEighOptions } from "../../src/linalg/index.ts";
import { defaultBackend, Generator, NumericalError, ShapeError, Tensor, UsageError, type FloatDType } from "../../src/tensor/index.ts";
import { ofSpectrum, seeds } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { held, taken, tensorOf } from "./compute.ts";
import {
  at,
  build,
  diagonal,
  epsilon32,
  epsilon64,
  identity,
  matrix,
  minus,
  norm,
  plus,
  product,
  scaled,
  transpose,
  type Matrix,
} from "./dense.ts";

interface Found {
  readonly d: Float64Array;
  readonly u: Matrix;
  /** As reported, and as it is. */
  readonly error: number;
  readonly actual: number;
}
type Options = Omit<AdaptiveEighOptions, "generator" | "testMatrix"> & { readonly seed: number; readonly start?: Matrix };

async function adapted(a: Matrix, dtype: FloatDType, { seed, start, ...options }: Options): Promise<Found> {
  using x = tensorOf(a, dtype);
  using testMatrix = start && tensorOf(start, dtype);
  const { values, vectors, error } = await adaptiveEigh(x, {
    ...options,
    generator: new Generator(seed),
    ...(testMatrix && { testMatrix }),
  });
  const [{ data: d }, u] = [await taken(values), await taken(vectors)];
  const x64 = held(a, dtype);
  return { d, u, error, actual: norm(minus(x64, product(u, diagonal(d), transpose(u)))) / (norm(x64) || 1) };
}

/** The least rank within a relative error of the Frobenius norm (Eckart–Young). */
function leastRank(spectrum: Float64Array, tolerance: number): number {
  const total = Math.hypot(...spectrum);
  let rank = spectrum.length;
  while (rank > 0 && Math.hypot(...spectrum.subarray(0, spectrum.length - rank + 1)) <= tolerance * total) rank--;
  return rank;
}

const cases = fc
  .record({
    n: fc.integer({ min: 1, max: 30 }),
    fall: fc.constantFrom<(k: number) => number>(
      () => 1,
      (k) => 0.7 ** k,
      (k) => 1 / (k + 1),
      (k) => (k < 5 ? 1 : 1e-4),
      (k) => (k < 3 ? 1 : 0),
      () => 0,
    ),
    scale: fc.constantFrom(1, 1e-30, 1e30),
    seed: seeds,
    tolerance: fc.constantFrom(0.5, 0.1, 0.01, 1e-4, 1e-8, 0),
    blockSize: fc.integer({ min: 1, max: 8 }),
    iterations: fc.integer({ min: 1, max: 3 }),
  })
  .map(({ n, fall, scale, seed, ...options }) => ({
    ...ofSpectrum(
      Array.from({ length: n }, (_, k) => fall(k)),
      seed,
      scale,
    ),
    options: { ...options, seed },
  }));

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  describe("adaptiveEigh", () => {
    describe.each([
      ["float32", epsilon32],
      ["float64", epsilon64],
    ] as const)("of a %s matrix", (dtype, epsilon) => {
      it("reports the error that it makes, which is within the tolerance for every draw", async () => {
        await fc.assert(
          fc.asyncProperty(cases, async ({ a, n, options, spectrum }) => {
            const { d, u, error, actual } = await adapted(a, dtype, options);
            const tolerance = Math.max(options.tolerance, Math.max(4 * Math.sqrt(n), 16) * epsilon);
            expect(error).toBeLessThanOrEqual(tolerance);
            // Measured with the rounding of one product, and the vectors rounded to their type.
            expect(Math.abs(actual - error)).toBeLessThanOrEqual(4 * Math.sqrt(n) * epsilon);
            expect(d.length).toBeGreaterThanOrEqual(leastRank(spectrum, tolerance + 8 * Math.sqrt(n) * epsilon));
            expect(norm(minus(product(transpose(u), u), identity(u.columns)))).toBeLessThanOrEqual(100 * n * epsilon);
            expect(d).toEqual(d.slice().sort());
            d.forEach((value) => expect(value).toBeGreaterThanOrEqual(0));
          }),
          { numRuns: 150 },
        );
      });

      it.each([
        ["geometrically", (k: number): number => 0.8 ** k],
        ["slowly", (k: number): number => 1 / (k + 1)],
      ])("needs on average hardly more eigenpairs than are necessary where the spectrum falls %s", async (_, fall) => {
        const { a, spectrum } = ofSpectrum(
          Array.from({ length: 40 }, (_, k) => fall(k)),
          6,
        );
        for (const tolerance of [0.3, 0.03]) {
          const least = leastRank(spectrum, tolerance);
          let ranks = 0;
          for (let seed = 1; seed <= 40; seed++) ranks += (await adapted(a, dtype, { tolerance, seed, blockSize: 4 })).d.length;
          expect(ranks / 40).toBeLessThanOrEqual(1.1 * least + 0.5);
        }
      });
    });

    it("stops at the largest rank that it may have, and says how far that is off", async () => {
      const { a, spectrum } = ofSpectrum(
        Array.from({ length: 30 }, (_, k) => 1 / (k + 1)),
        2,
      );
      const { d, error, actual } = await adapted(a, "float64", { tolerance: 0.01, maxRank: 6, seed: 1 });
      expect(d).toHaveLength(6);
      expect(error).toBeGreaterThan(0.01);
      expect(Math.abs(error - actual)).toBeLessThanOrEqual(1e-13);
      expect(error).toBeGreaterThanOrEqual((Math.hypot(...spectrum.subarray(0, 24)) / Math.hypot(...spectrum)) * (1 - 1e-12));
      expect((await adapted(a, "float64", { tolerance: 0.01, maxRank: 0, seed: 1 })).error).toBeCloseTo(1, 12);
    });

    it("grows and shrinks from call to call with the matrix, from the vectors before", async () => {
      const spectrumOf = (rank: number): number[] => Array.from({ length: 30 }, (_, k) => (k < rank ? 1 : 1e-3));
      let start: Matrix = matrix(30, 0, []);
      for (const rank of [5, 12, 3, 0, 20]) {
        const { a } = ofSpectrum(spectrumOf(rank), 3);
        const matrixNow = rank === 0 ? scaled(a, 0) : a;
        const { d, u } = await adapted(matrixNow, "float64", { tolerance: 0.02, seed: rank, start });
        expect(d).toHaveLength(rank);
        start = u;
      }
    });

    it("starts from the dominant ones of its vectors before where these are more than it may have now", async () => {
      const { a } = ofSpectrum(
        Array.from({ length: 30 }, (_, k) => 0.8 ** k),
        5,
      );
      const { u } = await adapted(a, "float64", { tolerance: 1e-3, seed: 1 });
      expect(u.columns).toBeGreaterThan(20);
      const size = { tolerance: 1e-3, maxRank: 6, oversampling: 2, iterations: 1, seed: 2 };
      const dominant = build(30, 6, (i, j) => at(u, i, u.columns - 6 + j));
      const next = await adapted(a, "float64", { ...size, start: u });
      expect(next.d).toHaveLength(6);
      expect(next).toEqual(await adapted(a, "float64", { ...size, start: dominant }));
      expect(next.error).toBeCloseTo(0.8 ** 6, 3); // of a geometric spectrum, and the least that there is
    });

    it("finds the eigenpairs without oversampling, too, also from vectors before that are none", async () => {
      const { a } = ofSpectrum([1, 1, 1, ...new Array<number>(17).fill(0)], 4);
      const options = { tolerance: 1e-6, oversampling: 0, seed: 1 };
      for (const start of [undefined, matrix(20, 0, [])]) {
        expect((await adapted(a, "float64", { ...options, ...(start && { start }) })).d).toHaveLength(3);
      }
      expect((await adapted(a, "float64", { ...options, maxRank: 0 })).d).toHaveLength(0);
    });

    it("takes its vectors before for a good basis: fewer iterations do, and fewer rounds", async () => {
      const { a } = ofSpectrum(
        Array.from({ length: 30 }, (_, k) => 0.8 ** k),
        9,
      );
      const first = await adapted(a, "float64", { tolerance: 0.01, seed: 1 });
      const drifted = plus(scaled(a, 0.98), scaled(ofSpectrum([1, ...new Array<number>(29).fill(0)], 4).a, 0.02));
      const next = await adapted(drifted, "float64", { tolerance: 0.01, seed: 2, iterations: 1, start: first.u });
      expect(next.error).toBeLessThanOrEqual(0.01);
      expect(next.d.length).toBeLessThanOrEqual(first.d.length + 2);
    });

    it("refuses what it cannot do, saying why", async () => {
      using x = tensorOf(identity(4), "float64");
      const generator = new Generator(1);
      for (const tolerance of [-1, NaN]) {
        await expect(adaptiveEigh(x, { tolerance, generator })).rejects.toThrow(`the tolerance must be at least 0 but is ${tolerance}`);
      }
      await expect(adaptiveEigh(x, { tolerance: 0.1, generator, maxRank: 5 })).rejects.toThrow("maxRank is 5 but the matrix has order 4");
      for (const wrong of [{ maxRank: -1 }, { oversampling: -1 }, { blockSize: 0 }, { iterations: 0 }]) {
        await expect(adaptiveEigh(x, { tolerance: 0.1, generator, ...wrong })).rejects.toThrow(UsageError);
      }
      using short = Tensor.ones([3, 2], { dtype: "float64" });
      await expect(adaptiveEigh(x, { tolerance: 0.1, generator, testMatrix: short })).rejects.toThrow(ShapeError);
      using rectangle = Tensor.ones([3, 4], { dtype: "float64" });
      await expect(adaptiveEigh(rectangle, { tolerance: 0.1, generator })).rejects.toThrow(ShapeError);
      using broken = Tensor.from([1, NaN, NaN, 1], { dtype: "float64", shape: [2, 2] });
      await expect(adaptiveEigh(broken, { tolerance: 0.1, generator })).rejects.toThrow(
        "adaptiveEigh: entry [0, 1] of the [2, 2] input is NaN",
      );
      using huge = tensorOf(scaled(matrix(2, 2, [1, 1, 1, 1]), 1.2e308), "float64");
      await expect(adaptiveEigh(huge, { tolerance: 0.1, generator })).rejects.toThrow(NumericalError);
    });
  });
});

import fc from "fast-check";
import { z } from "zod";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eighHost, nystrom, randomizedEigh, type DominantEigenpairs } from "../../src/linalg/index.ts";
import { defaultBackend, Generator, NumericalError, ShapeError, Tensor, UsageError, type FloatDType } from "../../src/tensor/index.ts";
import { ofSpectrum, seeds } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { goldenArray, readGolden } from "../golden.ts";
import { diagonal, epsilon32, epsilon64, identity, matrix, minus, norm, plus, product, scaled, transpose, type Matrix } from "./dense.ts";

const tensorOf = (a: Matrix, dtype: FloatDType = "float64"): Tensor => Tensor.from(a.data, { dtype, shape: [a.rows, a.columns] });

/** The matrix U diag(D) Uᵀ, with its parts; disposes the tensors. */
function read({ values, vectors }: DominantEigenpairs): { d: Float64Array; u: Matrix; rebuilt: Matrix } {
  const d = Float64Array.from(values.dataSync());
  const u = matrix(vectors.shape[0] as number, vectors.shape[1] as number, vectors.dataSync());
  for (const tensor of [values, vectors]) tensor.dispose();
  return { d, u, rebuilt: product(u, diagonal(d), transpose(u)) };
}
const orthonormality = (u: Matrix): number => norm(minus(product(transpose(u), u), identity(u.columns)));

const cases = fc
  .record({
    n: fc.integer({ min: 1, max: 24 }),
    rank: fc.nat(),
    oversampling: fc.integer({ min: 0, max: 6 }),
    ratio: fc.constantFrom(1, 0.9, 0.5, 0.1),
    scale: fc.constantFrom(1, 1e-12, 1e12),
    seed: seeds,
  })
  .map(({ n, rank, ratio, scale, seed, ...rest }) => {
    const spectrum = Float64Array.from({ length: n }, (_, k) => ratio ** k);
    return { ...rest, rank: rank % (n + 1), seed, ...ofSpectrum(spectrum, seed, scale) };
  });

const goldenCases = readGolden(
  "rnla",
  z.object({
    cases: z.array(
      z.object({
        name: z.string(),
        niter: z.int(),
        rank: z.int(),
        M: goldenArray.nullish(),
        M_of: z.string(),
        Omega: goldenArray.nullish(),
        srevd_eigvals_ascending: goldenArray,
        exact_top_eigvals_ascending: goldenArray,
        srevd_U_D_Ut: goldenArray.nullish(),
        srevd_err_fro: z.number(),
      }),
    ),
  }),
).cases;

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  const methods = {
    randomizedEigh: (x: Tensor, rank: number, oversampling: number, seed: number): Promise<DominantEigenpairs> =>
      randomizedEigh(x, { rank, oversampling, generator: new Generator(seed) }),
    nystrom: async (x: Tensor, rank: number, oversampling: number, seed: number): Promise<DominantEigenpairs> => {
      const { basis, ...pairs } = await nystrom(x, { rank, oversampling, generator: new Generator(seed) });
      basis.dispose();
      return pairs;
    },
  };

  describe.each(Object.entries(methods))("%s", (name, method) => {
    it("gives orthonormal vectors and ascending values that are not negative and not above those of the matrix", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ a, n, rank, oversampling, seed, spectrum }) => {
          using x = tensorOf(a);
          const { d, u } = read(await method(x, rank, oversampling, seed));
          expect([d.length, u.rows, u.columns]).toEqual([rank, n, rank]);
          expect(orthonormality(u)).toBeLessThanOrEqual(100 * n * epsilon64);
          expect(d).toEqual(d.slice().sort());
          const top = spectrum[n - 1] as number;
          d.forEach((value, i) => {
            expect(value).toBeGreaterThanOrEqual(name === "nystrom" ? 0 : -100 * n * epsilon64 * top);
            expect(value).toBeLessThanOrEqual((spectrum[n - rank + i] as number) + 100 * n * epsilon64 * top);
          });
        }),
        { numRuns: 60 },
      );
    });

    it("is exact for a matrix whose rank it reaches", async () => {
      await fc.assert(
        fc.asyncProperty(fc.integer({ min: 1, max: 20 }), fc.nat(), seeds, async (n, at, seed) => {
          const rank = at % (n + 1);
          const { a } = ofSpectrum(
            Array.from({ length: n }, (_, k) => (k < rank ? 1 / (k + 1) : 0)),
            seed,
          );
          using x = tensorOf(a);
          const { rebuilt } = read(await method(x, rank, 3, seed + 1));
          expect(norm(minus(rebuilt, a))).toBeLessThanOrEqual(1e-12);
        }),
        { numRuns: 60 },
      );
    });

    it("leaves out little more than the best approximation of that rank (Eckart–Young)", async () => {
      let [total, best] = [0, 0];
      for (let seed = 1; seed <= 40; seed++) {
        const { a, spectrum } = ofSpectrum(
          Array.from({ length: 20 }, (_, k) => 0.7 ** k),
          seed,
        );
        using x = tensorOf(a);
        const error = norm(minus(read(await method(x, 6, 4, seed)).rebuilt, a));
        const least = Math.hypot(...spectrum.subarray(0, 14));
        expect(error).toBeGreaterThanOrEqual(least * (1 - 1e-10));
        total += error;
        best += least;
      }
      expect(total).toBeLessThanOrEqual(1.05 * best);
    });

    it("takes float32 as exactly as its products allow", async () => {
      const { a, spectrum } = ofSpectrum(
        Array.from({ length: 40 }, (_, k) => 0.8 ** k),
        3,
      );
      using x = tensorOf(a, "float32");
      const { d, u } = read(await method(x, 12, 8, 5));
      expect(orthonormality(u)).toBeLessThanOrEqual(20 * epsilon32);
      // A product of float32 matrices is off by about √n·ε·‖X‖_F; Nyström's shift is that, too.
      const error = 4 * Math.sqrt(40) * epsilon32 * Math.hypot(...spectrum);
      d.forEach((value, i) => expect(Math.abs(value - (spectrum[28 + i] as number))).toBeLessThanOrEqual(error));
    });

    it("of zeros is zero", async () => {
      using x = Tensor.zeros([7, 7], { dtype: "float64" });
      const { d, u } = read(await method(x, 3, 2, 1));
      expect([...d]).toEqual([0, 0, 0]);
      expect(orthonormality(u)).toBeLessThanOrEqual(1e-13);
    });
  });

  describe("randomizedEigh", () => {
    it.each(goldenCases)("equals the golden $name without bases between products, and is no worse with them", async (golden) => {
      const own = goldenCases.find(({ name }) => name === golden.M_of);
      const [m, omega] = [own?.M, own?.Omega].map((array) => matrix(array?.shape[0] ?? 0, array?.shape[1] ?? 0, array?.data ?? [])) as [
        Matrix,
        Matrix,
      ];
      using x = tensorOf(m);
      using testMatrix = tensorOf(omega);
      const options = { rank: golden.rank, testMatrix, iterations: golden.niter } as const;
      const plain = read(await randomizedEigh(x, { ...options, orthonormalize: "last" }));
      // X^q without bases keeps of an eigenvector no digit where (λ/λ₁)^q is below ε, wherever it is computed: what is found there
      // instead is rounding, and no more than λ. All else agrees to 1e-9.
      const exactly = golden.exact_top_eigvals_ascending.data;
      const top = exactly.at(-1) as number;
      const lost = Math.max(0, ...exactly.filter((value) => (value / top) ** golden.niter < epsilon64));
      const relative = Math.max(1e-9, lost / top);
      expect(plain.d).toBeAllclose(golden.srevd_eigvals_ascending.data, { relative });
      if (golden.srevd_U_D_Ut) expect(plain.rebuilt.data).toBeAllclose(golden.srevd_U_D_Ut.data, { relative });
      expect(Math.abs(norm(minus(plain.rebuilt, m)) - golden.srevd_err_fro)).toBeLessThanOrEqual(relative * top);
      const better = read(await randomizedEigh(x, options));
      expect(norm(minus(better.rebuilt, m))).toBeLessThanOrEqual(golden.srevd_err_fro * (1 + 1e-6));
    });

    it("loses in float32, without bases between products, what is below ε^(1/4) of the largest eigenvalue", async () => {
      const spectrum = Array.from({ length: 60 }, (_, k) => 0.75 ** k);
      const { a } = ofSpectrum(spectrum, 9);
      using x = tensorOf(a, "float32");
      const worst = async (orthonormalize: "every" | "last"): Promise<number> => {
        const { d } = read(await randomizedEigh(x, { rank: 20, oversampling: 10, generator: new Generator(2), orthonormalize }));
        return Math.max(...d.map((value, i) => Math.abs(value / (spectrum[19 - i] as number) - 1)));
      };
      expect(await worst("every")).toBeLessThanOrEqual(1e-4);
      expect(await worst("last")).toBeGreaterThanOrEqual(0.01);
    });

    it("refuses what it cannot do, saying why", async () => {
      using x = tensorOf(identity(4));
      const generator = new Generator(1);
      await expect(randomizedEigh(x, { rank: 5, generator })).rejects.toThrow(
        "randomizedEigh: rank is 5 but the matrix has shape [4, 4]; ask for at most 4",
      );
      for (const rank of [-1, 1.5, NaN]) await expect(randomizedEigh(x, { rank, generator })).rejects.toThrow(UsageError);
      await expect(randomizedEigh(x, { rank: 1, generator, iterations: 0 })).rejects.toThrow(
        "iterations must be a whole number of at least 1 but is 0",
      );
      await expect(randomizedEigh(x, { rank: 1 })).rejects.toThrow("needs a generator for its random numbers, or a test matrix");
      using narrow = Tensor.ones([4, 1], { dtype: "float64" });
      await expect(randomizedEigh(x, { rank: 2, testMatrix: narrow })).rejects.toThrow(ShapeError);
      using broken = Tensor.full([3, 3], NaN, { dtype: "float64" });
      await expect(randomizedEigh(broken, { rank: 1, generator })).rejects.toThrow(NumericalError);
      using rectangle = Tensor.ones([3, 4], { dtype: "float64" });
      await expect(randomizedEigh(rectangle, { rank: 1, generator })).rejects.toThrow(ShapeError);
    });
  });

  describe("nystrom", () => {
    it("follows a slowly changing matrix with one product from the basis before", async () => {
      const spectrum = Array.from({ length: 24 }, (_, k) => 0.75 ** k);
      let { a } = ofSpectrum(spectrum, 4);
      using first = tensorOf(a);
      const start = await nystrom(first, { rank: 8, oversampling: 4, generator: new Generator(3) });
      let { basis } = start;
      read(start);
      for (let step = 0; step < 5; step++) {
        a = plus(scaled(a, 0.95), scaled(ofSpectrum(spectrum, 40 + step).a, 0.05));
        using x = tensorOf(a);
        const next = await nystrom(x, { rank: 8, testMatrix: basis });
        basis.dispose();
        basis = next.basis;
        const error = norm(minus(read(next).rebuilt, a));
        const least = Math.hypot(...eighHost(a.data, 24).values.subarray(0, 16));
        expect(error).toBeLessThanOrEqual(1.1 * least);
      }
      basis.dispose();
    });

    it("is never above the matrix", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ a, n, oversampling, seed, spectrum }) => {
          using x = tensorOf(a);
          const rank = Math.min(n, 3);
          const { basis, ...pairs } = await nystrom(x, { rank, oversampling, iterations: 0, generator: new Generator(seed) });
          basis.dispose();
          const { rebuilt } = read(pairs);
          const least = eighHost(minus(a, rebuilt).data, n).values[0] as number;
          expect(least).toBeGreaterThanOrEqual(-200 * n * epsilon64 * (spectrum[n - 1] as number));
        }),
        { numRuns: 60 },
      );
    });

    it("names what is not positive semidefinite", async () => {
      using x = tensorOf(diagonal([1, 1, -1, -1]));
      using testMatrix = tensorOf(identity(4));
      await expect(nystrom(x, { rank: 2, testMatrix })).rejects.toThrow(NumericalError);
    });
  });
});

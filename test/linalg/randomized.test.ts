import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  lowRankInverse,
  nystrom,
  randomizedEigh,
  randomizedRange,
  randomizedSvd,
  solvePositiveDefinite,
  type DominantEigenpairs,
} from "../../src/linalg/index.ts";
import { openWasm } from "../../src/tensor/backends/wasm/index.ts";
import {
  defaultBackend,
  Generator,
  NumericalError,
  ShapeError,
  Tensor,
  UsageError,
  type FloatArray,
  type FloatDType,
} from "../../src/tensor/index.ts";
import { ofSingularValues, ofSpectrum, seeds } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { precisions } from "../golden.ts";
import {
  at,
  build,
  diagonal,
  epsilon32,
  epsilon64,
  identity,
  largest,
  matrix,
  minus,
  norm,
  product,
  scaled,
  transpose,
  type Matrix,
} from "./dense.ts";
import { randomizedEighEqualsGolden, randomizedSvdEqualsGolden } from "./goldenStatements.ts";

const tensorOf = (a: Matrix, dtype: FloatDType = "float64"): Tensor => Tensor.from(a.data, { dtype, shape: [a.rows, a.columns] });

/** V and Σ of a randomized singular value decomposition as eigenpairs, ascending. */
async function rightPairs(
  x: Tensor,
  rank: number,
  oversampling: number,
  generator: Generator,
  iterations = 4,
): Promise<DominantEigenpairs> {
  const { u, values, v } = await randomizedSvd(x, { rank, oversampling, generator, iterations });
  const [n, s] = v.shape as [number, number];
  const [sigma, right] = [values.dataSync(), matrix(n, s, v.dataSync())];
  for (const tensor of [u, values, v]) tensor.dispose();
  const dtype = x.dtype;
  return {
    values: Tensor.from(sigma.reverse(), { dtype }),
    vectors: Tensor.from(build(n, s, (i, j) => at(right, i, s - 1 - j)).data, { dtype, shape: [n, s] }),
  };
}

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
    scale: fc.constantFrom(1, 1e-30, 1e30),
    seed: seeds,
  })
  .map(({ n, rank, ratio, scale, seed, ...rest }) => {
    const spectrum = Float64Array.from({ length: n }, (_, k) => ratio ** k);
    return { ...rest, rank: rank % (n + 1), seed, ...ofSpectrum(spectrum, seed, scale) };
  });

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  type Method = (x: Tensor, rank: number, oversampling: number, generator: Generator, iterations?: number) => Promise<DominantEigenpairs>;
  const methods: Readonly<Record<string, Method>> = {
    randomizedEigh: (x, rank, oversampling, generator, iterations = 4) => randomizedEigh(x, { rank, oversampling, generator, iterations }),
    randomizedSvd: rightPairs,
    nystrom: async (x, rank, oversampling, generator, iterations = 2) => {
      const { basis, ...pairs } = await nystrom(x, { rank, oversampling, generator, iterations });
      basis.dispose();
      return pairs;
    },
  };

  describe.each(Object.entries(methods))("%s", (name, method) => {
    it("gives orthonormal vectors and ascending values that are not negative and not above those of the matrix", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ a, n, rank, oversampling, seed, spectrum }) => {
          using x = tensorOf(a);
          const { d, u } = read(await method(x, rank, oversampling, new Generator(seed)));
          expect([d.length, u.rows, u.columns]).toEqual([rank, n, rank]);
          expect(orthonormality(u)).toBeLessThanOrEqual(100 * n * epsilon64);
          expect(d).toEqual(d.slice().sort());
          const top = spectrum[n - 1] as number;
          d.forEach((value, i) => {
            expect(value).toBeGreaterThanOrEqual(0);
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
          const { rebuilt } = read(await method(x, rank, 3, new Generator(seed + 1)));
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
        const error = norm(minus(read(await method(x, 6, 4, new Generator(seed))).rebuilt, a));
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
      const { d, u } = read(await method(x, 12, 8, new Generator(5)));
      expect(orthonormality(u)).toBeLessThanOrEqual(20 * epsilon32);
      // A product of float32 matrices is off by about √n·ε·‖X‖_F at the most; Nyström's shift is that, too.
      const error = 4 * Math.sqrt(40) * epsilon32 * Math.hypot(...spectrum);
      d.forEach((value, i) => expect(Math.abs(value - (spectrum[28 + i] as number))).toBeLessThanOrEqual(error));
    });

    it("is no worse on average for more iterations or more vectors besides", async () => {
      const { a } = ofSpectrum(
        Array.from({ length: 20 }, (_, k) => 1 / (k + 1)),
        11,
      );
      using x = tensorOf(a);
      const mean = async (oversampling: number, iterations: number): Promise<number> => {
        let sum = 0;
        for (let seed = 1; seed <= 40; seed++)
          sum += norm(minus(read(await method(x, 5, oversampling, new Generator(seed), iterations)).rebuilt, a));
        return sum / 40;
      };
      const fewest = name === "randomizedEigh" ? 1 : 0;
      const series: readonly (readonly (readonly [oversampling: number, iterations: number])[])[] = [
        [0, 1, 2].map((more) => [3, fewest + more] as const),
        [0, 3, 8].map((oversampling) => [oversampling, fewest] as const),
      ];
      for (const steps of series) {
        const means: number[] = [];
        for (const step of steps) means.push(await mean(...step));
        // What chance makes of an average of so many draws.
        means.slice(1).forEach((value, i) => expect(value).toBeLessThanOrEqual(1.05 * (means[i] as number)));
      }
    });

    it.each([1e-30, 1e30])("takes float32 matrices of scale %d", async (scale) => {
      const spectrum = Array.from({ length: 30 }, (_, k) => 0.7 ** k);
      const { a } = ofSpectrum(spectrum, 6, scale);
      using x = tensorOf(a, "float32");
      const { d, u } = read(await method(x, 8, 6, new Generator(2)));
      expect(orthonormality(u)).toBeLessThanOrEqual(20 * epsilon32);
      d.forEach((value, i) =>
        expect(Math.abs(value / scale - (spectrum[7 - i] as number))).toBeLessThanOrEqual(4 * Math.sqrt(30) * epsilon32),
      );
    });

    it("is orthonormal in float32 where the matrix has lower rank than was asked for", async () => {
      const { a } = ofSpectrum(
        Array.from({ length: 60 }, (_, k) => (k < 10 ? 1 / (k + 1) : 0)),
        8,
      );
      using x = tensorOf(a, "float32");
      const { d, u, rebuilt } = read(await method(x, 25, 5, new Generator(3)));
      expect(largest(minus(product(transpose(u), u), identity(25)))).toBeLessThanOrEqual(2 * epsilon32);
      // Rounding of products, and Nyström's shift, which is that of the norm.
      expect(norm(minus(rebuilt, a))).toBeLessThanOrEqual(4 * Math.sqrt(60) * epsilon32 * norm(a));
      d.slice(0, 15).forEach((value) => expect(value).toBeLessThanOrEqual(2 * Math.sqrt(60) * epsilon32 * norm(a)));
    });

    it("gives an inverse that is the dense one if all eigenpairs are there, and that of the trace alone if none is", async () => {
      const { a, n } = ofSpectrum(
        Array.from({ length: 12 }, (_, k) => 0.5 ** k),
        5,
      );
      const damping = 0.01;
      using x = tensorOf(a);
      using damped = tensorOf(build(n, n, (i, j) => at(a, i, j) + (i === j ? damping : 0)));
      using m = tensorOf(build(n, 3, (i, j) => Math.sin(1 + i + n * j)));
      using exact = await solvePositiveDefinite(damped, m);
      const trace = Array.from({ length: n }, (_, i) => at(a, i, i)).reduce((sum, value) => sum + value, 0);
      for (const rank of [n, 0]) {
        const { values, vectors } = await method(x, rank, 10, new Generator(1));
        for (const tail of ["mean", "smallest", "zero"] as const) {
          const inverse = await lowRankInverse({ values, vectors, trace }, { damping, tail });
          using solved = inverse.left(m);
          using mt = m.transpose();
          using right = inverse.right(mt);
          using turned = right.transpose();
          const expected =
            rank === n ? exact.dataSync() : scaled(matrix(n, 3, m.dataSync()), 1 / ((tail === "mean" ? trace / n : 0) + damping)).data;
          expect(solved.dataSync()).toBeAllclose(expected, { relative: 1e-10 });
          expect(turned.dataSync()).toBeAllclose(expected, { relative: 1e-10 });
        }
        for (const tensor of [values, vectors]) tensor.dispose();
      }
    });

    it("takes the smallest matrices, and no vectors at all", async () => {
      for (const dtype of ["float32", "float64"] as const) {
        using one = Tensor.full([1, 1], 3, { dtype });
        expect(read(await method(one, 1, 0, new Generator(1))).rebuilt.data[0]).toBeCloseTo(3, 5);
        using none = Tensor.zeros([0, 0], { dtype });
        const empty = read(await method(none, 0, 2, new Generator(1)));
        expect([empty.u.rows, empty.u.columns, empty.d.length]).toEqual([0, 0, 0]);
        using some = Tensor.eye(4, { dtype });
        for (const oversampling of [0, 3]) {
          const nothing = read(await method(some, 0, oversampling, new Generator(1)));
          expect([nothing.u.rows, nothing.u.columns, nothing.d.length]).toEqual([4, 0, 0]);
        }
      }
    });

    it("names the entry that is not finite", async () => {
      for (const dtype of ["float32", "float64"] as const) {
        for (const value of [NaN, Infinity, -Infinity]) {
          using x = Tensor.from([1, 0, 0, 1, 2, value, 0, value, 3], { dtype, shape: [3, 3] });
          const refusal = method(x, 2, 1, new Generator(1));
          await expect(refusal).rejects.toThrow(NumericalError);
          await expect(refusal).rejects.toThrow(`${name}: entry [1, 2] of the [3, 3] input is ${value}`);
        }
      }
    });

    it("of zeros is zero", async () => {
      using x = Tensor.zeros([7, 7], { dtype: "float64" });
      const { d, u } = read(await method(x, 3, 2, new Generator(1)));
      expect([...d]).toEqual([0, 0, 0]);
      expect(orthonormality(u)).toBeLessThanOrEqual(1e-13);
    });
  });

  describe("randomizedEigh", () => {
    randomizedEighEqualsGolden(precisions);

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

    it.each(["every", "last"] as const)(
      "is the same at any scale: 2ᵏX has 2ᵏ times the eigenvalues, with bases after %s product",
      async (orthonormalize) => {
        const spectrum = Array.from({ length: 30 }, (_, k) => 0.5 ** k);
        const { a } = ofSpectrum(spectrum, 11);
        const pairsAt = async (k: number): Promise<{ d: Float64Array; u: Matrix }> => {
          using x = tensorOf(scaled(a, 2 ** k), "float32");
          return read(await randomizedEigh(x, { rank: 4, oversampling: 4, generator: new Generator(3), orthonormalize }));
        };
        const one = await pairsAt(0);
        for (const k of [-60, -30, 30, 60]) {
          const { d, u } = await pairsAt(k);
          expect([...d]).toEqual([...one.d].map((value) => value * 2 ** k));
          expect([...u.data]).toEqual([...one.u.data]);
        }
      },
    );

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
  describe("randomizedEigh", () => {
    it("projected on both sides misses at most twice what one side does", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ a, rank, seed }) => {
          using x = tensorOf(a);
          const { u, rebuilt } = read(await randomizedEigh(x, { rank, oversampling: 0, iterations: 1, generator: new Generator(seed) }));
          const oneSide = norm(minus(a, product(u, product(transpose(u), a))));
          expect(norm(minus(a, rebuilt))).toBeLessThanOrEqual(2 * oneSide + 1e-13 * norm(a));
        }),
        { numRuns: 60 },
      );
    });

    it("refuses a matrix that is not symmetric or not positive semidefinite", async () => {
      for (const dtype of ["float32", "float64"] as const) {
        using skew = Tensor.from([1, 1, 0, 1], { dtype, shape: [2, 2] });
        await expect(randomizedEigh(skew, { rank: 1, generator: new Generator(1) })).rejects.toThrow(
          "randomizedEigh, in a basis of 2 vectors: the matrix is not symmetric",
        );
        using indefinite = tensorOf(diagonal([1, -1]), dtype);
        await expect(randomizedEigh(indefinite, { rank: 2, generator: new Generator(1) })).rejects.toThrow(
          "but a positive semidefinite matrix has none below 0",
        );
      }
    });
  });

  describe("randomizedSvd", () => {
    randomizedSvdEqualsGolden(precisions);

    const rectangles = fc.record({
      m: fc.integer({ min: 1, max: 14 }),
      n: fc.integer({ min: 1, max: 14 }),
      rank: fc.nat(),
      oversampling: fc.integer({ min: 0, max: 4 }),
      iterations: fc.integer({ min: 0, max: 2 }),
      ratio: fc.constantFrom(1, 0.7, 0.1),
      scale: fc.constantFrom(1, 1e-30, 1e30),
      seed: seeds,
    });

    it("has orthonormal vectors, values not above those of the matrix, and misses little beyond what its range does", async () => {
      await fc.assert(
        fc.asyncProperty(rectangles, async ({ m, n, ratio, scale, seed, ...options }) => {
          const most = Math.min(m, n);
          const rank = options.rank % (most + 1);
          const sigma = Array.from({ length: most }, (_, k) => scale * ratio ** k);
          const a = ofSingularValues(m, n, sigma, seed);
          using x = tensorOf(a);
          const draw = { ...options, rank, generator: new Generator(seed) };
          const { u, values, v } = await randomizedSvd(x, draw);
          using range = await randomizedRange(x, { ...draw, generator: new Generator(seed) });
          const d = Float64Array.from(values.dataSync());
          const [left, right] = [matrix(m, rank, u.dataSync()), matrix(n, rank, v.dataSync())];
          const q = matrix(m, range.shape[1] as number, range.dataSync());
          for (const tensor of [u, values, v]) tensor.dispose();
          for (const basis of [left, right]) expect(orthonormality(basis)).toBeLessThanOrEqual(100 * (m + n) * epsilon64);
          expect(d).toEqual(d.slice().sort().reverse());
          d.forEach((value, j) => expect(value).toBeLessThanOrEqual((sigma[j] as number) + 100 * (m + n) * epsilon64 * scale));
          const missed = norm(minus(a, product(left, diagonal(d), transpose(right))));
          const outside = norm(minus(a, product(q, product(transpose(q), a))));
          // B = QᵀX is cut to its largest triplets, and singular values of B are not above those of X.
          expect(missed).toBeLessThanOrEqual(Math.hypot(outside, ...sigma.slice(rank)) + 100 * (m + n) * epsilon64 * norm(a));
        }),
        { numRuns: 100 },
      );
    });

    it("is exact for a rectangle whose rank it reaches", async () => {
      await fc.assert(
        fc.asyncProperty(rectangles, async ({ m, n, rank: at, scale, seed, ...options }) => {
          const rank = at % (Math.min(m, n) + 1);
          const a = ofSingularValues(
            m,
            n,
            Array.from({ length: rank }, (_, k) => scale / (k + 1)),
            seed,
          );
          using x = tensorOf(a);
          const { u, values, v } = await randomizedSvd(x, { ...options, rank, generator: new Generator(seed) });
          const parts = [matrix(m, rank, u.dataSync()), diagonal(values.dataSync()), transpose(matrix(n, rank, v.dataSync()))] as const;
          for (const tensor of [u, values, v]) tensor.dispose();
          expect(norm(minus(product(...parts), a))).toBeLessThanOrEqual(1e-12 * norm(a));
        }),
        { numRuns: 100 },
      );
    });

    it("is as good in float32 by squares, where a known condition allows that", async () => {
      const known = rectangles.map(({ m, n, ...rest }) => ({ ...rest, m: m + 2, n: n + 2 }));
      await fc.assert(
        fc.asyncProperty(known, fc.constantFrom(1, 10, 1e3, 1e5), async ({ m, n, scale, seed, ...options }, condition) => {
          const most = Math.min(m, n);
          const rank = 1 + (options.rank % most);
          const sigma = Array.from({ length: most }, (_, k) => scale * condition ** (-k / (most - 1)));
          const a = ofSingularValues(m, n, sigma, seed);
          using x = tensorOf(a, "float32");
          const { u, values, v } = await randomizedSvd(x, { ...options, rank, condition, generator: new Generator(seed) });
          using range = await randomizedRange(x, { ...options, rank, condition, generator: new Generator(seed) });
          const d = Float64Array.from(values.dataSync());
          const [left, right] = [matrix(m, rank, u.dataSync()), matrix(n, rank, v.dataSync())];
          const q = matrix(m, range.shape[1] as number, range.dataSync());
          for (const tensor of [u, values, v]) tensor.dispose();
          for (const basis of [left, right]) expect(orthonormality(basis)).toBeLessThanOrEqual(4 * rank * epsilon32);
          expect(d).toEqual(d.slice().sort().reverse());
          const missed = norm(minus(a, product(left, diagonal(d), transpose(right))));
          const outside = norm(minus(a, product(q, product(transpose(q), a))));
          expect(missed).toBeLessThanOrEqual(Math.hypot(outside, ...sigma.slice(rank)) + 20 * epsilon32 * norm(a));
        }),
        { numRuns: 100 },
      );
    });

    it("has orthonormal vectors also where the condition that it is told is not true", async () => {
      for (const sigma of [[], [1], [3, 2, 1], [1, 1e-3, 1e-6, 1e-9]]) {
        for (const rank of [0, 1, 5]) {
          using x = tensorOf(ofSingularValues(8, 6, sigma, 3), "float32");
          const { u, values, v } = await randomizedSvd(x, { rank, oversampling: 0, condition: 1, generator: new Generator(1) });
          expect(Array.from(values.dataSync()).every((value) => value >= 0)).toBe(true);
          const bases = [matrix(8, rank, u.dataSync()), matrix(6, rank, v.dataSync())];
          for (const tensor of [u, values, v]) tensor.dispose();
          for (const basis of bases) expect(orthonormality(basis)).toBeLessThanOrEqual(20 * epsilon32);
        }
      }
    });

    it("approximates a semidefinite matrix better by its right vectors than by its left ones", async () => {
      const { a } = ofSpectrum(
        Array.from({ length: 20 }, (_, k) => 1 / (k + 1)),
        2,
      );
      using x = tensorOf(a);
      let [byLeft, byRight] = [0, 0];
      for (let seed = 1; seed <= 40; seed++) {
        const { u, values, v } = await randomizedSvd(x, { rank: 5, oversampling: 2, iterations: 0, generator: new Generator(seed) });
        byLeft += norm(minus(a, read({ values: values.keep(), vectors: u }).rebuilt));
        byRight += norm(minus(a, read({ values, vectors: v }).rebuilt));
      }
      expect(byRight).toBeLessThan(0.95 * byLeft);
    });
  });
});

describe("randomized methods", () => {
  it.each(["float32", "float64"] as const)("give the same bits on any number of threads in %s", async (dtype) => {
    const [n, rank] = [260, 40];
    const { a } = ofSpectrum(
      Array.from({ length: 20 }, (_, k) => 0.8 ** k),
      1,
    );
    const large = build(n, n, (i, j) => at(a, i % 20, j % 20));
    const found: FloatArray[][] = [];
    for (const threads of [1, 2]) {
      const backend = openWasm({ threads });
      using x = Tensor.from(large.data, { dtype, backend, shape: [n, n] });
      const options = { rank, oversampling: 6, generator: new Generator(5) };
      const tensors = [
        ...Object.values<Tensor>({ ...(await randomizedEigh(x, options)) }),
        ...Object.values<Tensor>(await randomizedSvd(x, options)),
        ...Object.values<Tensor>({ ...(await nystrom(x, options)) }),
      ];
      found.push(tensors.map((tensor) => tensor.dataSync() as FloatArray));
      for (const tensor of tensors) tensor.dispose();
      backend.engine.close();
    }
    found[0]?.forEach((numbers, i) => expect(found[1]?.[i]).toHaveSameBits(numbers));
  });
});

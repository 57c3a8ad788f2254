import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { eighHost, nystrom, randomizedSvd, type Nystrom, type NystromOptions } from "../../src/linalg/index.ts";
import { defaultBackend, Generator, NumericalError, Tensor, type FloatDType } from "../../src/tensor/index.ts";
import { normalMatrix, ofSpectrum, seeds } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { taken, tensorOf } from "./compute.ts";
import {
  diagonal,
  epsilon32,
  epsilon64,
  identity,
  largest,
  matrix,
  minus,
  norm,
  plus,
  product,
  scaled,
  transpose,
  type Matrix,
} from "./dense.ts";

/** X ≈ U diag(D) Uᵀ from a call, and the basis for the next one. */
interface Parts {
  readonly d: Float64Array;
  readonly u: Matrix;
  readonly basis: Matrix;
  readonly rebuilt: Matrix;
}
async function read({ values, vectors, basis }: Nystrom): Promise<Parts> {
  const [{ data: d }, u, w] = [await taken(values), await taken(vectors), await taken(basis)];
  return { d, u, basis: w, rebuilt: product(u, diagonal(d), transpose(u)) };
}

async function approximated(
  a: Matrix,
  dtype: FloatDType,
  options: NystromOptions | (Omit<NystromOptions, "testMatrix"> & { test: Matrix }),
): Promise<Parts> {
  using x = tensorOf(a, dtype);
  if (!("test" in options)) return await read(await nystrom(x, options));
  const { test, ...rest } = options;
  using testMatrix = tensorOf(test, dtype);
  return await read(await nystrom(x, { ...rest, testMatrix }));
}

const departure = (u: Matrix): number => largest(minus(product(transpose(u), u), identity(u.columns)));

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));
  afterEach(() => vi.restoreAllMocks());

  describe("nystrom", () => {
    it.each(["float32", "float64"] as const)(
      "follows a slowly changing %s matrix with one product from the basis before",
      async (dtype) => {
        const spectrum = Array.from({ length: 24 }, (_, k) => 0.75 ** k);
        let { a } = ofSpectrum(spectrum, 4);
        let { basis } = await approximated(a, dtype, { rank: 8, oversampling: 4, generator: new Generator(3) });
        for (let step = 0; step < 5; step++) {
          a = plus(scaled(a, 0.95), scaled(ofSpectrum(spectrum, 40 + step).a, 0.05));
          const next = await approximated(a, dtype, { rank: 8, test: basis });
          basis = next.basis;
          const least = Math.hypot(...eighHost(a.data, 24).values.subarray(0, 16));
          expect(norm(minus(next.rebuilt, a))).toBeLessThanOrEqual(1.1 * least);
        }
      },
    );

    const cases = fc
      .record({
        n: fc.integer({ min: 1, max: 24 }),
        rank: fc.nat(),
        oversampling: fc.integer({ min: 0, max: 6 }),
        ratio: fc.constantFrom(1, 0.9, 0.5, 0.1),
        zeros: fc.integer({ min: 0, max: 12 }),
        scale: fc.constantFrom(1, 1e-30, 1e30),
        seed: seeds,
      })
      .map(({ n, rank, ratio, zeros, scale, seed, ...rest }) => {
        const spectrum = Array.from({ length: n }, (_, k) => (k < n - zeros ? ratio ** k : 0));
        return { ...rest, rank: rank % (n + 1), seed, scale, ...ofSpectrum(spectrum, seed, scale) };
      });

    it.each([
      ["float32", epsilon32],
      ["float64", epsilon64],
    ] as const)("of a %s matrix is never above it, and its vectors are orthonormal whatever the rank", async (dtype, epsilon) => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ a, n, rank, oversampling, scale, seed }) => {
          const { u, basis, rebuilt } = await approximated(a, dtype, { rank, oversampling, iterations: 0, generator: new Generator(seed) });
          // Householder's bound; or that of rounding, see panels.test.ts, of which the Gram matrix of B takes a part.
          const limit = dtype === "float64" ? 100 * n * epsilon64 : (Math.sqrt(n) + 1) * epsilon32 + 1e-8;
          for (const columns of [u, basis]) expect(departure(columns)).toBeLessThanOrEqual(limit);
          // Rounding of products and the shift, √n·ε·‖X‖_F each, and the oblique projection of a random basis, of norm √n as a rule.
          const { values } = eighHost(scaled(minus(a, rebuilt), 1 / scale).data, n);
          expect(values[0]).toBeGreaterThanOrEqual((-10 * n * epsilon * norm(a)) / scale);
        }),
        { numRuns: 100 },
      );
    });

    it("does not depend on which basis of a space it starts from", async () => {
      const { a } = ofSpectrum(
        Array.from({ length: 20 }, (_, k) => 0.6 ** k),
        3,
      );
      const w = normalMatrix(20, 8, 5);
      const mixed = product(w, normalMatrix(8, 8, 6));
      const [one, other] = [
        await approximated(a, "float64", { rank: 6, test: w }),
        await approximated(a, "float64", { rank: 6, test: mixed }),
      ];
      expect(norm(minus(one.rebuilt, other.rebuilt))).toBeLessThanOrEqual(1e-10);
    });

    it.each(["float32", "float64"] as const)("is no worse than the projection on the same space in %s", async (dtype) => {
      for (let seed = 1; seed <= 20; seed++) {
        const { a } = ofSpectrum(
          Array.from({ length: 16 }, (_, k) => 1 / (k + 1) ** 2),
          seed,
        );
        const { u: w } = await approximated(a, dtype, { rank: 6, oversampling: 0, generator: new Generator(seed) });
        const { rebuilt } = await approximated(a, dtype, { rank: 6, test: w });
        const projected = product(w, product(transpose(w), a, w), transpose(w));
        expect(norm(minus(a, rebuilt))).toBeLessThanOrEqual(norm(minus(a, projected)) + 4 * Math.sqrt(16) * epsilon32);
      }
    });

    it.each(["float32", "float64"] as const)(
      "takes a %s basis that is said to be orthonormal for what it is found to be otherwise",
      async (dtype) => {
        const { a } = ofSpectrum(
          Array.from({ length: 30 }, (_, k) => 0.8 ** k),
          2,
        );
        const { basis } = await approximated(a, dtype, { rank: 8, oversampling: 4, generator: new Generator(7) });
        const next = plus(a, scaled(identity(30), 0.01));
        const options = { rank: 8, test: basis } as const;
        const gram = vi.spyOn(Tensor.prototype, "gram");
        const found = await approximated(next, dtype, options);
        const products = gram.mock.calls.length;
        expect(await approximated(next, dtype, { ...options, orthonormal: true })).toEqual(found);
        expect(gram.mock.calls.length - products).toBe(products - 1); // without finding out
        // Random columns beside it are never orthonormal.
        const wider = (orthonormal: boolean): Promise<Parts> =>
          approximated(next, dtype, { rank: 12, oversampling: 4, test: basis, generator: new Generator(8), orthonormal });
        expect(await wider(true)).toEqual(await wider(false));
      },
    );

    it("of zeros has orthonormal vectors, in float32 from a test matrix that has none", async () => {
      const { d, u, basis } = await approximated(identity(9), "float32", { rank: 0, test: normalMatrix(9, 4, 1) });
      expect([d.length, u.columns, basis.columns]).toEqual([0, 0, 4]);
      const zero = await approximated(matrix(9, 9, new Array<number>(81).fill(0)), "float32", { rank: 3, test: normalMatrix(9, 4, 1) });
      expect([...zero.d]).toEqual([0, 0, 0]);
      for (const columns of [zero.u, zero.basis]) expect(departure(columns)).toBeLessThanOrEqual(2 * epsilon32);
    });

    describe.each(["float32", "float64"] as const)("given a %s basis and a generator", (dtype) => {
      const spectrum = Array.from({ length: 32 }, (_, k) => 1 / (k + 1) ** 2);

      /** A basis of `columns` for a matrix, and the matrix when it has drifted. */
      async function drifted(columns: number, seed: number): Promise<{ test: Matrix; a: Matrix }> {
        const { a } = ofSpectrum(spectrum, seed);
        const { basis } = await approximated(a, dtype, { rank: columns, oversampling: 0, generator: new Generator(seed) });
        return { test: basis, a: plus(scaled(a, 0.95), scaled(ofSpectrum(spectrum, seed + 40).a, 0.05)) };
      }

      it.each([
        ["more than the oversampling", 6],
        ["less than the oversampling", 14],
        ["one alone", 19],
      ])("is about as accurate as a randomized SVD where the basis lacks columns, %s", async (_, columns) => {
        const error = { own: 0, randomized: 0 };
        const size = { rank: 16, oversampling: 4 };
        for (let seed = 1; seed <= 6; seed++) {
          const { test, a } = await drifted(columns, seed);
          const generator = new Generator(seed + 9);
          const { d, basis, rebuilt } = await approximated(a, dtype, { ...size, test, generator });
          expect([d.length, basis.columns]).toEqual([16, 20]);
          error.own += norm(minus(rebuilt, a));
          using x = tensorOf(a, dtype);
          const { u, values, v } = await randomizedSvd(x, { ...size, generator });
          u.dispose();
          const right = await taken(v);
          error.randomized += norm(minus(product(right, diagonal((await taken(values)).data), transpose(right)), a));
        }
        expect(error.own).toBeLessThanOrEqual(1.05 * error.randomized);
      });

      it("goes on with the dominant columns of a basis that has too many", async () => {
        for (let seed = 1; seed <= 6; seed++) {
          const { test, a } = await drifted(20, seed);
          const { basis, rebuilt } = await approximated(a, dtype, { rank: 6, oversampling: 4, test, generator: new Generator(1) });
          expect(basis.columns).toBe(10);
          // The other ones of the 20 columns would leave nearly all of X.
          const least = Math.hypot(...eighHost(a.data, 32).values.subarray(0, 26));
          expect(norm(minus(rebuilt, a))).toBeLessThanOrEqual(1.25 * least);
        }
      });

      it("takes a basis that fits as it is, bit for bit as without the generator", async () => {
        const { test, a } = await drifted(20, 1);
        for (const iterations of [0, 1]) {
          const size = { rank: 16, oversampling: 4, iterations, test };
          expect(await approximated(a, dtype, { ...size, generator: new Generator(1) })).toEqual(await approximated(a, dtype, size));
        }
      });

      it("widens the basis by the same numbers every time", async () => {
        const { test, a } = await drifted(10, 1);
        const from = (seed: number): Promise<Parts> => approximated(a, dtype, { rank: 16, test, generator: new Generator(seed) });
        expect(await from(3)).toEqual(await from(3));
        expect((await from(3)).basis).not.toEqual((await from(4)).basis);
      });

      it("still refuses a basis of another matrix", async () => {
        const refusal = approximated(identity(9), dtype, { rank: 3, test: normalMatrix(8, 4, 1), generator: new Generator(1) });
        await expect(refusal).rejects.toThrow("nystrom: the test matrix must have shape [9, s] with s from 0 to 9 but has [8, 4]");
      });
    });

    it.each(["float32", "float64"] as const)("says of a %s matrix that it is not positive semidefinite", async (dtype) => {
      const refusal = approximated(diagonal([1, 1, -1, -1]), dtype, { rank: 2, test: identity(4) });
      await expect(refusal).rejects.toThrow(NumericalError);
      await expect(refusal).rejects.toThrow("nystrom: the [4, 4] matrix is not positive semidefinite to rounding");
      await expect(approximated(matrix(2, 2, [1, 1, 0, 1]), dtype, { rank: 2, test: identity(2) })).rejects.toThrow(
        "nystrom, in a basis of 2 vectors: the matrix is not symmetric",
      );
    });
  });
});

import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  cond,
  frobeniusNorm,
  frobeniusNormHost,
  inversePositiveDefinite,
  norm1,
  normInfinity,
  singularValues,
  spectralNorm,
} from "../../src/linalg/index.ts";
import { defaultBackend, DTypeError, NumericalError, ShapeError, Tensor, type FloatDType } from "../../src/tensor/index.ts";
import { definiteMatrices, normalMatrix, orthogonal, orthogonalMatrices, seeds, smallMatrices } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { at, build, diagonal, epsilon64, identity, matrix, norm, plus, product, scaled, transpose, type Matrix } from "./dense.ts";

const tensorOf = (a: Matrix, dtype: FloatDType = "float64"): Tensor => Tensor.from(a.data, { dtype, shape: [a.rows, a.columns] });
const of = async (f: (t: Tensor) => Promise<number>, a: Matrix, dtype?: FloatDType): Promise<number> => {
  using t = tensorOf(a, dtype);
  return await f(t);
};

const extents = fc.integer({ min: 1, max: 5 });
const anyMatrices = smallMatrices(extents, extents);
/** A matrix [m, n] of given singular values, and its condition. */
const ofCondition = fc
  .record({ m: fc.integer({ min: 1, max: 16 }), n: fc.integer({ min: 1, max: 16 }), decades: fc.integer({ min: 0, max: 12 }), seed: seeds })
  .map(({ m, n, decades, seed }) => {
    const k = Math.min(m, n);
    const value = (i: number): number => 10 ** (k === 1 ? 0 : (-decades * i) / (k - 1));
    const middle = build(m, n, (i, j) => (i === j ? value(i) : 0));
    return { a: product(orthogonal(m, seed), middle, orthogonal(n, seed + 1)), m, n, condition: 1 / value(k - 1) };
  });
/** The error of singular values, and that of a matrix that is built from them by m + n reflections. */
const bound = (a: Matrix): number => (Math.max(3 * Math.max(a.rows, a.columns), 15) + 10 * (a.rows + a.columns)) * epsilon64;

describe("the Frobenius norm", () => {
  it("is the root of the trace of AᵀA", () => {
    fc.assert(
      fc.property(anyMatrices, (a) => {
        const gram = product(transpose(a), a);
        const sum = gram.data.reduce((total, value, k) => (k % (a.columns + 1) === 0 ? total + value : total), 0);
        expect(frobeniusNormHost(a.data)).toBeCloseTo(Math.sqrt(sum), 10);
      }),
    );
  });

  it("is homogeneous, also where squares overflow and underflow", () => {
    fc.assert(
      fc.property(anyMatrices, fc.integer({ min: -900, max: 900 }), (a, k) => {
        expect(frobeniusNormHost(scaled(a, 2 ** k).data)).toBe(frobeniusNormHost(a.data) * 2 ** k);
      }),
    );
  });

  it("satisfies the triangle inequality", () => {
    fc.assert(
      fc.property(smallMatrices(4, 3), smallMatrices(4, 3), (a, b) => {
        const sum = frobeniusNormHost(a.data) + frobeniusNormHost(b.data);
        expect(frobeniusNormHost(plus(a, b).data)).toBeLessThanOrEqual(sum * (1 + 10 * epsilon64));
      }),
    );
  });

  it("of an orthogonal matrix is √n", () => {
    fc.assert(
      fc.property(orthogonalMatrices(), (q) => {
        // n reflections, each orthogonal to a few ε.
        expect(Math.abs(frobeniusNormHost(q.data) / Math.sqrt(q.rows) - 1)).toBeLessThanOrEqual(10 * q.rows * epsilon64);
      }),
    );
  });

  it("of nothing is 0", () => {
    expect(frobeniusNormHost(new Float64Array(0))).toBe(0);
  });
});

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  describe("the norms of sums, norm1 and normInfinity", () => {
    it("are the largest sum of a column, and of a row", async () => {
      await fc.assert(
        fc.asyncProperty(anyMatrices, async (a) => {
          const column = (j: number): number => Array.from({ length: a.rows }, (_, i) => Math.abs(at(a, i, j))).reduce((x, y) => x + y);
          // Entries are small multiples of 1/64: sums are exact.
          expect(await of(norm1, a)).toBe(Math.max(...Array.from({ length: a.columns }, (_, j) => column(j))));
          expect(await of(normInfinity, a)).toBe(await of(norm1, transpose(a)));
        }),
      );
    });

    it("bound each other and the spectral norm: ‖A‖₂² ≤ ‖A‖₁‖A‖∞, ‖A‖₂ ≤ ‖A‖_F ≤ √k·‖A‖₂", async () => {
      await fc.assert(
        fc.asyncProperty(ofCondition, async ({ a }) => {
          const [one, two, infinity, frobenius] = [
            await of(norm1, a),
            await of(spectralNorm, a),
            await of(normInfinity, a),
            await of(frobeniusNorm, a),
          ];
          const slack = 1 + bound(a);
          expect(two).toBeLessThanOrEqual(Math.sqrt(one * infinity) * slack);
          expect(two).toBeLessThanOrEqual(frobenius * slack);
          expect(frobenius).toBeLessThanOrEqual(Math.sqrt(Math.min(a.rows, a.columns)) * two * slack);
          expect(one).toBeLessThanOrEqual(Math.sqrt(a.rows) * two * slack);
          expect(infinity).toBeLessThanOrEqual(Math.sqrt(a.columns) * two * slack);
        }),
      );
    });
  });

  describe("the spectral norm", () => {
    it("is the largest singular value, unchanged by orthogonal matrices and by transposition", async () => {
      await fc.assert(
        fc.asyncProperty(ofCondition, async ({ a }) => {
          expect(Math.abs((await of(spectralNorm, a)) - 1)).toBeLessThanOrEqual(bound(a));
          expect(Math.abs((await of(spectralNorm, transpose(a))) - 1)).toBeLessThanOrEqual(bound(a));
          using t = tensorOf(a);
          using values = await singularValues(t);
          expect(await spectralNorm(t)).toBe(values.dataSync()[0]);
        }),
      );
    });

    it("of a matrix of rank 1 is the product of lengths", async () => {
      await fc.assert(
        fc.asyncProperty(extents, extents, seeds, async (m, n, seed) => {
          const [u, v] = [normalMatrix(m, 1, seed), normalMatrix(1, n, seed + 1)];
          const expected = norm(u) * norm(v);
          const a = product(u, v);
          expect(Math.abs((await of(spectralNorm, a)) - expected)).toBeLessThanOrEqual(bound(a) * expected);
        }),
      );
    });

    it("bounds products: ‖AB‖ ≤ ‖A‖‖B‖, and sums: ‖A + B‖ ≤ ‖A‖ + ‖B‖", async () => {
      await fc.assert(
        fc.asyncProperty(smallMatrices(4, 4), smallMatrices(4, 4), async (a, b) => {
          const [x, y] = [await of(spectralNorm, a), await of(spectralNorm, b)];
          expect(await of(spectralNorm, product(a, b))).toBeLessThanOrEqual(x * y * (1 + 3 * bound(a)));
          expect(await of(spectralNorm, plus(a, b))).toBeLessThanOrEqual((x + y) * (1 + 3 * bound(a)));
        }),
      );
    });
  });

  describe("cond", () => {
    it("is the largest singular value over the smallest, also of a matrix that is not square", async () => {
      await fc.assert(
        fc.asyncProperty(ofCondition, async ({ a, condition }) => {
          const relative = bound(a) * (1 + condition);
          const found = await of(cond, a);
          expect(found).toBeGreaterThanOrEqual(1);
          // Where the smallest value is known to a few digits only, so is the quotient.
          if (relative < 0.5) expect(Math.abs(found / condition - 1)).toBeLessThanOrEqual(2 * relative);
        }),
      );
    });

    it("keeps the digits that squares would lose", async () => {
      for (const condition of [1e9, 1e12]) {
        const a = product(orthogonal(5, 1), diagonal([1, 0.5, 0.1, 0.01, 1 / condition]), orthogonal(5, 2));
        expect(Math.abs((await of(cond, a)) / condition - 1)).toBeLessThanOrEqual(2 * bound(a) * condition);
      }
    });

    it("is ‖A‖₂‖A⁻¹‖₂", async () => {
      await fc.assert(
        fc.asyncProperty(definiteMatrices({ decades: 4 }), async ({ a, n, condition }) => {
          using t = tensorOf(a);
          using inverse = await inversePositiveDefinite(t);
          const expected = (await spectralNorm(t)) * (await spectralNorm(inverse));
          expect(Math.abs((await cond(t)) / expected - 1)).toBeLessThanOrEqual(10 * n * n * epsilon64 * condition);
        }),
      );
    });

    it("does not change with the scale, to the last bit, down to the smallest numbers", async () => {
      await fc.assert(
        fc.asyncProperty(ofCondition, fc.integer({ min: -900, max: 900 }), async ({ a }, k) => {
          expect(await of(cond, scaled(a, 2 ** k))).toBe(await of(cond, a));
        }),
      );
      expect(await of(cond, diagonal([2 ** 1023, 2 ** 1000]))).toBe(2 ** 23);
    });

    it("of a singular matrix is Infinity, or above what rounding can tell", async () => {
      expect(await of(cond, scaled(identity(3), 0))).toBe(Infinity);
      expect(await of(cond, diagonal([1, 0, 2]))).toBe(Infinity);
      expect(await of(cond, matrix(3, 1, [0, 0, 0]))).toBe(Infinity);
      const a = product(normalMatrix(8, 5, 1), normalMatrix(5, 8, 2));
      expect(await of(cond, a)).toBeGreaterThanOrEqual(1 / bound(a));
    });

    it("of an orthogonal matrix is 1", async () => {
      await fc.assert(
        fc.asyncProperty(orthogonalMatrices(), async (q) => {
          expect(Math.abs((await of(cond, q)) - 1)).toBeLessThanOrEqual(2 * bound(q));
        }),
      );
    });
  });

  describe("every norm of a matrix", () => {
    const norms = { norm1, normInfinity, spectralNorm, frobeniusNorm, cond };

    it.each(Object.entries(norms))("%s takes float32, whose entries it does not round again", async (_, f) => {
      const a = matrix(4, 3, Float32Array.from(normalMatrix(4, 3, 5).data));
      expect(await of(f, a, "float32")).toBe(await of(f, a));
      for (const scale of [2 ** -100, 2 ** 100]) {
        const expected = (await of(f, a)) * (f === cond ? 1 : scale);
        expect(await of(f, scaled(a, scale), "float32")).toBe(expected);
      }
    });

    it.each(Object.entries(norms))("%s of no elements is 0", async (_, f) => {
      for (const [m, n] of [
        [0, 0],
        [0, 3],
        [3, 0],
      ] as const) {
        expect(await of(f, matrix(m, n, []))).toBe(0);
      }
    });

    it.each(Object.entries(norms))("%s of [[−4]] is its magnitude, or its condition", async (_, f) => {
      expect([await of(f, matrix(1, 1, [-4]))]).toBeAllclose([f === cond ? 1 : 4], { relative: 15 * epsilon64 });
      const most = Number.MAX_VALUE;
      expect([await of(f, matrix(1, 1, [-most]))]).toBeAllclose([f === cond ? 1 : most], { relative: 15 * epsilon64 });
    });

    it.each(Object.entries(norms))("%s refuses what has none", async (name, f) => {
      using integers = Tensor.from(Int32Array.of(1), { shape: [1, 1] });
      await expect(f(integers)).rejects.toThrow(DTypeError);
      await expect(of(f, matrix(1, 2, [1, NaN]))).rejects.toThrow(
        new NumericalError(`${name}: entry [0, 1] of the [1, 2] input is NaN; every entry must be finite`),
      );
      if (f === frobeniusNorm) return;
      using vector = Tensor.ones([3]);
      await expect(f(vector)).rejects.toThrow(new ShapeError(`${name}: needs a matrix (rank 2) but the shape is [3]`));
      if (f === cond) return;
      await expect(
        of(
          f,
          build(8, 8, () => 1e308),
        ),
      ).rejects.toThrow(new NumericalError(`${name}: the norm is beyond the range of float64; scale the input`));
    });
  });
});

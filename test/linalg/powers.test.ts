import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { inversePositiveDefinite, matrixPower, type MatrixPowerOptions } from "../../src/linalg/index.ts";
import { defaultBackend, DTypeError, NumericalError, ShapeError, Tensor, UsageError, type FloatDType } from "../../src/tensor/index.ts";
import { definiteMatrices, normalMatrix, ofSpectrum, orthogonal, seeds, semidefiniteMatrices } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import {
  diagonal,
  epsilon64,
  identity,
  matrix,
  minus,
  norm,
  plus,
  product,
  scaled,
  symmetricPart,
  transpose,
  type Matrix,
} from "./dense.ts";

const tensorOf = (a: Matrix, dtype: FloatDType = "float64"): Tensor => Tensor.from(a.data, { dtype, shape: [a.rows, a.columns] });

async function powerOf(a: Matrix, p: number, options?: MatrixPowerOptions): Promise<Matrix> {
  using t = tensorOf(a);
  using result = await matrixPower(t, p, options);
  return matrix(a.rows, a.columns, await result.data());
}

const powers = fc.constantFrom(-2, -1, -1 / 2, -1 / 3, -1 / 4, -1 / 8, 1 / 4, 1 / 2, 1, 2);

/**
 * The bound that `matrixPower` documents for eigenvalues from m to M, in the Frobenius norm: the matrices here are built from their
 * spectra by 2n reflections, which is another 10n·ε beside the 3n·ε of the decomposition.
 */
function bound(n: number, p: number, m: number, largest: number): number {
  const error = 20 * n * epsilon64;
  return Math.sqrt(n) * error * (Math.abs(p) * Math.max(m ** (p - 1), largest ** (p - 1)) * largest + Math.max(m ** p, largest ** p));
}

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  describe("matrixPower", () => {
    it("has the powers of the eigenvalues in the eigenbasis, within the error that it documents", async () => {
      await fc.assert(
        fc.asyncProperty(fc.integer({ min: 1, max: 24 }), fc.integer({ min: 0, max: 6 }), powers, seeds, async (n, decades, p, seed) => {
          const values = Array.from({ length: n }, (_, k) => 10 ** (n === 1 ? 0 : (-decades * k) / (n - 1)));
          const q = orthogonal(n, seed);
          const expected = product(q, diagonal(values.map((value) => value ** p)), transpose(q));
          const error = norm(minus(await powerOf(ofSpectrum(values, seed).a, p), expected));
          expect(error).toBeLessThanOrEqual(bound(n, p, values[n - 1] as number, 1));
        }),
      );
    });

    it("to the power of −1/4, four times, is the inverse of the damped matrix, also of a singular one", async () => {
      await fc.assert(
        fc.asyncProperty(semidefiniteMatrices(), fc.constantFrom(1, 1e-2, 1e-6), async ({ a, n, spectrum }, relative) => {
          const top = spectrum[n - 1] as number;
          fc.pre(top > 0);
          const root = await powerOf(a, -1 / 4, { damping: relative, dampingKind: "relative" });
          const damped = plus(a, scaled(identity(n), relative * top));
          // Entries may be 1e±30, of which fourth powers are in range.
          const error = norm(minus(product(root, root, root, root, damped), identity(n)));
          const condition = 1 + 1 / relative;
          expect(error).toBeLessThanOrEqual(20 * n * Math.sqrt(n) * epsilon64 * condition);
        }),
      );
    });

    it("adds exponents: A^p A^q = A^(p + q)", async () => {
      await fc.assert(
        fc.asyncProperty(definiteMatrices({ decades: 4 }), powers, powers, async ({ a, n, condition }, p, q) => {
          const [left, right, both] = [await powerOf(a, p), await powerOf(a, q), await powerOf(a, p + q)];
          const size = norm(left) * norm(right);
          // Each is off by n·ε·(1 + |p|·κ), relative to its norm.
          const relative = 20 * n * epsilon64 * (1 + (Math.abs(p) + Math.abs(q)) * condition);
          expect(norm(minus(product(left, right), both))).toBeLessThanOrEqual(relative * size);
        }),
      );
    });

    it("turns with its matrix: (Q A Qᵀ)^p = Q A^p Qᵀ", async () => {
      await fc.assert(
        fc.asyncProperty(definiteMatrices({ decades: 4 }), powers, seeds, async ({ a, n, condition }, p, seed) => {
          const q = orthogonal(n, seed);
          const plain = await powerOf(a, p);
          const turned = await powerOf(symmetricPart(product(q, a, transpose(q))), p);
          const relative = 20 * n * epsilon64 * (1 + Math.abs(p) * condition);
          expect(norm(minus(turned, product(q, plain, transpose(q))))).toBeLessThanOrEqual(relative * Math.sqrt(n) * norm(plain));
        }),
      );
    });

    it("to the power 1 is the damped matrix, to −1 its inverse, to 0 the identity", async () => {
      await fc.assert(
        fc.asyncProperty(definiteMatrices({ decades: 4 }), fc.constantFrom(0, 1e-3, 1), async ({ a, n, spectrum, condition }, relative) => {
          const damping = relative * (spectrum[n - 1] as number);
          const damped = plus(a, scaled(identity(n), damping));
          expect(norm(minus(await powerOf(a, 1, { damping }), damped))).toBeLessThanOrEqual(20 * n * epsilon64 * norm(damped));
          using t = tensorOf(damped);
          using inverse = await inversePositiveDefinite(t);
          const expected = matrix(n, n, await inverse.data());
          const relativeError = 20 * n * n * epsilon64 * condition;
          expect(norm(minus(await powerOf(a, -1, { damping }), expected))).toBeLessThanOrEqual(relativeError * norm(expected));
          expect(norm(minus(await powerOf(a, 0, { damping }), identity(n)))).toBeLessThanOrEqual(10 * n * epsilon64 * Math.sqrt(n));
        }),
      );
    });

    it("is symmetric to the last bit", async () => {
      await fc.assert(
        fc.asyncProperty(semidefiniteMatrices(), powers, async ({ a, spectrum, n }, p) => {
          fc.pre((spectrum[n - 1] as number) > 0);
          const result = await powerOf(a, p, { damping: 0.1, dampingKind: "relative" });
          expect(result).toEqual(transpose(result));
        }),
      );
    });

    it("is homogeneous: (s A)^p = s^p A^p, for s = 1e±30 too", async () => {
      await fc.assert(
        fc.asyncProperty(definiteMatrices({ decades: 2 }), powers, fc.integer({ min: -100, max: 100 }), async ({ a, n }, p, k) => {
          const expected = scaled(await powerOf(a, p), 2 ** (k * p));
          // A power of two is taken out before the decomposition, so that only the powers of the eigenvalues round differently.
          expect(norm(minus(await powerOf(scaled(a, 2 ** k), p), expected))).toBeLessThanOrEqual(10 * n * epsilon64 * norm(expected));
        }),
      );
    });

    it("takes a half-power of a singular matrix that multiplies back to it", async () => {
      await fc.assert(
        fc.asyncProperty(semidefiniteMatrices(), async ({ a, n, spectrum }) => {
          const root = await powerOf(a, 1 / 2);
          // ‖√E‖ in the worst case where the spectrum touches 0, but the square of the root is as exact as the matrix.
          expect(norm(minus(product(root, root), a))).toBeLessThanOrEqual(20 * n * epsilon64 * Math.sqrt(n) * (spectrum[n - 1] as number));
        }),
      );
    });

    it("counts as zero what rounding left below zero, and what the decomposition cannot tell from it", async () => {
      for (const noise of [0, 1e-16, -1e-16, -1e-11]) {
        const { a } = ofSpectrum([1, 0.5, noise], 3);
        const q = orthogonal(3, 3);
        const expected = product(q, diagonal([1.25, 0.75, 0.25].map((value) => value ** -0.5)), transpose(q));
        // −1e-11 is taken for 0, with which an eigenvalue of .25 differs by as much.
        expect(norm(minus(await powerOf(a, -1 / 2, { damping: 0.25 }), expected))).toBeLessThanOrEqual(1e-14);
        const root = product(q, diagonal([1, Math.SQRT1_2, 0]), transpose(q));
        expect(norm(minus(await powerOf(a, 1 / 2), root))).toBeLessThanOrEqual(1e-14);
        await expect(powerOf(a, -1 / 2)).rejects.toThrow(
          /^matrixPower: the matrix is singular to rounding, so it has no power -0\.5: 1 of its 3 eigenvalues are not above 3\.33e-15 /,
        );
      }
    });

    it("of float32 entries is the float64 result, rounded", async () => {
      const { a } = ofSpectrum([1, 0.3, 0.1, 1e-3, 1e-5], 7);
      for (const scale of [1, 1e-30, 1e30]) {
        for (const p of [-1 / 4, -1 / 2, 1 / 2]) {
          using narrow = tensorOf(scaled(a, scale), "float32");
          using wide = narrow.cast("float64");
          using result = await matrixPower(narrow, p);
          using expected = await matrixPower(wide, p);
          expect(result.dtype).toBe("float32");
          expect(await result.data()).toEqual(Float32Array.from(await expected.data()));
        }
      }
    });

    it("takes matrices of no rows, of one, and of zeros", async () => {
      expect(await powerOf(matrix(0, 0, []), -1 / 4)).toEqual(matrix(0, 0, []));
      expect(await powerOf(matrix(1, 1, [16]), -1 / 4)).toEqual(matrix(1, 1, [0.5]));
      const zeros = scaled(identity(3), 0);
      expect(await powerOf(zeros, 1 / 2)).toEqual(zeros);
      expect(await powerOf(zeros, -1 / 2, { damping: 4 })).toEqual(scaled(identity(3), 1 / 2));
      await expect(powerOf(zeros, -1, { damping: 1, dampingKind: "relative" })).rejects.toThrow(NumericalError);
    });

    it("refuses what has no such power, with the reason", async () => {
      await expect(powerOf(diagonal([1, -0.5]), 1 / 2)).rejects.toThrow(
        new NumericalError(
          "matrixPower: eigenvalue 0 is -0.5, but a positive semidefinite matrix has none below 0 " +
            "(rounding accounts for 1e-10 of the largest, 1)",
        ),
      );
      await expect(powerOf(diagonal([1e-200, 1]), -2)).rejects.toThrow(/singular to rounding/);
      await expect(powerOf(matrix(1, 1, [1e-200]), -2)).rejects.toThrow(
        "matrixPower: 1e-200 to the power -2 is beyond the range of float64",
      );
      for (const power of [NaN, Infinity]) await expect(powerOf(identity(2), power)).rejects.toThrow(UsageError);
      for (const damping of [-1, NaN, Infinity]) {
        await expect(powerOf(identity(2), 1, { damping })).rejects.toThrow(
          new UsageError(`matrixPower: damping must be finite and at least 0 but is ${damping}`),
        );
      }
      await expect(powerOf(matrix(1, 2, [1, 2]), 1)).rejects.toThrow(ShapeError);
      await expect(powerOf(normalMatrix(3, 3, 4), 1)).rejects.toThrow(/not symmetric/);
      await expect(powerOf(matrix(1, 1, [NaN]), 1)).rejects.toThrow(NumericalError);
      using integers = Tensor.from(Int32Array.of(1), { shape: [1, 1] });
      await expect(matrixPower(integers, 1)).rejects.toThrow(DTypeError);
      using small = Tensor.from([[1e-30]]);
      await expect(matrixPower(small, -2)).rejects.toThrow(/beyond the range of float32/);
    });
  });
});

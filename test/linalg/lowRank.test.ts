import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eigh, lowRankInverse, lowRankPlusTail, solve, type LowRankInverseOptions } from "../../src/linalg/index.ts";
import { defaultBackend, DTypeError, NumericalError, ShapeError, Tensor, UsageError, type FloatDType } from "../../src/tensor/index.ts";
import { normalMatrix, ofSpectrum, orthogonal, seeds } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
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

const tensorOf = (a: Matrix, dtype: FloatDType = "float64"): Tensor => Tensor.from(a.data, { dtype, shape: [a.rows, a.columns] });

const cases = fc
  .record({
    d: fc.integer({ min: 1, max: 16 }),
    rank: fc.nat(),
    columns: fc.integer({ min: 1, max: 5 }),
    ratio: fc.constantFrom(1, 0.7, 0.1),
    damping: fc.constantFrom(1, 1e-2, 1e-8),
    tail: fc.constantFrom(...(["mean", "smallest", "zero"] as const)),
    seed: seeds,
  })
  .map(({ rank, ...rest }) => ({ ...rest, r: rank % (rest.d + 1) }));

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  describe("a low-rank matrix with a tail", () => {
    it("has the inverse of every damping, and the figures of its spectrum", async () => {
      using vectors = tensorOf(build(5, 2, (i, j) => (i === j ? 1 : 0)));
      using values = Tensor.from([3, 1], { dtype: "float64" });
      const x = await lowRankPlusTail({ vectors, values, trace: 4.6 });
      expect([...x.values]).toEqual([3, 1]);
      expect(x.largest).toBe(3);
      expect(x.tail).toBeCloseTo(0.2, 14);
      using m = tensorOf(normalMatrix(5, 2, 4));
      for (const damping of [1e-6, 0.1, 10]) {
        using own = x.inverse(damping).left(m);
        using other = (await lowRankInverse({ vectors, values, trace: 4.6 }, { damping })).left(m);
        expect(own.dataSync()).toHaveSameBits(other.dataSync());
      }
      expect(() => x.inverse(0)).toThrow("damping must be positive and finite but is 0");
    });
  });

  describe("the low-rank inverse", () => {
    it("is the inverse of U D Uᵀ + τ(I − UUᵀ) + λI, from both sides, for every tail and rank", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ d, r, columns, ratio, damping, tail, seed }) => {
          const q = orthogonal(d, seed);
          const values = Array.from({ length: d }, (_, k) => ratio ** k);
          const u = build(d, r, (i, j) => at(q, i, j));
          const trace = values.reduce((sum, value) => sum + value, 0);
          const kept = values.slice(0, r);
          const rest = (trace - kept.reduce((sum, value) => sum + value, 0)) / (d - r);
          const tau = r === d ? 1 : tail === "mean" ? rest : tail === "zero" || r === 0 ? 0 : (kept[r - 1] as number);

          const [vectors, numbers] = [tensorOf(u), Tensor.from(kept, { dtype: "float64", shape: [r] })];
          const inverse = await lowRankInverse({ vectors, values: numbers, trace }, { damping, tail });
          expect(Math.abs(inverse.tail - tau)).toBeLessThanOrEqual(1e-14 * trace);
          // The eigenvalues of the matrix that it inverts are kept + λ and τ + λ, in the basis Q.
          const eigenvalues = values.map((value, k) => (k < r ? value : tau) + damping);
          const x = product(q, diagonal(eigenvalues), transpose(q));
          for (const side of ["left", "right"] as const) {
            const m = side === "left" ? normalMatrix(d, columns, seed + 1) : normalMatrix(columns, d, seed + 1);
            const t = tensorOf(m);
            const result = inverse[side](t);
            const solved = matrix(m.rows, m.columns, result.dataSync());
            const back = side === "left" ? product(x, solved) : product(solved, x);
            // Multiplying back rounds by ε·‖X‖‖X⁻¹M‖, and the basis is orthonormal to a few ε.
            const condition = Math.max(...eigenvalues) / Math.min(...eigenvalues);
            expect(norm(plus(back, scaled(m, -1)))).toBeLessThanOrEqual(100 * d * epsilon64 * condition * norm(m));
            for (const tensor of [t, result]) tensor.dispose();
          }
          for (const tensor of [vectors, numbers]) tensor.dispose();
        }),
      );
    });

    it("as a matrix is symmetric, and what both sides multiply by", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ d, r, columns, ratio, damping, tail, seed }) => {
          const q = orthogonal(d, seed);
          using vectors = tensorOf(build(d, r, (i, j) => at(q, i, j)));
          using values = Tensor.from(Float64Array.from({ length: r }, (_, k) => ratio ** k));
          const inverse = await lowRankInverse({ vectors, values, trace: d }, { damping, tail });
          using dense = inverse.matrix();
          const own = matrix(d, d, dense.dataSync());
          // Entries are rounded relative to the largest eigenvalue of the inverse, at most 1/λ.
          const rounding = (10 * d * epsilon64) / damping;
          expect(norm(minus(own, transpose(own)))).toBeLessThanOrEqual(rounding);
          const m = normalMatrix(d, columns, seed + 1);
          using t = tensorOf(m);
          using result = inverse.left(t);
          expect(norm(minus(product(own, m), matrix(d, columns, result.dataSync())))).toBeLessThanOrEqual(rounding * norm(m));
        }),
      );
    });

    it("equals the dense solve to 1e-10, from both sides, for every tail, with no eigenpair, some, and all", async () => {
      const moderate = cases.filter(({ damping }) => damping >= 1e-2);
      await fc.assert(
        fc.asyncProperty(moderate, fc.constantFrom(1, 1e-30, 1e30), async ({ d, r, columns, ratio, damping, tail, seed }, scale) => {
          const q = orthogonal(d, seed);
          const values = Array.from({ length: d }, (_, k) => scale * ratio ** k);
          using vectors = tensorOf(build(d, r, (i, j) => at(q, i, j)));
          using numbers = Tensor.from(Float64Array.from(values.slice(0, r)));
          const sum = values.reduce((total, value) => total + value, 0);
          const inverse = await lowRankInverse({ vectors, values: numbers, trace: sum }, { damping: scale * damping, tail });
          const tau = inverse.tail;
          if (r === 0) expect(tau).toBeCloseTo(tail === "mean" ? sum / d : 0, -Math.log10(scale) + 12);
          const spectrum = values.map((value, k) => (k < r ? value : tau) + scale * damping);
          using x = tensorOf(product(q, diagonal(spectrum), transpose(q)));
          const m = normalMatrix(d, columns, seed + 1);
          using t = tensorOf(m);
          using row = tensorOf(transpose(m));
          using expected = await solve(x, t);
          using left = inverse.left(t);
          using right = inverse.right(row);
          expect(left.dataSync()).toBeAllclose(expected.dataSync(), { relative: 1e-10 });
          expect(transpose(matrix(columns, d, right.dataSync())).data).toBeAllclose(expected.dataSync(), { relative: 1e-10 });
        }),
      );
    });

    it("takes the eigenpairs of a singular matrix, of which rounding leaves some below zero", async () => {
      const { a } = ofSpectrum([1, 0.5, 0, 0, 0, 0], 5);
      for (const dtype of ["float64", "float32"] as const) {
        using x = tensorOf(a, dtype);
        const { values, vectors } = await eigh(x);
        const tiny = values.dataSync().map((value, i) => (i < 2 ? -Math.abs(value) - (dtype === "float64" ? 1e-16 : 1e-7) : value));
        using rounded = Tensor.from(tiny);
        const inverse = await lowRankInverse({ vectors, values: rounded }, { damping: 0.1 });
        using m = tensorOf(identity(6), dtype);
        using result = inverse.left(m);
        using damped = tensorOf(plus(a, scaled(identity(6), 0.1)));
        using wide = m.cast("float64");
        using expected = await solve(damped, wide);
        expect(result.dataSync()).toBeAllclose(expected.dataSync(), { relative: dtype === "float64" ? 1e-13 : 1e-5 });
        for (const tensor of [values, vectors]) tensor.dispose();
      }
    });

    it("is off in float32 by rounding relative to its norm, however small the damping is beside the eigenvalues", async () => {
      const [d, r, damping] = [12, 5, 1e-6];
      const q = orthogonal(d, 3);
      const u = build(d, r, (i, j) => at(q, i, j));
      const kept = [1e4, 1e2, 1, 1e-2, 1e-6];
      const exact = product(q, diagonal(Array.from({ length: d }, (_, k) => 1 / ((kept[k] ?? 0) + damping))), transpose(q));
      const [vectors, values] = [tensorOf(u, "float32"), Tensor.from(kept, { dtype: "float32" })];
      const m = tensorOf(identity(d), "float32");
      const inverse = await lowRankInverse({ vectors, values }, { damping, tail: "zero" });
      // Two products of depth r and d, of vectors of length 1 that were rounded, times coefficients of at most 1/λ.
      const bound = (2 * (r + d) * epsilon32) / damping;
      for (const side of ["left", "right"] as const) {
        const result = inverse[side](m);
        expect(norm(minus(matrix(d, d, result.dataSync()), exact))).toBeLessThanOrEqual(bound);
        result.dispose();
      }
      for (const tensor of [vectors, values, m]) tensor.dispose();
    });

    it("refuses what has no inverse, with the reason", async () => {
      const [vectors, values] = [tensorOf(identity(2)), Tensor.from([1, 2], { dtype: "float64" })];
      const refusal = async (
        options: LowRankInverseOptions,
        kind: new (message: string) => Error,
        message: RegExp,
        given = values,
        trace?: number,
      ): Promise<void> => {
        const inverse = lowRankInverse({ vectors, values: given, ...(trace !== undefined && { trace }) }, options);
        await expect(inverse).rejects.toThrow(kind);
        await expect(inverse).rejects.toThrow(message);
      };
      for (const damping of [0, -1, NaN, Infinity]) await refusal({ damping }, UsageError, /damping must be positive and finite but is/);
      const [negative, zeros] = [Tensor.from([1, -2], { dtype: "float64" }), Tensor.zeros([2], { dtype: "float64" })];
      await refusal({ damping: 1 }, NumericalError, /eigenvalue 1 is -2, but a positive semidefinite matrix has none below 0/, negative);
      const short = Tensor.from([1], { dtype: "float64" });
      await refusal({ damping: 1 }, ShapeError, /values must have shape \[2\]/, short);
      const broken = Tensor.from([1, NaN], { dtype: "float64" });
      await refusal({ damping: 1 }, NumericalError, /entry \[1\] of the \[2\] input is NaN/, broken);
      const narrow = Tensor.from([1, 2]);
      await refusal({ damping: 1 }, DTypeError, /operands are float64 and float32/, narrow);
      await refusal(
        { damping: 1e-310 },
        NumericalError,
        /the inverse of the smallest eigenvalue, damping included, 1e-310, is beyond/,
        zeros,
      );
      for (const tensor of [vectors, values, negative, short, broken, narrow, zeros]) tensor.dispose();

      const [thin, one] = [Tensor.from([[1], [0]], { dtype: "float64" }), Tensor.from([1], { dtype: "float64" })];
      await expect(lowRankInverse({ vectors: thin, values: one }, { damping: 1 })).rejects.toThrow(/the tail's mean needs the trace/);
      await expect(lowRankInverse({ vectors: thin, values: one, trace: NaN }, { damping: 1 })).rejects.toThrow(/the trace is NaN/);
      const inverse = await lowRankInverse({ vectors: thin, values: one }, { damping: 1, tail: "zero" });
      const wide = Tensor.ones([3, 3], { dtype: "float64" });
      expect(() => inverse.left(wide)).toThrow(
        "lowRankInverse: axis 0 of the matrix must have 2 elements, as the vectors have rows, but its shape is [3, 3]",
      );
      expect(() => inverse.right(wide)).toThrow(ShapeError);
      for (const tensor of [thin, one, wide]) tensor.dispose();
    });
  });
});

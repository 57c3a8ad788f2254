import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { brandUpdate, eighHost, lowRankInverse, solvePositiveDefinite, type BrandUpdateOptions } from "../../src/linalg/index.ts";
import {
  BackendError,
  defaultBackend,
  DTypeError,
  NumericalError,
  ShapeError,
  Tensor,
  UsageError,
  type Backend,
  type FloatDType,
} from "../../src/tensor/index.ts";
import { normalMatrix, orthogonal, seeds } from "../arbitraries/matrices.ts";
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
  trace,
  transpose,
  type Matrix,
} from "./dense.ts";

const tensorOf = (a: Matrix, dtype: FloatDType = "float64"): Tensor => Tensor.from(a.data, { dtype, shape: [a.rows, a.columns] });
const columnsOf = (a: Matrix, count: number): Matrix => build(a.rows, count, (i, j) => at(a, i, j));
const gram = (c: Matrix): Matrix => product(c, transpose(c));
const average = (x: Matrix, c: Matrix, decay: number, weight = 1 - decay): Matrix => plus(scaled(x, decay), scaled(gram(c), weight));
const orthonormality = (u: Matrix): number => norm(minus(product(transpose(u), u), identity(u.columns)));

/** U diag(D) Uᵀ, with its parts. */
interface Parts {
  readonly u: Matrix;
  readonly d: Float64Array;
  readonly trace?: number | undefined;
}
const nothing = (d: number): Parts => ({ u: matrix(d, 0, []), d: new Float64Array(0) });
const rebuilt = ({ u, d }: Parts): Matrix => product(u, diagonal(d), transpose(u));

async function update(old: Parts, c: Matrix, options: BrandUpdateOptions, dtype: FloatDType = "float64"): Promise<Parts> {
  using vectors = tensorOf(old.u, dtype);
  using values = Tensor.from(old.d, { dtype, shape: [old.d.length] });
  using columns = tensorOf(c, dtype);
  const result = await brandUpdate({ vectors, values, ...(old.trace !== undefined && { trace: old.trace }) }, columns, options);
  using u = result.vectors;
  using d = result.values;
  const k = d.shape[0] as number;
  expect([u.dtype, d.dtype, u.shape, d.shape]).toEqual([dtype, dtype, [c.rows, k], [k]]);
  expect([...d.dataSync()]).toEqual([...d.dataSync()].sort((a, b) => a - b));
  return { u: matrix(c.rows, k, u.dataSync()), d: Float64Array.from(d.dataSync()), trace: result.trace };
}

const kinds = {
  normal: (d, n, seed) => normalMatrix(d, n, seed),
  zero: (d, n) => build(d, n, () => 0),
  "within the span of U": (_, n, seed, u) => product(u, normalMatrix(u.columns, n, seed)),
  "with columns that nearly depend on each other": (d, n, seed) => {
    const [base, noise] = [normalMatrix(d, 1, seed), normalMatrix(d, n, seed + 1)];
    return build(d, n, (i, j) => at(base, i, 0) + 1e-9 * at(noise, i, j));
  },
  "with columns that nearly lie in the span of U": (d, n, seed, u) =>
    plus(product(u, normalMatrix(u.columns, n, seed)), scaled(normalMatrix(d, n, seed + 1), 1e-9)),
} satisfies Record<string, (d: number, n: number, seed: number, u: Matrix) => Matrix>;

/** An old matrix of rank r, none to all, and a C of every kind above; r + n may be more than d. */
const cases = fc
  .record({
    d: fc.integer({ min: 1, max: 16 }),
    rank: fc.nat(),
    n: fc.integer({ min: 0, max: 6 }),
    kind: fc.constantFrom(...(Object.keys(kinds) as (keyof typeof kinds)[])),
    ratio: fc.constantFrom(1, 0.5, 0.1),
    decay: fc.constantFrom(0.95, 0.5, 0, 1),
    scale: fc.constantFrom(1, 1e-30, 1e30),
    seed: seeds,
  })
  .map(({ d, rank, n, kind, ratio, seed, scale, decay }) => {
    const r = rank % (d + 1);
    const u = columnsOf(orthogonal(d, seed), r);
    const old: Parts = { u, d: Float64Array.from({ length: r }, (_, k) => scale * ratio ** (r - 1 - k)) };
    const c = scaled(kinds[kind](d, n, seed + 7, u), Math.sqrt(scale));
    return { d, r, n, kind, decay, old, c, seed, exact: average(rebuilt(old), c, decay) };
  });

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  describe("brandUpdate", () => {
    /**
     * What `brandUpdate` documents for r + n ≤ d + n vectors, and as much as ten roundings of d terms for the matrix that it is compared
     * with, whose U is the product of d reflections.
     */
    const bound = (d: number, n: number): number => (2 * Math.max(3 * (d + n), 15) + 10 * d) * epsilon64;

    it("gives the eigenpairs of ρ U D Uᵀ + (1 − ρ) C Cᵀ exactly, in orthonormal vectors, whatever C", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ d, r, n, decay, old, c, exact }) => {
          const result = await update(old, c, { decay });
          expect(norm(minus(rebuilt(result), exact))).toBeLessThanOrEqual(bound(d, n) * norm(exact));
          expect(orthonormality(result.u)).toBeLessThanOrEqual(bound(d, n));
          expect(result.d.length).toBeLessThanOrEqual(Math.min(d, r + n));
          const all = eighHost(exact.data, d).values;
          result.d.forEach((value, i) => {
            expect(value).toBeGreaterThan(0);
            const expected = all[d - result.d.length + i] as number;
            expect(Math.abs(value - expected)).toBeLessThanOrEqual(bound(d, n) * norm(exact));
          });
        }),
      );
    });

    it("adds no vector for a C of zeros, or within the span of U", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ r, decay, old, c, kind }) => {
          fc.pre(kind === "zero" || kind === "within the span of U");
          fc.pre(decay === 0.95 || decay === 0.5);
          // Smaller ones would be dropped beside a C much larger than U D Uᵀ: below (10ε√d)² of the largest.
          fc.pre(old.d.every((value) => value > 1e-6 * (old.d[r - 1] as number)));
          for (const dtype of ["float64", "float32"] as const) {
            const result = await update(old, c, { decay }, dtype);
            expect(result.d.length).toBe(r);
            if (kind === "zero") {
              const expected = old.d.map((value) => decay * value);
              expect(result.d).toBeAllclose(expected, { relative: dtype === "float64" ? 1e-14 : 2 * epsilon32 });
            }
          }
        }),
      );
    });

    it("does not depend on how C Cᵀ is made of columns", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ d, n, decay, old, c, seed, exact }) => {
          const turned = await update(old, product(c, orthogonal(n, seed + 11)), { decay });
          expect(norm(minus(rebuilt(turned), exact))).toBeLessThanOrEqual(2 * bound(d, n) * norm(exact));
        }),
      );
    });

    it("takes any two weights, and counts the trace with them", async () => {
      await fc.assert(
        fc.asyncProperty(cases, fc.constantFrom(0, 0.3, 1, 4), async ({ d, n, old, c, decay }, weight) => {
          const exact = average(rebuilt(old), c, decay, weight);
          const own = old.d.reduce((sum, value) => sum + value, 0);
          const result = await update({ ...old, trace: 2 * own }, c, { decay, weight, rank: 2 });
          // The old trace says that as much again had been left out.
          const expected = trace(exact) + decay * own;
          expect(Math.abs((result.trace as number) - expected)).toBeLessThanOrEqual(20 * d * epsilon64 * expected);
          const whole = await update(old, c, { decay, weight });
          expect(whole.trace).toBeUndefined();
          expect(norm(minus(rebuilt(whole), exact))).toBeLessThanOrEqual(bound(d, n) * norm(exact));
        }),
      );
    });

    it("stays exact and orthonormal over a hundred updates", async () => {
      const d = 20;
      let [parts, exact] = [nothing(d), build(d, d, () => 0)];
      for (let step = 1; step <= 100; step++) {
        const c = scaled(normalMatrix(d, 3, step), 1 / Math.sqrt(3));
        // The weights of an unbiased average: 0 at the first step.
        const decay = (0.95 * (1 - 0.95 ** (step - 1))) / (1 - 0.95 ** step);
        parts = await update(parts, c, { decay });
        exact = average(exact, c, decay);
      }
      expect(norm(minus(rebuilt(parts), exact))).toBeLessThanOrEqual(1e-12 * norm(exact));
      expect(orthonormality(parts.u)).toBeLessThanOrEqual(1e-12);
    });

    it("with truncation is never above the average that it follows, nor are its eigenvalues", async () => {
      await fc.assert(
        fc.asyncProperty(fc.integer({ min: 1, max: 6 }), fc.constantFrom(0.5, 0.9), seeds, async (rank, decay, seed) => {
          const d = 12;
          let [parts, exact] = [nothing(d), build(d, d, () => 0)];
          for (let step = 0; step < 30; step++) {
            const c = normalMatrix(d, 2, seed + step);
            parts = await update(parts, c, { decay, rank });
            exact = average(exact, c, decay);
            // What each update rounds, added up with the weights of the average.
            const rounding = (bound(d, 2) / (1 - decay)) * norm(exact);
            expect(parts.d.length).toBe(Math.min(rank, 2 * (step + 1)));
            const all = eighHost(exact.data, d).values;
            parts.d.forEach((value, i) => {
              expect(value).toBeLessThanOrEqual((all[d - parts.d.length + i] as number) + rounding);
            });
            expect(eighHost(minus(exact, rebuilt(parts)).data, d).values[0]).toBeGreaterThanOrEqual(-rounding);
          }
        }),
        { numRuns: 10 },
      );
    });

    it("in float32 stays orthonormal to its rounding, and follows the average to its own", async () => {
      const d = 30;
      let [parts, exact] = [nothing(d), build(d, d, () => 0)];
      for (let step = 0; step < 100; step++) {
        const c = matrix(d, 2, Float32Array.from(normalMatrix(d, 2, step + 1).data));
        parts = await update(parts, c, { decay: 0.9 }, "float32");
        exact = average(exact, c, 0.9);
      }
      const k = parts.d.length;
      // Entries of unit vectors rounded to ε/2 of themselves, in each of k² inner products; errors do not conspire.
      expect(orthonormality(parts.u)).toBeLessThanOrEqual(k * epsilon32);
      // Each update rounds once, and what was rounded n updates ago counts .9ⁿ.
      expect(norm(minus(rebuilt(parts), exact))).toBeLessThanOrEqual(10 * 2 * Math.sqrt(k) * epsilon32 * norm(exact));
    });

    it("of float32 tensors is the float64 result, rounded", async () => {
      const c = matrix(9, 3, Float32Array.from(normalMatrix(9, 3, 4).data));
      const u = columnsOf(orthogonal(9, 2), 4);
      const old = { u: matrix(9, 4, Float32Array.from(u.data)), d: Float64Array.of(0.25, 0.5, 1, 2) };
      const [narrow, wide] = [await update(old, c, { decay: 0.5 }, "float32"), await update(old, c, { decay: 0.5 })];
      expect(Float32Array.from(narrow.d)).toEqual(Float32Array.from(wide.d));
      expect(Float32Array.from(narrow.u.data)).toEqual(Float32Array.from(wide.u.data));
    });

    it("needs no orthonormal U: the matrix is U D Uᵀ for any", async () => {
      const old = { u: normalMatrix(8, 3, 5), d: Float64Array.of(1, 2, 3) };
      const c = normalMatrix(8, 2, 6);
      const exact = average(rebuilt(old), c, 0.9);
      const result = await update(old, c, { decay: 0.9 });
      expect(norm(minus(rebuilt(result), exact))).toBeLessThanOrEqual(1e-13 * norm(exact));
      expect(orthonormality(result.u)).toBeLessThanOrEqual(1e-13);
    });

    it("feeds the low-rank inverse, which is then that of the average", async () => {
      const [d, damping] = [10, 0.1];
      let parts: Parts = { ...nothing(d), trace: 0 };
      let exact = build(d, d, () => 0);
      for (let step = 1; step <= 8; step++) {
        const c = normalMatrix(d, 2, step);
        parts = await update(parts, c, { decay: step === 1 ? 0 : 0.9 });
        exact = average(exact, c, step === 1 ? 0 : 0.9);
      }
      const m = normalMatrix(d, 2, 99);
      using vectors = tensorOf(parts.u);
      using values = Tensor.from(parts.d);
      using t = tensorOf(m);
      using wide = values.cast("float64");
      const inverse = await lowRankInverse({ vectors, values: wide, trace: parts.trace as number }, { damping });
      using result = inverse.left(t);
      using damped = tensorOf(plus(exact, scaled(identity(d), damping)));
      using expected = await solvePositiveDefinite(damped, t);
      expect(result.dataSync()).toBeAllclose(expected.dataSync(), { relative: 1e-10 });
    });

    it("takes matrices of no rows, of one row, and a rank of none", async () => {
      expect(await update(nothing(0), matrix(0, 3, []), { decay: 0.9 })).toMatchObject({ u: matrix(0, 0, []), d: new Float64Array(0) });
      const one = await update(nothing(1), matrix(1, 2, [3, 4]), { decay: 0.5 });
      expect(one.u).toEqual(identity(1));
      expect(one.d).toBeAllclose([12.5], { relative: 4 * epsilon64 });
      expect(await update(nothing(3), matrix(3, 0, []), { decay: 0.5 })).toMatchObject(nothing(3));
      expect((await update(nothing(3), normalMatrix(3, 2, 1), { decay: 0.5, rank: 0 })).d.length).toBe(0);
    });

    it("has read its operands when they are disposed", async () => {
      const [vectors, values, c] = [tensorOf(identity(2)), Tensor.from(Float64Array.of(1, 2)), tensorOf(identity(2))];
      const pending = brandUpdate({ vectors, values }, c, { decay: 0.5 });
      for (const tensor of [vectors, values, c]) tensor.dispose();
      const result = await pending;
      expect(result.values.dataSync()).toBeAllclose([1, 1.5], { relative: 1e-15 });
      for (const tensor of [result.values, result.vectors]) tensor.dispose();
    });

    it("refuses what is no update, with the reason", async () => {
      using vectors = tensorOf(identity(3));
      using values = Tensor.from(Float64Array.of(1, 2, 3));
      using c = tensorOf(normalMatrix(3, 2, 1));
      const old = { vectors, values };
      for (const decay of [-0.1, NaN, Infinity]) {
        await expect(brandUpdate(old, c, { decay })).rejects.toThrow(
          new UsageError(`brandUpdate: decay must be finite and at least 0 but is ${decay}`),
        );
      }
      await expect(brandUpdate(old, c, { decay: 1.5 })).rejects.toThrow("brandUpdate: weight must be finite and at least 0 but is -0.5");
      for (const rank of [-1, 1.5, NaN]) {
        await expect(brandUpdate(old, c, { decay: 0.5, rank })).rejects.toThrow(
          new UsageError(`brandUpdate: rank must be a whole number of at least 0 but is ${rank}`),
        );
      }
      using tall = tensorOf(normalMatrix(4, 2, 1));
      await expect(brandUpdate(old, tall, { decay: 0.5 })).rejects.toThrow(
        new ShapeError("brandUpdate: C must have 3 rows, as the vectors have, but its shape is [4, 2]"),
      );
      using two = Tensor.from(Float64Array.of(1, 2));
      await expect(brandUpdate({ vectors, values: two }, c, { decay: 0.5 })).rejects.toThrow(
        new ShapeError("brandUpdate: values must have shape [3], one for each column of the vectors, but have [2]"),
      );
      await expect(brandUpdate(old, values, { decay: 0.5 })).rejects.toThrow(ShapeError);
      using narrow = c.cast("float32");
      await expect(brandUpdate(old, narrow, { decay: 0.5 })).rejects.toThrow(DTypeError);
      using integers = c.cast("int32");
      await expect(brandUpdate(old, integers, { decay: 0.5 })).rejects.toThrow(DTypeError);
      using broken = tensorOf(matrix(3, 1, [1, Infinity, 2]));
      await expect(brandUpdate(old, broken, { decay: 0.5 })).rejects.toThrow(
        new NumericalError("brandUpdate: entry [1, 0] of the [3, 1] input is Infinity; every entry must be finite"),
      );
      using negative = Tensor.from(Float64Array.of(1, -2, 3));
      await expect(brandUpdate({ vectors, values: negative }, c, { decay: 0.5 })).rejects.toThrow(
        "brandUpdate: eigenvalue 1 is -2, but a positive semidefinite matrix has none below 0",
      );
      const elsewhere: Backend = Object.assign(Object.create(defaultBackend()) as Backend, { name: "elsewhere" });
      using stranger = Tensor.ones([3, 1], { dtype: "float64", backend: elsewhere });
      await expect(brandUpdate(old, stranger, { decay: 0.5 })).rejects.toThrow(BackendError);
    });
  });
});

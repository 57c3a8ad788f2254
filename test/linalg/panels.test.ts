import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { choleskyHost, orthonormalize, qrHost } from "../../src/linalg/index.ts";
import { defaultBackend, DTypeError, Generator, NumericalError, ShapeError, Tensor, type FloatDType } from "../../src/tensor/index.ts";
import { normalMatrix, seeds } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { attempt, held, taken, tensorOf } from "./compute.ts";
import {
  at,
  build,
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

async function orthonormalized(a: Matrix, dtype: FloatDType): Promise<Matrix> {
  using panel = tensorOf(a, dtype);
  const q = await orthonormalize(panel);
  expect([q.dtype, q.shape]).toEqual([dtype, [a.rows, a.columns]]);
  return await taken(q);
}

const departure = (q: Matrix): Matrix => minus(product(transpose(q), q), identity(q.columns));

/**
 * ‖QᵀQ − I‖_F: Householder's bound in float64; in float32 1e-8 in the 2-norm before rounding, which changes entries by ε/2 of themselves and
 * Q by √s·ε/2 in norm, so QᵀQ by twice that and a term of the second order.
 */
const limitOf = ({ rows: m, columns: s }: Matrix, dtype: FloatDType): number =>
  dtype === "float64" ? Math.sqrt(s) * Math.max(3 * m, 15) * epsilon64 : Math.sqrt(s) * 1e-8 + (Math.sqrt(s) + 1) * epsilon32;

/** Columns of a panel: independent, or dependent in every way, of any scale. */
const columns = {
  independent: (a) => a,
  "falling by half": (a) => build(a.rows, a.columns, (i, j) => at(a, i, j) * 0.5 ** j),
  repeating: (a) => build(a.rows, a.columns, (i, j) => at(a, i, j >> 1)),
  "zero in turns": (a) => build(a.rows, a.columns, (i, j) => (j % 2 === 0 ? 0 : at(a, i, j))),
  "near to one direction": (a) => build(a.rows, a.columns, (i, j) => 1 + 1e-5 * at(a, i, j)),
  "integer combinations of a third": (a) => {
    const whole = (b: Matrix): Matrix => build(b.rows, b.columns, (i, j) => Math.round(2 * at(b, i, j)));
    const third = Math.ceil(a.columns / 3);
    return product(whole(build(a.rows, third, (i, j) => at(a, i, j))), whole(normalMatrix(third, a.columns, 3)));
  },
  "all zero": (a) => scaled(a, 0),
} satisfies Record<string, (a: Matrix) => Matrix>;

const panels = fc
  .record({
    m: fc.integer({ min: 1, max: 40 }),
    s: fc.nat(),
    kind: fc.constantFrom(...(Object.keys(columns) as (keyof typeof columns)[])),
    scale: fc.constantFrom(1, 1e-30, 1e30),
    seed: seeds,
  })
  .map(({ m, s, kind, scale, seed }) => scaled(columns[kind](normalMatrix(m, 1 + (s % m), seed)), scale));

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  describe("orthonormalize", () => {
    it.each(["float32", "float64"] as const)("gives an orthonormal basis of the columns of any %s panel, in their order", async (dtype) => {
      await fc.assert(
        fc.asyncProperty(panels, async (panel) => {
          const a = held(panel, dtype);
          const q = await orthonormalized(a, dtype);
          expect(norm(departure(q))).toBeLessThanOrEqual(limitOf(a, dtype));
          // A = Q R with an upper triangular R, to the rounding of A and Q.
          const size = largest(a) || 1;
          const unit = scaled(a, 1 / size);
          const r = product(transpose(q), unit);
          const triangle = build(r.rows, r.columns, (i, j) => (i <= j ? at(r, i, j) : 0));
          const epsilon = dtype === "float32" ? epsilon32 : epsilon64;
          expect(norm(minus(unit, product(q, triangle)))).toBeLessThanOrEqual(Math.max(3 * a.rows, 15) * epsilon * norm(unit));
        }),
        { numRuns: 200 },
      );
    });

    /** A panel with singular values from 1 down to 1/κ, evenly in logarithm: of orthogonal columns, or of turned ones. */
    const [m, s] = [600, 30];
    const left = matrix(m, s, qrHost(normalMatrix(m, s, 1).data, m, s).q);
    const right = matrix(s, s, qrHost(normalMatrix(s, s, 2).data, s, s).q);
    const graded = (condition: number): Matrix => build(m, s, (i, j) => at(left, i, j) * condition ** (-j / (s - 1)));
    const turned = (condition: number): Matrix => product(graded(condition), right);

    describe.each([
      ["graded", graded],
      ["turned", turned],
    ])("of a %s float32 panel", (_, make) => {
      it.each([1, 1e2, 1e4, 1e6, 1e8, 1e10])("of condition %d has inner products right to 3e-8", async (condition) => {
        const q = await orthonormalized(make(condition), "float32");
        expect(largest(departure(q))).toBeLessThanOrEqual(3e-8);
      });
    });

    it.each([1e4, 1e6, 1e8])("is needed: a Gram matrix in float32 loses a turned panel of condition %d", async (condition) => {
      using panel = tensorOf(turned(condition), "float32");
      const gram = await taken(panel.gram());
      const factor = attempt(() => choleskyHost(gram.data, s));
      if ("error" in factor) {
        expect(factor.error).toBeInstanceOf(NumericalError);
        return;
      }
      // Q = A L⁻ᵀ row by row, in float64.
      const a = held(turned(condition), "float32");
      const l = matrix(s, s, factor.result);
      const q = build(m, s, () => 0);
      for (let i = 0; i < m; i++) {
        for (let j = 0; j < s; j++) {
          let sum = at(a, i, j);
          for (let k = 0; k < j; k++) sum -= at(q, i, k) * at(l, j, k);
          q.data[i * s + j] = sum / at(l, j, j);
        }
      }
      expect(largest(departure(q))).toBeGreaterThanOrEqual(0.01);
    });

    it("of a product with a matrix of lower rank, as at the first refresh of a factor", async () => {
      const generator = new Generator(4);
      using samples = generator.normal([16, 200]);
      using factor = samples.gram(1 / 16);
      using test = generator.normal([200, 40]);
      using panel = factor.matmul(test);
      const q = await taken(await orthonormalize(panel));
      expect(norm(departure(q))).toBeLessThanOrEqual(limitOf(q, "float32"));
    });

    it("leaves an orthonormal panel as it is, to rounding", async () => {
      const a = held(left, "float32");
      const q = await orthonormalized(a, "float32");
      expect(norm(minus(q, a))).toBeLessThanOrEqual(2 * epsilon32 * Math.sqrt(s));
    });

    it("refuses what has no such basis, saying why", async () => {
      using wide = Tensor.ones([2, 3]);
      await expect(orthonormalize(wide)).rejects.toThrow(ShapeError);
      await expect(orthonormalize(wide)).rejects.toThrow("a matrix of shape [2, 3] has more columns than rows");
      using vector = Tensor.ones([3]);
      await expect(orthonormalize(vector)).rejects.toThrow(ShapeError);
      using whole = Tensor.ones([3, 2], { dtype: "int32" });
      await expect(orthonormalize(whole)).rejects.toThrow(DTypeError);
      for (const dtype of ["float32", "float64"] as const) {
        using broken = Tensor.from([1, 2, NaN, 4], { dtype, shape: [2, 2] });
        await expect(orthonormalize(broken)).rejects.toThrow("orthonormalize: entry [1, 0] of the [2, 2] input is NaN");
        using endless = Tensor.from([1, -Infinity], { dtype, shape: [2, 1] });
        await expect(orthonormalize(endless)).rejects.toThrow(NumericalError);
        using empty = Tensor.zeros([3, 0], { dtype });
        using none = await orthonormalize(empty);
        expect(none.shape).toEqual([3, 0]);
      }
    });
  });
});

import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { onHost } from "../../src/linalg/arithmetic.ts";
import { eigh, lowRankInverse, woodburyInverse } from "../../src/linalg/index.ts";
import { luIn, luSize, luSolveSize, solveLuIn } from "../../src/linalg/lu.ts";
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
  transpose,
  type Matrix,
} from "./dense.ts";

const tensorOf = (a: Matrix, dtype: FloatDType = "float64"): Tensor => Tensor.from(a.data, { dtype, shape: [a.rows, a.columns] });
const matrixOf = (t: Tensor): Matrix => matrix(t.shape[0] as number, t.shape[1] as number, t.dataSync());
/** A⁻¹B, by elimination. */
function denseSolve(a: Matrix, b: Matrix): Matrix {
  const size = luSize(a.rows) + luSolveSize(a.rows, b.columns);
  const x = onHost(size, (space) => solveLuIn(space, luIn(space, a.data, a.rows), b.data, b.columns));
  return matrix(b.rows, b.columns, x);
}
const damped = (u: Matrix, damping: number): Matrix => plus(product(transpose(u), u), scaled(identity(u.columns), damping));

/** A U [n, d] with singular values ratioᵏ, up to d of them. */
const cases = fc
  .record({
    n: fc.integer({ min: 0, max: 9 }),
    d: fc.integer({ min: 1, max: 16 }),
    ratio: fc.constantFrom(1, 0.5, 0.1),
    damping: fc.constantFrom(1e4, 1, 1e-2, 1e-5, 1e-9),
    columns: fc.integer({ min: 0, max: 3 }),
    seed: seeds,
  })
  .map(({ n, d, ratio, seed, ...rest }) => {
    const [p, q] = [orthogonal(n, seed), orthogonal(d, seed + 1)];
    const u = product(
      p,
      build(n, d, (i, j) => (i === j ? ratio ** i : 0)),
      transpose(q),
    );
    return { n, d, seed, u, ...rest };
  });

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  async function inverseOf(
    u: Matrix,
    damping: number,
    m: Matrix,
    dtype: FloatDType = "float64",
    side: "left" | "right" = "left",
  ): Promise<Matrix> {
    using rows = tensorOf(u, dtype);
    using inverse = await woodburyInverse(rows, { damping });
    using t = tensorOf(m, dtype);
    using result = inverse[side](t);
    expect([result.dtype, result.shape]).toEqual([dtype, [m.rows, m.columns]]);
    return matrixOf(result);
  }

  describe("the inverse by Woodbury's identity", () => {
    it("equals the dense solve from both sides, for every damping", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ n, d, u, damping, columns, seed }) => {
          const m = normalMatrix(d, columns, seed + 2);
          const expected = denseSolve(damped(u, damping), m);
          const condition = 1 + 1 / damping;
          // What `woodburyInverse` documents, and the error of the dense solve.
          const bound = (10 * (n + d) * epsilon64 * (1 + condition) * norm(m)) / damping;
          expect(norm(minus(await inverseOf(u, damping, m), expected))).toBeLessThanOrEqual(bound);
          const right = await inverseOf(u, damping, transpose(m), "float64", "right");
          expect(norm(minus(right, transpose(expected)))).toBeLessThanOrEqual(bound);
        }),
      );
    });

    it("is the natural gradient as a weighting of samples: (UᵀU + λI)⁻¹ Uᵀc = Uᵀ (UUᵀ + λI)⁻¹ c", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ n, d, u, damping, seed }) => {
          const c = normalMatrix(n, 1, seed + 2);
          const gradient = product(transpose(u), c);
          const weights = denseSolve(damped(transpose(u), damping), c);
          const bound = (10 * (n + d) * epsilon64 * (2 + 1 / damping) * norm(c)) / damping;
          expect(norm(minus(await inverseOf(u, damping, gradient), product(transpose(u), weights)))).toBeLessThanOrEqual(bound);
        }),
      );
    });

    it("is the low-rank inverse on the eigenvectors of UᵀU, with nothing outside of them", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ n, d, u, damping, seed }) => {
          const m = normalMatrix(d, 2, seed + 2);
          using gram = tensorOf(product(transpose(u), u));
          const { values, vectors } = await eigh(gram, { largest: Math.min(n, d) });
          const inverse = await lowRankInverse({ values, vectors }, { damping, tail: "zero" });
          using t = tensorOf(m);
          using expected = inverse.left(t);
          const bound = (10 * (n + d) * epsilon64 * (2 + 1 / damping) * norm(m)) / damping;
          expect(norm(minus(await inverseOf(u, damping, m), matrixOf(expected)))).toBeLessThanOrEqual(bound);
          for (const tensor of [values, vectors]) tensor.dispose();
        }),
      );
    });

    it("is symmetric, positive, and not above I/λ", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ({ d, u, n, damping, seed }) => {
          const inverse = await inverseOf(u, damping, identity(d));
          const slack = (10 * (n + d) * epsilon64 * (2 + 1 / damping)) / damping;
          expect(norm(minus(inverse, transpose(inverse)))).toBeLessThanOrEqual(slack);
          const x = normalMatrix(d, 1, seed + 3);
          const form = at(product(transpose(x), inverse, x), 0, 0);
          const square = norm(x) ** 2;
          expect(form).toBeGreaterThanOrEqual(square / (1 + damping) - slack * square);
          expect(form).toBeLessThanOrEqual(square / damping + slack * square);
        }),
      );
    });

    it("of float32 rows is off by rounding relative to 1/λ, whatever the condition", async () => {
      const [n, d] = [6, 30];
      const [p, q] = [orthogonal(n, 3), orthogonal(d, 4)];
      const raw = product(
        p,
        build(n, d, (i, j) => (i === j ? 10 ** -i : 0)),
        transpose(q),
      );
      const u = matrix(n, d, Float32Array.from(raw.data));
      const m = identity(d);
      for (const damping of [1, 1e-3, 1e-6, 1e-8]) {
        const expected = denseSolve(damped(u, damping), m);
        const error = norm(minus(await inverseOf(u, damping, m, "float32"), expected));
        // W rounded twice in WᵀW, two products of depth n and d whose errors do not conspire; a κ·ε would be 10 at the last damping.
        expect(error).toBeLessThanOrEqual(((3 * Math.sqrt(n + d) * epsilon32) / damping) * norm(m));
      }
    });

    it("is the same with columns in one strip and in several", async () => {
      for (const d of [1023, 1024, 1025, 2100]) {
        const u = scaled(normalMatrix(5, d, d), 1 / Math.sqrt(d));
        const c = normalMatrix(5, 1, 2);
        const weights = denseSolve(damped(transpose(u), 0.1), c);
        const expected = product(transpose(u), weights);
        const result = await inverseOf(u, 0.1, product(transpose(u), c));
        expect(norm(minus(result, expected))).toBeLessThanOrEqual(200 * Math.sqrt(d) * epsilon64 * norm(expected));
      }
    });

    it.each([
      ["float32", 1e-18, 1e-30],
      ["float32", 1e30, 1e30],
      ["float64", 1e-30, 1e-60],
      ["float64", 1e-150, 1e-300],
      ["float64", 1e200, 1e300],
    ] as const)("takes %s rows scaled by %f with a damping of %f", async (dtype, scale, damping) => {
      const u = normalMatrix(3, 5, 7);
      const m = normalMatrix(5, 2, 8);
      const result = await inverseOf(scaled(u, scale), damping, m, dtype);
      // λ(UᵀU + λI)⁻¹ in units of the scale: rows of 1e30 with a damping of 1e30 leave the projection away from them.
      const relative = damping / scale / scale;
      const away = minus(m, product(transpose(u), denseSolve(damped(transpose(u), relative), product(u, m))));
      const epsilon = dtype === "float32" ? epsilon32 : epsilon64;
      expect(norm(minus(scaled(result, damping), away))).toBeLessThanOrEqual(100 * epsilon * norm(m));
    });

    it("without rows is a division by λ", async () => {
      const m = normalMatrix(4, 2, 3);
      expect(await inverseOf(matrix(0, 4, []), 4, m)).toEqual(scaled(m, 1 / 4));
      expect(await inverseOf(matrix(3, 0, []), 4, matrix(0, 2, []))).toEqual(matrix(0, 2, []));
    });

    it("has read its rows when they are disposed", async () => {
      const rows = tensorOf(diagonal([1, 2]));
      const pending = woodburyInverse(rows, { damping: 1 });
      rows.dispose();
      using inverse = await pending;
      using m = tensorOf(identity(2));
      using result = inverse.left(m);
      expect(result.dataSync()).toBeAllclose([0.5, 0, 0, 0.2], { relative: 1e-15 });
    });

    it("refuses what it cannot invert, with the reason", async () => {
      using u = tensorOf(normalMatrix(2, 3, 1));
      for (const damping of [0, -1, NaN, Infinity]) {
        await expect(woodburyInverse(u, { damping })).rejects.toThrow(
          new UsageError(`woodburyInverse: damping must be positive and finite but is ${damping}`),
        );
      }
      // Equal rows: λI + UUᵀ differs from a singular matrix by less than float64 can tell.
      using equal = Tensor.ones([2, 3], { dtype: "float64" });
      await expect(woodburyInverse(equal, { damping: 1e-17 })).rejects.toThrow(NumericalError);
      await expect(woodburyInverse(equal, { damping: 1e-17 })).rejects.toThrow(
        /^woodburyInverse \(λI \+ UUᵀ\): the matrix is not positive definite: pivot 1 of 2 is .*; add damping/,
      );
      using single = Tensor.ones([2, 3]);
      await expect(woodburyInverse(single, { damping: 1e-40 })).rejects.toThrow(
        "woodburyInverse: the inverse of the damping, 1e-40, is beyond the range of float32; scale the input",
      );
      using broken = Tensor.from([[1, NaN]]);
      await expect(woodburyInverse(broken, { damping: 1 })).rejects.toThrow("woodburyInverse: entry [0, 1] of the [1, 2] input is NaN");
      using vector = Tensor.ones([3]);
      await expect(woodburyInverse(vector, { damping: 1 })).rejects.toThrow(ShapeError);
      using integers = single.cast("int32");
      await expect(woodburyInverse(integers, { damping: 1 })).rejects.toThrow(DTypeError);

      using inverse = await woodburyInverse(u, { damping: 1 });
      using square = tensorOf(identity(2));
      expect(() => inverse.left(square)).toThrow(
        "woodburyInverse: axis 0 of the matrix must have 3 elements, as U has columns, but its shape is [2, 2]",
      );
      expect(() => inverse.right(square)).toThrow(ShapeError);
      expect(() => inverse.left(single)).toThrow(DTypeError);
      const elsewhere: Backend = Object.assign(Object.create(defaultBackend()) as Backend, { name: "elsewhere" });
      using stranger = Tensor.ones([3, 3], { dtype: "float64", backend: elsewhere });
      expect(() => inverse.left(stranger)).toThrow(BackendError);
    });
  });
});

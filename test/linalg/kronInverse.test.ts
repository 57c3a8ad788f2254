import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { onHost } from "../../src/linalg/arithmetic.ts";
import { eigh, kronHost, kronInverse, kronMultiply, kronSolve, type Eigenpairs, type KronDamping } from "../../src/linalg/index.ts";
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
import { definiteMatrices, normalMatrix, ofSpectrum, seeds, smallMatrices } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { build, diagonal, epsilon32, epsilon64, identity, matrix, minus, norm, plus, product, scaled, type Matrix } from "./dense.ts";

const tensorOf = (a: Matrix, dtype: FloatDType = "float64"): Tensor => Tensor.from(a.data, { dtype, shape: [a.rows, a.columns] });
const matrixOf = (t: Tensor): Matrix => matrix(t.shape[0] as number, t.shape[1] as number, t.dataSync());

const kron = (a: Matrix, b: Matrix): Matrix =>
  matrix(a.rows * b.rows, a.columns * b.columns, kronHost(a.data, [a.rows, a.columns], b.data, [b.rows, b.columns]));
/** The X with M vec(X) = vec(B), by a dense solve. */
function denseSolve(m: Matrix, b: Matrix): Matrix {
  const x = onHost(luSize(m.rows) + luSolveSize(m.rows, 1), (space) => solveLuIn(space, luIn(space, m.data, m.rows), b.data, 1));
  return matrix(b.rows, b.columns, x);
}

const extents = fc.integer({ min: 0, max: 6 });
/** A definite matrix of condition 1e3 at most, with its largest eigenvalue 1. */
const factors = definiteMatrices({ decades: 3, maxSize: 5 }).map(({ a, n, condition, spectrum }) => ({
  a: scaled(a, 1 / (spectrum[n - 1] as number)),
  n,
  condition,
}));

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  describe("kronMultiply", () => {
    it("is the product with the dense matrix: (A ⊗ B) vec(X) = vec(A X Bᵀ)", () => {
      const operands = fc
        .tuple(extents, extents, extents, extents)
        .chain(([p, q, r, s]) => fc.tuple(smallMatrices(p, q), smallMatrices(r, s), smallMatrices(q, s)));
      fc.assert(
        fc.property(operands, ([a, b, x]) => {
          using left = tensorOf(a);
          using right = tensorOf(b);
          using t = tensorOf(x);
          using result = kronMultiply(left, right, t);
          const expected = product(kron(a, b), matrix(x.data.length, 1, x.data));
          // Entries are small multiples of 1/64: every product and sum is exact, in any order.
          expect(matrixOf(result)).toEqual(matrix(a.rows, b.rows, expected.data));
        }),
      );
    });

    it("multiplies in the cheaper order", () => {
      using thin = Tensor.ones([1, 40]);
      using square = Tensor.ones([40, 40]);
      const products = vi.spyOn(Tensor.prototype, "matmul");
      // From the thin side every product has 40 elements; from the other one the first has 1600.
      kronMultiply(thin, square, square).dispose();
      kronMultiply(square, thin, square).dispose();
      const sizes = products.mock.results.map(({ value }) => (value as Tensor).size);
      products.mockRestore();
      expect(sizes).toEqual([40, 40, 40, 40]);
    });

    it("refuses operands that do not fit", () => {
      using a = Tensor.ones([2, 3]);
      using b = Tensor.ones([4, 5]);
      expect(() => kronMultiply(a, b, b)).toThrow(
        new ShapeError(
          "kronMultiply: X must have shape [3, 5], a row for each column of the first factor and a column for each of the second, " +
            "but has [4, 5]",
        ),
      );
      using vector = Tensor.ones([15]);
      expect(() => kronMultiply(a, b, vector)).toThrow(ShapeError);
      expect(() => kronMultiply(vector, b, b)).toThrow(ShapeError);
      using wide = Tensor.ones([3, 5], { dtype: "float64" });
      expect(() => kronMultiply(a, b, wide)).toThrow(DTypeError);
      expect(() => kronMultiply(wide, b, b)).toThrow(DTypeError);
    });
  });

  describe("kronSolve", () => {
    it("is the solve with the dense matrix: (A ⊗ B)⁻¹", async () => {
      await fc.assert(
        fc.asyncProperty(factors, factors, seeds, async (a, b, seed) => {
          const x = normalMatrix(a.n, b.n, seed);
          using left = tensorOf(a.a);
          using right = tensorOf(b.a);
          using t = tensorOf(x);
          using result = await kronSolve(left, right, t);
          const expected = denseSolve(kron(a.a, b.a), x);
          // Two backward stable solves of a system whose condition is the product of conditions, and which was rounded itself.
          const bound = 10 * a.n * b.n * epsilon64 * a.condition * b.condition;
          expect(norm(minus(matrixOf(result), expected))).toBeLessThanOrEqual(bound * norm(expected));
        }),
      );
    });

    it.each(["float32", "float64"] as const)("takes %s factors scaled by 1e±30, and is undone by kronMultiply", async (dtype) => {
      const [a, b] = [ofSpectrum([1, 0.5, 0.25], 4).a, ofSpectrum([1, 0.1], 5).a];
      const x = normalMatrix(3, 2, 6);
      using left = tensorOf(scaled(a, 1e-30), dtype);
      using right = tensorOf(scaled(b, 1e30), dtype);
      using t = tensorOf(x, dtype);
      using solved = await kronSolve(left, right, t);
      using back = kronMultiply(left, right, solved);
      // A condition of 40, and the rounding of the solution and of two products.
      expect(back.dataSync()).toBeAllclose(t.dataSync(), { relative: 40 * 10 * (dtype === "float32" ? epsilon32 : epsilon64) });
    });

    it("of float32 operands is the solution in float64, rounded", async () => {
      using a = tensorOf(ofSpectrum([1, 0.5, 0.25], 4).a, "float32");
      using b = tensorOf(ofSpectrum([1, 0.1], 5).a, "float32");
      using x = tensorOf(normalMatrix(3, 2, 6), "float32");
      using result = await kronSolve(a, b, x);
      const wide = [a, b, x].map((t) => t.cast("float64")) as [Tensor, Tensor, Tensor];
      using expected = await kronSolve(...wide);
      expect(result.dataSync()).toEqual(Float32Array.from(expected.dataSync()));
      for (const t of wide) t.dispose();
    });

    it("takes factors of no rows", async () => {
      using none = Tensor.zeros([0, 0]);
      using one = Tensor.from([[4]]);
      using x = Tensor.zeros([0, 1]);
      using result = await kronSolve(none, one, x);
      expect(result.shape).toEqual([0, 1]);
      using number = await kronSolve(one, one, one);
      expect(number.dataSync()).toEqual(Float32Array.of(0.25));
    });

    it("refuses factors that are not definite, by name, and operands that do not fit", async () => {
      using good = tensorOf(identity(2));
      using indefinite = tensorOf(diagonal([1, -1]));
      using lopsided = tensorOf(matrix(2, 2, [1, 2, 3, 4]));
      using broken = tensorOf(diagonal([1, NaN]));
      await expect(kronSolve(good, indefinite, good)).rejects.toThrow(
        "kronSolve (second factor): the matrix is not positive definite: pivot 1 of 2 is -1",
      );
      await expect(kronSolve(indefinite, good, good)).rejects.toThrow(NumericalError);
      await expect(kronSolve(lopsided, good, good)).rejects.toThrow("kronSolve (first factor): the matrix is not symmetric");
      await expect(kronSolve(good, good, broken)).rejects.toThrow("kronSolve: entry [1, 1] of the [2, 2] input is NaN");
      using tall = Tensor.ones([2, 3], { dtype: "float64" });
      await expect(kronSolve(good, good, tall)).rejects.toThrow("kronSolve: X must have shape [2, 2]");
      await expect(kronSolve(tall, good, good)).rejects.toThrow(ShapeError);
      using narrow = good.cast("float32");
      await expect(kronSolve(good, narrow, good)).rejects.toThrow(DTypeError);
      await expect(kronSolve(good, good, narrow)).rejects.toThrow(DTypeError);
      const elsewhere: Backend = Object.assign(Object.create(defaultBackend()) as Backend, { name: "elsewhere" });
      using stranger = Tensor.ones([2, 2], { dtype: "float64", backend: elsewhere });
      await expect(kronSolve(good, good, stranger)).rejects.toThrow(BackendError);
    });
  });

  describe("kronInverse", () => {
    const pairsOf = async (a: Matrix, dtype: FloatDType = "float64"): Promise<Eigenpairs> => {
      using t = tensorOf(a, dtype);
      return await eigh(t);
    };
    const release = (...all: Eigenpairs[]): void => {
      for (const { values, vectors } of all) for (const t of [values, vectors]) t.dispose();
    };

    it("is the solve with the dense matrix, for every damping of the product and of its factors", async () => {
      const dampings = fc.constantFrom<KronDamping>(
        {},
        { ofProduct: 0.1 },
        { ofProduct: 1e-3 },
        { ofA: 0.1, ofB: 1e-3 },
        { ofA: 1e-2, ofB: 0.1, ofProduct: 1e-2 },
        { ofProduct: 100 },
      );
      await fc.assert(
        fc.asyncProperty(factors, factors, dampings, seeds, async (a, b, damping, seed) => {
          const x = normalMatrix(a.n, b.n, seed);
          const [left, right] = [await pairsOf(a.a), await pairsOf(b.a)];
          const inverse = await kronInverse(left, right);
          using t = tensorOf(x);
          using result = inverse.apply(t, damping);
          const { ofA = 0, ofB = 0, ofProduct = 0 } = damping;
          const dense = plus(
            kron(plus(a.a, scaled(identity(a.n), ofA)), plus(b.a, scaled(identity(b.n), ofB))),
            scaled(identity(a.n * b.n), ofProduct),
          );
          const expected = denseSolve(dense, x);
          const condition = a.condition * b.condition;
          const bound = 30 * (a.n + b.n) * epsilon64 * condition;
          // The smallest eigenvalue of the dense matrix is at least that of the product.
          expect(norm(minus(matrixOf(result), expected))).toBeLessThanOrEqual(bound * Math.max(norm(expected), norm(x) / (1 + ofProduct)));
          expect(inverse.largest).toBeCloseTo(1, 12);
          expect(Math.abs(inverse.smallest * condition - 1)).toBeLessThanOrEqual(30 * (a.n + b.n) * epsilon64 * condition);
          release(left, right);
        }),
      );
    });

    it("takes singular factors, whose rounding below zero is zero, with a damping of the product", async () => {
      const [a, b] = [ofSpectrum([1, 0, 0], 3).a, ofSpectrum([2, 1, 0, 0], 4).a];
      const x = normalMatrix(3, 4, 5);
      for (const dtype of ["float64", "float32"] as const) {
        const [left, right] = [await pairsOf(a, dtype), await pairsOf(b, dtype)];
        const inverse = await kronInverse(left, right);
        using t = tensorOf(x, dtype);
        using result = inverse.apply(t, { ofProduct: 0.01 });
        const expected = denseSolve(plus(kron(a, b), scaled(identity(12), 0.01)), x);
        expect(result.dataSync()).toBeAllclose(expected.data, { relative: dtype === "float32" ? 1e-5 : 1e-12 });
        release(left, right);
      }
    });

    it("is linear, and symmetric: ⟨Y, P X⟩ = ⟨P Y, X⟩, and positive", async () => {
      await fc.assert(
        fc.asyncProperty(factors, factors, seeds, async (a, b, seed) => {
          const [left, right] = [await pairsOf(a.a), await pairsOf(b.a)];
          const inverse = await kronInverse(left, right);
          const apply = (x: Matrix): Matrix => {
            using t = tensorOf(x);
            using result = inverse.apply(t, { ofProduct: 0.01 });
            return matrixOf(result);
          };
          const [x, y] = [normalMatrix(a.n, b.n, seed), normalMatrix(a.n, b.n, seed + 1)];
          const inner = (v: Matrix, w: Matrix): number => v.data.reduce((sum, value, k) => sum + value * (w.data[k] as number), 0);
          // The norm of the inverse is 100 at most.
          const bound = 100 * 20 * (a.n + b.n) * epsilon64 * norm(x) * norm(y);
          expect(Math.abs(inner(y, apply(x)) - inner(apply(y), x))).toBeLessThanOrEqual(bound);
          expect(inner(x, apply(x))).toBeGreaterThan(0);
          expect(norm(minus(apply(plus(x, y)), plus(apply(x), apply(y))))).toBeLessThanOrEqual(
            100 * 20 * (a.n + b.n) * epsilon64 * (norm(x) + norm(y)),
          );
          release(left, right);
        }),
      );
    });

    it.each([
      [1e-30, 1e-30, 1e-30],
      [1e30, 1e30, 1e30],
      [1e-30, 1e30, 1],
      [1e-20, 1e-25, 1e-15],
    ])("scales with its factors in float32: %f, %f and X by %f", async (scaleA, scaleB, scaleX) => {
      const [a, b] = [ofSpectrum([1, 0.5, 1e-3], 3).a, ofSpectrum([2, 1, 1e-2], 4).a];
      const x = normalMatrix(3, 3, 5);
      const [left, right] = [await pairsOf(scaled(a, scaleA), "float32"), await pairsOf(scaled(b, scaleB), "float32")];
      const inverse = await kronInverse(left, right);
      using t = tensorOf(scaled(x, scaleX), "float32");
      for (const relative of [0, 0.01]) {
        using result = inverse.apply(t, { ofProduct: relative * inverse.largest });
        const expected = denseSolve(plus(kron(a, b), scaled(identity(9), 2 * relative)), x);
        const back = result.dataSync().map((value) => value * ((scaleA * scaleB) / scaleX));
        // Eigenvalues of 1e-5 of the largest are known to ε/1e-5.
        expect(Float64Array.from(back)).toBeAllclose(expected.data, { relative: relative === 0 ? 5e-2 : 1e-4 });
      }
      release(left, right);
    });

    it.each([0, 1e-25])("with a damping far above its factors, of %f, is a multiple of the identity", async (scale) => {
      const pairs = await pairsOf(scaled(ofSpectrum([1, 0.5], 3).a, scale), "float32");
      const inverse = await kronInverse(pairs, pairs);
      using x = tensorOf(normalMatrix(2, 2, 3), "float32");
      using result = inverse.apply(x, { ofProduct: 4 });
      expect(result.dataSync()).toBeAllclose(scaled(matrixOf(x), 1 / 4).data, { relative: 10 * epsilon32 });
      expect(inverse.largest).toBeCloseTo(scale ** 2, 52);
      release(pairs);
    });

    it("takes factors of no rows", async () => {
      const [none, one] = [await pairsOf(identity(0)), await pairsOf(identity(1))];
      const inverse = await kronInverse(none, one);
      using x = Tensor.zeros([0, 1], { dtype: "float64" });
      using result = inverse.apply(x);
      expect(result.shape).toEqual([0, 1]);
      expect([inverse.largest, inverse.smallest]).toEqual([0, Infinity]);
      release(none, one);
    });

    it("refuses what has no inverse, with the reason", async () => {
      const [regular, singular, narrow] = [
        await pairsOf(identity(2)),
        await pairsOf(diagonal([1, 0])),
        await pairsOf(identity(2), "float32"),
      ];
      using x = tensorOf(identity(2));
      const inverse = await kronInverse(regular, singular);
      expect(() => inverse.apply(x)).toThrow(
        new NumericalError(
          "kronInverse: the damped product is singular: the smallest eigenvalues of its factors are 1 and 0, their own damping included, " +
            "and the damping of the product is 0; give a positive damping",
        ),
      );
      const large = await pairsOf(diagonal([1e15, 0]), "float32");
      const beyond = await kronInverse(large, large);
      using single32 = Tensor.ones([2, 2]);
      expect(() => beyond.apply(single32, { ofProduct: 1e-20 })).toThrow("the damped product is singular in float32");
      using within = beyond.apply(single32, { ofProduct: 1e-5 });
      expect(within.dataSync().every(Number.isFinite)).toBe(true);
      release(large);
      expect(() => inverse.apply(x, { ofA: 1 })).toThrow(NumericalError);
      inverse.apply(x, { ofB: 1 }).dispose();
      for (const ofProduct of [-1, NaN, Infinity]) {
        expect(() => inverse.apply(x, { ofProduct })).toThrow(
          new UsageError(`kronInverse: the damping ofProduct must be finite and at least 0 but is ${ofProduct}`),
        );
      }
      using tall = tensorOf(build(3, 2, () => 1));
      expect(() => inverse.apply(tall)).toThrow("kronInverse: X must have shape [2, 2]");
      using single = Tensor.ones([2, 2]);
      expect(() => inverse.apply(single)).toThrow(DTypeError);
      await expect(kronInverse(regular, narrow)).rejects.toThrow(DTypeError);
      await expect(kronInverse({ values: x, vectors: regular.vectors }, regular)).rejects.toThrow(
        new ShapeError("kronInverse: values must have shape [2], one for each column of the vectors, but have [2, 2]"),
      );
      await expect(kronInverse({ values: regular.values, vectors: tall }, regular)).rejects.toThrow(ShapeError);
      using negative = Tensor.from([-0.5, 1], { dtype: "float64" });
      await expect(kronInverse({ values: negative, vectors: regular.vectors }, regular)).rejects.toThrow(
        "kronInverse: eigenvalue 0 is -0.5, but a positive semidefinite matrix has none below 0",
      );
      using broken = Tensor.from([NaN, 1], { dtype: "float64" });
      await expect(kronInverse({ values: broken, vectors: regular.vectors }, regular)).rejects.toThrow(NumericalError);
      release(regular, singular, narrow);
    });
  });
});

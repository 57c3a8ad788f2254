import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  cholesky,
  eigh,
  eighHost,
  eigvalsh,
  frobeniusNorm,
  inversePositiveDefinite,
  kron,
  solvePositiveDefinite,
  solveTriangular,
} from "../../src/linalg/index.ts";
import type { Backend } from "../../src/tensor/index.ts";
import { defaultBackend } from "../../src/tensor/index.ts";
import type { FloatDType } from "../../src/tensor/dtype.ts";
import { BackendError, DTypeError, NumericalError, ShapeError, UsageError } from "../../src/tensor/errors.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { definiteMatrices, normalMatrix, seeds, symmetricMatrices } from "../arbitraries/matrices.ts";
import { at, build, diagonal, epsilon32, epsilon64, identity, matrix, minus, norm, product, transpose, type Matrix } from "./dense.ts";

/* The functions on tensors: types, shapes, devices, memory, rounding to float32, and every error. The mathematics is next door. */

const dtypes = ["float32", "float64"] as const;
const epsilons: Record<FloatDType, number> = { float32: epsilon32, float64: epsilon64 };
const subnormalSpacings: Record<FloatDType, number> = { float32: 2 ** -149, float64: Number.MIN_VALUE };
const tensorOf = (a: Matrix, dtype: FloatDType = "float64"): Tensor => Tensor.from(a.data, { dtype, shape: [a.rows, a.columns] });
const matrixOf = async (t: Tensor): Promise<Matrix> => matrix(t.shape[0] ?? 1, t.shape[1] ?? 1, await t.data());
const from = (rows: number[][], dtype: FloatDType = "float32"): Tensor => Tensor.from(rows, { dtype });
/** The matrix that a tensor of `dtype` really holds. */
const rounded = (a: Matrix, dtype: FloatDType): Matrix => (dtype === "float64" ? a : matrix(a.rows, a.columns, Float32Array.from(a.data)));

describe.each(dtypes)("on %s tensors", (dtype) => {
  const epsilon = epsilons[dtype];

  it("eigh reconstructs the matrix to the precision of the type", async () => {
    await fc.assert(
      fc.asyncProperty(symmetricMatrices(), async ({ a, n }) => {
        using t = tensorOf(a, dtype);
        const { values, vectors } = await eigh(t);
        const v = await matrixOf(vectors);
        const rebuilt = product(v, diagonal(await values.data()), transpose(v));
        const held = rounded(a, dtype);
        // The float64 work of eigh.test.ts, then one rounding of V (twice in the product) and of Λ; ‖V‖_F = √n.
        const relative = (10 * n * epsilon64 + 3 * Math.sqrt(n) * epsilon) * norm(held);
        // Subnormal eigenvalues are rounded to an absolute spacing.
        const absolute = n * subnormalSpacings[dtype];
        expect(norm(minus(held, rebuilt))).toBeLessThanOrEqual(relative + absolute);
        values.dispose();
        vectors.dispose();
      }),
    );
  });

  it("eigh gives the largest eigenpairs alone, and eigvalsh the eigenvalues alone", async () => {
    await fc.assert(
      fc.asyncProperty(symmetricMatrices(), fc.nat(), async ({ a, n }, count) => {
        const k = count % (n + 1);
        const t = tensorOf(a, dtype);
        const [all, some, values] = [await eigh(t), await eigh(t, { largest: k }), await eigvalsh(t)];
        expect([some.values.shape, some.vectors.shape, values.shape]).toEqual([[k], [n, k], [n]]);
        expect(some.values.dataSync()).toEqual(all.values.dataSync().slice(n - k));
        const columns = matrix(n, n, all.vectors.dataSync());
        expect([...some.vectors.dataSync()]).toEqual([...build(n, k, (i, j) => at(columns, i, n - k + j)).data]);
        // Both are exact for a matrix within 3nε; float32 rounds once more.
        const error = (Math.max(3 * n, 15) * epsilon64 + (dtype === "float32" ? epsilon32 : 0)) * norm(a);
        values
          .dataSync()
          .forEach((value, i) => expect(Math.abs(value - (all.values.dataSync()[i] as number))).toBeLessThanOrEqual(2 * error));
        for (const tensor of [t, all.values, all.vectors, some.values, some.vectors, values]) tensor.dispose();
      }),
    );
    const t = tensorOf(identity(3), "float64");
    for (const largest of [-1, 4, 1.5, NaN]) {
      await expect(eigh(t, { largest })).rejects.toThrow(UsageError);
      await expect(eigh(t, { largest })).rejects.toThrow(
        `eigh: largest must be a whole number from 0 to 3, the order of the matrix, but is ${largest}`,
      );
    }
    t.dispose();
  });

  it("eigh keeps the sign convention after rounding", async () => {
    await fc.assert(
      fc.asyncProperty(symmetricMatrices(), async ({ a, n }) => {
        using t = tensorOf(a, dtype);
        const { values, vectors } = await eigh(t);
        const data = await vectors.data();
        for (let j = 0; j < n; j++) {
          const column = Array.from(data).filter((_, k) => k % n === j);
          const peak = Math.max(...column.map(Math.abs));
          expect(column.find((component) => Math.abs(component) === peak)).toBeGreaterThan(0);
        }
        values.dispose();
        vectors.dispose();
      }),
    );
  });

  it("solvePositiveDefinite agrees with the inverse, up to the condition", async () => {
    await fc.assert(
      fc.asyncProperty(definiteMatrices({ decades: 2 }), seeds, async ({ a, n, condition }, seed) => {
        const b = normalMatrix(n, 2, seed);
        using left = tensorOf(a, dtype);
        using right = tensorOf(b, dtype);
        using solution = await solvePositiveDefinite(left, right);
        using inverse = await inversePositiveDefinite(left);
        const expected = product(await matrixOf(inverse), rounded(b, dtype));
        const bound = 10 * n * n * epsilon64 * condition + 3 * n * epsilon;
        const size = norm(await matrixOf(inverse)) * norm(b);
        expect(norm(minus(await matrixOf(solution), expected))).toBeLessThanOrEqual(bound * size);
      }),
    );
  });

  it("inversePositiveDefinite is symmetric to the last bit", async () => {
    await fc.assert(
      fc.asyncProperty(definiteMatrices(), async ({ a }) => {
        using t = tensorOf(a, dtype);
        using inverse = await inversePositiveDefinite(t);
        const m = await matrixOf(inverse);
        expect(m).toEqual(transpose(m));
      }),
    );
  });

  it("results have the type and the device of the operand", async () => {
    const a = tensorOf(identity(3), dtype);
    const { values, vectors } = await eigh(a);
    const results = [values, vectors, await cholesky(a), await solveTriangular(a, a), await solvePositiveDefinite(a, a)];
    results.push(await inversePositiveDefinite(a), await kron(a, a));
    for (const result of results) {
      expect(result.dtype).toBe(dtype);
      expect(result.backend).toBe(a.backend);
    }
    expect(results.map((result) => result.shape)).toEqual([[3], [3, 3], [3, 3], [3, 3], [3, 3], [3, 3], [9, 9]]);
    for (const tensor of [a, ...results]) tensor.dispose();
  });

  it("a matrix of no rows gives results of no rows", async () => {
    using empty = Tensor.from(new Float64Array(0), { dtype, shape: [0, 0] });
    const { values, vectors } = await eigh(empty);
    expect(values.shape).toEqual([0]);
    expect(vectors.shape).toEqual([0, 0]);
    expect((await cholesky(empty)).shape).toEqual([0, 0]);
    expect((await inversePositiveDefinite(empty)).shape).toEqual([0, 0]);
    expect((await solvePositiveDefinite(empty, empty)).shape).toEqual([0, 0]);
    expect((await solveTriangular(empty, empty)).shape).toEqual([0, 0]);
    expect((await kron(empty, empty)).shape).toEqual([0, 0]);
    expect(await frobeniusNorm(empty)).toBe(0);
  });
});

describe("on tensors", () => {
  it("cholesky gives the factor known from the textbook", async () => {
    using a = from([
      [4, 12, -16],
      [12, 37, -43],
      [-16, -43, 98],
    ]);
    using l = await cholesky(a);
    expect(Array.from(await l.data())).toEqual([2, 0, 0, 6, 1, 0, -8, 5, 3]);
  });

  it("solveTriangular takes anything in the triangle that it does not read", async () => {
    for (const dtype of dtypes) {
      for (const lower of [true, false]) {
        for (const transpose of [true, false]) {
          const entry = (i: number, j: number, other: number): number => (i === j ? i + 2 : i > j === lower ? i - 2 * j : other);
          const rows = (other: number): number[][] => [0, 1, 2].map((i) => [0, 1, 2].map((j) => entry(i, j, other)));
          using b = Tensor.from([1, 2, 3], { dtype });
          using clean = from(rows(0), dtype);
          using expected = await solveTriangular(clean, b, { lower, transpose });
          for (const other of [NaN, Infinity, 7]) {
            using t = from(rows(other), dtype);
            using x = await solveTriangular(t, b, { lower, transpose });
            expect(await x.data()).toEqual(await expected.data());
          }
        }
      }
    }
  });

  it("solveTriangular takes a vector and gives a vector, in each of its four forms", async () => {
    const t = from([
      [2, 4],
      [6, 8],
    ]);
    const b = Tensor.from([4, 16]);
    const solve = async (options?: { lower?: boolean; transpose?: boolean }): Promise<number[]> => {
      using x = await solveTriangular(t, b, options);
      expect(x.shape).toEqual([2]);
      return Array.from(await x.data());
    };
    expect(await solve()).toEqual([2, 0.5]); // [2 0; 6 8]
    expect(await solve({ transpose: true })).toEqual([-4, 2]); // [2 6; 0 8]
    expect(await solve({ lower: false })).toEqual([-2, 2]); // [2 4; 0 8]
    expect(await solve({ lower: false, transpose: true })).toEqual([2, 1]); // [2 0; 4 8]
  });

  it("kron of rectangles lays out blocks", async () => {
    using product = await kron(from([[1, 2]]), from([[0], [3]]));
    expect(product.shape).toEqual([2, 2]);
    expect(Array.from(await product.data())).toEqual([0, 0, 3, 6]);
  });

  it("frobeniusNorm takes any rank and does not overflow float32", async () => {
    expect(await frobeniusNorm(Tensor.from([3e30, 4e30]))).toBeCloseTo(5e30, -24);
    expect(await frobeniusNorm(Tensor.from(-2))).toBe(2);
  });

  it("a slightly asymmetric matrix is taken as its symmetric part", async () => {
    const a = from([
      [1, 1e-6],
      [0, 1],
    ]);
    using l = await cholesky(a);
    expect(Array.from(await l.data())).toEqual([1, 0, Math.fround(Math.fround(1e-6) / 2), 1]);
  });

  it("the sign convention of eigh is that of the rounded components", async () => {
    // In float64 the second component of (-1 + 5e-10, 1) is the larger; in float32 the two are equal and the first counts.
    const a = from([
      [1e-9, 1],
      [1, 0],
    ]);
    const { vectors } = await eigh(a);
    const half = Math.fround(Math.SQRT1_2);
    expect(Array.from(await vectors.data())).toEqual([half, half, -half, half]);
  });

  it("the operand may be disposed while the result is awaited", async () => {
    const a = tensorOf(identity(2));
    const pending = inversePositiveDefinite(a);
    a.dispose();
    expect(Array.from(await (await pending).data())).toEqual([1, 0, 0, 1]);
  });

  it("only the results stay in memory", async () => {
    const before = defaultBackend().memory().buffers;
    const a = tensorOf(identity(4));
    const { values, vectors } = await eigh(a);
    const results = [
      values,
      vectors,
      await cholesky(a),
      await solvePositiveDefinite(a, a),
      await inversePositiveDefinite(a),
      await kron(a, a),
    ];
    for (const tensor of [a, ...results]) tensor.dispose();
    expect(defaultBackend().memory().buffers).toBe(before);
  });

  it("the float32 Gram matrix of a nearly degenerate spectrum converges, and is within rounding of the float64 one", async () => {
    const n = 145;
    const values = Array.from({ length: n }, (_, k) => 0.95 + 1e-7 * k);
    const a = diagonal(values);
    const result = await eigh(tensorOf(a, "float32"));
    const exact = eighHost(a.data, n).values;
    // Weyl: each entry is rounded by at most ε/2 of its size, and so is each eigenvalue of a diagonal matrix; once more for the result.
    (await result.values.data()).forEach((value, i) => expect(Math.abs(value - (exact[i] as number))).toBeLessThanOrEqual(epsilon32));
  });
});

describe("what linalg refuses", () => {
  const square = from([
    [2, 1],
    [1, 2],
  ]);
  const tall = from([[1], [2]]);
  const vector = Tensor.from([1, 2]);
  const integers = Tensor.from(Int32Array.of(1, 0, 0, 1), { shape: [2, 2] });
  const double = tensorOf(identity(2));
  const broken = from([
    [1, 0],
    [Infinity, 1],
  ]);
  const lopsided = from([
    [1, 2],
    [3, 4],
  ]);
  const symmetricOnly = { eigh, cholesky, inversePositiveDefinite, solvePositiveDefinite: (a: Tensor) => solvePositiveDefinite(a, vector) };
  const squareOnly = { ...symmetricOnly, solveTriangular: (a: Tensor) => solveTriangular(a, vector) };
  const everything = { ...squareOnly, kron: (a: Tensor) => kron(a, square), frobeniusNorm };

  async function refusal(promise: Promise<unknown>, kind: new (message: string) => Error, message: RegExp): Promise<void> {
    const error: unknown = await promise.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(kind);
    expect((error as Error).message).toMatch(message);
  }

  it.each(Object.entries(squareOnly))("%s: a matrix that is not square, a vector", async (name, f) => {
    await refusal(f(tall), ShapeError, new RegExp(`^${name}: needs a square matrix but the shape is \\[2, 1\\]`));
    await refusal(f(vector), ShapeError, new RegExp(`^${name}: needs a matrix \\(rank 2\\) but the shape is \\[2\\]`));
  });

  it.each(Object.entries(everything))("%s: integers", async (name, f) => {
    await refusal(f(integers), DTypeError, new RegExp(`^${name}: needs float32 or float64 but got int32`));
  });

  it.each(Object.entries(everything))("%s: an entry that is not finite", async (name, f) => {
    await refusal(f(broken), NumericalError, new RegExp(`^${name}: entry \\[1, 0\\] of the \\[2, 2\\] input is Infinity`));
  });

  it.each(Object.entries(symmetricOnly))("%s: a matrix that is not symmetric", async (name, f) => {
    await refusal(
      f(lopsided),
      NumericalError,
      new RegExp(
        `^${name}: the matrix is not symmetric: entries \\[1, 0\\] = 3 and \\[0, 1\\] = 2 differ by 1.00e\\+0, more than 0.0001 of`,
      ),
    );
  });

  it("float64 asymmetry that float32 would be forgiven", async () => {
    const rows = [
      [1, 1e-6],
      [0, 1],
    ];
    await expect(eigh(from(rows, "float32"))).resolves.toBeDefined();
    await refusal(eigh(from(rows, "float64")), NumericalError, /more than 1e-10 of the largest entry 1 \(float64\)/);
  });

  it.each(["cholesky", "inversePositiveDefinite", "solvePositiveDefinite"] as const)("%s: an indefinite matrix", async (name) => {
    const indefinite = from([
      [1, 2],
      [2, 1],
    ]);
    await refusal(
      symmetricOnly[name](indefinite),
      NumericalError,
      new RegExp(`^${name}: the matrix is not positive definite: pivot 1 of 2 is -3`),
    );
  });

  it("solveTriangular: an entry that is not finite in the triangle that it reads", async () => {
    await refusal(solveTriangular(broken, vector, { lower: true }), NumericalError, /^solveTriangular: entry \[1, 0\]/);
    await expect(solveTriangular(broken, vector, { lower: false })).resolves.toBeDefined();
  });

  it("a singular triangle", async () => {
    const singular = from([
      [0, 0],
      [1, 1],
    ]);
    await refusal(solveTriangular(singular, vector), NumericalError, /solveTriangular: the matrix is singular: entry \[0, 0\]/);
  });

  it.each([
    ["solveTriangular", solveTriangular],
    ["solvePositiveDefinite", solvePositiveDefinite],
  ] as const)("%s: a right-hand side of the wrong length or rank", async (name, solve) => {
    const expected = new RegExp(`^${name}: the right-hand side must have shape \\[2\\] or \\[2, columns\\]`);
    await refusal(solve(square, Tensor.from([1, 2, 3])), ShapeError, expected);
    await refusal(solve(square, Tensor.zeros([2, 1, 1])), ShapeError, expected);
  });

  it("kron: a vector", async () => {
    await refusal(kron(vector, square), ShapeError, /^kron: needs a matrix/);
    await refusal(kron(square, vector), ShapeError, /^kron: needs a matrix/);
  });

  it.each([
    ["solveTriangular", solveTriangular],
    ["solvePositiveDefinite", solvePositiveDefinite],
    ["kron", kron],
  ] as const)("%s: operands of two types, on two devices", async (name, f) => {
    await refusal(f(square, double), DTypeError, new RegExp(`^${name}: operands are float32 and float64`));
    const elsewhere: Backend = Object.assign(Object.create(defaultBackend()) as Backend, { name: "elsewhere" });
    const stranger = Tensor.from(
      [
        [1, 0],
        [0, 1],
      ],
      { backend: elsewhere },
    );
    await refusal(f(square, stranger), BackendError, new RegExp(`^${name}: operands live on "wasm" and "elsewhere"; create both`));
  });

  it("a result beyond the range of the type", async () => {
    const huge = from([[1e30]]);
    await refusal(
      kron(huge, huge),
      NumericalError,
      /^kron: entry \[0, 0\] of the \[1, 1\] result is .*e\+5?9?.*, beyond the range of float32/,
    );
    await refusal(inversePositiveDefinite(from([[1e-40]])), NumericalError, /beyond the range of float32; scale the input, or add damping/);
    await refusal(frobeniusNorm(Tensor.from(new Float64Array(8).fill(1e308))), NumericalError, /norm is beyond the range of float64/);
  });
});

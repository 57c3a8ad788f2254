import fc, { type Arbitrary } from "fast-check";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { inWorkspace } from "../../src/linalg/arithmetic.ts";
import { solve, solvePositiveDefinite } from "../../src/linalg/index.ts";
import { luIn, luSize, luSolveSize, solveLuIn } from "../../src/linalg/lu.ts";
import { openWasm } from "../../src/tensor/backends/wasm/index.ts";
import { defaultBackend, DTypeError, NumericalError, ShapeError, Tensor, type FloatDType } from "../../src/tensor/index.ts";
import { definiteMatrices, normalMatrix, orthogonal, seeds, smallMatrices } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { arithmetics, type Compute } from "./compute.ts";
import {
  at,
  build,
  diagonal,
  epsilon32,
  epsilon64,
  identity,
  magnitudes,
  matrix,
  minus,
  norm,
  plus,
  product,
  scaled,
  transpose,
  type Matrix,
} from "./dense.ts";

/** The unit roundoff. */
const u = epsilon64 / 2;
const gamma = (k: number): number => (k * u) / (1 - k * u);

interface Factors {
  readonly l: Matrix;
  readonly u: Matrix;
  readonly order: Uint32Array;
}

function luBy(compute: Compute, { rows: n, data }: Matrix): Factors {
  return compute(luSize(n), (space) => {
    const { factors, order } = luIn(space, data, n);
    const both = matrix(n, n, factors.data.subarray(factors.at, factors.at + n * n));
    const l = build(n, n, (i, j) => (i === j ? 1 : i > j ? at(both, i, j) : 0));
    return { l, u: build(n, n, (i, j) => (i > j ? 0 : at(both, i, j))), order };
  });
}
function solveBy(compute: Compute, a: Matrix, b: Matrix): Matrix {
  const x = compute(luSize(a.rows) + luSolveSize(a.rows, b.columns), (space) => {
    return solveLuIn(space, luIn(space, a.data, a.rows), b.data, b.columns);
  });
  return matrix(a.rows, b.columns, x);
}
const rowsOf = (a: Matrix, order: ArrayLike<number>): Matrix => build(a.rows, a.columns, (i, j) => at(a, order[i] as number, j));

/** Every entry is at most its bound. */
function expectWithin(actual: Matrix, bound: Matrix): void {
  const worst = actual.data.findIndex((value, k) => !(Math.abs(value) <= (bound.data[k] as number)));
  expect(worst, `entry ${worst} is ${actual.data[worst]}, its bound ${bound.data[worst]}`).toBe(-1);
}

/** None, few, and those around one and several panels. */
const orders: Arbitrary<number> = fc.oneof(fc.integer({ min: 0, max: 8 }), fc.constantFrom(15, 16, 17, 32, 33, 48, 49, 65));

const kinds = {
  normal: (n, seed) => normalMatrix(n, n, seed),
  "all pivots in other rows": (n, seed) => build(n, n, (i, j) => (i === (j + 1) % n ? 1 + (seed % 3) : 0)),
  "rows graded 1 … 1e-16": (n, seed) => {
    const a = normalMatrix(n, n, seed);
    return build(n, n, (i, j) => at(a, i, j) * 10 ** ((-16 * i) / n));
  },
  "columns graded 1e-16 … 1": (n, seed) => {
    const a = normalMatrix(n, n, seed);
    return build(n, n, (i, j) => at(a, i, j) * 10 ** ((16 * (j + 1 - n)) / n));
  },
  "nearly singular": (n, seed) => {
    const [p, q] = [orthogonal(n, seed), orthogonal(n, seed + 1)];
    return product(p, diagonal(Array.from({ length: n }, (_, k) => 10 ** ((-15 * k) / n))), q);
  },
  "symmetric indefinite": (n, seed) => {
    const a = normalMatrix(n, n, seed);
    return plus(a, transpose(a));
  },
  "Wilkinson's, whose entries double": (n) => build(n, n, (i, j) => (i === j || j === n - 1 ? 1 : i > j ? -1 : 0)),
} satisfies Record<string, (n: number, seed: number) => Matrix>;
const kindNames = Object.keys(kinds) as (keyof typeof kinds)[];
/** Matrices that are not exactly singular. */
const regular: Arbitrary<Matrix> = fc
  .record({ n: orders, kind: fc.constantFrom(...kindNames), seed: seeds.filter((seed) => seed > 0) })
  .map(({ n, kind, seed }) => kinds[kind](n, seed));

describe.each(arithmetics)("the LU factorization by %s", (_, compute) => {
  it("is P A = L U to γₙ |L||U|, entry by entry, with no multiplier above 1 (Higham, theorem 9.3)", () => {
    fc.assert(
      fc.property(regular, (a) => {
        const n = a.rows;
        const factors = luBy(compute, a);
        expect([...factors.order].sort((i, j) => i - j)).toEqual(Array.from({ length: n }, (_, i) => i));
        expect(factors.l.data.findIndex((value) => !(Math.abs(value) <= 1))).toBe(-1);
        const difference = minus(rowsOf(a, factors.order), product(factors.l, factors.u));
        // The product that it is compared with is off by as much again, and the difference by one rounding.
        expectWithin(difference, scaled(product(magnitudes(factors.l), magnitudes(factors.u)), 2 * gamma(n + 1)));
      }),
    );
  });

  it("takes the first of the largest entries that are left of a column for a pivot", () => {
    fc.assert(
      fc.property(smallMatrices(4, 4), (a) => {
        let factors: Factors;
        try {
          factors = luBy(compute, a);
        } catch {
          return; // singular
        }
        const column = Array.from({ length: 4 }, (_, i) => Math.abs(at(a, i, 0)));
        expect(factors.order[0]).toBe(column.indexOf(Math.max(...column)));
      }),
    );
  });

  it("lets the entries of Wilkinson's matrix double in every step", () => {
    const n = 50;
    const { u: upper, order } = luBy(compute, kinds["Wilkinson's, whose entries double"](n));
    expect([...order]).toEqual(Array.from({ length: n }, (_, i) => i));
    for (let i = 0; i < n; i++) expect(at(upper, i, n - 1)).toBe(2 ** i);
  });

  it("names the first column that depends on those before it", () => {
    const dependent = (n: number, k: number): Matrix => {
      const a = build(n, n, (i, j) => (i >= j ? 1 : 0));
      return build(n, n, (i, j) => (j === k ? (k === 0 ? 0 : at(a, i, 0) + at(a, i, k - 1)) : at(a, i, j)));
    };
    for (const [n, k] of [
      [1, 0],
      [3, 2],
      [20, 0],
      [20, 18],
      [65, 40],
    ] as const) {
      expect(() => luBy(compute, dependent(n, k))).toThrow(NumericalError);
      expect(() => luBy(compute, dependent(n, k))).toThrow(`solve: the matrix is singular: column ${k} of ${n} depends on those before it`);
    }
  });

  it("solves every system exactly for a matrix within γ₃ₙ |L||U| of A (Higham, theorem 9.4)", () => {
    fc.assert(
      fc.property(regular, fc.integer({ min: 0, max: 3 }), seeds, (a, columns, seed) => {
        const n = a.rows;
        const b = normalMatrix(n, columns, seed);
        const x = solveBy(compute, a, b);
        const { l, u: upper, order } = luBy(compute, a);
        const [ax, size] = [product(a, x), product(magnitudes(a), magnitudes(x))];
        const allowed = product(magnitudes(l), magnitudes(upper), magnitudes(x));
        // The residual itself is computed with γₙ |A||X| and two more roundings.
        const own = plus(scaled(size, gamma(n + 2)), scaled(magnitudes(b), 2 * u));
        expectWithin(rowsOf(minus(b, ax), order), plus(scaled(allowed, gamma(3 * n) * (1 + 1e-10)), rowsOf(own, order)));
      }),
    );
  });

  it("gives the same bits for a matrix and a right-hand side times powers of two", () => {
    fc.assert(
      fc.property(regular, seeds, fc.integer({ min: -400, max: 400 }), fc.integer({ min: -400, max: 400 }), (a, seed, j, k) => {
        const b = normalMatrix(a.rows, 2, seed);
        const expected = solveBy(compute, a, b);
        const power = (by: number): Matrix => scaled(scaled(expected, 2 ** Math.trunc(by / 2)), 2 ** (by - Math.trunc(by / 2)));
        expect(solveBy(compute, scaled(a, 2 ** j), scaled(b, 2 ** k))).toEqual(power(k - j));
      }),
    );
  });

  it("loses nothing of matrices near the largest and the smallest number", () => {
    const [a, b] = [normalMatrix(20, 20, 3), normalMatrix(20, 1, 4)];
    const largest = Math.max(...a.data.map(Math.abs));
    const unit = scaled(a, 2 ** -Math.ceil(Math.log2(largest)));
    const expected = solveBy(compute, unit, b);
    // 2¹⁰²⁴ times the largest entry is out of range, so without scaling an entry that grew would be infinite.
    expect(solveBy(compute, scaled(scaled(unit, 2 ** 512), 2 ** 512), b)).toEqual(scaled(scaled(expected, 2 ** -512), 2 ** -512));
    // These entries are subnormal, that is, rounded to some 20 bits; the solution is of the matrix that they are.
    const held = scaled(scaled(scaled(scaled(unit, 2 ** -527), 2 ** -527), 2 ** 527), 2 ** 527);
    const tiny = scaled(scaled(held, 2 ** -527), 2 ** -527);
    expect(solveBy(compute, tiny, scaled(b, 2 ** -527))).toEqual(scaled(solveBy(compute, held, b), 2 ** 527));
  });

  it("solves a graded diagonal exactly, from the largest to the smallest normal number", () => {
    const d = diagonal([2 ** 900, 1, 2 ** -900]);
    const b = matrix(3, 1, [2 ** 900, 3, 2 ** -900]);
    expect([...solveBy(compute, d, b).data]).toEqual([1, 3, 1]);
    // Nothing is lost in growing where small rows leave little room to scale down.
    const growing = matrix(3, 3, [1e308, 1e308, 0, -1e308, 1e308, 0, 0, 0, 1e-300]);
    expect([...solveBy(compute, growing, matrix(3, 1, [0.75e308, -0.25e308, 1e-300])).data]).toBeAllclose([0.5, 0.25, 1], {
      relative: 1e-15,
    });
    // Those that nothing can be scaled for: what is beside the largest would lose digits, or be 0.
    for (const [large, small] of [
      [1e300, 1e-300],
      [1e300, 1e-305],
      [Number.MAX_VALUE, 2 ** -1022],
    ] as const) {
      expect([...solveBy(compute, diagonal([large, 1, small]), matrix(3, 1, [large, 3, small])).data]).toEqual([1, 3, 1]);
    }
  });
});

it("the LU factorization of a matrix with other rows first is that of the matrix", () => {
  const [, compute] = arithmetics[0] as (typeof arithmetics)[number];
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), seeds, (n, seed) => {
      // Distinct magnitudes: no choice of a pivot depends on the order of the rows.
      const a = normalMatrix(n, n, seed + 1);
      const turned = build(n, n, (i, j) => at(a, (i + 1) % n, j));
      const [one, two] = [luBy(compute, a), luBy(compute, turned)];
      expect(two.u).toEqual(one.u);
      expect(two.l).toEqual(one.l);
      expect([...two.order].map((i) => (i + 1) % n)).toEqual([...one.order]);
    }),
  );
});

describe("solve by the engine", () => {
  const engines = [1, 2, 3].map((threads) => openWasm({ threads }));
  afterAll(() => {
    for (const engine of engines) engine.close?.();
  });

  it("gives the same bits on any number of threads, and a small residual at order 300", () => {
    const [a, b] = [normalMatrix(300, 300, 5), normalMatrix(300, 7, 6)];
    const solutions = engines.map((engine) => solveBy((size, f) => inWorkspace(engine, size, f), a, b));
    for (const other of solutions.slice(1)) expect(other).toEqual(solutions[0]);
    const x = solutions[0] as Matrix;
    // Theorem 9.5 with the growth that random matrices have, n^⅔, and errors that do not conspire.
    expect(norm(minus(b, product(a, x)))).toBeLessThanOrEqual(300 ** (2 / 3) * 300 * epsilon64 * norm(a) * norm(x));
  });
});

const tensorOf = (a: Matrix, dtype: FloatDType = "float64"): Tensor => Tensor.from(a.data, { dtype, shape: [a.rows, a.columns] });
const matrixOf = async (t: Tensor): Promise<Matrix> => matrix(t.shape[0] ?? 1, t.shape[1] ?? 1, await t.data());

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  describe("solve", () => {
    it("inverts multiplication, up to the condition, in both types", async () => {
      await fc.assert(
        fc.asyncProperty(definiteMatrices({ decades: 4 }), seeds, async ({ a: symmetric, n, condition }, seed) => {
          // A general matrix with the condition of the symmetric one.
          const a = product(orthogonal(n, seed + 1), symmetric);
          const x = normalMatrix(n, 2, seed + 2);
          for (const dtype of ["float64", "float32"] as const) {
            using t = tensorOf(a, dtype);
            const held = matrix(n, n, await t.data());
            using b = tensorOf(product(held, x), dtype);
            using solution = await solve(t, b);
            expect([solution.dtype, solution.shape]).toEqual([dtype, [n, 2]]);
            const rounding = dtype === "float64" ? epsilon64 : epsilon32;
            // float64's work with a growth of entries below 10, and operands and result rounded to their type.
            const bound = (10 * 3 * n * Math.sqrt(n) * epsilon64 + 2 * rounding) * condition;
            expect(norm(minus(await matrixOf(solution), x))).toBeLessThanOrEqual(bound * norm(x));
          }
        }),
      );
    });

    it("of float32 operands is the solution in float64, rounded", async () => {
      using a = tensorOf(normalMatrix(30, 30, 1), "float32");
      using b = tensorOf(normalMatrix(30, 3, 2), "float32");
      using x = await solve(a, b);
      using wideA = a.cast("float64");
      using wideB = b.cast("float64");
      using wide = await solve(wideA, wideB);
      expect(await x.data()).toEqual(Float32Array.from(await wide.data()));
    });

    it("agrees with Cholesky's solution for a positive definite matrix", async () => {
      await fc.assert(
        fc.asyncProperty(definiteMatrices({ decades: 6 }), seeds, async ({ a, n, condition }, seed) => {
          using t = tensorOf(a);
          using b = tensorOf(normalMatrix(n, 1, seed));
          using general = await solve(t, b);
          using special = await solvePositiveDefinite(t, b);
          // Symmetric definite matrices do not grow in elimination, so both are off by γ₃ₙ₊₁·n·κ at most.
          const bound = 2 * gamma(3 * n + 1) * n * condition;
          expect(norm(minus(await matrixOf(general), await matrixOf(special)))).toBeLessThanOrEqual(bound * norm(await matrixOf(special)));
        }),
      );
    });

    it("is right where elimination without exchanges fails", async () => {
      for (const [entries, expected] of [
        [
          [0, 1, 1, 0],
          [2, 1],
        ],
        [
          [1e-20, 1, 1, 1],
          [1, 1],
        ],
      ] as const) {
        using a = tensorOf(matrix(2, 2, entries));
        using b = Tensor.from([1, 2], { dtype: "float64" });
        using x = await solve(a, b);
        expect(x.shape).toEqual([2]);
        expect([...(await x.data())]).toEqual(expected);
      }
    });

    it.each(["float32", "float64"] as const)("takes %s matrices scaled by 1e±30", async (dtype) => {
      const [a, x] = [normalMatrix(12, 12, 8), normalMatrix(12, 1, 9)];
      for (const scale of [1e-30, 1e30]) {
        using t = tensorOf(scaled(a, scale), dtype);
        using b = tensorOf(scaled(product(a, x), scale), dtype);
        using solution = await solve(t, b);
        expect(await solution.data()).toBeAllclose(x.data, { relative: dtype === "float32" ? 1e-5 : 1e-13 });
      }
    });

    it("takes matrices of no rows, one row, and right-hand sides of no columns", async () => {
      const empty = (shape: number[]): Tensor => Tensor.zeros(shape, { dtype: "float64" });
      for (const [a, b] of [
        [empty([0, 0]), empty([0])],
        [empty([0, 0]), empty([0, 3])],
        [tensorOf(identity(3)), empty([3, 0])],
        [Tensor.from([[4]], { dtype: "float64" }), Tensor.from([2], { dtype: "float64" })],
      ] as const) {
        using x = await solve(a, b);
        expect(x.shape).toEqual(b.shape);
        expect([...(await x.data())]).toEqual(b.size === 1 ? [0.5] : []);
        for (const tensor of [a, b]) tensor.dispose();
      }
    });

    it("has read its operands when they are disposed", async () => {
      const [a, b] = [tensorOf(identity(2)), Tensor.from([1, 2], { dtype: "float64" })];
      const pending = solve(a, b);
      for (const tensor of [a, b]) tensor.dispose();
      using x = await pending;
      expect([...(await x.data())]).toEqual([1, 2]);
    });

    it("refuses what it cannot solve, with the reason", async () => {
      using square = tensorOf(identity(2));
      using tall = tensorOf(build(2, 1, () => 1));
      using b = Tensor.from([1, 2], { dtype: "float64" });
      await expect(solve(tall, b)).rejects.toThrow(new ShapeError("solve: needs a square matrix but the shape is [2, 1]"));
      await expect(solve(b, b)).rejects.toThrow(ShapeError);
      using long = Tensor.from([1, 2, 3], { dtype: "float64" });
      await expect(solve(square, long)).rejects.toThrow(
        new ShapeError("solve: the right-hand side must have shape [2] or [2, columns] for a [2, 2] matrix but has [3]"),
      );
      using narrow = b.cast("float32");
      await expect(solve(square, narrow)).rejects.toThrow(DTypeError);
      using integers = b.cast("int32");
      await expect(solve(square, integers)).rejects.toThrow(DTypeError);
      using broken = Tensor.from([1, NaN], { dtype: "float64" });
      await expect(solve(square, broken)).rejects.toThrow("solve: entry [1] of the [2] input is NaN; every entry must be finite");
      using ones = Tensor.ones([2, 2], { dtype: "float64" });
      await expect(solve(ones, b)).rejects.toThrow(
        "solve: the matrix is singular: column 1 of 2 depends on those before it: its pivot, the largest entry that is left of it, is 0; ",
      );
      using small = Tensor.from([[1e-30]]);
      using large = Tensor.from([1e30]);
      await expect(solve(small, large)).rejects.toThrow("solve: entry [0] of the [1] result is 1.0000000118763894e+60, beyond the range");
    });
  });
});

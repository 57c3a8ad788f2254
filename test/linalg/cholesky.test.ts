import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  choleskyHost,
  eighHost,
  inverseCholeskyHost,
  solveCholeskyHost,
  solveTriangularHost,
  type TriangularOptions,
} from "../../src/linalg/index.ts";
import { definiteMatrices, normalMatrix, ofSpectrum, seeds, sizes, symmetricMatrices } from "../arbitraries/matrices.ts";
import {
  at,
  build,
  epsilon64,
  identity,
  magnitudes,
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

const cholesky = ({ data, rows: n }: Matrix): Matrix => matrix(n, n, choleskyHost(data, n));
const inverse = (a: Matrix): Matrix => matrix(a.rows, a.rows, inverseCholeskyHost(cholesky(a).data, a.rows));

function solve(a: Matrix, b: Matrix): Matrix {
  const x = b.data.slice();
  solveCholeskyHost(cholesky(a).data, a.rows, x, b.columns);
  return matrix(b.rows, b.columns, x);
}

function solveTriangular(t: Matrix, b: Matrix, options: TriangularOptions): Matrix {
  const x = b.data.slice();
  solveTriangularHost(t.data, t.rows, x, b.columns, options);
  return matrix(b.rows, b.columns, x);
}

const columnCounts = fc.integer({ min: 0, max: 4 });
/** γₙ = n·ε (a bound on the relative error of n roundings; Higham, Accuracy and Stability of Numerical Algorithms, §3.1). */
const gamma = (n: number): number => n * epsilon64;

describe("cholesky of a positive definite matrix", () => {
  it("reconstructs it: A = L Lᵀ", () => {
    fc.assert(
      fc.property(definiteMatrices({ decades: 12 }), ({ a, n }) => {
        const l = cholesky(a);
        // Higham, theorem 10.3: |A − LLᵀ| ≤ γₙ₊₁ |L||Lᵀ|, whose norm is at most its trace, that of A. Twice: the product rounds too.
        expect(norm(minus(a, product(l, transpose(l))))).toBeLessThanOrEqual(2 * gamma(n + 1) * trace(a));
      }),
    );
  });

  it("is lower triangular with a positive diagonal", () => {
    fc.assert(
      fc.property(definiteMatrices(), ({ a, n }) => {
        const l = cholesky(a);
        expect(l).toEqual(build(n, n, (i, j) => (j > i ? 0 : at(l, i, j))));
        for (let i = 0; i < n; i++) expect(at(l, i, i)).toBeGreaterThan(0);
      }),
    );
  });

  it("is unique: the factor of L Lᵀ is L", () => {
    fc.assert(
      fc.property(definiteMatrices({ decades: 3 }), ({ a, n, condition }) => {
        const l = cholesky(a);
        // The factor's relative condition is of the order of that of A (Higham §10.3.1: κ/√2 to first order).
        const bound = 10 * gamma(n + 1) * n * condition * norm(l);
        expect(norm(minus(cholesky(product(l, transpose(l))), l))).toBeLessThanOrEqual(bound);
      }),
    );
  });

  it("reads only the lower triangle and leaves its input alone", () => {
    fc.assert(
      fc.property(definiteMatrices(), ({ a, n }) => {
        const lower = build(n, n, (i, j) => (j > i ? NaN : at(a, i, j)));
        const before = lower.data.slice();
        expect(cholesky(lower)).toEqual(cholesky(a));
        expect(lower.data).toEqual(before);
      }),
    );
  });

  it("refuses every matrix with an eigenvalue below zero", () => {
    fc.assert(
      fc.property(symmetricMatrices(), ({ a, n, spectrum }) => {
        // Clearly below: rounding can make a matrix within n·ε·‖A‖ of a definite one look definite.
        fc.pre((spectrum[0] as number) < -20 * gamma(n) * norm(a));
        expect(() => choleskyHost(a.data, n)).toThrow(/not positive definite/);
      }),
    );
  });

  it("names the pivot that fails and its value", () => {
    const a = Float64Array.of(4, 2, 0, 2, 1, 0, 0, 0, 1);
    expect(() => choleskyHost(a, 3)).toThrow(
      /cholesky: the matrix is not positive definite: pivot 1 of 3 is 0 \(diagonal entry 1\); add damping/,
    );
  });

  it("refuses NaN instead of passing it on", () => {
    expect(() => choleskyHost(Float64Array.of(NaN), 1)).toThrow(/pivot 0 of 1 is NaN/);
  });
});

describe("a triangular solve", () => {
  const forms = fc.record({ lower: fc.boolean(), transpose: fc.boolean() });

  it("has a small residual, whichever triangle and whether transposed", () => {
    fc.assert(
      fc.property(sizes, columnCounts, seeds, forms, (n, columns, seed, form) => {
        // The triangle that must not be read holds NaN.
        const full = plus(normalMatrix(n, n, seed), identity(n));
        const stored = build(n, n, (i, j) => ((form.lower ? j > i : j < i) ? NaN : at(full, i, j)));
        const t = build(n, n, (i, j) => ((form.lower ? j > i : j < i) ? 0 : at(stored, i, j)));
        const acting = form.transpose ? transpose(t) : t;
        fc.pre(t.data.every((value, k) => k % (n + 1) !== 0 || Math.abs(value) > 1e-3));
        const b = normalMatrix(n, columns, seed + 1);
        const x = solveTriangular(stored, b, form);
        // Higham, theorem 8.5, entry by entry: |B − T X| ≤ γₙ |T||X|. Twice: this residual rounds too.
        const bound = scaled(product(magnitudes(acting), magnitudes(x)), 2 * gamma(n + 1));
        const residual = magnitudes(minus(b, product(acting, x)));
        expect(residual.data.findIndex((value, k) => !(value <= (bound.data[k] as number)))).toBe(-1);
      }),
    );
  });

  it("names a zero on the diagonal", () => {
    const t = Float64Array.of(1, 0, 5, 0);
    expect(() => solveTriangularHost(t, 2, Float64Array.of(1, 1), 1)).toThrow(/solveTriangular: the matrix is singular: entry \[1, 1\]/);
  });
});

describe("a solve with a positive definite matrix", () => {
  it("has a small residual: A X = B", () => {
    fc.assert(
      fc.property(definiteMatrices({ decades: 12 }), columnCounts, seeds, ({ a, n }, columns, seed) => {
        const b = normalMatrix(n, columns, seed);
        const x = solve(a, b);
        // Higham, theorem 10.4: the residual is at most γ₃ₙ₊₁ |L||Lᵀ||X|, and ‖|L||Lᵀ|‖ ≤ n ‖A‖₂. It does not grow with the condition.
        expect(norm(minus(b, product(a, x)))).toBeLessThanOrEqual(gamma(3 * n + 1) * trace(a) * norm(x) + gamma(n) * norm(b));
      }),
    );
  });
});

describe("the inverse of a positive definite matrix", () => {
  it("is an inverse: A⁻¹A = I, up to the condition of A", () => {
    fc.assert(
      fc.property(definiteMatrices(), ({ a, n, condition }) => {
        const bound = 4 * gamma(n) * n * condition;
        expect(norm(minus(product(inverse(a), a), identity(n)))).toBeLessThanOrEqual(bound);
      }),
    );
  });

  it("is symmetric to the last bit", () => {
    fc.assert(
      fc.property(definiteMatrices({ decades: 12 }), ({ a }) => {
        expect(inverse(a)).toEqual(transpose(inverse(a)));
      }),
    );
  });

  it("has the reciprocal eigenvalues in the opposite order", () => {
    fc.assert(
      fc.property(definiteMatrices(), ({ a, n, spectrum, condition }) => {
        const { values } = eighHost(inverse(a).data, n);
        values.forEach((value, i) => {
          const reciprocal = 1 / (spectrum[n - 1 - i] as number);
          // By Weyl, relative to the largest: an error of n·ε·κ(A) in the inverse, and as much in A's construction.
          expect(Math.abs(value - reciprocal)).toBeLessThanOrEqual((8 * gamma(n) * n * condition) / (spectrum[0] as number));
        });
      }),
    );
  });

  it("of diag(1, 4, 16) is exact: no rounding where roots and reciprocals are powers of two", () => {
    const { a } = ofSpectrum([1, 4, 16], 0);
    expect(Array.from(inverse(a).data)).toEqual([1, 0, 0, 0, 1 / 4, 0, 0, 0, 1 / 16]);
  });
});

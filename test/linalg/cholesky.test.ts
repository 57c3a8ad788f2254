import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  choleskyIn,
  choleskySize,
  inverseCholeskyIn,
  inverseSize,
  solveCholeskyIn,
  solveSize,
  solveTriangularIn,
} from "../../src/linalg/cholesky.ts";
import {
  choleskyHost,
  eighHost,
  inverseCholeskyHost,
  solveCholeskyHost,
  solveTriangularHost,
  type TriangularOptions,
} from "../../src/linalg/index.ts";
import { definiteMatrices, normalMatrix, ofSpectrum, seeds, sizes, symmetricMatrices } from "../arbitraries/matrices.ts";
import { expectFactorized, spectralNorm } from "./bounds.ts";
import { arithmetics } from "./compute.ts";
import {
  at,
  build,
  diagonal,
  epsilon64,
  identity,
  magnitudes,
  matrix,
  minus,
  norm,
  plus,
  product,
  scaled,
  symmetricPart,
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

/** Sizes of up to ten leaves. */
const largeSizes = fc.integer({ min: 1, max: 150 });
/** A case takes some hundredths of a second, in the definitions by plain loops. */
const fewRuns = { numRuns: 15 };

/** Symmetric A = Q Λ Qᵀ with a Q of three reflections, for any function of the same eigenvectors: f gives f(0) … f(n − 1). */
function inBasis(n: number, seed: number): (f: (k: number) => number) => Matrix {
  let q = identity(n);
  for (let k = 0; k < 3; k++) {
    const u = normalMatrix(n, 1, seed + k);
    q = minus(q, scaled(product(q, u, transpose(u)), 2 / (product(transpose(u), u).data[0] as number)));
  }
  return (f) =>
    symmetricPart(
      product(
        build(n, n, (i, k) => at(q, i, k) * f(k)),
        transpose(q),
      ),
    );
}

/**
 * Spectra from 1 down to `smallest`, which may be 0 or a little below: about where rounding decides whether a matrix is definite.
 * Eigenvalues fall evenly in logarithm to 1e-18 at most, and the last one is `smallest`.
 */
const nearSingular = fc
  .record({
    n: largeSizes,
    smallest: fc.oneof(
      fc.integer({ min: 0, max: 20 }).map((decades) => 10 ** -decades),
      fc.constantFrom(0, -1e-17, -1e-15, -1e-13),
    ),
    seed: seeds,
    scale: fc.constantFrom(1, 1e-30, 1e30, 1e-306, 1e306),
  })
  .map(({ n, smallest, seed, scale }) => {
    const decades = Math.min(18, -Math.log10(Math.max(1e-18, smallest)));
    const spectrum = (k: number): number => (n > 1 && k === n - 1 ? smallest : 10 ** (n === 1 ? 0 : (-decades * k) / (n - 1)));
    return scaled(inBasis(n, seed)(spectrum), scale);
  });

/** Positive definite matrices of up to ten leaves with condition up to 10^decades, and their exact inverses up to rounding. */
const invertible = (most: number): fc.Arbitrary<{ a: Matrix; n: number; condition: number; exact: Matrix }> =>
  fc
    .record({ n: fc.integer({ min: 2, max: 150 }), decades: fc.integer({ min: 0, max: most }), seed: seeds })
    .map(({ n, decades, seed }) => {
      const of = inBasis(n, seed);
      const eigenvalue = (k: number): number => 10 ** ((-decades * k) / (n - 1));
      return { a: of(eigenvalue), n, condition: 10 ** decades, exact: of((k) => 1 / eigenvalue(k)) };
    });

describe.each(arithmetics)("by blocks, with %s", (_, compute) => {
  const factor = ({ data, rows: n }: Matrix): Matrix =>
    matrix(
      n,
      n,
      compute(choleskySize(n), (space) => choleskyIn(space, data, n)),
    );
  const invert = (a: Matrix): Matrix => {
    const l = factor(a).data;
    const data = compute(inverseSize(a.rows), (space) => inverseCholeskyIn(space, l, a.rows));
    return matrix(a.rows, a.rows, data);
  };

  it("cholesky succeeds within the bound where λmin > 10·n·ε·‖A‖, and elsewhere does or names the pivot that fails", () => {
    fc.assert(
      fc.property(nearSingular, (a) => {
        expectFactorized(compute, a);
      }),
      { numRuns: 60 },
    );
  });

  it("cholesky gives the factor that is known exactly: min(i, j) = L Lᵀ with an L of ones", () => {
    fc.assert(
      fc.property(largeSizes, (n) => {
        expect(factor(build(n, n, (i, j) => Math.min(i, j) + 1))).toEqual(build(n, n, (i, j) => (j > i ? 0 : 1)));
      }),
      fewRuns,
    );
  });

  it("cholesky names the first row whose pivot is not positive", () => {
    fc.assert(
      fc.property(largeSizes, seeds, fc.array(fc.nat(149), { minLength: 1, maxLength: 3 }), (n, seed, places) => {
        const negative = places.map((place) => place % n);
        // Diagonally dominant but for the sign of some entries of the diagonal: off it, the numbers of a row add up to less than 1.
        const noise = normalMatrix(n, n, seed);
        const a = build(n, n, (i, j) => (i === j ? (negative.includes(i) ? -2 : 2) : at(noise, Math.max(i, j), Math.min(i, j)) / (10 * n)));
        const first = Math.min(...negative);
        expect(() => factor(a)).toThrow(new RegExp(`pivot ${first} of ${n} is -2\\.?.* \\(diagonal entry -2\\)`));
      }),
    );
  });

  it("cholesky reads only the lower triangle, leaves its input alone, and gives the same bits again", () => {
    fc.assert(
      fc.property(invertible(6), ({ a, n }) => {
        const lower = build(n, n, (i, j) => (j > i ? NaN : at(a, i, j)));
        const before = lower.data.slice();
        const l = factor(lower);
        expect(l.data).toEqual(factor(a).data);
        expect(lower.data).toEqual(before);
        expect(l.data.every((value, k) => k % n <= Math.floor(k / n) || Object.is(value, 0))).toBe(true);
      }),
      fewRuns,
    );
  });

  it("cholesky refuses NaN and infinity wherever they are", () => {
    fc.assert(
      fc.property(largeSizes, seeds, fc.nat(), fc.constantFrom(NaN, Infinity, -Infinity), (n, seed, place, value) => {
        const i = place % n;
        const j = seed % (i + 1);
        const a = build(n, n, (r, c) => (r === i && c === j ? value : r === c ? 1 : 0));
        expect(() => factor(a)).toThrow(new RegExp(`pivot ${i} of ${n} is (NaN|-?Infinity)`));
      }),
    );
  });

  it("a triangular solve has a small residual, whichever triangle and whether transposed", () => {
    const forms = fc.record({ lower: fc.boolean(), transpose: fc.boolean() });
    fc.assert(
      fc.property(largeSizes, fc.integer({ min: 0, max: 40 }), seeds, forms, (n, columns, seed, form) => {
        // Ill-conditioned all the same: a triangle of independent numbers has a condition that grows exponentially.
        const draws = normalMatrix(n, n, seed);
        const unread = (i: number, j: number): boolean => (form.lower ? j > i : j < i);
        const stored = build(n, n, (i, j) =>
          unread(i, j) ? NaN : i === j ? Math.sign(at(draws, i, i)) * (0.5 + Math.abs(at(draws, i, i))) : at(draws, i, j),
        );
        const t = build(n, n, (i, j) => (unread(i, j) ? 0 : at(stored, i, j)));
        const acting = form.transpose ? transpose(t) : t;
        const b = normalMatrix(n, columns, seed + 1);
        const x = b.data.slice();
        compute(solveSize(n, columns), (space) => {
          solveTriangularIn(space, stored.data, n, x, columns, form);
        });
        const solution = matrix(n, columns, x);
        // Higham, theorem 8.5, entry by entry: |B − T X| ≤ γₙ |T||X|. Twice: this residual rounds too.
        const bound = scaled(product(magnitudes(acting), magnitudes(solution)), 2 * gamma(n + 1));
        const residual = magnitudes(minus(b, product(acting, solution)));
        expect(residual.data.findIndex((value, k) => !(value <= (bound.data[k] as number)))).toBe(-1);
      }),
      fewRuns,
    );
  });

  it("a solve with a definite matrix has a small residual, and an error of that times the condition", () => {
    fc.assert(
      fc.property(invertible(12), fc.integer({ min: 1, max: 20 }), seeds, ({ a, n, condition }, columns, seed) => {
        const truth = normalMatrix(n, columns, seed);
        const b = product(a, truth);
        const data = b.data.slice();
        const l = factor(a).data;
        compute(solveSize(n, columns), (space) => {
          solveCholeskyIn(space, l, n, data, columns);
        });
        const x = matrix(n, columns, data);
        // Higham, theorem 10.4: |B − A X| ≤ γ₃ₙ₊₁ |L||Lᵀ||X|, and ‖|L||Lᵀ|‖ ≤ tr A. The products of the test round by γₙ |A||X|.
        const residual = gamma(3 * n + 1) * trace(a) * norm(x) + gamma(n) * norm(a) * norm(x);
        expect(norm(minus(b, product(a, x)))).toBeLessThanOrEqual(residual);
        // ‖A⁻¹‖ = condition, since ‖A‖ = 1; B itself is off by γₙ |A||X|.
        expect(norm(minus(x, truth))).toBeLessThanOrEqual(condition * (residual + gamma(n) * norm(a) * norm(truth)));
      }),
      fewRuns,
    );
  });

  it("the inverse is symmetric to the last bit and as near to the exact one as the condition allows", () => {
    fc.assert(
      fc.property(invertible(10), ({ a, n, condition, exact }) => {
        const x = invert(a);
        expect(x.data).toEqual(transpose(x).data);
        // 4n·γₙ₊₁·κ·‖A⁻¹‖ (inverseCholeskyIn), with ‖A⁻¹‖ = κ as ‖A‖ = 1. Building A and its inverse rounds less than that once more.
        expect(spectralNorm(minus(x, exact))).toBeLessThanOrEqual(4 * n * gamma(n + 1) * condition * condition);
      }),
      fewRuns,
    );
  });

  it("the inverse of second differences is the table that is known", () => {
    fc.assert(
      fc.property(largeSizes, (n) => {
        const a = build(n, n, (i, j) => (i === j ? 2 : Math.abs(i - j) === 1 ? -1 : 0));
        const known = build(n, n, (i, j) => ((Math.min(i, j) + 1) * (n - Math.max(i, j))) / (n + 1));
        // The condition number is below ((n + 1)·2/π)²; the bound is that of inverseCholeskyIn.
        const condition = ((n + 1) * 2) ** 2 / Math.PI ** 2;
        expect(spectralNorm(minus(invert(a), known))).toBeLessThanOrEqual(4 * n * gamma(n + 1) * condition * spectralNorm(known));
      }),
      fewRuns,
    );
  });

  it("the inverse of a diagonal matrix of powers of 4 is exact", () => {
    const powers = Array.from({ length: 100 }, (_value, k) => 4 ** ((k * 37) % 100));
    expect(invert(diagonal(powers))).toEqual(diagonal(powers.map((power) => 1 / power)));
  });
});

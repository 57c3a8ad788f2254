import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { choleskyHost, eighHost } from "../../src/linalg/index.ts";
import { normalMatrix, ofSpectrum } from "../arbitraries/matrices.ts";
import { arithmetics, expectFactorized } from "./choleskyBound.ts";
import {
  at,
  build,
  diagonal,
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
  tridiagonal,
  type Matrix,
} from "./dense.ts";

/* Matrices with a name, known to break eigensolvers, each with what is known of its spectrum. */

const hilbert = (n: number): Matrix => build(n, n, (i, j) => 1 / (i + j + 1));
const hardGram = ((): { gram: Matrix; singularValues: readonly number[] } => {
  const golden = new URL("../golden/", import.meta.url);
  const bytes = readFileSync(new URL("hard_svd_145x145.f32", golden));
  const b = matrix(145, 145, new Float32Array(bytes.buffer, bytes.byteOffset, 145 * 145));
  const json: unknown = JSON.parse(readFileSync(new URL("hard_svd.json", golden), "utf8"));
  const { singular_values_float64: singularValues } = json as { singular_values_float64: number[] };
  return { gram: product(transpose(b), b), singularValues };
})();

const directSum = (a: Matrix, b: Matrix): Matrix =>
  build(a.rows + b.rows, a.rows + b.rows, (i, j) => {
    if (i < a.rows && j < a.rows) return at(a, i, j);
    return i >= a.rows && j >= a.rows ? at(b, i - a.rows, j - a.rows) : 0;
  });
const spread = ofSpectrum([-2, -1, 0, 1e-3, 1, 1, 3], 11).a;
const thin = scaled(normalMatrix(40, 3, 5), 0.1);
const hard: Record<string, { a: Matrix; spectrum?: readonly number[] }> = {
  "empty, 0 × 0": { a: build(0, 0, () => 0), spectrum: [] },
  "a single number": { a: matrix(1, 1, [-3]), spectrum: [-3] },
  zero: { a: build(7, 7, () => 0), spectrum: new Array<number>(7).fill(0) },
  "the identity": { a: identity(9), spectrum: new Array<number>(9).fill(1) },
  "diagonal, out of order": { a: diagonal([3, -1, 0, 3, 2]), spectrum: [-1, 0, 2, 3, 3] },
  "all entries equal": { a: build(12, 12, () => 1), spectrum: [...new Array<number>(11).fill(0), 12] },
  "the permutation that reverses": {
    a: build(10, 10, (i, j) => (i + j === 9 ? 1 : 0)),
    spectrum: [...new Array<number>(5).fill(-1), ...new Array<number>(5).fill(1)],
  },
  "second differences": {
    a: tridiagonal(
      30,
      () => 2,
      () => -1,
    ),
    spectrum: Array.from({ length: 30 }, (_, k) => 2 - 2 * Math.cos((Math.PI * (k + 1)) / 31)),
  },
  "Wilkinson W21+, pairs equal to 14 digits": {
    a: tridiagonal(
      21,
      (i) => Math.abs(i - 10),
      () => 1,
    ),
  },
  "Wilkinson W21+, glued five times by 1e-8": {
    a: tridiagonal(
      105,
      (i) => Math.abs((i % 21) - 10),
      (i) => (i % 21 === 20 ? 1e-8 : 1),
    ),
  },
  "Hilbert 12, condition 1e16": { a: hilbert(12) },
  "graded 1 … 1e-16, large corner first": { a: build(17, 17, (i, j) => 10 ** -Math.max(i, j)) },
  "graded 1e-16 … 1, large corner last": { a: build(17, 17, (i, j) => 10 ** Math.max(-16, Math.min(i, j) - 16)) },
  "0.95·I plus small rank": { a: plus(scaled(identity(40), 0.95), product(thin, transpose(thin))) },
  "a spectrum from 1e-150 to 1e150": { a: ofSpectrum([1e-150, 1e-75, 1, 1e75, 1e150], 3).a },
  "entries near the largest float64": {
    a: scaled(
      build(4, 4, (i, j) => 1 / (1 + Math.abs(i - j))),
      2 ** 1021,
    ),
  },
  "entries near the smallest float64": {
    a: scaled(
      build(4, 4, (i, j) => (i === j ? 4 : 1)),
      Number.MIN_VALUE,
    ),
    spectrum: [3, 3, 3, 7].map((v) => v * Number.MIN_VALUE),
  },
  "couplings whose squares underflow": {
    a: tridiagonal(
      12,
      (i) => (i % 3 === 0 ? 1 : 0),
      (i) => 1e-170 * (i + 1),
    ),
  },
  "a block whose squares are subnormal, beside a 1": { a: directSum(identity(1), scaled(spread, 1e-161)) },
  "a 1 beside a block of subnormal numbers": { a: directSum(scaled(spread, 1e-318), identity(1)) },
  "the Gram matrix on which LAPACK's float32 gesdd does not converge": {
    a: hardGram.gram,
    spectrum: hardGram.singularValues.map((s) => s * s).reverse(),
  },
};

describe.each(Object.entries(hard))("eigh of a hard matrix: %s", (_, { a, spectrum }) => {
  const n = a.rows;
  // As in eigh.test.ts. Norms of subnormal or very large matrices are taken after scaling, or they would round or overflow themselves.
  const unit = 1 / Math.max(Number.MIN_VALUE * 2 ** 60, ...a.data.map(Math.abs));
  const tolerance = 10 * n * epsilon64 * norm(scaled(a, unit));
  // The spacing of subnormal numbers is absolute.
  const spacing = n * Number.MIN_VALUE * unit;
  const { values, vectors } = eighHost(a.data, n);
  const v = matrix(n, n, vectors);

  it("reconstructs it", () => {
    const rebuilt = product(v, diagonal(values.map((value) => value * unit)), transpose(v));
    expect(norm(minus(scaled(a, unit), rebuilt))).toBeLessThanOrEqual(tolerance + spacing);
  });

  it("has orthonormal eigenvectors", () => {
    expect(norm(minus(product(transpose(v), v), identity(n)))).toBeLessThanOrEqual(10 * n * epsilon64 * Math.sqrt(n));
  });

  it("has ascending eigenvalues that add up to the trace", () => {
    expect(values).toEqual(values.slice().sort());
    const sum = values.reduce((total, value) => total + value * unit, 0);
    expect(Math.abs(sum - trace(scaled(a, unit)))).toBeLessThanOrEqual(Math.sqrt(n) * tolerance + n * spacing);
  });

  if (spectrum) {
    it("has the spectrum that is known", () => {
      expect(values).toHaveLength(spectrum.length);
      spectrum.forEach((expected, i) => {
        expect(Math.abs((values[i] as number) - expected) * unit).toBeLessThanOrEqual(tolerance + spacing);
      });
    });
  }
});

describe("eigh", () => {
  it("gives a diagonal matrix its own entries and coordinate vectors", () => {
    const { values, vectors } = eighHost(diagonal([5, -2, 1e-200]).data, 3);
    expect(Array.from(values)).toEqual([-2, 1e-200, 5]);
    expect(Array.from(vectors, (x) => x + 0)).toEqual([0, 0, 1, 1, 0, 0, 0, 1, 0]);
  });

  it.each([1e-20, 1e-40])("gives each block of a direct sum the spectrum that it has alone, at %d times the size of the other", (size) => {
    const small = scaled(spread, size);
    const alone = eighHost(small.data, 7).values;
    for (const sum of [directSum(identity(1), small), directSum(small, identity(1))]) {
      const { values } = eighHost(sum.data, 8);
      expect(values[7]).toBe(1);
      // Relative to the small block: rounding does not cross from one block to the other.
      alone.forEach((value, i) => expect(Math.abs((values[i] as number) - value)).toBeLessThanOrEqual(20 * 7 * epsilon64 * norm(small)));
    }
  });

  it("gives Wilkinson's W21+ its largest pair, published as 10.746194182903322 and 10.746194182903393", () => {
    const w = tridiagonal(
      21,
      (i) => Math.abs(i - 10),
      () => 1,
    );
    const { values } = eighHost(w.data, 21);
    // ε·‖W‖ is 2e-15; the published digits end at 1e-15.
    expect(values[19]).toBeCloseTo(10.746194182903322, 13);
    expect(values[20]).toBeCloseTo(10.746194182903393, 13);
  });
});

/** Positive definite matrices, or all but, of several leaves. */
const definite: Record<string, Matrix> = {
  "min(i, j), whose factor is all ones": build(150, 150, (i, j) => Math.min(i, j) + 1),
  "second differences": tridiagonal(
    150,
    () => 2,
    () => -1,
  ),
  "Hilbert 100, numerically of rank 20": hilbert(100),
  "Gaussian kernel of points that nearly coincide": build(120, 120, (i, j) => Math.exp(-(((i - j) / 40) ** 2))),
  "the same with damping": plus(
    build(120, 120, (i, j) => Math.exp(-(((i - j) / 40) ** 2))),
    scaled(identity(120), 1e-12),
  ),
  "Kahan's graded triangle, times its transpose": ((): Matrix => {
    const [sine, cosine] = [Math.sin(1.2), Math.cos(1.2)];
    const r = build(90, 90, (i, j) => (j < i ? 0 : j === i ? sine ** i : -cosine * sine ** i));
    return product(transpose(r), r);
  })(),
  "graded over 300 decades": build(61, 61, (i, j) => 10 ** (-2.5 * (i + j)) * (i === j ? 1 : 0.5)),
  "graded, small corner first": build(61, 61, (i, j) => 10 ** (-2.5 * (120 - i - j)) * (i === j ? 1 : 0.5)),
  "subnormal entries": scaled(
    build(50, 50, (i, j) => (i === j ? 100 : 1)),
    Number.MIN_VALUE,
  ),
  "rank 3 of 40": product(thin, transpose(thin)),
};

describe.each(arithmetics)("cholesky of a hard matrix, by %s", (_, compute) => {
  it.each([...Object.entries(definite), ...Object.entries(hard).map(([name, { a }]) => [name, a] as const)])(
    "stays within the bound or names a pivot: %s",
    (_name, a) => {
      expectFactorized(compute, a);
    },
  );
});

describe("cholesky of a hard matrix", () => {
  it("factorizes a matrix that is graded over 300 decades: scaling of rows and columns does not matter", () => {
    for (const name of ["graded over 300 decades", "graded, small corner first"]) {
      const a = definite[name] as Matrix;
      const l = matrix(a.rows, a.rows, choleskyHost(a.data, a.rows));
      const rebuilt = product(l, transpose(l));
      // Higham, theorem 10.3 and |L||Lᵀ| ≤ d dᵀ by Cauchy's inequality, where d are the roots of the diagonal; twice for the residual.
      const bound = build(a.rows, a.rows, (i, j) => 2 * (a.rows + 1) * epsilon64 * Math.sqrt(at(a, i, i)) * Math.sqrt(at(a, j, j)));
      expect(a.data.findIndex((x, k) => !(Math.abs(x - (rebuilt.data[k] as number)) <= (bound.data[k] as number)))).toBe(-1);
    }
  });

  it.each([2, 6, 12])("factorizes the Hilbert matrix of order %i", (n) => {
    const l = matrix(n, n, choleskyHost(hilbert(n).data, n));
    // |A − LLᵀ| ≤ γₙ₊₁ |L||Lᵀ| and the diagonal of |L||Lᵀ| is that of A (Higham, Accuracy and Stability, §10.1).
    expect(norm(minus(hilbert(n), product(l, transpose(l))))).toBeLessThanOrEqual((n + 1) * epsilon64 * trace(hilbert(n)));
  });

  it("factorizes the clustered Gram matrix", () => {
    const { gram } = hardGram;
    const l = matrix(145, 145, choleskyHost(gram.data, 145));
    expect(norm(minus(gram, product(l, transpose(l))))).toBeLessThanOrEqual(146 * epsilon64 * trace(gram));
  });
});

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { eighHost } from "../../src/linalg/index.ts";
import { expectEigh, expectFactorized, expectQr, expectSvd, expectValues } from "./bounds.ts";
import { arithmetics, choleskyBy, eigenvaluesBy, eighBy, qrBy, singularValuesBy, svdBy } from "./compute.ts";
import { at, build, diagonal, epsilon64, identity, largest, minus, norm, product, scaled, trace, transpose, type Matrix } from "./dense.ts";
import { definite, directSum, general, spread, symmetric } from "./hardList.ts";

/* Every factorization of every matrix with a name keeps its bound; values that are known are found. */

const golden = JSON.parse(readFileSync(new URL("../golden/linalg_hard.json", import.meta.url), "utf8")) as {
  readonly eigenvalues: Readonly<Record<string, readonly number[]>>;
  readonly singularValues: Readonly<Record<string, readonly number[]>>;
};

const allSymmetric = Object.entries({ ...symmetric, ...definite });
const all = Object.entries({ ...symmetric, ...definite, ...general });
const descendingMagnitudes = (values: readonly number[]): number[] => values.map(Math.abs).sort((a, b) => b - a);

describe.each(arithmetics)("by %s,", (_, compute) => {
  it.each(allSymmetric)("eigh: %s", (_name, { a, spectrum }) => {
    const pairs = eighBy(compute, a);
    expectEigh(a, pairs);
    const values = eigenvaluesBy(compute, a);
    expectValues(a, values, pairs.values, 2); // both round
    if (!spectrum) return;
    expectValues(a, pairs.values, spectrum);
    expectValues(a, values, spectrum);
  });

  it.each(all)("svd: %s", (_name, { a, spectrum, singularValues = spectrum && descendingMagnitudes(spectrum) }) => {
    const triplets = svdBy(compute, a);
    expectSvd(a, triplets);
    const values = singularValuesBy(compute, a);
    expectValues(a, values, triplets.values, 2); // both round
    if (!singularValues) return;
    expectValues(a, triplets.values, singularValues);
    expectValues(a, values, singularValues);
  });

  it.each(all)("qr: %s", (_name, { a }) => {
    expectQr(a, qrBy(compute, a));
    expectQr(a, qrBy(compute, a, { full: true }));
  });

  it.each(allSymmetric)("cholesky stays within the bound or names a pivot: %s", (_name, { a }) => {
    expectFactorized(compute, a);
  });

  it.each(Object.entries(golden.eigenvalues))("the eigenvalues of %s are LAPACK's", (name, expected) => {
    const a = named(symmetric, name);
    const inUnits = expected.map((value) => value * largest(a));
    expectValues(a, eighBy(compute, a).values, inUnits);
    expectValues(a, eigenvaluesBy(compute, a), inUnits);
    // And so are the singular values of a symmetric matrix.
    expectValues(a, singularValuesBy(compute, a), descendingMagnitudes(inUnits));
  });

  it.each(Object.entries(golden.singularValues))("the singular values of %s are LAPACK's", (name, expected) => {
    const a = named({ ...symmetric, ...general }, name);
    const inUnits = expected.map((value) => value * largest(a));
    expectValues(a, svdBy(compute, a).values, inUnits);
    expectValues(a, singularValuesBy(compute, a), inUnits);
  });
});

function named(list: Readonly<Record<string, { readonly a: Matrix }>>, name: string): Matrix {
  const entry = list[name];
  if (!entry) throw new Error(`linalg_hard.json has a matrix ${name}, of which hardList.ts does not know the formula`);
  return entry.a;
}

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
    const { values } = eighHost(named(symmetric, "wilkinson 21").data, 21);
    // ε·‖W‖ is 2e-15; the published digits end at 1e-15.
    expect(values[19]).toBeCloseTo(10.746194182903322, 13);
    expect(values[20]).toBeCloseTo(10.746194182903393, 13);
  });
});

describe("cholesky", () => {
  it.each(["graded over 300 decades", "graded over 300 decades, small corner first"])(
    "is exact relative to each entry, as scaling of rows and columns does not matter, of a matrix %s",
    (name) => {
      const a = named(definite, name);
      for (const [, compute] of arithmetics) {
        const l = choleskyBy(compute, a);
        const rebuilt = product(l, transpose(l));
        // Higham, theorem 10.3 and |L||Lᵀ| ≤ d dᵀ by Cauchy's inequality, where d are the roots of the diagonal; twice for the residual.
        const bound = build(a.rows, a.rows, (i, j) => 2 * (a.rows + 1) * epsilon64 * Math.sqrt(at(a, i, i)) * Math.sqrt(at(a, j, j)));
        expect(a.data.findIndex((x, k) => !(Math.abs(x - (rebuilt.data[k] as number)) <= (bound.data[k] as number)))).toBe(-1);
      }
    },
  );

  it.each([2, 6, 12])("succeeds for the Hilbert matrix of order %i, of condition 1e16 at most", (n) => {
    const hilbert = build(n, n, (i, j) => 1 / (i + j + 1));
    for (const [, compute] of arithmetics) {
      const l = choleskyBy(compute, hilbert);
      // |A − LLᵀ| ≤ γₙ₊₁ |L||Lᵀ| and the diagonal of |L||Lᵀ| is that of A (Higham, Accuracy and Stability, §10.1).
      expect(norm(minus(hilbert, product(l, transpose(l))))).toBeLessThanOrEqual((n + 1) * epsilon64 * trace(hilbert));
    }
  });
});

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { eighHost } from "../../src/linalg/index.ts";
import { implicitQl } from "../../src/linalg/ql.ts";
import { normalMatrix, orthogonal, seeds, semidefiniteMatrices, symmetricMatrices } from "../arbitraries/matrices.ts";
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
  symmetricPart,
  trace,
  transpose,
  type Matrix,
} from "./dense.ts";

/*
 * Rounding in eigh is that of about n reflections and 2n sweeps of rotations, each orthogonal to a few ε: a backward error of at
 * most 10·n·ε·‖A‖ (observed: below a third of that). By Weyl's theorem eigenvalues are then off by no more than that.
 */
const tolerance = (a: Matrix): number => 10 * a.rows * epsilon64 * norm(a);
const eigh = (a: Matrix): { values: Float64Array; vectors: Matrix } => {
  const { values, vectors } = eighHost(a.data, a.rows);
  return { values, vectors: matrix(a.rows, a.rows, vectors) };
};
const eigenvalue = (a: Matrix, i: number): number => eigh(a).values[i] as number;
const largestGap = (x: Float64Array, y: Float64Array): number => Math.max(0, ...x.map((value, i) => Math.abs(value - (y[i] as number))));

describe("eigh of a symmetric matrix", () => {
  it("reconstructs it: A = V Λ Vᵀ", () => {
    fc.assert(
      fc.property(symmetricMatrices(), ({ a }) => {
        const { values, vectors } = eigh(a);
        expect(norm(minus(a, product(vectors, diagonal(values), transpose(vectors))))).toBeLessThanOrEqual(tolerance(a));
      }),
    );
  });

  it("has orthonormal eigenvectors: VᵀV = I", () => {
    fc.assert(
      fc.property(symmetricMatrices(), ({ a, n }) => {
        const { vectors } = eigh(a);
        expect(norm(minus(product(transpose(vectors), vectors), identity(n)))).toBeLessThanOrEqual(10 * n * epsilon64 * Math.sqrt(n));
      }),
    );
  });

  it("finds the spectrum that the matrix was built from", () => {
    fc.assert(
      fc.property(symmetricMatrices(), ({ a, spectrum }) => {
        // Twice: building A from its spectrum rounds as much as taking it apart.
        expect(largestGap(eigh(a).values, spectrum)).toBeLessThanOrEqual(2 * tolerance(a));
      }),
    );
  });

  it("gives eigenvalues in ascending order", () => {
    fc.assert(
      fc.property(symmetricMatrices(), ({ a }) => {
        const { values } = eigh(a);
        expect(values).toEqual(values.slice().sort());
      }),
    );
  });

  it("makes the largest component of each eigenvector, the first among equals, positive", () => {
    fc.assert(
      fc.property(symmetricMatrices(), ({ a, n }) => {
        const { vectors } = eigh(a);
        for (let j = 0; j < n; j++) {
          const column = Array.from({ length: n }, (_, i) => at(vectors, i, j));
          const peak = Math.max(...column.map(Math.abs));
          expect(column.find((component) => Math.abs(component) === peak)).toBeGreaterThan(0);
        }
      }),
    );
  });

  it("gives a positive semidefinite matrix no eigenvalue below zero, up to rounding", () => {
    fc.assert(
      fc.property(semidefiniteMatrices(), ({ a }) => {
        expect(eigenvalue(a, 0)).toBeGreaterThanOrEqual(-2 * tolerance(a));
      }),
    );
  });

  it("moves no eigenvalue by more than the norm of a perturbation (Weyl)", () => {
    fc.assert(
      fc.property(symmetricMatrices(), seeds, fc.constantFrom(0, 1e-12, 1e-4, 1), ({ a, n }, seed, size) => {
        const e = scaled(symmetricPart(normalMatrix(n, n, seed)), size * norm(a));
        const perturbed = plus(a, e);
        // ‖E‖₂ ≤ ‖E‖_F; both decompositions round.
        expect(largestGap(eigh(perturbed).values, eigh(a).values)).toBeLessThanOrEqual(norm(e) + tolerance(a) + tolerance(perturbed));
      }),
    );
  });

  it("interlaces with the eigenvalues of a principal submatrix (Cauchy)", () => {
    fc.assert(
      fc.property(symmetricMatrices(), fc.nat(), ({ a, n }, index) => {
        fc.pre(n > 1);
        const removed = index % n;
        const without = build(n - 1, n - 1, (i, j) => at(a, i < removed ? i : i + 1, j < removed ? j : j + 1));
        const outer = eigh(a).values;
        eigh(without).values.forEach((inner, i) => {
          expect(inner).toBeGreaterThanOrEqual((outer[i] as number) - 2 * tolerance(a));
          expect(inner).toBeLessThanOrEqual((outer[i + 1] as number) + 2 * tolerance(a));
        });
      }),
    );
  });

  it("does not see a change of orthonormal basis: Q A Qᵀ has the spectrum of A", () => {
    fc.assert(
      fc.property(symmetricMatrices(), seeds, ({ a, n }, seed) => {
        const q = orthogonal(n, seed);
        const turned = symmetricPart(product(q, a, transpose(q)));
        // One tolerance for each decomposition, one for the turn.
        expect(largestGap(eigh(turned).values, eigh(a).values)).toBeLessThanOrEqual(3 * tolerance(a));
      }),
    );
  });

  it("has eigenvalues that add up to the trace", () => {
    fc.assert(
      fc.property(symmetricMatrices(), ({ a, n }) => {
        const sum = eigh(a).values.reduce((total, value) => total + value, 0);
        // A sum of n eigenvalues, each within the tolerance; √n by Cauchy–Schwarz, since the error matrix's norm is bounded.
        expect(Math.abs(sum - trace(a))).toBeLessThanOrEqual(Math.sqrt(n) * tolerance(a));
      }),
    );
  });

  it("has eigenvalues whose squares add up to the square of the Frobenius norm", () => {
    fc.assert(
      fc.property(symmetricMatrices(), ({ a, n }) => {
        expect(Math.abs(norm(matrix(1, n, eigh(a).values)) - norm(a))).toBeLessThanOrEqual(tolerance(a));
      }),
    );
  });

  it("commutes with a power of two, to the last bit", () => {
    fc.assert(
      fc.property(symmetricMatrices(), fc.integer({ min: -400, max: 400 }), ({ a }, k) => {
        const plain = eigh(a);
        const other = eigh(scaled(a, 2 ** k));
        expect(other.vectors).toEqual(plain.vectors);
        expect(other.values).toEqual(plain.values.map((value) => value * 2 ** k));
      }),
    );
  });

  it("reads only the lower triangle and leaves its input alone", () => {
    fc.assert(
      fc.property(symmetricMatrices(), ({ a, n }) => {
        const lower = build(n, n, (i, j) => (j > i ? 7 : at(a, i, j)));
        const before = lower.data.slice();
        expect(eigh(lower)).toEqual(eigh(a));
        expect(lower.data).toEqual(before);
      }),
    );
  });
});

describe("eigh, when it cannot", () => {
  it("names the position of an entry that is not finite", () => {
    expect(() => eighHost(Float64Array.of(1, 0, NaN, 1), 2)).toThrow(/eigh: entry \[1, 0\] of the \[2, 2\] input is NaN/);
  });

  it("stops at the cap on sweeps and names eigenvalue and residual", () => {
    const v = { data: new Float64Array(9), at: 0, rows: 3, columns: 3, stride: 3 };
    expect(() => implicitQl(Float64Array.of(2, 2, 2), Float64Array.of(1, 1, 0), v, "eigh", 0)).toThrow(
      /eigh: eigenvalue 0 of 3 did not converge in 0 QL sweeps; its residual is still/,
    );
  });
});

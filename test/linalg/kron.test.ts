import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { eighHost, inverseCholeskyHost, choleskyHost, kronHost } from "../../src/linalg/index.ts";
import { definiteMatrices, seeds, smallMatrices, normalMatrix } from "../arbitraries/matrices.ts";
import { epsilon64, identity, matrix, minus, norm, product, scaled, transpose, plus, type Matrix } from "./dense.ts";

const kron = (a: Matrix, b: Matrix): Matrix =>
  matrix(a.rows * b.rows, a.columns * b.columns, kronHost(a.data, [a.rows, a.columns], b.data, [b.rows, b.columns]));
/** Stacks the rows of a matrix into one column: the flattening of a row-major tensor. */
const vec = (a: Matrix): Matrix => matrix(a.rows * a.columns, 1, a.data);

const extents = fc.integer({ min: 1, max: 5 });
const anyMatrices = smallMatrices(extents, extents);
/** Pairs whose product exists. */
const chained = fc.tuple(extents, extents, extents).chain(([m, k, n]) => fc.tuple(smallMatrices(m, k), smallMatrices(k, n)));

describe("the Kronecker product", () => {
  it("has the mixed-product property: (A ⊗ B)(C ⊗ D) = AC ⊗ BD", () => {
    fc.assert(
      fc.property(chained, chained, ([a, c], [b, d]) => {
        // Entries are small multiples of 1/64: every product and sum is exact.
        expect(norm(minus(product(kron(a, b), kron(c, d)), kron(product(a, c), product(b, d))))).toBe(0);
      }),
    );
  });

  it("acts on a row-major matrix from both sides: (A ⊗ B) vec(X) = vec(A X Bᵀ)", () => {
    fc.assert(
      fc.property(anyMatrices, anyMatrices, seeds, (a, b, seed) => {
        const x = normalMatrix(a.columns, b.columns, seed);
        const difference = minus(product(kron(a, b), vec(x)), vec(product(a, x, transpose(b))));
        // Two sums of at most 25 terms.
        expect(norm(difference)).toBeLessThanOrEqual(50 * epsilon64 * norm(a) * norm(b) * norm(x));
      }),
    );
  });

  it("transposes factor by factor: (A ⊗ B)ᵀ = Aᵀ ⊗ Bᵀ", () => {
    fc.assert(
      fc.property(anyMatrices, anyMatrices, (a, b) => {
        expect(transpose(kron(a, b))).toEqual(kron(transpose(a), transpose(b)));
      }),
    );
  });

  it("is associative", () => {
    fc.assert(
      fc.property(anyMatrices, anyMatrices, smallMatrices(2, 2), (a, b, c) => {
        expect(norm(minus(kron(kron(a, b), c), kron(a, kron(b, c))))).toBe(0);
      }),
    );
  });

  it("is linear in each factor", () => {
    fc.assert(
      fc.property(smallMatrices(3, 2), smallMatrices(3, 2), anyMatrices, (a, b, c) => {
        expect(norm(minus(kron(plus(a, b), c), plus(kron(a, c), kron(b, c))))).toBe(0);
        expect(norm(minus(kron(c, plus(a, b)), plus(kron(c, a), kron(c, b))))).toBe(0);
      }),
    );
  });

  it("of identities is an identity", () => {
    expect(kron(identity(3), identity(4))).toEqual(identity(12));
  });

  it("multiplies Frobenius norms", () => {
    fc.assert(
      fc.property(anyMatrices, anyMatrices, (a, b) => {
        const expected = norm(a) * norm(b);
        expect(Math.abs(norm(kron(a, b)) - expected)).toBeLessThanOrEqual(10 * epsilon64 * expected);
      }),
    );
  });

  it("of positive definite matrices has the inverse A⁻¹ ⊗ B⁻¹", () => {
    const small = definiteMatrices({ decades: 2, maxSize: 5 });
    const inverse = ({ data, rows: n }: Matrix): Matrix => matrix(n, n, inverseCholeskyHost(choleskyHost(data, n), n));
    fc.assert(
      fc.property(small, small, (left, right) => {
        // Scales cancel; condition numbers multiply, to 1e4 at most.
        const a = scaled(left.a, 1 / norm(left.a));
        const b = scaled(right.a, 1 / norm(right.a));
        const expected = kron(inverse(a), inverse(b));
        const n = left.n * right.n;
        const bound = 10 * n * epsilon64 * left.condition * right.condition * n * norm(expected);
        expect(norm(minus(inverse(kron(a, b)), expected))).toBeLessThanOrEqual(bound);
      }),
    );
  });

  it("of positive definite matrices has all products of their eigenvalues", () => {
    const small = definiteMatrices({ decades: 4, maxSize: 5 });
    fc.assert(
      fc.property(small, small, ({ a, spectrum: left }, { a: b, spectrum: right }) => {
        const n = a.rows * b.rows;
        const expected = Float64Array.from(Array.from(left).flatMap((p) => Array.from(right, (q) => p * q))).sort();
        eighHost(kron(a, b).data, n).values.forEach((value, i) => {
          expect(Math.abs(value - (expected[i] as number))).toBeLessThanOrEqual(20 * n * epsilon64 * norm(a) * norm(b));
        });
      }),
    );
  });
});

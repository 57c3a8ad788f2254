import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eighHost, singularValues, svd, svdHost } from "../../src/linalg/index.ts";
import { implicitQl } from "../../src/linalg/ql.ts";
import { bidiagonalSvd, bidiagonalSvdSize } from "../../src/linalg/bidiagonalSvd.ts";
import { defaultBackend, DTypeError, NumericalError, ShapeError, Tensor } from "../../src/tensor/index.ts";
import { normalMatrix, ofSpectrum, orthogonal, rectangularMatrices, seeds } from "../arbitraries/matrices.ts";
import { eachBackend } from "../backends.ts";
import { constantOf, expectSvd, expectValues, normAtMost } from "./bounds.ts";
import { arithmetics, onEngine, singularValuesBy, svdBy, tensorOf } from "./compute.ts";
import { at, build, epsilon64, matrix, minus, norm, plus, product, scaled, transpose, type Matrix } from "./dense.ts";

const largestOf = (values: ArrayLike<number>): number => values[0] ?? 0;

describe.each(arithmetics)("svd by %s", (_, compute) => {
  it("reconstructs, with orthonormal vectors, and finds the singular values that the matrix was built from", () => {
    fc.assert(
      fc.property(rectangularMatrices(), ({ a, singularValues: expected }) => {
        const triplets = svdBy(compute, a);
        expectSvd(a, triplets);
        // The matrix itself was rounded when it was built: twice the bound.
        expectValues(a, triplets.values, expected, 2);
        expectValues(a, singularValuesBy(compute, a), triplets.values, 2);
      }),
    );
  });

  it("has the singular values of the transpose", () => {
    fc.assert(
      fc.property(rectangularMatrices(), ({ a }) => {
        expectValues(a, svdBy(compute, transpose(a)).values, svdBy(compute, a).values, 2);
      }),
    );
  });

  it("moves no singular value by more than the norm of a perturbation (Weyl)", () => {
    fc.assert(
      fc.property(rectangularMatrices(), seeds, fc.constantFrom(1e-8, 1e-2, 1), ({ a }, seed, size) => {
        const [first, unit] = [svdBy(compute, a).values, largestOf(svdBy(compute, a).values)];
        const e = scaled(normalMatrix(a.rows, a.columns, seed), size * unit);
        const second = svdBy(compute, plus(a, e)).values;
        const limit = normAtMost(e) + 2 * constantOf(a) * epsilon64 * (unit + normAtMost(e));
        second.forEach((value, i) => expect(Math.abs(value - (first[i] as number))).toBeLessThanOrEqual(limit));
      }),
      { numRuns: 40 },
    );
  });

  it("interlaces with a matrix that lacks a column: σ_{i+1}(A) ≤ σ_i(B) ≤ σ_i(A)", () => {
    fc.assert(
      fc.property(rectangularMatrices(), ({ a }) => {
        if (a.columns === 0) return;
        const b = build(a.rows, a.columns - 1, (i, j) => at(a, i, j));
        const [whole, part] = [svdBy(compute, a).values, svdBy(compute, b).values];
        const slack = 2 * constantOf(a) * epsilon64 * largestOf(whole);
        part.forEach((value, i) => {
          expect(value).toBeLessThanOrEqual((whole[i] as number) + slack);
          expect(value).toBeGreaterThanOrEqual((whole[i + 1] ?? 0) - slack);
        });
      }),
    );
  });

  it("does not see a change of orthonormal bases: P A Q has the singular values of A", () => {
    fc.assert(
      fc.property(rectangularMatrices(), seeds, ({ a }, seed) => {
        const turned = product(orthogonal(a.rows, seed), a, orthogonal(a.columns, seed));
        // Turning rounds by less than the bound from either side.
        expectValues(a, svdBy(compute, turned).values, svdBy(compute, a).values, 4);
      }),
      { numRuns: 40 },
    );
  });

  it("truncated to rank r is off by σ_{r+1}, and no matrix of rank r is nearer (Eckart–Young)", () => {
    fc.assert(
      fc.property(rectangularMatrices(), fc.nat({ max: 20 }), seeds, ({ a }, rank, seed) => {
        const { u, values, v } = svdBy(compute, a);
        const r = Math.min(rank, values.length);
        const slack = 4 * constantOf(a) * epsilon64 * largestOf(values);
        const next = values[r] ?? 0;
        const best = build(a.rows, a.columns, (i, j) => {
          let sum = 0;
          for (let k = 0; k < r; k++) sum += at(u, i, k) * (values[k] as number) * at(v, j, k);
          return sum;
        });
        const leastOf = (b: Matrix): number => largestOf(svdBy(compute, minus(a, b)).values);
        expect(Math.abs(leastOf(best) - next)).toBeLessThanOrEqual(slack);
        const near = product(
          build(a.rows, r, (i, k) => at(u, i, k) * (values[k] as number)),
          plus(transpose(build(a.columns, r, (j, k) => at(v, j, k))), scaled(normalMatrix(r, a.columns, seed), 1e-3)),
        );
        expect(leastOf(near)).toBeGreaterThanOrEqual(next - slack);
      }),
      { numRuns: 40 },
    );
  });

  it("has squares that are the eigenvalues of AᵀA, as far as those tell small ones from rounding", () => {
    fc.assert(
      fc.property(rectangularMatrices(), ({ a }) => {
        const { values } = svdBy(compute, a);
        const unit = largestOf(values) || 1;
        const { values: squares } = eighHost(product(transpose(scaled(a, 1 / unit)), scaled(a, 1 / unit)).data, a.columns);
        const descending = squares.toReversed();
        values.forEach((value, i) => {
          expect(Math.abs((value / unit) ** 2 - (descending[i] as number))).toBeLessThanOrEqual(4 * constantOf(a) * epsilon64);
        });
      }),
    );
  });

  it("of a positive semidefinite matrix is its eigendecomposition", () => {
    const { a, n } = ofSpectrum([4, 3, 2, 1, 0.5], 7);
    const { u, values, v } = svdBy(compute, a);
    const pairs = eighHost(a.data, n);
    expect(values.toReversed()).toBeAllclose([...pairs.values], { relative: 1e-14 });
    // The same sign convention: column j of V is the eigenvector n − 1 − j.
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        const eigenvector = pairs.vectors[i * n + n - 1 - j] as number;
        expect(Math.abs(at(v, i, j) - eigenvector)).toBeLessThanOrEqual(1e-13);
        expect(Math.abs(at(u, i, j) - eigenvector)).toBeLessThanOrEqual(1e-13);
      }
    }
  });
});

/** An upper bidiagonal matrix [n, n + 1]. */
interface Elements {
  readonly d: readonly number[];
  readonly e: readonly number[];
}

describe("the singular value decomposition of a bidiagonal matrix", () => {
  const element = fc.oneof(
    fc.constantFrom(0, 1, -1, 1e-8, -1e-8, 1e-16, 1e-30, 2 ** -300, 5e-324),
    fc.double({ min: -1, max: 1, noNaN: true }),
  );
  const elements: fc.Arbitrary<Elements> = fc
    .array(fc.tuple(element, element), { minLength: 1, maxLength: 40 })
    .map((pairs) => ({ d: pairs.map(([d]) => d), e: pairs.map(([, e]) => e) }));
  const named: Record<string, Elements> = {
    zeros: { d: [0, 0, 0, 0], e: [0, 0, 0, 0] },
    ones: { d: [1, 1, 1, 1, 1], e: [1, 1, 1, 1, 1] },
    "zeros on the diagonal alone": { d: [0, 0, 0, 0, 0], e: [1, 2, 3, 4, 5] },
    "zeros beside the diagonal": { d: [1, 1, 2, 2, -1], e: [0, 0, 0, 0, 0] },
    "zeros at both ends": { d: [0, 1, 1, 1, 0], e: [1, 1, 1, 1, 0] },
    "negative elements": { d: [-1, -2, -3], e: [-1, -1, 0] },
    "a subnormal coupling": { d: [1, 1, 1], e: [5e-324, 5e-324, 0] },
  };

  const check = ({ d, e }: Elements): void => {
    const n = d.length;
    const b = build(n, n + 1, (i, j) => (i === j ? (d[i] as number) : j === i + 1 ? (e[i] as number) : 0));
    const found = onEngine(bidiagonalSvdSize(n) + n * n + (n + 1) ** 2, (space) => {
      const [u, v] = [space.matrix(n, n), space.matrix(n + 1, n + 1)];
      const own = { diagonal: Float64Array.from(d), offDiagonal: Float64Array.from(e) };
      bidiagonalSvd(space, own, u, v);
      const rows = ({ data, at: from, rows: m, columns }: typeof u): Matrix => matrix(m, columns, data.slice(from, from + m * columns));
      return { values: own.diagonal, u: rows(u), v: rows(v) };
    });
    const limit = constantOf(b) * epsilon64;
    const unit = Math.max(...b.data.map(Math.abs), 1e-300);
    const size = Math.max(norm(b), 1e-300);
    const rebuilt = build(n, n + 1, (i, j) => {
      let sum = 0;
      for (let k = 0; k < n; k++) sum += at(found.u, k, i) * (found.values[k] as number) * at(found.v, k, j);
      return sum;
    });
    // In a matrix whose largest entry is of order 1; here it may be less, down to nothing.
    expect(norm(minus(b, rebuilt))).toBeLessThanOrEqual(limit * size + (unit < 1 ? 2 ** -190 : 0));
    for (const q of [found.u, found.v]) {
      const gram = product(q, transpose(q));
      expect(
        norm(
          minus(
            gram,
            build(q.rows, q.rows, (i, j) => (i === j ? 1 : 0)),
          ),
        ),
      ).toBeLessThanOrEqual(2 * limit);
    }
    expect([...found.values]).toEqual([...found.values].sort((x, y) => x - y));
    expect(found.values.every((value) => value >= 0)).toBe(true);
  };

  it.each(Object.entries(named))("has a small residual and orthonormal vectors: %s", (_, own) => {
    check(own);
  });

  it("has a small residual and orthonormal vectors, whatever coincides or vanishes", () => {
    fc.assert(fc.property(elements, check), { numRuns: 300 });
  });

  it("without a last coupling leaves the last coordinate vector alone, to the last bit", () => {
    const n = 9;
    onEngine(bidiagonalSvdSize(n) + n * n + (n + 1) ** 2, (space) => {
      const [u, v] = [space.matrix(n, n), space.matrix(n + 1, n + 1)];
      const own = {
        diagonal: Float64Array.from({ length: n }, (_, i) => i % 4),
        offDiagonal: Float64Array.from({ length: n }, (_, i) => (i < n - 1 ? 1 : 0)),
      };
      bidiagonalSvd(space, own, u, v);
      for (let j = 0; j < n; j++) expect(Math.abs(v.data[v.at + j * v.stride + n] as number)).toBe(0);
      expect(Math.abs(v.data[v.at + n * (v.stride + 1)] as number)).toBe(1);
    });
  });
});

eachBackend(() => {
  let buffers: number;
  beforeEach(() => (buffers = defaultBackend().memory().buffers));
  afterEach(() => expect(defaultBackend().memory().buffers).toBe(buffers));

  describe("svd of a tensor", () => {
    it.each(["float32", "float64"] as const)("gives %s results in the shapes that it promises", async (dtype) => {
      for (const [m, n] of [
        [3, 5],
        [5, 3],
        [1, 1],
        [0, 4],
        [4, 0],
      ] as const) {
        using a = tensorOf(normalMatrix(m, n, 3), dtype);
        const { u, values, v } = await svd(a);
        const k = Math.min(m, n);
        expect([u.shape, values.shape, v.shape]).toEqual([[m, k], [k], [n, k]]);
        expect([u.dtype, values.dtype, v.dtype]).toEqual([dtype, dtype, dtype]);
        using alone = await singularValues(a);
        expect(alone.dataSync()).toBeAllclose([...values.dataSync()], { relative: dtype === "float32" ? 1e-6 : 1e-13 });
        for (const tensor of [u, values, v]) tensor.dispose();
      }
    });

    it("refuses what is no matrix of finite numbers, naming it", async () => {
      using vector = Tensor.ones([3]);
      await expect(svd(vector)).rejects.toThrow(ShapeError);
      await expect(singularValues(vector)).rejects.toThrow("singularValues: needs a matrix (rank 2) but the shape is [3]");
      using integers = Tensor.from(Int32Array.of(1, 2), { shape: [1, 2] });
      await expect(svd(integers)).rejects.toThrow(DTypeError);
      using broken = Tensor.from([
        [1, 2],
        [NaN, 4],
      ]);
      await expect(svd(broken)).rejects.toThrow("svd: entry [1, 0] of the [2, 2] input is NaN");
      await expect(singularValues(broken)).rejects.toThrow(NumericalError);
      using huge = Tensor.full([4, 4], 3e38);
      await expect(svd(huge)).rejects.toThrow("beyond the range of float32");
    });
  });
});

describe("the iteration for singular values alone", () => {
  it("stops at the cap on sweeps, and names what it was for", () => {
    const v = { data: new Float64Array(0), at: 0, rows: 4, columns: 0, stride: 0 };
    expect(() => implicitQl(new Float64Array(4), Float64Array.of(1, 2, 3, 0), v, "singularValues", 0)).toThrow(
      "singularValues: eigenvalue 0 of 4",
    );
  });
  it("leaves its input alone", () => {
    const a = normalMatrix(7, 5, 2);
    const before = a.data.slice();
    svdHost(a.data, 7, 5);
    expect(a.data).toEqual(before);
  });
});

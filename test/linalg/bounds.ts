import { expect } from "vitest";
import { eighHost } from "../../src/linalg/index.ts";
import { NumericalError } from "../../src/tensor/index.ts";
import {
  attempt,
  choleskyBy,
  eigenvaluesBy,
  onEngine,
  type Compute,
  type Eigenpairs,
  type Outcome,
  type SingularTriplets,
  type Triangularized,
} from "./compute.ts";
import { at, build, epsilon32, epsilon64, identity, largest, matrix, minus, norm, product, scaled, shifted, transpose } from "./dense.ts";
import type { Matrix } from "./dense.ts";

/*
 * What is stated of every factorization and every matrix. Residuals are formed in float64, of A scaled by a power of two so that its
 * largest entry is near 1; ‖A‖₂ is bounded from below and the residual's norm from above, so a statement that passes is true.
 */

/** The type of a result: its ε, and the distance of its smallest numbers. */
export interface Precision {
  readonly epsilon: number;
  readonly spacing: number;
}
const float64: Precision = { epsilon: epsilon64, spacing: Number.MIN_VALUE };
export const float32: Precision = { epsilon: epsilon32, spacing: 2 ** -149 };

export const precisions = [
  ["float32", float32],
  ["float64", float64],
] as const;

/** c in ‖residual‖₂ ≤ c·ε·‖A‖₂ for eigh, svd and qr. */
export const constantOf = ({ rows: m, columns: n }: Matrix): number => Math.max(3 * Math.max(m, n), 15);

/**
 * What rounding to float32 adds, relative to ‖A‖₂. It changes the entries of a factor F with k orthonormal columns by ε/2 of themselves at
 * most, so F by (ε/2)·‖F‖_F = √k·ε/2 in norm; two such factors and one of values, or FᵀF, change by (√k + 1)·ε, terms of the second
 * order included. The same holds for L Lᵀ, as ‖L‖_F ≤ √k·‖L‖₂.
 */
const rounding = (k: number, { epsilon }: Precision): number => (epsilon === epsilon64 ? 0 : (Math.sqrt(k) + 1) * epsilon);

/** The largest entry near 1; exact, but where that makes numbers subnormal. */
function unitScaled(a: Matrix): { unit: Matrix; exponent: number } {
  const exponent = Math.floor(Math.log2(largest(a) || 1));
  return { unit: shifted(a, -exponent), exponent };
}

/** Products that take plain loops too long are the engine's, which arithmetic.test.ts compares with plain loops. */
export function times(a: Matrix, b: Matrix): Matrix {
  const [m, k, n] = [a.rows, a.columns, b.columns];
  if (m * k * n < 2 ** 20) return product(a, b);
  const data = onEngine(m * k + k * n + m * n, (space) => {
    const [x, y, z] = [space.matrix(m, k), space.matrix(k, n), space.matrix(m, n)];
    x.data.set(a.data, x.at);
    y.data.set(b.data, y.at);
    space.arithmetic.product(z, x, y);
    return z.data.slice(z.at, z.at + m * n);
  });
  return { rows: m, columns: n, data };
}

/** A diag(d) */
export const timesDiagonal = (a: Matrix, d: Float64Array): Matrix => build(a.rows, a.columns, (i, j) => at(a, i, j) * (d[j] as number));

/**
 * An upper bound of ‖E‖₂: the Frobenius norm if that is at most `enough`, and else ‖(EᵀE)^p‖_F^(1/2p) for p = 1, 2, 4, 8, which is not above
 * (rank E)^(1/4p)·‖E‖₂.
 */
export function normAtMost(e: Matrix, enough = 0): number {
  const size = norm(e);
  if (size <= enough || size === 0) return size;
  const unit = scaled(e, 1 / size);
  let gram = e.rows < e.columns ? times(unit, transpose(unit)) : times(transpose(unit), unit);
  for (let p = 1; ; p *= 2) {
    const bound = size * norm(gram) ** (1 / (2 * p));
    if (bound <= enough || p === 8) return bound;
    gram = times(gram, gram);
  }
}

/** A lower bound of ‖A‖₂, close to it: ‖Ax‖/‖x‖ after some steps of power iteration with AᵀA, from the largest row. */
export function normAtLeast(a: Matrix): number {
  const size = norm(a);
  if (size === 0) return 0;
  const rows = Array.from({ length: a.rows }, (_, i) => ({
    rows: 1,
    columns: a.columns,
    data: a.data.subarray(i * a.columns, (i + 1) * a.columns),
  }));
  let x = transpose(rows.reduce((best, row) => (norm(row) > norm(best) ? row : best)));
  let bound = 0;
  for (let step = 0; step < 6; step++) {
    x = scaled(x, 1 / norm(x));
    const y = product(a, x);
    bound = Math.max(bound, norm(y));
    x = transpose(product(transpose(scaled(y, 1 / norm(y))), a));
  }
  return bound;
}

/** n·(distance of the smallest numbers), for a matrix scaled by 2⁻ᵏ. */
function spacingOf({ rows: m, columns: n }: Matrix, { spacing }: Precision, exponent: number): number {
  return Math.max(m, n) * at(shifted(matrix(1, 1, [spacing]), -exponent), 0, 0);
}

/** ‖A − B‖₂ ≤ relative·‖A‖₂ + absolute */
function expectRebuilt(unit: Matrix, rebuilt: Matrix, relative: number, absolute = 0): void {
  const limit = relative * normAtLeast(unit) + absolute;
  expect(normAtMost(minus(unit, rebuilt), limit)).toBeLessThanOrEqual(limit);
}

/** Eigenvalues or singular values within `times`·c·ε·‖A‖₂ of those expected. */
export function expectValues(a: Matrix, values: Float64Array, expected: ArrayLike<number>, times = 1): void {
  const { unit, exponent } = unitScaled(a);
  const limit = times * (constantOf(a) * epsilon64 * normAtLeast(unit) + spacingOf(a, float64, exponent));
  const near1 = (x: ArrayLike<number>): Matrix => shifted(matrix(1, x.length, x), -exponent);
  expect(values).toHaveLength(expected.length);
  expect(largest(minus(near1(values), near1(expected)))).toBeLessThanOrEqual(limit);
}

/** ‖QᵀQ − I‖₂ ≤ c·ε, or that of rounding. */
function expectOrthonormal(q: Matrix, limit: number): void {
  expect(normAtMost(minus(times(transpose(q), q), identity(q.columns)), limit)).toBeLessThanOrEqual(limit);
}

function expectAscending(values: ArrayLike<number>): void {
  expect(Array.from(values).findIndex((value, i) => i > 0 && !(value >= (values[i - 1] as number)))).toBe(-1);
}

/** In each column the component of largest magnitude, the first among equals, is positive. */
function expectSigns(v: Matrix): void {
  for (let j = 0; j < v.columns; j++) {
    let peak = 0;
    for (let i = 0; i < v.rows; i++) if (Math.abs(at(v, i, j)) > Math.abs(peak)) peak = at(v, i, j);
    expect(peak).toBeGreaterThanOrEqual(0);
  }
}

/** A = V Λ Vᵀ with orthonormal V, ascending Λ, and signs that are fixed. */
export function expectEigh(a: Matrix, { values, vectors: v }: Eigenpairs, type = float64): void {
  const { unit, exponent } = unitScaled(a);
  const limit = constantOf(a) * epsilon64 + rounding(a.rows, type);
  expect([values.length, v.rows, v.columns]).toEqual([a.rows, a.rows, a.rows]);
  expectAscending(values);
  expectSigns(v);
  expectOrthonormal(v, limit);
  const scaledValues = shifted(matrix(1, values.length, values), -exponent).data;
  expectRebuilt(unit, times(timesDiagonal(v, scaledValues), transpose(v)), limit, spacingOf(a, type, exponent));
}

/** A = U Σ Vᵀ with orthonormal U and V, descending Σ ≥ 0, and signs that are fixed. */
export function expectSvd(a: Matrix, { u, values, v }: SingularTriplets, type = float64): void {
  const { unit, exponent } = unitScaled(a);
  const k = Math.min(a.rows, a.columns);
  const limit = constantOf(a) * epsilon64 + rounding(k, type);
  expect([u.rows, u.columns, values.length, v.rows, v.columns]).toEqual([a.rows, k, k, a.columns, k]);
  expectAscending([0, ...values.toReversed()]);
  expectSigns(v);
  expectOrthonormal(u, limit);
  expectOrthonormal(v, limit);
  const scaledValues = shifted(matrix(1, k, values), -exponent).data;
  expectRebuilt(unit, times(timesDiagonal(u, scaledValues), transpose(v)), limit, spacingOf(a, type, exponent));
}

/** A = Q R with orthonormal Q and an upper triangular R that has no negative number on its diagonal. */
export function expectQr(a: Matrix, { q, r }: Triangularized, type = float64): void {
  const { unit, exponent } = unitScaled(a);
  const limit = constantOf(a) * epsilon64 + rounding(q.columns, type);
  expect([q.rows, r.rows, r.columns]).toEqual([a.rows, q.columns, a.columns]);
  for (let i = 0; i < r.rows; i++) {
    expect(r.data.subarray(i * r.columns, i * r.columns + Math.min(i, r.columns)).every((x) => Object.is(x, 0))).toBe(true);
    if (i < r.columns) expect(at(r, i, i)).toBeGreaterThanOrEqual(0);
  }
  expectOrthonormal(q, limit);
  expectRebuilt(unit, times(q, shifted(r, -exponent)), limit, spacingOf(a, type, exponent));
}

/**
 * The statement about Cholesky: where λmin > 10·n·ε·‖A‖₂ it succeeds; elsewhere it may also name the pivot that fails; and what it
 * gives is finite, with ‖A − L Lᵀ‖₂ ≤ max(n, 15)·ε·‖A‖₂. Higham's theorem 10.3 bounds |A − L Lᵀ| by γₙ₊₁ |L||Lᵀ|, and rounding errors
 * that do not conspire stay far below (observed: a twentieth of the statement at most).
 */
export function expectCholesky(a: Matrix, outcome: Outcome<Matrix>, type = float64): void {
  const n = a.rows;
  // By a power of 4, whose root scales L.
  const power = Math.floor(Math.log2(largest(a) || 1) / 2);
  const unit = scaled(scaled(a, 2 ** -power), 2 ** -power);
  const values = eigenvaluesBy(onEngine, unit);
  if ("error" in outcome) {
    expect(outcome.error).toBeInstanceOf(NumericalError);
    const [, row, rows, pivot] = /: pivot (\d+) of (\d+) is (\S+) \(diagonal entry/.exec((outcome.error as Error).message) ?? [];
    expect(Number(rows)).toBe(n);
    expect(Number(row)).toBeLessThan(n);
    expect(Number(pivot)).toBeLessThanOrEqual(0);
    expect(values[0]).toBeLessThanOrEqual(10 * n * epsilon64 * largestOf(values));
    return;
  }
  const l = outcome.result;
  expect(l.data.findIndex((value, k) => !(k % n > Math.floor(k / n) ? value === 0 : Number.isFinite(value)))).toBe(-1);
  const root = scaled(l, 2 ** -power);
  expectRebuilt(unit, times(root, transpose(root)), Math.max(n, 15) * epsilon64 + rounding(n, type));
}

/** The same in a workspace. */
export function expectFactorized(compute: Compute, a: Matrix): void {
  expectCholesky(
    a,
    attempt(() => choleskyBy(compute, a)),
  );
}

/** ‖A‖₂ of a symmetric matrix. */
export const spectralNorm = (a: Matrix): number => largestOf(eighHost(a.data, a.rows).values);
const largestOf = (values: Float64Array): number => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

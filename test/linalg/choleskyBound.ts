import { expect } from "vitest";
import { inWorkspace, onHost, type Workspace } from "../../src/linalg/arithmetic.ts";
import { choleskyIn, choleskySize } from "../../src/linalg/cholesky.ts";
import { eighHost } from "../../src/linalg/index.ts";
import { openWasm } from "../../src/tensor/backends/wasm/index.ts";
import { NumericalError } from "../../src/tensor/index.ts";
import { epsilon64, matrix, minus, product, scaled, transpose, type Matrix } from "./dense.ts";

/** Computes in a workspace of `size` numbers. */
export type Compute = <T>(size: number, f: (space: Workspace) => T) => T;

const engine = openWasm({ threads: 1 });
/** Every implementation of the arithmetic that factorizations are made of. */
export const arithmetics: readonly (readonly [name: string, compute: Compute])[] = [
  ["plain loops", onHost],
  ["the engine", (size, f) => inWorkspace(engine, size, f)],
];

/** ‖A‖₂ of a symmetric matrix. */
export const spectralNorm = (a: Matrix): number => Math.max(0, ...eighHost(a.data, a.rows).values.map(Math.abs));

/**
 * The statement about Cholesky: where λmin > 10·n·ε·‖A‖₂ it succeeds; elsewhere it may also name the pivot that fails; and what it
 * gives is finite, with ‖A − L Lᵀ‖₂ ≤ max(n, 15)·ε·‖A‖₂. Higham's theorem 10.3 bounds |A − L Lᵀ| by γₙ₊₁ |L||Lᵀ|, and rounding errors
 * that do not conspire stay far below (observed: a twentieth of the statement at most).
 */
export function expectFactorized(compute: Compute, a: Matrix): void {
  const n = a.rows;
  // By a power of 4, so that neither the norm of very large or subnormal entries nor that of L rounds.
  const power = Math.floor(Math.log2(Math.max(Number.MIN_VALUE, ...a.data.map(Math.abs))) / 2);
  const unit = scaled(scaled(a, 2 ** -power), 2 ** -power);
  const { values } = eighHost(unit.data, n);
  const size = Math.max(0, ...values.map(Math.abs));
  let l: Matrix;
  try {
    l = matrix(
      n,
      n,
      compute(choleskySize(n), (space) => choleskyIn(space, a.data, n)),
    );
  } catch (error) {
    expect(error).toBeInstanceOf(NumericalError);
    const [, row, rows, pivot] = /: pivot (\d+) of (\d+) is (\S+) \(diagonal entry/.exec((error as Error).message) ?? [];
    expect(Number(rows)).toBe(n);
    expect(Number(row)).toBeLessThan(n);
    expect(Number(pivot)).toBeLessThanOrEqual(0);
    expect(values[0]).toBeLessThanOrEqual(10 * n * epsilon64 * size);
    return;
  }
  expect(l.data.findIndex((value) => !Number.isFinite(value))).toBe(-1);
  const root = scaled(l, 2 ** -power);
  expect(spectralNorm(minus(unit, product(root, transpose(root))))).toBeLessThanOrEqual(Math.max(n, 15) * epsilon64 * size);
}

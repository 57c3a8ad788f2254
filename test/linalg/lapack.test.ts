import { readFileSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import { inWorkspace } from "../../src/linalg/arithmetic.ts";
import { eigenvaluesIn, eighHost, eighIn, eighSize } from "../../src/linalg/eigh.ts";
import { openWasm } from "../../src/tensor/backends/wasm/index.ts";
import { build, epsilon64, tridiagonal, type Matrix } from "./dense.ts";

/* Eigenvalues of named matrices as LAPACK has them in float64: test/golden/make_linalg_hard.py has the same formulas. */

const engine = openWasm({ threads: 1 });
afterAll(() => engine.engine.close());

const matrices: Record<string, Matrix> = {
  "hilbert 12": build(12, 12, (i, j) => 1 / (i + j + 1)),
  "wilkinson 21": tridiagonal(
    21,
    (i) => Math.abs(i - 10),
    () => 1,
  ),
  "glued wilkinson 105": tridiagonal(
    105,
    (i) => Math.abs((i % 21) - 10),
    (i) => (i % 21 === 20 ? 1e-8 : 1),
  ),
  "graded 17": build(17, 17, (i, j) => 10 ** -Math.max(i, j)),
  "0.95 I plus rank 3, 40": build(
    40,
    40,
    (i, j) => (i === j ? 0.95 : 0) + 0.01 * [1, 2, 3].reduce((sum, k) => sum + Math.cos(i * k + k) * Math.cos(j * k + k), 0),
  ),
  "all equal 12": build(12, 12, () => 1),
  "reversal 10": build(10, 10, (i, j) => (i + j === 9 ? 1 : 0)),
  "second differences 200": tridiagonal(
    200,
    () => 2,
    () => -1,
  ),
  "near denormal 30": build(30, 30, (i, j) => 2 ** -1000 / (1 + Math.abs(i - j))),
};

const golden = JSON.parse(readFileSync(new URL("../golden/linalg_hard.json", import.meta.url), "utf8")) as {
  readonly eigenvalues: Readonly<Record<string, readonly number[]>>;
};

describe.each(Object.entries(golden.eigenvalues))("the eigenvalues of %s are LAPACK's within max(3n, 15)·ε·‖A‖", (name, expected) => {
  const { rows: n, data: a } = matrices[name] as Matrix;
  // The golden ones are of A / max|a|.
  const scale = Math.max(...a.map(Math.abs));
  const bound = Math.max(3 * n, 15) * epsilon64 * Math.max(...expected.map(Math.abs));
  const run = {
    "by plain loops": () => eighHost(a, n).values,
    "on the engine": () => inWorkspace(engine, eighSize(n), (space) => eighIn(space, a, n).values),
    "on the engine, without vectors": () => inWorkspace(engine, eighSize(n), (space) => eigenvaluesIn(space, a, n)),
  };

  it.each(Object.entries(run))("%s", (_, eigenvalues) => {
    const values = eigenvalues();
    expect(values).toHaveLength(n);
    values.forEach((value, i) => expect(Math.abs(value / scale - (expected[i] as number))).toBeLessThanOrEqual(bound));
  });
});

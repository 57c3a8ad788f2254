import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { normAtLeast, normAtMost, times, timesDiagonal } from "./bounds.ts";
import { attempt, choleskyBy, eighBy, onEngine, qrBy, svdBy } from "./compute.ts";
import { epsilon64, identity, minus, transpose, type Matrix } from "./dense.ts";
import { definiteFamilies, families, symmetricFamilies } from "./families.ts";

/*
 * The figures of docs/linalg.md are those of this engine: the largest residual over all families of matrices, as a multiple of n·ε (and of
 * ‖A‖₂, where it is one of A). Other processors round products elsewhere (fused or not), so a figure holds within a factor.
 */

const document = readFileSync(new URL("../../docs/linalg.md", import.meta.url), "utf8");
const orders = [32, 130, 512];
/** Milliseconds for all families at the largest order: some twenty seconds, and more than a minute where the machine has other work. */
const PATIENCE = 300_000;

const residual = (a: Matrix, rebuilt: Matrix): number => {
  const size = normAtLeast(a);
  return size === 0 ? 0 : normAtMost(minus(a, rebuilt)) / size;
};
const unorthogonality = (q: Matrix): number => normAtMost(minus(times(transpose(q), q), identity(q.columns)));

function largestOf(
  makers: Readonly<Record<string, (n: number) => Matrix>>,
  n: number,
  f: (a: Matrix) => Record<string, number>,
): Map<string, number> {
  const worst = new Map<string, number>();
  for (const make of Object.values(makers)) {
    for (const [what, error] of Object.entries(f(make(n)))) worst.set(what, Math.max(worst.get(what) ?? 0, error / (n * epsilon64)));
  }
  return worst;
}

const square = Object.fromEntries(Object.entries(families).map(([name, make]) => [name, (n: number) => make(n, n)]));

const routines = {
  eigh: (n: number) =>
    largestOf(symmetricFamilies, n, (a) => {
      const { values, vectors: v } = eighBy(onEngine, a);
      return { "‖A − VΛVᵀ‖": residual(a, times(timesDiagonal(v, values), transpose(v))), "‖VᵀV − I‖": unorthogonality(v) };
    }),
  svd: (n: number) =>
    largestOf(square, n, (a) => {
      const { u, values, v } = svdBy(onEngine, a);
      return {
        "‖A − UΣVᵀ‖": residual(a, times(timesDiagonal(u, values), transpose(v))),
        "‖UᵀU − I‖": unorthogonality(u),
        "‖VᵀV − I‖": unorthogonality(v),
      };
    }),
  qr: (n: number) =>
    largestOf(square, n, (a) => {
      const { q, r } = qrBy(onEngine, a);
      return { "‖A − QR‖": residual(a, times(q, r)), "‖QᵀQ − I‖": unorthogonality(q) };
    }),
  cholesky: (n: number) =>
    largestOf(definiteFamilies, n, (a) => {
      const outcome = attempt(() => choleskyBy(onEngine, a)); // some are singular, and say so
      return { "‖A − LLᵀ‖": "error" in outcome ? 0 : residual(a, times(outcome.result, transpose(outcome.result))) };
    }),
};

/** The figures of a row of the table, by what its first two cells say. */
function documented(routine: string, what: string): number[] {
  const cells = document
    .split("\n")
    .map((line) => line.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|")))
    .find(([, first, second]) => first === `\`${routine}\`` && second === what);
  return cells?.slice(3, 3 + orders.length).map(Number) ?? [];
}

describe.each(Object.entries(routines))("the figures of docs/linalg.md for %s", (routine, measure) => {
  const columns = orders.map((n, column) => [n, column] as const);
  it.each(columns)("at order %i are the largest residuals", { timeout: PATIENCE }, (n, column) => {
    for (const [what, figure] of measure(n)) {
      const told = documented(routine, what)[column] ?? NaN;
      expect.soft(told, `${what}: measured ${figure.toPrecision(2)} at order ${n}`).toBeGreaterThan(figure / 1.5);
      expect.soft(told, `${what}: measured ${figure.toPrecision(2)} at order ${n}`).toBeLessThan(figure * 1.5);
    }
  });
});

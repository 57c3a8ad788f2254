import { formatShape, machineEpsilon, ShapeError, Tensor, UsageError } from "../tensor/index.ts";
import { inWorkspace, type Workspace } from "./arithmetic.ts";
import { requireMatrix, requirePartners } from "./checks.ts";
import type { LowRank } from "./lowRank.ts";
import { frobeniusNormHost } from "./norms.ts";
import { qrIn, qrSize } from "./qr.ts";
import { requireValues, withoutNegative } from "./semidefinite.ts";
import { makeSignsDeterministic } from "./signs.ts";
import { svdIn, svdSize } from "./svd.ts";
import { destinationOf, readFloats, roundTo, toTensor } from "./transfer.ts";

export interface BrandUpdateOptions {
  /** ρ, by which the old matrix is multiplied. At least 0. */
  readonly decay: number;
  /** By which C Cᵀ is multiplied. At least 0. Default 1 − ρ: a moving average. */
  readonly weight?: number;
  /** Keep only so many of the largest eigenpairs. Default all, at most r + n of them. */
  readonly rank?: number;
}

/**
 * The eigenpairs of ρ·U diag(D) Uᵀ + w·C Cᵀ from those of U diag(D) Uᵀ, for U [d, r] and C [d, n]: a moving average of Gram matrices is
 * followed in its low-rank form, and the d × d matrix is never formed. They are the left singular vectors and the squared singular
 * values of M = [√ρ·U diag(√D), √w·C]. 6·d·(r + n)² + O((r + n)³) operations, linear in d.
 *
 * Exact without truncation: the result is off by 2c·ε·‖X‖₂, c and ε as in `svdIn`, before it is rounded to its type; its vectors are
 * orthonormal to c·ε whatever those of U are, so that nothing builds up from update to update; and small eigenvalues keep digits down to
 * ε² of the largest. With `rank`, the matrix is never above the average that it stands for, and no eigenvalue above that of the average,
 * as each update only leaves a positive semidefinite part out.
 *
 * Eigenvalues below (10·ε·√d)² of the largest, with the ε of the type, are rounding of C; they are dropped with their vectors. So a C
 * within the span of U adds none.
 *
 * Brand projects C off U, twice, and orthonormalises what is left. That takes 0.6 of the operations for r = 2n, but what is left of
 * columns that nearly depend on each other is not orthogonal to U any more once it is normalised. Reflections of all of M are orthogonal
 * whatever its rank.
 * Source: Brand, Linear Algebra and its Applications 415, 2006 (the update); Puiu, arXiv 2210.08494 (B-KFAC).
 *
 * @param x its tensors may be empty, [d, 0] and [0], to start from C. With its `trace`, the result has that of the average.
 * @param c [d, n].
 * @returns `values` [k], ascending, and `vectors` [d, k], of the caller; in each vector the component of largest magnitude (the first among
 *   equals) is positive.
 * @throws UsageError for weights that are negative or not finite, or a rank that is not a whole number; ShapeError; DTypeError;
 *   NumericalError for an entry that is not finite or an eigenvalue that is negative beyond rounding.
 */
export async function brandUpdate(x: LowRank, c: Tensor, options: BrandUpdateOptions): Promise<LowRank> {
  const { vectors, values, trace } = x;
  const { decay, weight = 1 - decay, rank = Infinity } = options;
  requirePartners("brandUpdate", vectors, values);
  const dtype = requirePartners("brandUpdate", vectors, c);
  const destination = destinationOf("brandUpdate", vectors);
  const [d, r] = requireMatrix("brandUpdate", vectors);
  const n = requireColumns(c, d);
  requireValues("brandUpdate", values, r);
  requireWeight("decay", decay);
  requireWeight("weight", weight);
  if (!(rank >= 0 && (Number.isInteger(rank) || rank === Infinity))) {
    throw new UsageError(`brandUpdate: rank must be a whole number of at least 0 but is ${rank}`);
  }
  const [u, raw, columns] = await Promise.all([
    readFloats("brandUpdate", vectors),
    readFloats("brandUpdate", values),
    readFloats("brandUpdate", c),
  ]);
  const factors = withoutNegative("brandUpdate", raw, dtype).map((value) => Math.sqrt(decay) * Math.sqrt(value));
  const m = beside(d, u, factors, columns, Math.sqrt(weight));
  const { backend } = destination;
  const { q, r: upper } = inWorkspace(backend, qrSize(d, r + n), (space) => qrIn(space, m, d, r + n));
  const k = Math.min(d, r + n);
  const { u: turn, values: roots } = inWorkspace(backend, svdSize(k, r + n), (space) => svdIn(space, upper, k, r + n));
  const least = 10 * machineEpsilon[dtype] * Math.sqrt(d) * (roots[0] ?? 0);
  const kept = Math.min(rank, roots.filter((root) => root > least).length);
  const turned = inWorkspace(backend, (d + kept) * k + d * kept, (space) => timesLeading(space, q, d, k, turn, kept));
  const rounded = roundTo("brandUpdate", turned, [d, kept], dtype);
  makeSignsDeterministic(kept, rounded);
  const squares = roots.slice(0, kept).map((root) => root * root);
  return {
    values: toTensor("brandUpdate", squares.reverse(), [kept], destination),
    vectors: Tensor.from(rounded, { ...destination, shape: [d, kept] }),
    ...(trace !== undefined && { trace: decay * trace + weight * frobeniusNormHost(columns) ** 2 }),
  };
}

/** [U diag(f), w·C] for U [d, r] and C [d, n]. */
function beside(d: number, u: Float64Array, f: Float64Array, c: Float64Array, w: number): Float64Array {
  const m = new Float64Array(u.length + c.length);
  const [r, n] = [f.length, c.length / d];
  for (let i = 0, at = 0; i < d; i++) {
    for (let j = 0; j < r; j++) m[at++] = f[j]! * u[i * r + j]!;
    for (let j = 0; j < n; j++) m[at++] = w * c[i * n + j]!;
  }
  return m;
}

/** Q [d, k] times the first columns of V [k, k], the last of them first. */
function timesLeading(space: Workspace, q: Float64Array, d: number, k: number, v: Float64Array, count: number): Float64Array {
  const [basis, turn, product] = [space.matrix(d, k), space.matrix(k, count), space.matrix(d, count)];
  basis.data.set(q, basis.at);
  for (let i = 0; i < k; i++) {
    for (let j = 0; j < count; j++) turn.data[turn.at + i * count + j] = v[i * k + count - 1 - j]!;
  }
  space.arithmetic.product(product, basis, turn);
  return product.data.slice(product.at, product.at + d * count);
}

function requireColumns(c: Tensor, d: number): number {
  const [rows, n] = requireMatrix("brandUpdate", c);
  if (rows !== d) {
    throw new ShapeError(`brandUpdate: C must have ${d} rows, as the vectors have, but its shape is ${formatShape(c.shape)}`);
  }
  return n;
}

function requireWeight(name: string, value: number): void {
  if (!(value >= 0 && value < Infinity)) throw new UsageError(`brandUpdate: ${name} must be finite and at least 0 but is ${value}`);
}

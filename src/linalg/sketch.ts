import { concat, formatShape, NumericalError, ShapeError, tidy, UsageError, type Generator, type Tensor } from "../tensor/index.ts";
import { requireFinite, requireMatrix, requirePartners } from "./checks.ts";
import { allFinite } from "./panels.ts";
import { destinationOf } from "./transfer.ts";

/*
 * What the randomized methods have in common: their options, the vectors that they start from, and products that are checked.
 */

export interface SketchOptions {
  /** Singular vectors or eigenpairs wanted, at most as many as the matrix has rows and columns. */
  readonly rank: number;
  /** Vectors besides, which make the wanted ones accurate. Default 10; as many as the matrix leaves room for. */
  readonly oversampling?: number;
  /** Draws the test matrix, if none is given. */
  readonly generator?: Generator;
  /** [columns of X, s] with independent columns, in place of random numbers: to repeat a computation, or to start from an earlier basis. */
  readonly testMatrix?: Tensor;
}

/** Checks the options; a random or given test matrix Ω [n, s] for X [m, n], owned by the caller. */
export function sketchOf(operation: string, x: Tensor, options: SketchOptions): { rank: number; sketch: Tensor } {
  const { generator, testMatrix } = options;
  const { dtype, backend } = destinationOf(operation, x);
  const { rank, columns } = sizeOfSketch(operation, x, options);
  const [m, n] = requireMatrix(operation, x);
  if (testMatrix) return { rank, sketch: requireTestMatrix(operation, x, testMatrix, rank, Math.min(m, n)) };
  if (!generator) throw new UsageError(`${operation}: needs a generator for its random numbers, or a test matrix`);
  return { rank, sketch: generator.normal([n, columns], { dtype, backend }) };
}

/** The rank that was asked for, and how many columns a test matrix has for it. */
export function sizeOfSketch(
  operation: string,
  x: Tensor,
  { rank, oversampling = 10 }: SketchOptions,
): { readonly rank: number; readonly columns: number } {
  const most = Math.min(...requireMatrix(operation, x));
  requireCount(operation, "oversampling", oversampling, 0);
  requireCount(operation, "rank", rank, 0);
  if (rank > most) {
    throw new UsageError(`${operation}: rank is ${rank} but the matrix has shape ${formatShape(x.shape)}; ask for at most ${most}`);
  }
  return { rank, columns: Math.min(most, rank + oversampling) };
}

/** Another handle of a test matrix with `least` to `most` columns that fits X. */
export function requireTestMatrix(operation: string, x: Tensor, testMatrix: Tensor, least: number, most: number): Tensor {
  requirePartners(operation, x, testMatrix);
  const n = x.shape[1] as number;
  const [rows, columns] = requireMatrix(operation, testMatrix);
  if (rows !== n || columns < least || columns > most) {
    const wanted = `[${n}, s] with s from ${least} to ${most}`;
    throw new ShapeError(`${operation}: the test matrix must have shape ${wanted} but has ${formatShape(testMatrix.shape)}`);
  }
  return testMatrix.keep();
}

/**
 * A basis W [n, s] with another number of columns, owned by the caller. Missing ones are random, of length 1 or nearly so, as W's own are; of
 * too many the first are left out, which in the result of an earlier call are the least dominant ones.
 */
export function resized(operation: string, basis: Tensor, columns: number, generator: Generator): Tensor {
  const [n, s] = basis.shape as [number, number];
  if (s >= columns) return s === columns ? basis.keep() : basis.slice([0, s - columns], [n, columns]);
  const destination = destinationOf(operation, basis);
  return tidy(() => concat([basis, generator.normal([n, columns - s], destination).multiply(1 / Math.sqrt(n))], 1));
}

/**
 * X P, or XᵀP, in X's type.
 * @throws NumericalError for what is not finite, naming the entry of X or P that is to blame, if there is one.
 */
export async function multiply(operation: string, x: Tensor, panel: Tensor, { transposed = false } = {}): Promise<Tensor> {
  using product = x.matmul(panel, { transposeA: transposed });
  if (await allFinite(product)) return product.keep();
  requireFinite(operation, await x.data(), x.shape);
  requireFinite(`${operation}, test matrix`, await panel.data(), panel.shape);
  throw new NumericalError(
    `${operation}: a product with the ${formatShape(x.shape)} matrix is beyond the range of ${x.dtype}; scale the input`,
  );
}

export function requireCount(operation: string, name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least) return;
  throw new UsageError(`${operation}: ${name} must be a whole number of at least ${least} but is ${value}`);
}

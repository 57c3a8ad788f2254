import { routines, type LowRank, type Routines } from "../../linalg/index.ts";
import { destinationOf, narrowed } from "../../linalg/transfer.ts"; // no part of the interface: see `inPrecision`
import { Generator, unscoped, UsageError, type Tensor } from "../../tensor/index.ts";
import { inPrecision, traceOf } from "../curvature/factor.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";

/*
 * The dominant eigenpairs of a factor: by a method's search, or exactly where that takes less time.
 */

export interface DecompositionOptions {
  /** Eigenpairs of each factor. A rank above its rows counts as these, which the block's report remarks once. Default 220. */
  readonly rank?: Schedule | undefined;
  /** Vectors besides, which make these accurate. Default 10. */
  readonly oversampling?: Schedule | undefined;
  /**
   * Factors of at most this many rows are decomposed exactly, and their dominant eigenpairs kept: for so few rows that takes less time.
   * Default: 4 times rank + oversampling for RS-KFAC and B-KFAC, 3 times for SRE-KFAC, 1.5 times for NysKfac, as measured.
   */
  readonly exactUpTo?: number | undefined;
  /** Of the random test matrices. Default 0. */
  readonly seed?: number | undefined;
}

/** What a search for dominant eigenpairs has at its disposal. */
export interface SearchContext {
  /** At most the order of the matrix. */
  readonly rank: number;
  /** The search's own, at this step; null if it has none. */
  readonly tolerance: number | null;
  readonly oversampling: number;
  /** Depends on the seed, the layer, the factor and the number of the refresh. */
  readonly generator: Generator;
  /** What the last search found, in the type of the matrix: null at first. */
  readonly basis: Tensor | null;
  /** Number of refreshes before this one. */
  readonly refreshes: number;
  /** Linear algebra on the thread on which it is to run. */
  readonly linalg: Routines;
}

/** How a method finds the dominant eigenpairs of a positive semidefinite matrix. */
export interface Search {
  /** Up to how many times rank + oversampling rows an exact decomposition takes less time. */
  readonly crossover: number;
  /**
   * ‖F − U diag(D) Uᵀ‖_F relative to ‖F‖_F, in (0, 1): factors get as few eigenpairs as keep to it, and `rank` at most. Default: `rank` always.
   */
  readonly tolerance?: Schedule | undefined;
  /** `basis` is where the next call may start. */
  find(matrix: Tensor, context: SearchContext): Promise<LowRank & { readonly basis?: Tensor }>;
}

/** Dominant eigenpairs of a factor, and its trace; neither has the residual in it. */
export interface Eigenpairs extends Required<LowRank> {
  /** Where the next search may start. */
  readonly basis: Tensor | null;
}

/** r at a step. */
export function rankAt({ rank = 220 }: DecompositionOptions, step: number): number {
  return hyperParameter("rank", rank, step, "a whole number of at least 1");
}

/** The tolerance at a step; null if there is none. */
function toleranceAt({ tolerance }: Search, step: number): number | null {
  if (tolerance === undefined) return null;
  const value = hyperParameter("tolerance", tolerance, step, "positive");
  if (value < 1) return value;
  throw new UsageError(`tolerance must be below 1, which is the error of no eigenpairs at all, but is ${value} at step ${step}`);
}

export interface DecompositionContext extends Partial<Pick<SearchContext, "basis" | "refreshes" | "linalg">> {
  readonly step: number;
  /** Names the random numbers. */
  readonly draw: string;
  /** Whether to compute in float64 whatever the type. Default false. */
  readonly wide?: boolean;
}

/** The dominant eigenpairs of a matrix, in its type, by a search; or exactly where that takes less time. */
export async function decompose(
  matrix: Tensor,
  search: Search,
  options: DecompositionOptions,
  { step, draw, wide = false, basis = null, refreshes = 0, linalg = routines }: DecompositionContext,
): Promise<Eigenpairs> {
  const d = matrix.shape[0] as number;
  const rank = Math.min(d, rankAt(options, step));
  const tolerance = toleranceAt(search, step);
  const oversampling = hyperParameter("oversampling", options.oversampling ?? 10, step, "at least 0");
  const trace = await traceOf(matrix);
  using operand = await inPrecision(matrix, wide);
  using start = basis && (await inPrecision(basis, wide));
  const generator = new Generator(options.seed ?? 0).fork(draw);
  const sketch = rank + oversampling;
  const exact = d <= Math.max(sketch, options.exactUpTo ?? search.crossover * sketch);
  const found: LowRank & { readonly basis?: Tensor } = exact
    ? await decomposeExactly(operand, rank, tolerance, linalg)
    : await search.find(operand, { rank, tolerance, oversampling, generator, basis: start, refreshes, linalg });
  using vectors = found.vectors;
  using values = found.values;
  using next = found.basis ?? null;
  const own = (tensor: Tensor): Promise<Tensor> => narrowed(tensor, destinationOf("decompose", matrix));
  return { vectors: await own(vectors), values: await own(values), basis: next && (await own(next)), trace };
}

/** The largest eigenpairs: `rank` of them, or as few as a tolerance takes. */
async function decomposeExactly(matrix: Tensor, rank: number, tolerance: number | null, linalg: Routines): Promise<LowRank> {
  if (tolerance === null) return linalg.eigh(matrix, { largest: rank });
  const all = await linalg.eigh(matrix);
  using vectors = all.vectors;
  using values = all.values;
  const ascending = await values.data();
  const d = ascending.length;
  const allowed = tolerance * Math.hypot(...ascending);
  // Eigenpairs are orthogonal to each other: what dropping some costs is a sum of squares (Eckart–Young).
  let [dropped, missed] = [0, 0];
  for (const value of ascending) {
    missed = Math.hypot(missed, value);
    if (missed > allowed && d - dropped <= rank) break;
    dropped++;
  }
  return unscoped(() => ({ vectors: vectors.slice([0, dropped], [d, d - dropped]), values: values.slice([dropped], [d - dropped]) }));
}

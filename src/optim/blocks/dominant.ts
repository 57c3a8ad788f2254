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
   * Default: 4 times rank + oversampling for RS-KFAC and B-KFAC, 3 times for SRE-KFAC, 1.5 times for NysKfac, as measured; for NysKfac with
   * the eigenpairs that it looks for in place of rank.
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
  /** Eigenpairs that will do, by what the last search needed: `rank` unless the search leaves some out. */
  readonly expected: number;
  /** Given the largest eigenvalue, the one up to which eigenvalues are negligible; null if none is. */
  readonly cutoff: ((largest: number) => number) | null;
  readonly oversampling: number;
  /** A bound on the condition of the matrix; infinite where none is known. */
  readonly condition: number;
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
  /**
   * In [0, 1): the part of a factor's damping beside which eigenvalues are negligible. They are left out, `rank` is a bound, and `find` gives
   * eigenpairs in ascending order. Default 0: none is.
   */
  readonly negligible?: Schedule | undefined;
  /** Eigenpairs to look for, `rank` at most, where the last search kept so many. Default: `rank`. */
  readonly expected?: (kept: number, refreshes: number) => number;
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

/** The part of the damping beside which eigenvalues are negligible at a step. */
export function negligibleAt({ negligible = 0 }: Search, step: number): number {
  const value = hyperParameter("negligible", negligible, step, "at least 0");
  if (value < 1) return value;
  throw new UsageError(`negligible must be below 1, where it is the damping itself, but is ${value} at step ${step}`);
}

export interface DecompositionContext extends Partial<Pick<SearchContext, "basis" | "refreshes" | "linalg" | "cutoff">> {
  readonly step: number;
  /** Names the random numbers. */
  readonly draw: string;
  /** Whether to compute in float64 whatever the type. Default false. */
  readonly wide?: boolean;
  /** The trace of the matrix, if it is known. */
  readonly trace?: number;
  /** What no eigenvalue is below, to rounding. Default 0. */
  readonly floor?: number;
  /** Eigenpairs that were kept by the last decomposition of this factor; null at first. */
  readonly kept?: number | null;
}

/** The dominant eigenpairs of a matrix, in its type, by a search; or exactly where that takes less time. */
export async function decompose(
  matrix: Tensor,
  search: Search,
  options: DecompositionOptions,
  {
    step,
    draw,
    wide = false,
    basis = null,
    refreshes = 0,
    linalg = routines,
    cutoff = null,
    kept = null,
    floor = 0,
    ...known
  }: DecompositionContext,
): Promise<Eigenpairs> {
  const d = matrix.shape[0] as number;
  const rank = Math.min(d, rankAt(options, step));
  const tolerance = toleranceAt(search, step);
  const oversampling = hyperParameter("oversampling", options.oversampling ?? 10, step, "at least 0");
  const trace = known.trace ?? (await traceOf(matrix));
  using operand = await inPrecision(matrix, wide);
  using start = basis && (await inPrecision(basis, wide));
  const generator = new Generator(options.seed ?? 0).fork(draw);
  const after = (pairs: number, refresh: number): number => Math.min(rank, search.expected?.(pairs, refresh) ?? rank);
  const expected = cutoff && kept !== null ? after(kept, refreshes) : rank;
  const sketch = expected + oversampling;
  const condition = conditionOf(d, trace, floor);
  const exact = d <= Math.max(sketch, options.exactUpTo ?? search.crossover * sketch);
  const found: LowRank & { readonly basis?: Tensor } = exact
    ? await decomposeExactly(operand, rank, tolerance, linalg)
    : await search.find(operand, {
        rank,
        tolerance,
        expected,
        cutoff,
        oversampling,
        condition,
        generator,
        basis: start,
        refreshes,
        linalg,
      });
  using vectors = found.vectors;
  using values = found.values;
  using part = cutoff && (await significant({ vectors, values }, cutoff));
  // With fewer eigenpairs the next search may be one where this was exact: it starts from these.
  using next = found.basis ?? (part && last(vectors, after(part.values.size, refreshes + 1) + oversampling));
  const own = (tensor: Tensor): Promise<Tensor> => narrowed(tensor, destinationOf("decompose", matrix));
  return {
    vectors: await own(part?.vectors ?? vectors),
    values: await own(part?.values ?? values),
    basis: next && (await own(next)),
    trace,
  };
}

/** A bound on the condition of a matrix of that order: its largest eigenvalue is what the others leave of the trace, at most. */
function conditionOf(d: number, trace: number, floor: number): number {
  return floor > 0 ? Math.max(1, (trace - (d - 1) * floor) / floor) : Infinity;
}

/** Another handle of so many columns, the last ones, or of all. */
function last(vectors: Tensor, columns: number): Tensor {
  const [d, r] = vectors.shape as [number, number];
  return unscoped(() => vectors.slice([0, Math.max(0, r - columns)], [d, Math.min(r, columns)]));
}

/** Of ascending eigenpairs those that are not negligible, and the largest in any case. */
async function significant({ vectors, values }: LowRank, cutoff: (largest: number) => number): Promise<LowRank & Disposable> {
  const ascending = await values.data();
  const r = ascending.length;
  const least = cutoff(ascending.at(-1) ?? 0);
  const first = Math.max(0, Math.min(r - 1, ascending.filter((value) => value <= least).length));
  return unscoped(() => {
    const part = { vectors: last(vectors, r - first), values: values.slice([first], [r - first]) };
    return {
      ...part,
      [Symbol.dispose]: () => {
        part.vectors.dispose();
        part.values.dispose();
      },
    };
  });
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

import {
  lowRankPlusTail,
  routines,
  type LowRank,
  type LowRankInverse,
  type LowRankPlusTail,
  type Routines,
  type Tail,
} from "../../linalg/index.ts";
import { bytesPerElement, Generator, NumericalError, Tensor, unscoped, UsageError } from "../../tensor/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { dampingOf, type DampingOptions } from "../curvature/adaptiveDamping.ts";
import type { BlockFactory, BlockReport, BlockState } from "../curvature/block.ts";
import { shares, type FactorExtent } from "../curvature/damping.ts";
import { covarianceFactors, ofBoth, traceOf, type FactorName, type Factors, type FactorSnapshot } from "../curvature/factor.ts";
import {
  KroneckerBlock,
  type ApplyContext,
  type KroneckerInverse,
  type KroneckerOptions,
  type RefreshContext,
  type Refreshed,
} from "../curvature/kronecker.ts";
import { CurvatureOptimizer, type CurvatureOptimizerOptions } from "../curvature/optimizer.ts";
import type { CurvatureView } from "../curvature/view.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";
import { withScaleShift } from "./scaleShift.ts";
import { throughThinFactors, wantsThin, type ThinOptions, type ThinSide } from "./thin.ts";

/*
 * Kronecker factors by their dominant eigenpairs and a mean for the others, F ≈ U diag(D) Uᵀ + τ(I − UUᵀ): the damped inverse is cheap to
 * apply, and the factors are damped one by one. How the eigenpairs are found is the affair of each method.
 */

/**
 * What λ means to each factor:
 * - `relative`: λ times its largest eigenvalue is added to it (the paper's code). Not the damping of exact K-FAC by eigenvalues, which is
 *   added to the product: the smallest modes gain 1/λ² here, and 1/λ there;
 * - `factored`: √λ; `pi`: its share of √λ, balanced by the mean eigenvalues.
 */
export const factoredDampingKinds = ["relative", "factored", "pi"] as const;
export type FactoredDampingKind = (typeof factoredDampingKinds)[number];

export interface LowRankOptions extends CurvatureOptimizerOptions, Omit<KroneckerOptions, "damping">, DampingOptions, ThinOptions {
  /** Default `relative`. */
  readonly dampingKind?: FactoredDampingKind | undefined;
  /** Eigenpairs of each factor. A rank above its rows counts as these, which the block's report remarks once. Default 220. */
  readonly rank?: Schedule | undefined;
  /** Vectors besides, which make these accurate. Default 10. */
  readonly oversampling?: Schedule | undefined;
  /**
   * Factors of at most this many rows are decomposed exactly, and their dominant eigenpairs kept: for so few rows that takes less time.
   * Default: 4 times rank + oversampling for RS-KFAC and B-KFAC, 3 times for SRE-KFAC, 1.5 times for NysKfac, as measured.
   */
  readonly exactUpTo?: number | undefined;
  /** What the other eigenvalues are taken to be. Default `mean`. */
  readonly tail?: Tail | undefined;
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
  /** What the last search found: null at first. */
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

/** A factor that is known by eigenpairs at the time of inversion, residual · I to be added. */
export interface LowRankSnapshot {
  readonly pairs: Required<LowRank>;
  readonly residual: number;
}

/** One factor as a saved state has it. */
interface Loaded {
  /** Null if they are its average's, which saves them. */
  readonly pairs: Eigenpairs | null;
  readonly residual: number;
}

/** One factor as it is installed. */
interface Factor {
  readonly pairs: Eigenpairs;
  /** Whether the eigenpairs are its average's. */
  readonly shared: boolean;
  readonly residual: number;
  /** With the residual. */
  readonly matrix: LowRankPlusTail;
  /** With the residual. */
  readonly trace: number;
  readonly inverse: DampedInverse;
}

/** A factor's inverse at the damping of a step, in the form that takes fewer operations to apply. */
class DampedInverse {
  readonly #factor: LowRankPlusTail;
  readonly #width: number;
  /** Pairs for more than half of the rows: the inverse as a matrix, until the damping changes. */
  #explicit: { readonly damping: number; readonly matrix: Tensor } | null = null;

  constructor(factor: LowRankPlusTail, width: number) {
    this.#factor = factor;
    this.#width = width;
  }

  get #isExplicit(): boolean {
    return 2 * this.#factor.values.length > this.#width;
  }

  /** Operations for one column. */
  get columnCost(): number {
    return this.#isExplicit ? 2 * this.#width ** 2 : 4 * this.#factor.values.length * this.#width;
  }

  get bytes(): number {
    const { matrix } = this.#explicit ?? {};
    return matrix ? matrix.size * bytesPerElement[matrix.dtype] : 0;
  }

  at(damping: number): Pick<LowRankInverse, "left" | "right"> {
    if (!this.#isExplicit) return this.#factor.inverse(damping);
    if (this.#explicit?.damping !== damping) {
      const matrix = unscoped(() => this.#factor.inverse(damping).matrix());
      this.dispose();
      this.#explicit = { damping, matrix };
    }
    const { matrix } = this.#explicit as { readonly matrix: Tensor };
    return { left: (m) => matrix.matmul(m), right: (m) => m.matmul(matrix) };
  }

  dispose(): void {
    this.#explicit?.matrix.dispose();
    this.#explicit = null;
  }
}

/** K-FAC with low-rank inverses: a method adds its search. */
export class LowRankKfac extends CurvatureOptimizer {
  constructor(parameters: readonly Parameter[], method: string, search: Search, options: LowRankOptions) {
    const { damping, review } = dampingOf(options);
    const create: BlockFactory = (view) => {
      const inverse = new LowRankKroneckerInverse(method, view, search, options);
      return new KroneckerBlock(view, covarianceFactors(view, options), inverse, { ...options, damping });
    };
    super(parameters, method, withScaleShift(create, { ...options, damping }), options, { damping, review });
  }
}

/** r at a step. */
export function rankAt({ rank = 220 }: LowRankOptions, step: number): number {
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
  options: LowRankOptions,
  { step, draw, wide = false, basis = null, refreshes = 0, linalg = routines }: DecompositionContext,
): Promise<Eigenpairs> {
  const d = matrix.shape[0] as number;
  const rank = Math.min(d, rankAt(options, step));
  const tolerance = toleranceAt(search, step);
  const oversampling = hyperParameter("oversampling", options.oversampling ?? 10, step, "at least 0");
  const trace = await traceOf(matrix);
  using operand = unscoped(() => (wide ? matrix.cast("float64") : matrix.keep()));
  const generator = new Generator(options.seed ?? 0).fork(draw);
  const sketch = rank + oversampling;
  const exact = d <= Math.max(sketch, options.exactUpTo ?? search.crossover * sketch);
  const found: LowRank & { readonly basis?: Tensor } = exact
    ? await decomposeExactly(operand, rank, tolerance, linalg)
    : await search.find(operand, { rank, tolerance, oversampling, generator, basis, refreshes, linalg });
  const owned = unscoped(() => {
    const own = (tensor: Tensor): Tensor => (tensor.dtype === matrix.dtype ? tensor.keep() : tensor.cast(matrix.dtype));
    return { vectors: own(found.vectors), values: own(found.values), basis: found.basis ? own(found.basis) : null };
  });
  for (const tensor of [found.vectors, found.values, found.basis]) tensor?.dispose();
  return { ...owned, trace };
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

/** The inverse of Γ ⊗ Ω from the dominant eigenpairs of both: those that a search finds, or that a factor comes with. */
export class LowRankKroneckerInverse implements KroneckerInverse<FactorSnapshot | LowRankSnapshot> {
  readonly method: string;
  readonly wantsGradient: boolean;
  readonly #layer: string;
  readonly #options: LowRankOptions;
  readonly #search: Search;
  #factors: Factors<Factor> | null = null;
  /** A state whose values have not been read yet. */
  #loaded: Factors<Loaded> | null = null;
  #refreshes = 0;
  /** Factors of which it was said that they have no more rows than the rank. */
  readonly #clamped = new Set<FactorName>();
  #remarks: string[] = [];

  constructor(method: string, view: CurvatureView, search: Search, options: LowRankOptions) {
    this.method = method;
    this.#layer = view.weight.name;
    this.#search = search;
    this.#options = options;
    this.wantsGradient = wantsThin(options, view);
  }

  get ready(): boolean {
    return this.#factors !== null && this.#factors.input.matrix.largest > 0 && this.#factors.output.matrix.largest > 0;
  }

  async refresh(
    input: FactorSnapshot | LowRankSnapshot,
    output: FactorSnapshot | LowRankSnapshot,
    { step, wide, linalg }: RefreshContext,
  ): Promise<Refreshed> {
    const snapshots = { input, output };
    const refreshes = this.#refreshes;
    const represent = async (name: FactorName): Promise<Factor> => {
      const snapshot = snapshots[name];
      if ("pairs" in snapshot) return this.#share(snapshot);
      // With a tolerance the rank is a bound, which may well be loose.
      if (this.#search.tolerance === undefined) this.#noteRank(name, rankAt(this.#options, step), snapshot.matrix.shape[0] as number);
      const draw = `${this.#layer} ${name} ${refreshes}`;
      using basis = this.#factors?.[name].pairs.basis?.hold() ?? null;
      const context = { step, draw, wide, basis, refreshes, linalg };
      return await this.#complete(await decompose(snapshot.matrix, this.#search, this.#options, context), snapshot.residual);
    };
    const factors = await ofBoth(represent, releaseFactor);
    return {
      install: () => {
        this.dispose();
        [this.#factors, this.#refreshes] = [factors, refreshes + 1];
      },
      dispose: () => Object.values<Factor>(factors).forEach(releaseFactor),
    };
  }

  #noteRank(name: FactorName, rank: number, rows: number): void {
    if (rank <= rows || this.#clamped.has(name)) return;
    this.#clamped.add(name);
    this.#remarks.push(`the rank ${rank} is more than the ${name} factor has rows, so all its eigenpairs are kept`);
  }

  remarks(): readonly string[] {
    const remarks = this.#remarks;
    this.#remarks = [];
    return remarks;
  }

  #share({ pairs, residual }: LowRankSnapshot): Promise<Factor> {
    return this.#complete(held({ ...pairs, basis: null }), residual, true);
  }

  /** Takes over the eigenpairs. */
  async #complete(pairs: Eigenpairs, residual: number, shared = false): Promise<Factor> {
    try {
      const { vectors } = pairs;
      const trace = pairs.trace + (vectors.shape[0] as number) * residual;
      using values = unscoped(() => (residual === 0 ? pairs.values.keep() : pairs.values.add(residual)));
      const matrix = await lowRankPlusTail({ vectors, values, trace }, this.#options.tail ?? "mean");
      return { pairs, shared, residual, matrix, trace, inverse: new DampedInverse(matrix, vectors.shape[0] as number) };
    } catch (error) {
      release(pairs);
      throw error;
    }
  }

  apply(gradient: Tensor, { damping, view }: ApplyContext): Tensor {
    const factors = this.#factors;
    if (!factors) throw new UsageError("a Kronecker inverse was applied before its first refresh");
    if (!this.ready) return gradient.multiply(0);
    const inverses = this.#inverses(factors, damping);
    const { input, output } = inverses;
    return (view && this.#thinly(factors, inverses, view)) ?? input.right(output.left(gradient));
  }

  #thinly({ input, output }: Factors<Factor>, inverses: Factors<Pick<LowRankInverse, "left">>, view: CurvatureView): Tensor | null {
    if (!this.wantsGradient) return null;
    const [a, g] = [input.inverse.columnCost, output.inverse.columnCost];
    const side = (name: FactorName, columnCost: number): ThinSide => ({ columnCost, left: (columns) => inverses[name].left(columns) });
    return throughThinFactors(view, side("input", a), side("output", g), a * view.dOut + g * view.dA);
  }

  #inverses({ input, output }: Factors<Factor>, damping: number): Factors<Pick<LowRankInverse, "left" | "right">> {
    const { dampingKind = "relative" } = this.#options;
    if (!(damping > 0)) throw new NumericalError(`a low-rank inverse needs a positive damping but it is ${damping}`);
    const extent = ({ trace, pairs, matrix: { largest } }: Factor): FactorExtent => ({
      trace,
      width: pairs.vectors.shape[0] as number,
      largest,
    });
    const kind = dampingKind === "relative" ? "factor-relative" : dampingKind;
    const added = shares(kind, damping, { input: extent(input), output: extent(output) });
    return { input: input.inverse.at(added.input), output: output.inverse.at(added.output) };
  }

  describe(): Pick<BlockReport, "figures" | "spectra"> {
    const figures: Record<string, number> = { bytes: 0 };
    const spectra: Record<string, readonly number[]> = {};
    for (const [name, { matrix, trace, inverse }] of Object.entries<Factor>(this.#factors ?? {})) {
      const sorted = Array.from(matrix.values).sort((a, b) => b - a);
      const kept = sorted.reduce((sum, value) => sum + value, 0);
      const parts = { largest: matrix.largest, smallest: sorted.at(-1) ?? 0, trace, tail: matrix.tail, rank: sorted.length };
      for (const [key, value] of Object.entries(parts)) figures[`${name}.${key}`] = value;
      figures[`${name}.truncation`] = trace > 0 ? Math.max(0, 1 - kept / trace) : 0;
      figures["bytes"] = (figures["bytes"] as number) + inverse.bytes;
      spectra[name] = sorted;
    }
    return { figures, spectra };
  }

  state(): BlockState {
    const tensors = new Map<string, Tensor>();
    const numbers: Record<string, number> = { refreshes: this.#refreshes };
    const factors: readonly (readonly [name: string, factor: Loaded & { readonly shared?: boolean }])[] = Object.entries(
      this.#factors ?? this.#loaded ?? {},
    );
    for (const [name, { pairs, residual, shared }] of factors) {
      numbers[`${name}.residual`] = residual;
      if (!pairs || shared) continue;
      numbers[`${name}.trace`] = pairs.trace;
      for (const part of ["vectors", "values", "basis"] as const) {
        const tensor = pairs[part];
        if (tensor) tensors.set(`${name}.${part}`, tensor.keep());
      }
    }
    return { tensors, numbers };
  }

  load({ tensors, numbers }: BlockState): void {
    this.dispose();
    this.#refreshes = numbers["refreshes"] ?? 0;
    const factor = (name: FactorName): Loaded | null => {
      const residual = numbers[`${name}.residual`];
      if (residual === undefined) return null;
      const [vectors, values, basis] = ["vectors", "values", "basis"].map((part) => tensors.get(`${name}.${part}`));
      if (!vectors || !values) return { pairs: null, residual };
      return { pairs: held({ vectors, values, basis: basis ?? null, trace: numbers[`${name}.trace`] ?? 0 }), residual };
    };
    const [input, output] = [factor("input"), factor("output")];
    this.#loaded = input && output && { input, output };
  }

  /** Reads the values of a loaded state. */
  async prepare(input: FactorSnapshot | LowRankSnapshot, output: FactorSnapshot | LowRankSnapshot): Promise<void> {
    const loaded = this.#loaded;
    if (!loaded) return;
    const snapshots = { input, output };
    const factors = await ofBoth(async (name) => {
      const [{ pairs, residual }, snapshot] = [loaded[name], snapshots[name]];
      if (pairs) return this.#complete(held(pairs), residual);
      if ("pairs" in snapshot) return this.#share({ ...snapshot, residual });
      throw new UsageError("a saved low-rank inverse has no eigenpairs of a factor, and neither has the factor itself");
    }, releaseFactor);
    this.dispose();
    this.#factors = factors;
  }

  dispose(): void {
    for (const { inverse } of Object.values<Factor>(this.#factors ?? {})) inverse.dispose();
    for (const { pairs } of Object.values<Loaded>(this.#factors ?? this.#loaded ?? {})) if (pairs) release(pairs);
    [this.#factors, this.#loaded] = [null, null];
  }
}

/** The same, by handles of their own. */
function held({ vectors, values, basis, trace }: Eigenpairs): Eigenpairs {
  return { vectors: vectors.hold(), values: values.hold(), basis: basis?.hold() ?? null, trace };
}

function releaseFactor({ pairs }: Factor): void {
  release(pairs);
}

function release({ vectors, values, basis }: Eigenpairs): void {
  for (const tensor of [vectors, values, basis]) tensor?.dispose();
}

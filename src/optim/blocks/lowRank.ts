import { lowRankPlusTail, type LowRank, type LowRankInverse, type LowRankPlusTail, type Tail } from "../../linalg/index.ts";
import { bytesPerElement, NumericalError, Tensor, unscoped, UsageError } from "../../tensor/index.ts";
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
import { decompose, negligibleAt, rankAt, type DecompositionOptions, type Eigenpairs, type Search } from "./dominant.ts";
import { withScaleShift } from "./scaleShift.ts";
import { ThinApplication, type ThinCosts, type ThinOptions } from "./thin.ts";

/*
 * Kronecker factors by their dominant eigenpairs and a mean for the others, F ≈ U diag(D) Uᵀ + τ(I − UUᵀ): the damped inverse is cheap to
 * apply, and the factors are damped one by one. How the eigenpairs are found is in dominant.ts, and the affair
 * of each method.
 */

/**
 * What λ means to each factor:
 * - `relative`: λ times its largest eigenvalue is added to it (the paper's code). Not the damping of exact K-FAC by eigenvalues, which is
 *   added to the product: the smallest modes gain 1/λ² here, and 1/λ there;
 * - `factored`: √λ; `pi`: its share of √λ, balanced by the mean eigenvalues.
 */
export const factoredDampingKinds = ["relative", "factored", "pi"] as const;
export type FactoredDampingKind = (typeof factoredDampingKinds)[number];

export interface LowRankOptions
  extends CurvatureOptimizerOptions, Omit<KroneckerOptions, "damping">, DampingOptions, ThinOptions, DecompositionOptions {
  /** Default `relative`. */
  readonly dampingKind?: FactoredDampingKind | undefined;
  /** What the other eigenvalues are taken to be. Default `mean`. */
  readonly tail?: Tail | undefined;
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
  /** To be added to every eigenvalue: neither the pairs nor the matrix have it in them. */
  readonly residual: number;
  readonly matrix: LowRankPlusTail;
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

/** The inverse of Γ ⊗ Ω from the dominant eigenpairs of both: those that a search finds, or that a factor comes with. */
export class LowRankKroneckerInverse implements KroneckerInverse<FactorSnapshot | LowRankSnapshot> {
  readonly method: string;
  readonly #layer: string;
  readonly #options: LowRankOptions;
  readonly #thin: ThinApplication;
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
    this.#thin = new ThinApplication(options, view);
  }

  get wantsGradient(): boolean {
    return this.#thin.wanted(this.#factors && costsOf(this.#factors));
  }

  get ready(): boolean {
    return this.#factors !== null && extentOf(this.#factors.input).largest > 0 && extentOf(this.#factors.output).largest > 0;
  }

  async refresh(
    input: FactorSnapshot | LowRankSnapshot,
    output: FactorSnapshot | LowRankSnapshot,
    { step, damping, wide, linalg }: RefreshContext,
  ): Promise<Refreshed> {
    const snapshots = { input, output };
    const refreshes = this.#refreshes;
    const previous = this.#factors;
    const kept = { input: previous?.input.pairs.values.size ?? null, output: previous?.output.pairs.values.size ?? null };
    using inputBasis = previous?.input.pairs.basis?.hold() ?? null;
    using outputBasis = previous?.output.pairs.basis?.hold() ?? null;
    const traces = await ofBoth(
      (name) => {
        const snapshot = snapshots[name];
        return "pairs" in snapshot ? Promise.resolve(snapshot.pairs.trace) : traceOf(snapshot.matrix);
      },
      () => undefined,
    );
    const represent = async (name: FactorName): Promise<Factor> => {
      const snapshot = snapshots[name];
      if ("pairs" in snapshot) return this.#share(snapshot);
      const trace = traces[name];
      const sizes = {
        input: { trace: traces.input, width: rowsOf(input), residual: input.residual },
        output: { trace: traces.output, width: rowsOf(output), residual: output.residual },
      };
      // A second attempt has another damping, or another factor, than what is applied: it leaves nothing out.
      const cutoff = wide ? null : this.#cutoff(step, damping, name, snapshot, sizes);
      const isBound = this.#search.tolerance !== undefined || this.#negligible(step) > 0; // which may well be loose
      if (!isBound) this.#noteRank(name, rankAt(this.#options, step), rowsOf(snapshot));
      const draw = `${this.#layer} ${name} ${refreshes}`;
      const basis = name === "input" ? inputBasis : outputBasis;
      const context = { step, draw, wide, trace, floor: snapshot.floor, basis, refreshes, linalg, cutoff, kept: kept[name] };
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

  /**
   * The eigenvalues that are negligible beside the damping of their factor, and beside what every eigenvalue is at least: where the tail is
   * the mean of the others, which is then between that and the largest that is left out.
   */
  #cutoff(
    step: number,
    damping: number,
    name: FactorName,
    { floor, residual }: FactorSnapshot,
    sizes: Factors<Omit<FactorExtent, "largest"> & { readonly residual: number }>,
  ): ((largest: number) => number) | null {
    const part = this.#negligible(step);
    if (part === 0) return null;
    return (largest) => {
      const extent = (of: FactorName): FactorExtent => extentWith(sizes[of].residual, { ...sizes[of], largest });
      const added = this.#shares(damping, { input: extent("input"), output: extent("output") })[name] + residual;
      return floor + part * (floor + added);
    };
  }

  /** The part of the damping beside which eigenvalues are left out; 0 if none is. */
  #negligible(step: number): number {
    const part = negligibleAt(this.#search, step);
    return (this.#options.tail ?? "mean") === "mean" ? part : 0;
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
      const matrix = await lowRankPlusTail(pairs, this.#options.tail ?? "mean");
      return { pairs, shared, residual, matrix, inverse: new DampedInverse(matrix, pairs.vectors.shape[0] as number) };
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
    return (view && this.#thin.direction(view, costsOf(factors), inverses)) ?? input.right(output.left(gradient));
  }

  #inverses({ input, output }: Factors<Factor>, damping: number): Factors<Pick<LowRankInverse, "left" | "right">> {
    if (!(damping > 0)) throw new NumericalError(`a low-rank inverse needs a positive damping but it is ${damping}`);
    const added = this.#shares(damping, { input: extentOf(input), output: extentOf(output) });
    return { input: input.inverse.at(added.input + input.residual), output: output.inverse.at(added.output + output.residual) };
  }

  #shares(damping: number, extents: Factors<FactorExtent>): Factors<number> {
    const { dampingKind = "relative" } = this.#options;
    return shares(dampingKind === "relative" ? "factor-relative" : dampingKind, damping, extents);
  }

  describe(): Pick<BlockReport, "figures" | "spectra"> {
    const figures: Record<string, number> = { bytes: 0 };
    const spectra: Record<string, readonly number[]> = {};
    for (const [name, factor] of Object.entries<Factor>(this.#factors ?? {})) {
      const { matrix, residual, inverse } = factor;
      const { largest, trace } = extentOf(factor);
      const sorted = Array.from(matrix.values, (value) => value + residual).sort((a, b) => b - a);
      const kept = sorted.reduce((sum, value) => sum + value, 0);
      const parts = { largest, smallest: sorted.at(-1) ?? 0, trace, tail: matrix.tail + residual, rank: sorted.length };
      for (const [key, value] of Object.entries(parts)) figures[`${name}.${key}`] = value;
      figures[`${name}.truncation`] = trace > 0 ? Math.max(0, 1 - kept / trace) : 0;
      figures["bytes"] = (figures["bytes"] as number) + inverse.bytes;
      spectra[name] = sorted;
    }
    return { figures, spectra };
  }

  state(): BlockState {
    const tensors = new Map<string, Tensor>();
    const numbers: Record<string, number> = { refreshes: this.#refreshes, ...this.#thin.state() };
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
    this.#thin.load(numbers);
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

function costsOf({ input, output }: Factors<Factor>): ThinCosts {
  return { input: input.inverse, output: output.inverse };
}

/** With the residual. */
function extentOf({ pairs: { vectors, trace }, residual, matrix: { largest } }: Factor): FactorExtent {
  return extentWith(residual, { trace, width: vectors.shape[0] as number, largest });
}

function extentWith(residual: number, { trace, width, largest }: FactorExtent): FactorExtent {
  return { trace: trace + width * residual, width, largest: largest + residual };
}

function rowsOf(snapshot: FactorSnapshot | LowRankSnapshot): number {
  return ("pairs" in snapshot ? snapshot.pairs.vectors : snapshot.matrix).shape[0] as number;
}

function releaseFactor({ pairs }: Factor): void {
  release(pairs);
}

function release({ vectors, values, basis }: Eigenpairs): void {
  for (const tensor of [vectors, values, basis]) tensor?.dispose();
}

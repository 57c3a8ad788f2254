import { eigh, lowRankPlusTail, type LowRank, type LowRankInverse, type LowRankPlusTail, type Tail } from "../../linalg/index.ts";
import { Generator, NumericalError, Tensor, unscoped, UsageError } from "../../tensor/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { dampingOf, type DampingOptions } from "../curvature/adaptiveDamping.ts";
import type { BlockFactory, BlockReport, BlockState } from "../curvature/block.ts";
import { piShares } from "../curvature/damping.ts";
import {
  KroneckerBlock,
  traceOf,
  type ApplyContext,
  type FactorSnapshot,
  type KroneckerInverse,
  type KroneckerOptions,
  type RefreshContext,
} from "../curvature/kronecker.ts";
import { CurvatureOptimizer, type CurvatureOptimizerOptions } from "../curvature/optimizer.ts";
import type { CurvatureView } from "../curvature/view.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";
import { withScaleShift } from "./scaleShift.ts";
import { bytesOf } from "./spectrum.ts";

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
export type FactoredDampingKind = "relative" | "factored" | "pi";

export interface LowRankOptions extends CurvatureOptimizerOptions, Omit<KroneckerOptions, "damping">, DampingOptions {
  /** Default `relative`. */
  readonly dampingKind?: FactoredDampingKind | undefined;
  /**
   * Eigenpairs of each factor. A factor with no more rows than that and the oversampling is decomposed exactly, and all of it is kept that
   * the rank allows. Default 220.
   */
  readonly rank?: Schedule | undefined;
  /** Vectors besides, which make these accurate. Default 10. */
  readonly oversampling?: Schedule | undefined;
  /** What the other eigenvalues are taken to be. Default `mean`. */
  readonly tail?: Tail | undefined;
  /**
   * Precondition the thin factors of a dense layer's gradient, before these are multiplied, where that takes fewer operations: the same
   * direction, up to rounding. Default true.
   */
  readonly thin?: boolean | undefined;
  /** Of the random test matrices. Default 0. */
  readonly seed?: number | undefined;
}

/** What a search for dominant eigenpairs has at its disposal. */
export interface SearchContext {
  /** At most the order of the matrix. */
  readonly rank: number;
  readonly oversampling: number;
  /** Depends on the seed, the layer, the factor and the number of the refresh. */
  readonly generator: Generator;
  /** What the last search found: null at first. */
  readonly basis: Tensor | null;
  /** Number of refreshes before this one. */
  readonly refreshes: number;
}

/** Finds the dominant eigenpairs of a positive semidefinite matrix; `basis` is where its next call may start. */
export type Search = (matrix: Tensor, context: SearchContext) => Promise<LowRank & { readonly basis?: Tensor }>;

/** One factor as a saved state has it. */
interface Loaded extends LowRank {
  readonly trace: number;
  readonly basis: Tensor | null;
}

/** One factor as it is installed. */
interface Factor extends Loaded {
  readonly matrix: LowRankPlusTail;
}

type Factors = Readonly<Record<"input" | "output", Factor>>;

/** K-FAC with low-rank inverses: a method adds its search. */
export class LowRankKfac extends CurvatureOptimizer {
  constructor(parameters: readonly Parameter[], method: string, search: Search, options: LowRankOptions) {
    const { damping, review } = dampingOf(options);
    const create: BlockFactory = (view) =>
      new KroneckerBlock(view, new LowRankKroneckerInverse(method, view, search, options), { ...options, damping });
    super(parameters, method, withScaleShift(create, { ...options, damping }), options, { review });
  }
}

/** The inverse of Γ ⊗ Ω from the dominant eigenpairs of both. */
class LowRankKroneckerInverse implements KroneckerInverse {
  readonly method: string;
  readonly wantsGradient: boolean;
  readonly #layer: string;
  readonly #options: LowRankOptions;
  readonly #search: Search;
  #factors: Factors | null = null;
  /** A state whose values have not been read yet. */
  #loaded: Readonly<Record<"input" | "output", Loaded>> | null = null;
  #refreshes = 0;

  constructor(method: string, view: CurvatureView, search: Search, options: LowRankOptions) {
    this.method = method;
    this.#layer = view.weight.name;
    this.#search = search;
    this.#options = options;
    this.wantsGradient = (options.thin ?? true) && view.positions === 1;
  }

  get ready(): boolean {
    return this.#factors !== null && this.#factors.input.matrix.largest > 0 && this.#factors.output.matrix.largest > 0;
  }

  async refresh(inputFactor: FactorSnapshot, outputFactor: FactorSnapshot, { step, wide }: RefreshContext): Promise<void> {
    const input = await this.#decompose("input", inputFactor, step, wide);
    const output = await this.#decompose("output", outputFactor, step, wide).catch((error: unknown) => {
      release(input);
      throw error;
    });
    this.dispose();
    this.#factors = { input, output };
    this.#refreshes++;
  }

  async #decompose(name: keyof Factors, { matrix, residual }: FactorSnapshot, step: number, wide: boolean): Promise<Factor> {
    const { seed = 0, tail = "mean" } = this.#options;
    const d = matrix.shape[0] as number;
    const trace = await traceOf(matrix);
    using operand = unscoped(() => (wide ? matrix.cast("float64") : matrix.keep()));
    const found = await this.#find(operand, {
      rank: Math.min(d, hyperParameter("rank", this.#options.rank ?? 220, step, "a whole number of at least 1")),
      oversampling: hyperParameter("oversampling", this.#options.oversampling ?? 10, step, "at least 0"),
      generator: new Generator(seed).fork(`${this.#layer} ${name} ${this.#refreshes}`),
      basis: this.#factors?.[name].basis ?? null,
      refreshes: this.#refreshes,
    });
    const owned = unscoped(() => {
      const own = (tensor: Tensor): Tensor => (tensor.dtype === matrix.dtype ? tensor.keep() : tensor.cast(matrix.dtype));
      return { vectors: own(found.vectors), values: own(found.values), basis: found.basis ? own(found.basis) : null };
    });
    for (const tensor of [found.vectors, found.values, found.basis]) tensor?.dispose();
    try {
      const values = residual === 0 ? owned.values.keep() : unscoped(() => owned.values.add(residual));
      owned.values.dispose();
      const whole = trace + d * residual;
      const plus = await lowRankPlusTail({ vectors: owned.vectors, values, trace: whole }, tail);
      return { vectors: owned.vectors, values, basis: owned.basis, matrix: plus, trace: whole };
    } catch (error) {
      for (const tensor of Object.values(owned)) tensor?.dispose();
      throw error;
    }
  }

  async #find(matrix: Tensor, context: SearchContext): Promise<LowRank & { readonly basis?: Tensor }> {
    const d = matrix.shape[0] as number;
    return context.rank + context.oversampling >= d ? eigh(matrix, { largest: context.rank }) : this.#search(matrix, context);
  }

  apply(gradient: Tensor, { damping, view }: ApplyContext): Tensor {
    const factors = this.#factors;
    if (!factors) throw new UsageError("a Kronecker inverse was applied before its first refresh");
    if (!this.ready) return gradient.multiply(0);
    const { input, output } = this.#inverses(factors, damping);
    if (view && this.#thinIsCheaper(factors, view)) {
      // P = (Γ⁻¹ C_g)(Ω⁻¹ C_a)ᵀ for the gradient C_g C_aᵀ.
      return output.left(view.thinOutputGradient("training")).matmul(input.left(view.thinInput()), { transposeB: true });
    }
    return input.right(output.left(gradient));
  }

  /** Operations of n columns on each side and one product, against those of the whole gradient. */
  #thinIsCheaper({ input, output }: Factors, view: CurvatureView): boolean {
    if (!this.wantsGradient || !view.explainsGradient) return false;
    const [r, s] = [input.values.size, output.values.size];
    const { n, dA, dOut } = view;
    return 4 * n * (r * dA + s * dOut) + 2 * n * dA * dOut < 4 * (r + s) * dA * dOut;
  }

  #inverses({ input, output }: Factors, damping: number): Readonly<Record<keyof Factors, LowRankInverse>> {
    const { dampingKind = "relative" } = this.#options;
    if (!(damping > 0)) throw new NumericalError(`a low-rank inverse needs a positive damping but it is ${damping}`);
    const root = Math.sqrt(damping);
    const extent = ({ trace, vectors }: Factor): { trace: number; width: number } => ({ trace, width: vectors.shape[0] as number });
    const shares =
      dampingKind === "relative"
        ? { input: damping * input.matrix.largest, output: damping * output.matrix.largest }
        : dampingKind === "pi"
          ? piShares(damping, extent(input), extent(output))
          : { input: root, output: root };
    return { input: input.matrix.inverse(shares.input), output: output.matrix.inverse(shares.output) };
  }

  describe(): Pick<BlockReport, "figures" | "spectra"> {
    const figures: Record<string, number> = { bytes: 0 };
    const spectra: Record<string, readonly number[]> = {};
    for (const [name, { vectors, basis, matrix, trace }] of Object.entries<Factor>(this.#factors ?? {})) {
      const sorted = Array.from(matrix.values).sort((a, b) => b - a);
      const kept = sorted.reduce((sum, value) => sum + value, 0);
      const parts = { largest: matrix.largest, smallest: sorted.at(-1) ?? 0, trace, tail: matrix.tail, rank: sorted.length };
      for (const [key, value] of Object.entries(parts)) figures[`${name}.${key}`] = value;
      figures[`${name}.truncation`] = trace > 0 ? Math.max(0, 1 - kept / trace) : 0;
      figures["bytes"] = (figures["bytes"] as number) + bytesOf(vectors) + (basis ? bytesOf(basis) : 0);
      spectra[name] = sorted;
    }
    return { figures, spectra };
  }

  state(): BlockState {
    const tensors = new Map<string, Tensor>();
    const numbers: Record<string, number> = { refreshes: this.#refreshes };
    for (const [name, factor] of Object.entries<Loaded>(this.#factors ?? this.#loaded ?? {})) {
      for (const part of ["vectors", "values", "basis"] as const) {
        const tensor = factor[part];
        if (tensor) tensors.set(`${name}.${part}`, tensor.keep());
      }
      numbers[`${name}.trace`] = factor.trace;
    }
    return { tensors, numbers };
  }

  load({ tensors, numbers }: BlockState): void {
    this.dispose();
    this.#refreshes = numbers["refreshes"] ?? 0;
    const factor = (name: keyof Factors): Loaded | null => {
      const [vectors, values] = [tensors.get(`${name}.vectors`), tensors.get(`${name}.values`)];
      if (!vectors || !values) return null;
      const basis = tensors.get(`${name}.basis`)?.hold() ?? null;
      return { vectors: vectors.hold(), values: values.hold(), basis, trace: numbers[`${name}.trace`] ?? 0 };
    };
    const [input, output] = [factor("input"), factor("output")];
    this.#loaded = input && output && { input, output };
  }

  /** Reads the values of a loaded state. */
  async prepare(): Promise<void> {
    if (!this.#loaded) return;
    const { tail = "mean" } = this.#options;
    const { input, output } = this.#loaded;
    const complete = async (factor: Loaded): Promise<Factor> => ({ ...factor, matrix: await lowRankPlusTail(factor, tail) });
    this.#factors = { input: await complete(input), output: await complete(output) };
    this.#loaded = null;
  }

  dispose(): void {
    for (const factor of Object.values<Loaded>(this.#factors ?? this.#loaded ?? {})) release(factor);
    [this.#factors, this.#loaded] = [null, null];
  }
}

function release({ vectors, values, basis }: Loaded): void {
  for (const tensor of [vectors, values, basis]) tensor?.dispose();
}

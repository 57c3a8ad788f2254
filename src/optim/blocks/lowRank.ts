import { eigh } from "../../linalg/index.ts";
import { Generator, isFloat, machineEpsilon, NumericalError, Tensor, tidy, unscoped, UsageError } from "../../tensor/index.ts";
import type { BlockState } from "../curvature/block.ts";
import { piShares } from "../curvature/damping.ts";
import type { ApplyContext, FactorSnapshot, KroneckerInverse } from "../curvature/kronecker.ts";
import type { CurvatureView } from "../curvature/view.ts";

/*
 * Kronecker factors by their dominant eigenpairs, F ≈ U diag(D) Uᵀ + τ (I − UUᵀ), which makes the damped inverse cheap to apply:
 *
 *     (F + λI)⁻¹ M = U diag(c) UᵀM + M / (τ + λ),   cⱼ = (τ − Dⱼ) / ((Dⱼ + λ)(τ + λ))
 *
 * (`lowRankInverse` in linalg has the proof.) How the eigenpairs are found is the method's affair.
 */

/** How the eigenvalues outside of the span are taken: see `LowRankInverseOptions`. */
export type Tail = "mean" | "smallest" | "zero";

/**
 * What λ means to each factor:
 * - `relative`: λ times its largest eigenvalue (the paper's code);
 * - `factored`: √λ; `pi`: its share of √λ, balanced by the mean eigenvalues.
 */
export type FactoredDampingKind = "relative" | "factored" | "pi";

export interface LowRankOptions {
  /** Eigenpairs of each factor; a factor that has no more rows than that, with the oversampling, is decomposed exactly. Default 220. */
  readonly rank?: number | undefined;
  /** Vectors besides, which make these accurate. Default 10. */
  readonly oversampling?: number | undefined;
  /** Default `mean`. */
  readonly tail?: Tail | undefined;
  /** Default `relative`. */
  readonly dampingKind?: FactoredDampingKind | undefined;
  /**
   * Precondition the thin factors of a dense layer's gradient before these are multiplied, where that takes fewer operations. The same
   * direction, up to rounding. Default true.
   */
  readonly thin?: boolean | undefined;
  /** Of the random test matrices. Default 0. */
  readonly seed?: number | undefined;
}

/** Dominant eigenpairs as a method finds them. */
export interface Found {
  /** [d, r], orthonormal columns. */
  readonly vectors: Tensor;
  /** [r]. */
  readonly values: Tensor;
  /** Where the next search may start. */
  readonly basis?: Tensor;
}

/** A search for the dominant eigenpairs of a positive semidefinite matrix. */
export type Search = (
  matrix: Tensor,
  rank: number,
  options: { readonly oversampling: number; readonly generator: Generator; readonly basis: Tensor | null; readonly refreshes: number },
) => Promise<Found>;

/** One factor by its dominant eigenpairs. */
interface LowRankFactor {
  readonly vectors: Tensor;
  /** [r], descending or ascending, not negative; residual included. */
  readonly values: Float64Array;
  readonly tail: number;
  readonly largest: number;
  readonly trace: number;
  readonly basis: Tensor | null;
}

const NAMES = ["input", "output"] as const;
type Name = (typeof NAMES)[number];

/** The inverse of Γ ⊗ Ω, each damped by itself, from the dominant eigenpairs of both. */
export class LowRankKroneckerInverse implements KroneckerInverse {
  readonly method: string;
  readonly wantsGradient: boolean;
  readonly #layer: string;
  readonly #options: LowRankOptions;
  readonly #search: Search;
  #factors: Readonly<Record<Name, LowRankFactor>> | null = null;
  #refreshes = 0;

  constructor(method: string, view: CurvatureView, search: Search, options: LowRankOptions) {
    this.method = method;
    this.#layer = view.weight.name;
    this.#search = search;
    this.#options = options;
    this.wantsGradient = (options.thin ?? true) && view.positions === 1;
  }

  get ready(): boolean {
    return this.#factors !== null && NAMES.every((name) => (this.#factors?.[name].largest ?? 0) > 0);
  }

  async refresh(inputFactor: FactorSnapshot, outputFactor: FactorSnapshot): Promise<void> {
    const input = await this.#decompose("input", inputFactor);
    try {
      const output = await this.#decompose("output", outputFactor);
      this.#release();
      this.#factors = { input, output };
      this.#refreshes++;
    } catch (error) {
      release(input);
      throw error;
    }
  }

  async #decompose(name: Name, { matrix, residual }: FactorSnapshot): Promise<LowRankFactor> {
    const { rank = 220, oversampling = 10, tail = "mean", seed = 0 } = this.#options;
    const d = matrix.shape[0] as number;
    const exact = rank + oversampling >= d;
    const generator = new Generator(seed).fork(`${this.#layer} ${name} ${this.#refreshes}`);
    const start = this.#factors?.[name].basis ?? null;
    const wanted = Math.min(rank, d);
    const found: Found = exact
      ? await eigh(matrix, { largest: wanted })
      : await this.#search(matrix, wanted, { oversampling, generator, basis: start, refreshes: this.#refreshes });
    try {
      const trace = await traceOf(matrix);
      const raw = Float64Array.from(await found.values.data());
      const top = raw.reduce((a, b) => Math.max(a, b), 0);
      const floor = d * machineEpsilon[isFloat(matrix.dtype) ? matrix.dtype : "float32"] * top;
      const values = raw.map((value) => (value <= floor ? 0 : value));
      const rest = tailOf(tail, values, d, trace);
      return {
        vectors: found.vectors.keep(),
        values: values.map((value) => value + residual),
        tail: rest + residual,
        largest: top + residual,
        trace: trace + d * residual,
        basis: found.basis?.keep() ?? null,
      };
    } finally {
      for (const tensor of [found.vectors, found.values, found.basis]) tensor?.dispose();
    }
  }

  apply(gradient: Tensor, { damping, view }: ApplyContext): Tensor {
    const factors = this.#factors;
    if (!factors) throw new UsageError("a Kronecker inverse was applied before its first refresh");
    if (!this.ready) return gradient.multiply(0);
    const [input, output] = [factors.input, factors.output];
    const shares = this.#shares(factors, damping);
    const [onLeft, onRight] = [solver(output, shares.output), solver(input, shares.input)];
    if (view && this.#thinIsCheaper(view)) {
      // P = (Γ⁻¹ C_g)(Ω⁻¹ C_a)ᵀ for the gradient C_g C_aᵀ.
      return onLeft(view.thinOutputGradient("training")).matmul(onRight(view.thinInput()), { transposeB: true });
    }
    return onRight(onLeft(gradient).transpose()).transpose();
  }

  /** Operations of n columns on each side and one product, against those of the whole gradient. */
  #thinIsCheaper(view: CurvatureView): boolean {
    if (!this.wantsGradient || !view.explainsGradient) return false;
    const factors = this.#factors as Record<Name, LowRankFactor>;
    const [r, s] = [factors.input.values.length, factors.output.values.length];
    const { n, dA, dOut } = view;
    return 4 * n * (r * dA + s * dOut) + 2 * n * dA * dOut < 4 * (r + s) * dA * dOut;
  }

  #shares({ input, output }: Readonly<Record<Name, LowRankFactor>>, damping: number): Record<Name, number> {
    const { dampingKind = "relative" } = this.#options;
    if (!(damping > 0)) throw new NumericalError(`a low-rank inverse needs a positive damping but it is ${damping}`);
    if (dampingKind === "relative") return { input: damping * input.largest, output: damping * output.largest };
    const root = Math.sqrt(damping);
    if (dampingKind === "factored") return { input: root, output: root };
    const extent = ({ trace, vectors }: LowRankFactor): { trace: number; width: number } => ({ trace, width: vectors.shape[0] as number });
    return piShares(damping, extent(input), extent(output));
  }

  state(): BlockState {
    const tensors = new Map<string, Tensor>();
    const numbers: Record<string, number> = { refreshes: this.#refreshes };
    for (const [name, { vectors, values, basis, ...figures }] of Object.entries(this.#factors ?? {}) as [Name, LowRankFactor][]) {
      tensors.set(`${name}.vectors`, vectors.keep());
      tensors.set(
        `${name}.values`,
        unscoped(() => Tensor.from(values)),
      );
      if (basis) tensors.set(`${name}.basis`, basis.keep());
      for (const [key, value] of Object.entries(figures)) numbers[`${name}.${key}`] = value;
    }
    return { tensors, numbers };
  }

  load({ tensors, numbers }: BlockState): void {
    this.#release();
    this.#refreshes = numbers["refreshes"] ?? 0;
    const factor = (name: Name): LowRankFactor | null => {
      const [vectors, values] = [tensors.get(`${name}.vectors`), tensors.get(`${name}.values`)];
      if (!vectors || !values) return null;
      const figure = (key: string): number => numbers[`${name}.${key}`] ?? 0;
      return {
        vectors: vectors.hold(),
        values: Float64Array.from(values.dataSync()),
        basis: tensors.get(`${name}.basis`)?.hold() ?? null,
        tail: figure("tail"),
        largest: figure("largest"),
        trace: figure("trace"),
      };
    };
    const [input, output] = [factor("input"), factor("output")];
    this.#factors = input && output && { input, output };
  }

  #release(): void {
    for (const factor of Object.values(this.#factors ?? {})) release(factor);
    this.#factors = null;
  }

  dispose(): void {
    this.#release();
  }
}

function release({ vectors, basis }: LowRankFactor): void {
  vectors.dispose();
  basis?.dispose();
}

/** (F + λI)⁻¹ M, from the left. */
function solver({ vectors, values, tail }: LowRankFactor, lambda: number): (m: Tensor) => Tensor {
  const coefficients = values.map((value) => (tail - value) / ((value + lambda) * (tail + lambda)));
  return (m) => {
    const factors = Tensor.from(coefficients, { shape: [values.length, 1], dtype: vectors.dtype, backend: vectors.backend });
    return tidy(() => vectors.matmul(vectors.matmul(m, { transposeA: true }).multiply(factors)).add(m.multiply(1 / (tail + lambda))));
  };
}

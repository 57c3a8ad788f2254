import { apply, Tensor, tidy, unscoped, UsageError, Variable } from "../../tensor/index.ts";

/**
 * How an exponential average M_k = ρ M_{k−1} + (1 − ρ) X_k begins:
 * - `normalized`: a weighted mean, so unbiased from the first value on (kfac-jax);
 * - `identity`: M₀ = I. Its remainder ρᵏ I acts as damping that fades (the paper's code, kfac-pytorch);
 * - `zero`: M₀ = 0, and the remainder ρᵏ is reported as `residual`, to be added to the damping. The same operator as `identity`
 *   at full rank, and M stays of low rank;
 * - `first`: M₁ = X₁.
 */
export type AverageForm = "normalized" | "identity" | "zero" | "first";

export interface AverageOptions {
  /** Default `normalized`. */
  readonly form?: AverageForm | undefined;
  /** ρ, in [0, 1), or a function of the number of values seen before. Default .95. */
  readonly decay?: number | ((count: number) => number) | undefined;
}

export interface AverageState {
  readonly value: Tensor | null;
  readonly count: number;
  readonly weight: number;
  readonly residual: number;
}

/** ρ_k = min(1 − 1/k, ρ_max): a plain mean first, then exponential (Martens and Grosse 2015, section 5). */
export function martensDecay(largest: number): (count: number) => number {
  return (count) => Math.min(1 - 1 / (count + 1), largest);
}

/** The exponential average of a symmetric matrix: a Kronecker factor over time. */
export class MatrixAverage {
  readonly #form: AverageForm;
  readonly #decay: (count: number) => number;
  #value: Variable | null = null;
  #count = 0;
  #weight = 0;
  #residual = 1;

  constructor({ form = "normalized", decay = 0.95 }: AverageOptions = {}) {
    this.#form = form;
    this.#decay = typeof decay === "number" ? () => decay : decay;
  }

  /** Number of values seen. */
  get count(): number {
    return this.#count;
  }

  /** M. The average owns this handle. @throws UsageError before the first value. */
  get value(): Tensor {
    if (!this.#value) throw new UsageError("a curvature average was read before its first value");
    return this.#value.value;
  }

  /** What is left of the identity and must be added to the damping: ∏ρ for the form `zero`, else 0. */
  get residual(): number {
    return this.#form === "zero" ? this.#residual : 0;
  }

  observe(x: Tensor): void {
    const rho = this.#decay(this.#count);
    if (!(rho >= 0 && rho < 1)) throw new UsageError(`statDecay must be in [0, 1) but is ${rho} at value ${this.#count}`);
    const before = this.#value?.value;
    const blend = (a: number, m: Tensor, b: number): Tensor => (a === 0 ? x.multiply(b) : apply("linearCombination", [m, x], { a, b })[0]);
    const next = tidy(() => {
      switch (this.#form) {
        case "identity":
          return blend(rho, before ?? Tensor.eye(x.shape[0] as number, x), 1 - rho);
        case "zero":
          return before ? blend(rho, before, 1 - rho) : x.multiply(1 - rho);
        case "first":
          return before ? blend(rho, before, 1 - rho) : x.keep();
        case "normalized": {
          const weight = rho * this.#weight + (1 - rho);
          return before ? blend((rho * this.#weight) / weight, before, (1 - rho) / weight) : x.keep();
        }
        default:
          return this.#form satisfies never;
      }
    });
    this.#install(next);
    next.dispose();
    this.#weight = rho * this.#weight + (1 - rho);
    this.#residual *= rho;
    this.#count++;
  }

  #install(value: Tensor): void {
    if (this.#value) this.#value.assign(value);
    else this.#value = unscoped(() => new Variable("average", value));
  }

  /** The tensor's handle is the caller's. */
  state(): AverageState {
    return { value: this.#value?.value.keep() ?? null, count: this.#count, weight: this.#weight, residual: this.#residual };
  }

  /** Replaces everything; a state without a value is that of a new average. */
  load(state: AverageState): void {
    this.dispose();
    if (state.value) this.#install(state.value);
    [this.#count, this.#weight, this.#residual] = [state.count, state.weight, state.residual];
  }

  dispose(): void {
    this.#value?.dispose();
    this.#value = null;
  }
}

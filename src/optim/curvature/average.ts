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

export interface AverageCounts {
  readonly count: number;
  readonly weight: number;
  /** ∏ρ. */
  readonly residual: number;
}

export interface AverageState extends AverageCounts {
  readonly value: Tensor | null;
}

/** ρ_k = min(1 − 1/k, ρ_max): a plain mean first, then exponential (Martens and Grosse 2015, section 5). */
export function martensDecay(largest: number): (count: number) => number {
  return (count) => Math.min(1 - 1 / (count + 1), largest);
}

/** The weights of an exponential average from value to value, whatever the form in which it is kept. */
export class AverageWeights {
  readonly form: AverageForm;
  readonly #decay: (count: number) => number;
  #count = 0;
  #weight = 0;
  /** ∏ρ, what is left of M₀. */
  #remainder = 1;

  constructor({ form = "normalized", decay = 0.95 }: AverageOptions = {}) {
    this.form = form;
    this.#decay = typeof decay === "number" ? () => decay : decay;
  }

  /** Number of values seen. */
  get count(): number {
    return this.#count;
  }

  /** What is left of the identity and must be added to the damping: ∏ρ for the form `zero`, else 0. */
  get residual(): number {
    return this.form === "zero" ? this.#remainder : 0;
  }

  /** What is left of the identity, in M or in the residual: ∏ρ for the forms `identity` and `zero`, else 0. */
  get identity(): number {
    return this.form === "identity" || this.form === "zero" ? this.#remainder : 0;
  }

  /** The largest ρ so far; 0 before the first value. */
  get slowest(): number {
    return Array.from({ length: this.#count }, (_, k) => this.#decay(k)).reduce((a, b) => Math.max(a, b), 0);
  }

  /**
   * Those of M_k = decay · M_{k−1} + weight · X_k for the value to come.
   * @throws UsageError for a ρ outside of [0, 1).
   */
  next(): { readonly decay: number; readonly weight: number } {
    const rho = this.#rho();
    switch (this.form) {
      case "identity":
      case "zero":
        return { decay: rho, weight: 1 - rho };
      case "first":
        return this.#count === 0 ? { decay: 0, weight: 1 } : { decay: rho, weight: 1 - rho };
      case "normalized": {
        const total = this.#total(rho);
        return { decay: (rho * this.#weight) / total, weight: (1 - rho) / total };
      }
      default:
        return this.form satisfies never;
    }
  }

  /** The value has come. */
  advance(): void {
    const rho = this.#rho();
    this.#weight = this.#total(rho);
    this.#remainder *= rho;
    this.#count++;
  }

  #rho(): number {
    const rho = this.#decay(this.#count);
    if (!(rho >= 0 && rho < 1)) throw new UsageError(`statDecay must be in [0, 1) but is ${rho} at value ${this.#count}`);
    return rho;
  }

  /** Of all values' weights, not normalized. */
  #total(rho: number): number {
    return rho * this.#weight + (1 - rho);
  }

  state(): AverageCounts {
    return { count: this.#count, weight: this.#weight, residual: this.#remainder };
  }

  load({ count, weight, residual }: AverageCounts): void {
    [this.#count, this.#weight, this.#remainder] = [count, weight, residual];
  }
}

/** The exponential average of a symmetric matrix: a Kronecker factor over time. */
export class MatrixAverage {
  readonly #weights: AverageWeights;
  #value: Variable | null = null;

  constructor(options: AverageOptions = {}) {
    this.#weights = new AverageWeights(options);
  }

  /** Number of values seen. */
  get count(): number {
    return this.#weights.count;
  }

  /** M. The average owns this handle. @throws UsageError before the first value. */
  get value(): Tensor {
    if (!this.#value) throw new UsageError("a curvature average was read before its first value");
    return this.#value.value;
  }

  /** As in `AverageWeights`. */
  get residual(): number {
    return this.#weights.residual;
  }

  /** What is left of the identity, in M or in the residual: ∏ρ for the forms `identity` and `zero`, else 0. */
  get identity(): number {
    return this.#weights.identity;
  }

  /** The largest ρ so far; 0 before the first value. */
  get slowest(): number {
    return this.#weights.slowest;
  }

  observe(x: Tensor): void {
    const { decay, weight } = this.#weights.next();
    const next = tidy(() => {
      const before = this.#value?.value ?? (this.#weights.form === "identity" ? Tensor.eye(x.shape[0] as number, x) : null);
      // Written over what was before, unless a snapshot still holds it: for the widest layers each of these is large.
      if (before && decay > 0) return apply("linearCombination", [before, x], { a: decay, b: weight }, { donate: [0] })[0];
      return weight === 1 ? x.keep() : x.multiply(weight);
    });
    this.#install(next);
    next.dispose();
    this.#weights.advance();
  }

  #install(value: Tensor): void {
    if (this.#value) this.#value.assign(value);
    else this.#value = unscoped(() => new Variable("average", value));
  }

  /** The tensor's handle is the caller's. */
  state(): AverageState {
    return { value: this.#value?.value.keep() ?? null, ...this.#weights.state() };
  }

  /** Replaces everything; a state without a value is that of a new average. */
  load({ value, ...counts }: AverageState): void {
    this.dispose();
    if (value) this.#install(value);
    this.#weights.load(counts);
  }

  dispose(): void {
    this.#value?.dispose();
    this.#value = null;
  }
}

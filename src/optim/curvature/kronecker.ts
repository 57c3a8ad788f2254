import { NumericalError, tidy, type Tensor } from "../../tensor/index.ts";
import { valueAt, type Schedule } from "../schedules.ts";
import { MatrixAverage, type AverageForm } from "./average.ts";
import { NO_NEEDS, type BlockState, type CaptureNeeds, type CurvatureBlock } from "./block.ts";
import type { CurvatureView } from "./view.ts";

export interface KroneckerOptions {
  /** λ; what it is relative to is the inverse's affair. */
  readonly damping: Schedule;
  /** Decay ρ of the factors' exponential averages, or a function of the number of values seen. Default .95. */
  readonly statDecay?: number | ((count: number) => number) | undefined;
  /** How the averages begin. Default `normalized`. */
  readonly averageForm?: AverageForm | undefined;
  /**
   * How the scale of Γ ⊗ Ω is split between the factors: `kfc`, Ω = (1/n) Σ a aᵀ and Γ = (1/nT) Σ g gᵀ, or `paper`, Ω/T² and T²Γ
   * as in the paper's code. The product is the same; it matters to identity-initialised averages. Default `kfc`.
   */
  readonly factorScaling?: "kfc" | "paper" | undefined;
  /** T_KU: steps between updates of the factors. Default 10. */
  readonly factorUpdateEvery?: Schedule | undefined;
  /** T_KI: steps between inversions. Default 50. */
  readonly inversionEvery?: Schedule | undefined;
}

/** A factor at the time of inversion: matrix + residual · I. */
export interface FactorSnapshot {
  readonly matrix: Tensor;
  readonly residual: number;
}

/** How a method represents the two factors so that the damped product can be inverted. */
export interface KroneckerInverse {
  /** Computes from the factors and installs the result at once; what was installed before stays until then. */
  refresh(input: FactorSnapshot, output: FactorSnapshot, damping: number): Promise<void>;
  /** Whether `refresh` has run, or a state was loaded. */
  readonly ready: boolean;
  /** (Γ ⊗ Ω damped)⁻¹ applied to the gradient J [dOut, dA]. */
  apply(gradient: Tensor, damping: number): Tensor;
  state(): BlockState;
  load(state: BlockState): void;
  dispose(): void;
}

/** The curvature block of the methods that approximate a layer's Fisher by Γ ⊗ Ω (Martens and Grosse 2015; KFC, 2016). */
export class KroneckerBlock implements CurvatureBlock {
  readonly #name: string;
  readonly #options: KroneckerOptions;
  readonly #inverse: KroneckerInverse;
  readonly #input: MatrixAverage;
  readonly #output: MatrixAverage;

  constructor(name: string, inverse: KroneckerInverse, options: KroneckerOptions) {
    this.#name = name;
    this.#options = options;
    this.#inverse = inverse;
    const average = { form: options.averageForm, decay: options.statDecay };
    this.#input = new MatrixAverage(average);
    this.#output = new MatrixAverage(average);
  }

  needs(step: number): CaptureNeeds {
    return this.#updateDue(step) ? { curvature: true, gradient: false } : NO_NEEDS;
  }

  #updateDue(step: number): boolean {
    return this.#input.count === 0 || step % valueAt(this.#options.factorUpdateEvery ?? 10, step) === 0;
  }

  observe(view: CurvatureView, step: number): void {
    if (!this.#updateDue(step)) return;
    const scale = this.#options.factorScaling === "paper" ? view.positions ** 2 : 1;
    const scaled = (factor: Tensor, by: number): Tensor => (by === 1 ? factor : factor.multiply(by));
    this.#input.observe(scaled(view.inputCovariance(), 1 / scale));
    this.#output.observe(scaled(view.outputCovariance(), scale));
  }

  async refresh(step: number): Promise<void> {
    if (this.#input.count === 0) return;
    if (this.#inverse.ready && step % valueAt(this.#options.inversionEvery ?? 50, step) !== 0) return;
    const snapshot = ({ value, residual }: MatrixAverage): FactorSnapshot => ({ matrix: value.hold(), residual });
    const [input, output] = [snapshot(this.#input), snapshot(this.#output)];
    try {
      await this.#inverse.refresh(input, output, valueAt(this.#options.damping, step));
    } catch (cause) {
      if (!(cause instanceof NumericalError)) throw cause;
      throw new NumericalError(`the curvature of "${this.#name}" could not be inverted at step ${step}: ${cause.message}`, { cause });
    } finally {
      input.matrix.dispose();
      output.matrix.dispose();
    }
  }

  precondition(gradient: Tensor, { step }: { readonly step: number }): Tensor {
    return tidy(() => this.#inverse.apply(gradient, valueAt(this.#options.damping, step)));
  }

  state(): BlockState {
    const tensors = new Map<string, Tensor>();
    const numbers: Record<string, number> = {};
    for (const [name, average] of [
      ["input", this.#input],
      ["output", this.#output],
    ] as const) {
      const { value, ...counts } = average.state();
      if (value) tensors.set(name, value);
      for (const [key, count] of Object.entries(counts)) numbers[`${name}.${key}`] = count;
    }
    const inverse = this.#inverse.state();
    for (const [key, tensor] of inverse.tensors) tensors.set(`inverse.${key}`, tensor);
    for (const [key, value] of Object.entries(inverse.numbers)) numbers[`inverse.${key}`] = value;
    return { tensors, numbers };
  }

  load({ tensors, numbers }: BlockState): void {
    for (const [name, average] of [
      ["input", this.#input],
      ["output", this.#output],
    ] as const) {
      const count = (key: string): number => numbers[`${name}.${key}`] ?? 0;
      average.load({ value: tensors.get(name) ?? null, count: count("count"), weight: count("weight"), residual: count("residual") });
    }
    const own = <T>(entries: Iterable<readonly [string, T]>): [string, T][] =>
      [...entries].flatMap(([key, value]) => (key.startsWith("inverse.") ? [[key.slice("inverse.".length), value]] : []));
    const inverse = { tensors: new Map(own(tensors)), numbers: Object.fromEntries(own(Object.entries(numbers))) };
    if (inverse.tensors.size > 0) this.#inverse.load(inverse);
  }

  dispose(): void {
    this.#input.dispose();
    this.#output.dispose();
    this.#inverse.dispose();
  }
}

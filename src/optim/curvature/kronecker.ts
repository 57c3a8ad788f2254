import { NumericalError, tidy, type Tensor } from "../../tensor/index.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";
import { joined, NO_NEEDS, partOf, type BlockReport, type BlockState, type CaptureNeeds, type CurvatureBlock } from "./block.ts";
import type { FactorAverage, FactorOptions, Factors, FactorSnapshot, ShiftedFactor } from "./factor.ts";
import type { CurvatureView } from "./view.ts";

export interface KroneckerOptions extends FactorOptions {
  /** λ; what it is relative to is the inverse's affair. */
  readonly damping: Schedule;
  /** T_KU: steps between updates of the factors. Default 10. */
  readonly factorUpdateEvery?: Schedule | undefined;
  /** T_KI: steps between inversions. Default 50. */
  readonly inversionEvery?: Schedule | undefined;
}

/** T_KI at a step. */
export function inversionEvery({ inversionEvery: every = 50 }: Pick<KroneckerOptions, "inversionEvery">, step: number): number {
  return hyperParameter("inversionEvery", every, step, "a whole number of at least 1");
}

/** How many times the damping an inversion that failed in float64, too, is tried with. */
const MORE_DAMPING = [10, 100, 1000];

/** What a refresh has besides the factors. */
export interface RefreshContext {
  readonly step: number;
  /** λ of this step, or a multiple of it in a later attempt. */
  readonly damping: number;
  /** Compute in float64 whatever the factors' type: for a second attempt. */
  readonly wide: boolean;
}

/** What a step has for the preconditioning of one layer. */
export interface ApplyContext {
  /** λ of this step. */
  readonly damping: number;
  /** The step's own records, if they were asked for. */
  readonly view: CurvatureView | null;
}

/** How a method represents the two factors so that the damped product can be inverted. */
export interface KroneckerInverse<Snapshot = FactorSnapshot> {
  /** The method, as the registration table shows it. */
  readonly method: string;
  /** Whether `apply` wants the step's own factors of the gradient in its view. Default false. */
  readonly wantsGradient?: boolean;
  /** Computes from the factors and installs the result at once; what was installed before stays until then. */
  refresh(input: Snapshot, output: Snapshot, context: RefreshContext): Promise<void>;
  /** Finishes what `load` began, if reading is needed for that. The factors are as they were when the state was saved. */
  prepare?(input: Snapshot, output: Snapshot): Promise<void>;
  /** Whether what is installed can be applied: false before the first refresh, and while a factor is zero. */
  readonly ready: boolean;
  /**
   * (Γ ⊗ Ω damped)⁻¹ applied to the gradient J [dOut, dA]. Where a factor is zero, nothing is known and the result is 0.
   * @throws NumericalError if the damped product is singular.
   */
  apply(gradient: Tensor, context: ApplyContext): Tensor;
  /** Of what is installed: see `BlockReport`. */
  describe(): Pick<BlockReport, "figures" | "spectra">;
  /** Since it was last asked: see `BlockReport`. */
  remarks?(): readonly string[];
  state(): BlockState;
  /** Replaces what is installed; an empty state leaves nothing. */
  load(state: BlockState): void;
  dispose(): void;
}

/** The curvature block of the methods that approximate a layer's Fisher by Γ ⊗ Ω (Martens and Grosse 2015; KFC, 2016). */
export class KroneckerBlock<Snapshot> implements CurvatureBlock {
  readonly #name: string;
  readonly #options: KroneckerOptions;
  readonly #factors: Factors<FactorAverage<Snapshot>>;
  readonly #inverse: KroneckerInverse<Snapshot>;
  #observedAt = -1;
  /** Whether the factors have changed since the last inversion. */
  #changed = false;
  /** Since the last report. */
  #refreshed = false;
  #problems: string[] = [];
  /** Figures of the factors that were last inverted. */
  #terms: Readonly<Record<string, number>> = {};

  constructor(
    view: CurvatureView,
    factors: Factors<FactorAverage<Snapshot>>,
    inverse: KroneckerInverse<Snapshot>,
    options: KroneckerOptions,
  ) {
    this.#name = view.weight.name;
    this.#options = options;
    this.#factors = factors;
    this.#inverse = inverse;
  }

  get method(): string {
    return this.#inverse.method;
  }

  /** Number of values that are in both factors. */
  get #count(): number {
    return Math.min(this.#factors.input.count, this.#factors.output.count);
  }

  needs(step: number): CaptureNeeds {
    const gradient = this.#inverse.wantsGradient ?? false;
    const curvature = this.#updateDue(step);
    return curvature || gradient ? { curvature, gradient } : NO_NEEDS;
  }

  #updateDue(step: number): boolean {
    const every = hyperParameter("factorUpdateEvery", this.#options.factorUpdateEvery ?? 10, step, "a whole number of at least 1");
    return this.#count === 0 || step % every === 0;
  }

  observe(view: CurvatureView, step: number): void {
    // A step that failed later and is tried again has been observed already, unless it failed for the first values.
    if (!this.#updateDue(step) || (this.#observedAt === step && this.#count > 0)) return;
    this.#factors.input.observe(view);
    this.#factors.output.observe(view);
    [this.#observedAt, this.#changed] = [step, true];
  }

  async refresh(step: number): Promise<void> {
    const { input, output } = this.#factors;
    if (this.#count > 0) await this.#inverse.prepare?.(input.snapshot(), output.snapshot());
    const atOnce = await this.#update(step);
    if (this.#count === 0) return;
    const every = inversionEvery(this.#options, step);
    const due = atOnce || (this.#inverse.ready ? step % every === 0 : this.#changed);
    if (!due) return;
    await this.#invert(this.#damping(step), step);
    this.#changed = false;
    this.#refreshed = true;
  }

  /**
   * Lets the factors finish what they observed: whether one of them wants to be inverted at once. One that cannot stays without the value,
   * which is reported.
   * @throws NumericalError if there is no inverse from before to go on with.
   */
  async #update(step: number): Promise<boolean> {
    let atOnce = false;
    for (const [name, factor] of Object.entries(this.#factors)) {
      try {
        if (await factor.update?.(step)) atOnce = true;
      } catch (cause) {
        if (!(cause instanceof NumericalError)) throw cause;
        if (!this.#inverse.ready) throw this.#explained(cause, "updated", step);
        this.#problems.push(`the ${name} factor is without the value of step ${step}, since ${messageOf(cause)}`);
      }
    }
    return atOnce;
  }

  /**
   * Inverts, and where that fails tries again in float64, then with more damping; then it stays with the inverse from before. Every such
   * step is reported.
   * @throws NumericalError, that of the first attempt, if there is no inverse from before.
   */
  async #invert(damping: number, step: number): Promise<void> {
    const attempts = [
      { name: "", wide: false, more: 0 },
      { name: "in float64", wide: true, more: 0 },
      ...MORE_DAMPING.map((more) => ({ name: `in float64 with ${more} times the damping`, wide: true, more })),
    ];
    let first: unknown;
    for (const { name, wide, more } of attempts) {
      const own: ShiftedFactor<Snapshot>[] = [];
      // For methods that damp when they are applied, the factors themselves have more on their diagonal: that many times λ of the mean
      // eigenvalue.
      const damped = async (factor: FactorAverage<Snapshot>): Promise<Snapshot> => {
        if (more === 0) return factor.snapshot();
        const extra = more * damping * (await factor.meanEigenvalue());
        if (!Number.isFinite(extra)) throw new NumericalError("the trace of a factor is not finite");
        const shifted = factor.shifted(extra);
        own.push(shifted);
        return shifted.snapshot;
      };
      try {
        const [input, output] = [await damped(this.#factors.input), await damped(this.#factors.output)];
        await this.#inverse.refresh(input, output, { step, damping: damping * Math.max(1, more), wide });
        // With more on its diagonal a matrix is no average of these terms.
        this.#terms = more === 0 ? await this.#figures() : {};
        if (first !== undefined) this.#problems.push(`inverted ${name} at step ${step}, since ${messageOf(first)}`);
        return;
      } catch (cause) {
        if (!(cause instanceof NumericalError)) throw cause;
        first ??= cause;
      } finally {
        for (const shifted of own) shifted.dispose();
      }
    }
    if (!this.#inverse.ready) throw this.#explained(first, "inverted", step);
    this.#problems.push(`not inverted at step ${step}, so the inverse from before stays, since ${messageOf(first)}`);
  }

  async #figures(): Promise<Record<string, number>> {
    const { input, output } = this.#factors;
    const figures: Record<string, number> = {};
    for (const [name, { bounds, ...terms }] of Object.entries({ input: await input.terms(), output: await output.terms() })) {
      const parts = { ...terms, valueRank: bounds.rank, valueTrace: bounds.trace };
      for (const [key, value] of Object.entries(parts)) figures[`${name}.${key}`] = value;
    }
    return figures;
  }

  report(): BlockReport | null {
    if (!this.#refreshed && this.#problems.length === 0) return null;
    const problems = this.#problems;
    [this.#refreshed, this.#problems] = [false, []];
    const { figures, spectra } = this.#inverse.describe();
    return { figures: { ...this.#terms, ...figures }, spectra, problems, remarks: this.#inverse.remarks?.() ?? [] };
  }

  precondition(gradient: Tensor, { step, view }: { readonly step: number; readonly view: CurvatureView | null }): Tensor {
    try {
      return tidy(() => this.#inverse.apply(gradient, { damping: this.#damping(step), view }));
    } catch (cause) {
      throw this.#explained(cause, "applied", step);
    }
  }

  #damping(step: number): number {
    return hyperParameter("damping", this.#options.damping, step, "at least 0");
  }

  #explained(cause: unknown, what: string, step: number): unknown {
    if (!(cause instanceof NumericalError)) return cause;
    return new NumericalError(`the curvature of "${this.#name}" could not be ${what} at step ${step}: ${cause.message}`, { cause });
  }

  state(): BlockState {
    const { input, output } = this.#factors;
    const own: BlockState = { tensors: new Map(), numbers: { observedAt: this.#observedAt, changed: this.#changed ? 1 : 0 } };
    return joined({ block: own, input: input.state(), output: output.state(), inverse: this.#inverse.state() });
  }

  load(state: BlockState): void {
    const factors = Object.entries<FactorAverage<Snapshot>>(this.#factors);
    for (const [name, factor] of factors) factor.check(partOf(state, name));
    for (const [name, factor] of factors) factor.load(partOf(state, name));
    this.#inverse.load(partOf(state, "inverse"));
    const { observedAt = -1, changed = 0 } = partOf(state, "block").numbers;
    [this.#observedAt, this.#changed] = [observedAt, changed === 1];
  }

  dispose(): void {
    this.#factors.input.dispose();
    this.#factors.output.dispose();
    this.#inverse.dispose();
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

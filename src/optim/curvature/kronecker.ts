import { routines, type LinalgWorker, type Routines } from "../../linalg/index.ts";
import { NumericalError, tidy, UsageError, type Tensor } from "../../tensor/index.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";
import {
  joined,
  messageOf,
  NO_NEEDS,
  NOTHING,
  partOf,
  type BlockReport,
  type BlockState,
  type CaptureNeeds,
  type CurvatureBlock,
} from "./block.ts";
import type { FactorAverage, FactorOptions, Factors, FactorSnapshot } from "./factor.ts";
import { invert, InversionUnderWay, startOf, type Outcome } from "./inversion.ts";
import type { CurvatureView } from "./view.ts";

export interface KroneckerOptions extends FactorOptions {
  /** λ; what it is relative to is the inverse's affair. */
  readonly damping: Schedule;
  /** T_KU: steps between updates of the factors. Default 10. */
  readonly factorUpdateEvery?: Schedule | undefined;
  /** T_KI: steps between inversions. Default 50. */
  readonly inversionEvery?: Schedule | undefined;
  /**
   * Steps that an inversion takes, fewer than `inversionEvery`: it runs on a thread of its own while the training goes on with the inverse
   * from before, and is installed after just so many steps, which wait for it if it is late. The first inversion of a layer is made at once.
   * Default: every inversion is made in the step in which it is due.
   */
  readonly inversionLag?: number | undefined;
}

/** T_KI at a step. */
export function inversionEvery({ inversionEvery: every = 50 }: Pick<KroneckerOptions, "inversionEvery">, step: number): number {
  return hyperParameter("inversionEvery", every, step, "a whole number of at least 1");
}

/** Steps from the beginning of an inversion at this step to its installation: 0 if it is made at once. */
function inversionLag({ inversionLag: lag, ...options }: KroneckerOptions, step: number): number {
  if (lag === undefined) return 0;
  hyperParameter("inversionLag", lag, step, "a whole number of at least 1");
  const every = inversionEvery(options, step);
  if (lag >= every) throw new UsageError(`inversionLag must be below inversionEvery, which is ${every} at step ${step}, but is ${lag}`);
  return lag;
}

/** What a refresh has besides the factors. */
export interface RefreshContext {
  readonly step: number;
  /** λ of this step, or a multiple of it in a later attempt. */
  readonly damping: number;
  /** Compute in float64 whatever the factors' type: for a second attempt. */
  readonly wide: boolean;
  /** Linear algebra on the thread on which it is to run. */
  readonly linalg: Routines;
}

/** A new representation of the factors, which is either installed or disposed. */
export interface Refreshed {
  /** Puts it in the place of what was there, all at once. */
  install(): void;
  dispose(): void;
}

/** What a step has for the preconditioning of one layer. */
export interface ApplyContext {
  /** λ of this step. */
  readonly damping: number;
  /** The step's own records, if they were asked for: always where `wantsGradient` is true. */
  readonly view: CurvatureView | null;
}

/** How a method represents the two factors so that the damped product can be inverted. */
export interface KroneckerInverse<Snapshot = FactorSnapshot> {
  /** The method, as the registration table shows it. */
  readonly method: string;
  /** Whether `apply` wants the next step's own factors of the gradient in its view. Default false. */
  readonly wantsGradient?: boolean;
  /**
   * Computes from the factors. Changes nothing until the result is installed, which may be some steps later: what is needed of this object
   * is taken at the call.
   */
  refresh(input: Snapshot, output: Snapshot, context: RefreshContext): Promise<Refreshed>;
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
  #underWay: InversionUnderWay<Snapshot> | null = null;
  #observedAt = -1;
  /**
   * Whether the present step was asked for records, by what a saved state knows, too: a resumed step has them in any case, and must not make
   * more of them than it would have otherwise. So not for a first value out of turn, which a resumed step cannot tell from others.
   */
  #asked = false;
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

  async refresh(step: number, worker: LinalgWorker): Promise<void> {
    const { input, output } = this.#factors;
    if (this.#count > 0) await this.#inverse.prepare?.(input.snapshot(), output.snapshot());
    this.#asked = this.#updateDue(step) || (this.#inverse.wantsGradient ?? false);
    const atOnce = await this.#update(step);
    if (this.#count === 0) return;
    const lag = inversionLag(this.#options, step);
    const underWay = this.#underWay;
    if (underWay && step < underWay.step + lag) {
      void underWay.run(worker.routines); // one that was loaded does not run yet
      await worker.arrivals();
      return;
    }
    if (underWay) {
      const outcome = await underWay.finish(worker.routines);
      this.#underWay = null;
      await this.#install(outcome, underWay.step);
    }
    const every = inversionEvery(this.#options, step);
    const due = atOnce || (this.#inverse.ready ? step % every === 0 : this.#changed);
    if (!due || this.#count === 0) return;
    const start = { step, damping: this.#damping(step) };
    const copies = lag > 0 && this.#inverse.ready ? this.#copies() : null;
    if (copies) {
      this.#underWay = new InversionUnderWay(this.#inverse, copies, start);
      void this.#underWay.run(worker.routines);
    } else await this.#install(await invert(this.#inverse, this.#factors, start, routines), step);
    this.#changed = false;
  }

  /** The factors as they are now; null if one of them has no copies. */
  #copies(): Factors<FactorAverage<Snapshot>> | null {
    const { input, output } = this.#factors;
    return input.copy && output.copy ? { input: input.copy(), output: output.copy() } : null;
  }

  /** @throws NumericalError if there is nothing to install, and no inverse from before. */
  async #install({ next, failure, problem, terms }: Outcome, step: number): Promise<void> {
    if (!next && !this.#inverse.ready) throw this.#undone(failure, "inverted", step);
    if (!next) await this.#restart(step);
    next?.install();
    if (next) this.#terms = terms;
    if (problem !== null) this.#problems.push(problem);
    this.#refreshed = true;
  }

  /** Forgets the values that there is no inverse of, so that the step may be tried again with others. */
  #undone(cause: unknown, what: string, step: number): unknown {
    for (const factor of Object.values<FactorAverage<Snapshot>>(this.#factors)) factor.load(NOTHING);
    this.#changed = false;
    return this.#explained(cause, what, step);
  }

  /** Lets averages begin anew that a value has spoilt: what is not finite would stay in them for ever. */
  async #restart(step: number): Promise<void> {
    for (const [name, factor] of Object.entries<FactorAverage<Snapshot>>(this.#factors)) {
      if (factor.count === 0 || Number.isFinite(await factor.meanEigenvalue())) continue;
      factor.load(NOTHING);
      this.#problems.push(`the ${name} factor is not finite at step ${step}: its average begins anew with the next value`);
    }
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
        if (!this.#inverse.ready) throw this.#undone(cause, "updated", step);
        this.#problems.push(`the ${name} factor is without the value of step ${step}, since ${messageOf(cause)}`);
      }
    }
    return atOnce;
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
      return tidy(() => this.#inverse.apply(gradient, { damping: this.#damping(step), view: this.#asked ? view : null }));
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
    const parts = { block: own, input: input.state(), output: output.state(), inverse: this.#inverse.state() };
    return joined(this.#underWay ? { ...parts, underWay: this.#underWay.state() } : parts);
  }

  load(state: BlockState): void {
    const underWay = partOf(state, "underWay");
    const start = startOf(underWay);
    const factors = Object.entries<FactorAverage<Snapshot>>(this.#factors);
    for (const [name, factor] of factors) {
      factor.check(partOf(state, name));
      if (start) factor.check(partOf(underWay, name));
    }
    for (const [name, factor] of factors) factor.load(partOf(state, name));
    this.#inverse.load(partOf(state, "inverse"));
    this.#underWay?.dispose();
    const copies = start && this.#copies();
    for (const [name, copy] of Object.entries<FactorAverage<Snapshot>>(copies ?? {})) copy.load(partOf(underWay, name));
    this.#underWay = copies && new InversionUnderWay(this.#inverse, copies, start);
    const { observedAt = -1, changed = 0 } = partOf(state, "block").numbers;
    [this.#observedAt, this.#changed] = [observedAt, changed === 1];
  }

  dispose(): void {
    this.#underWay?.dispose();
    this.#underWay = null;
    this.#factors.input.dispose();
    this.#factors.output.dispose();
    this.#inverse.dispose();
  }
}

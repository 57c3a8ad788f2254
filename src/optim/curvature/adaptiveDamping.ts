import { frozen, record, type Recording } from "../../autograd/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { concat, owned, tidy, unscoped, UsageError, type Tensor } from "../../tensor/index.ts";
import type { LossClosure, StepReview } from "../optimizer.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";
import { noState, type StepContext, type Transform, type TransformState, type Updates } from "../transform.ts";
import { alongStep, predictionsOf } from "./quadraticModel.ts";

export interface AdaptDampingOptions {
  /** Steps between adaptations; the first is at the end of that many steps. Default 5. */
  readonly interval?: number | undefined;
  /** ω in (0, 1): λ changes by the factor ω^interval. Default .9. */
  readonly decay?: number | undefined;
  /** λ never falls below this. Default 1e-8. */
  readonly smallest?: number | undefined;
  /** η of a penalty ½η‖θ‖² that the loss contains: its curvature, which is no part of the Gauss–Newton matrix. Default 0. */
  readonly penalty?: number | undefined;
}

/** What the methods that adapt their damping take. */
export interface DampingOptions {
  /** λ. Default .1. */
  readonly damping?: Schedule | undefined;
  /**
   * Let λ follow the Levenberg–Marquardt rule: see `AdaptiveDamping`. It then multiplies what `damping` says. A method that damps when it
   * inverts follows at its next inversion. Default: λ is what `damping` says.
   */
  readonly adaptDamping?: AdaptDampingOptions | undefined;
}

/** One adaptation of λ. */
export interface DampingReport {
  readonly step: number;
  /** ρ: the change of the loss over what the quadratic model foretold. */
  readonly ratio: number;
  /** h(θ + δ) − h(θ). */
  readonly actual: number;
  /** gᵀδ + ½ δᵀ(C + ηI)δ. */
  readonly predicted: number;
  /** λ from now on. */
  readonly damping: number;
}

/** λ as blocks take it, and what adapts it, if anything does. */
export function dampingOf({ damping = 0.1, adaptDamping }: DampingOptions): { damping: Schedule; review: AdaptiveDamping | null } {
  if (!adaptDamping) return { damping, review: null };
  const review = new AdaptiveDamping(damping, adaptDamping);
  return { damping: review.at, review };
}

/** What a step under review has left behind so far. */
interface Trial {
  readonly step: number;
  readonly parameters: readonly Parameter[];
  /** θ, in the parameters' order: the recordings go on when the parameters have moved. */
  readonly values: readonly Tensor[];
  readonly losses: readonly LossClosure[];
  readonly recordings: readonly Recording<Tensor>[];
  /** δ. */
  readonly change: Map<Parameter, Tensor>;
}

/**
 * The Levenberg–Marquardt rule (Moré 1978; for factored curvature Martens and Grosse 2015, arXiv 1503.05671, section 6.5): every `interval`
 * steps, compare what the step δ did to the loss h of its own batch with what the quadratic model said it would,
 *
 *     ρ = (h(θ + δ) − h(θ)) / (gᵀδ + ½ δᵀ(C + ηI)δ)
 *
 * with C the exact generalised Gauss–Newton matrix of that batch and η the weight of a penalty. λ is no part of the model. Where ρ < ¼, or is
 * no number, the model promised too much and λ is divided by ω^interval; where ρ > ¾ it is multiplied by that. δ is the step that is made: clip,
 * momentum and learning rate included.
 *
 * Unreliable for stochastic objectives (so says the documentation of kfac-jax of its own), and the more so the smaller the batch: a step looks
 * better on the batch that it was computed from than on the next one. Meant for full batches and large ones. An adaptation costs two forward
 * passes, a reverse pass, and a reverse pass over that.
 *
 * The last element of an optimizer's chain, since it looks at the step itself and changes nothing of it.
 */
export class AdaptiveDamping implements Transform, StepReview {
  readonly kind = "adaptive damping";
  readonly check = noState.check;
  readonly #damping: Schedule;
  readonly #interval: number;
  readonly #decay: number;
  readonly #smallest: number;
  readonly #penalty: number;
  /** What the given λ is multiplied by. */
  #factor = 1;
  #trial: Trial | null = null;
  #reports: DampingReport[] = [];

  /** @throws UsageError for options out of range. */
  constructor(damping: Schedule, { interval = 5, decay = 0.9, smallest = 1e-8, penalty = 0 }: AdaptDampingOptions = {}) {
    this.#damping = damping;
    this.#interval = hyperParameter("adaptDamping.interval", interval, 0, "a whole number of at least 1");
    this.#decay = hyperParameter("adaptDamping.decay", decay, 0, "positive");
    if (decay >= 1) throw new UsageError(`adaptDamping.decay must be below 1 but is ${decay}`);
    this.#smallest = hyperParameter("adaptDamping.smallest", smallest, 0, "positive");
    this.#penalty = hyperParameter("adaptDamping.penalty", penalty, 0, "at least 0");
  }

  /** λ of a step. */
  readonly at = (step: number): number =>
    Math.max(this.#smallest, this.#factor * hyperParameter("damping", this.#damping, step, "positive"));

  /** The adaptations since they were last asked for. */
  reports(): DampingReport[] {
    const reports = this.#reports;
    this.#reports = [];
    return reports;
  }

  begin(step: number, parameters: readonly Parameter[], losses: readonly LossClosure[]): void {
    if ((step + 1) % this.#interval !== 0) return;
    const recordings: Recording<Tensor>[] = [];
    const values = parameters.map(({ value }) => value.hold());
    this.#trial = { step, parameters, values, losses, recordings, change: new Map() };
    // Frozen, so that the evaluation after the step sees the same random draws, and running statistics see neither.
    for (const loss of losses) recordings.push(unscoped(() => frozen(() => record(() => owned(loss()), values))));
    recordings.forEach(predictionsOf); // complains while nothing has changed yet
  }

  update(updates: Updates, { learningRate }: StepContext): Updates {
    const change = this.#trial?.change;
    if (change) for (const [parameter, update] of updates.values) change.set(parameter, update.multiply(-learningRate).hold());
    return updates;
  }

  async finish(): Promise<void> {
    if (!this.#trial) return;
    const { step } = this.#trial;
    using figures = unscoped(() => tidy(() => this.#figures(this.#trial as Trial)));
    const [before, after, slope, curvature, length] = Array.from(await figures.data()) as [number, number, number, number, number];
    const actual = after - before;
    const predicted = slope + 0.5 * (curvature + this.#penalty * length);
    const ratio = actual / predicted;
    const by = this.#decay ** this.#interval;
    const given = hyperParameter("damping", this.#damping, step, "positive");
    if (!(ratio >= 1 / 4)) this.#factor /= by;
    else if (ratio > 3 / 4) this.#factor = Math.max(this.#factor * by, this.#smallest / given);
    this.#reports.push({ step, ratio, actual, predicted, damping: this.at(step) });
  }

  /** h(θ), h(θ + δ), gᵀδ, δᵀCδ and ‖δ‖², as one tensor so that they are read at once. */
  #figures({ parameters, losses, recordings, change }: Trial): Tensor {
    const share = 1 / losses.length;
    const mean = (values: readonly Tensor[]): Tensor => values.reduce((a, b) => a.add(b)).multiply(share);
    const before = mean(recordings.map(({ value }) => value));
    const after = mean(losses.map((loss) => frozen(loss)));
    const along = recordings.map((recording) => alongStep(recording, parameters, change));
    const length = [...change.values()].map((delta) => delta.square().sum()).reduce((a, b) => a.add(b));
    const all = [before, after, mean(along.map(({ slope }) => slope)), mean(along.map(({ curvature }) => curvature)), length];
    return concat(
      all.map((value) => value.reshape([1])),
      0,
    );
  }

  endStep(): void {
    for (const recording of this.#trial?.recordings ?? []) {
      recording.dispose();
      recording.value.dispose();
    }
    for (const tensor of [...(this.#trial?.values ?? []), ...(this.#trial?.change.values() ?? [])]) tensor.dispose();
    this.#trial = null;
  }

  state(): TransformState {
    return { kind: this.kind, tensors: new Map(), numbers: { factor: this.#factor } };
  }

  load({ numbers }: TransformState): void {
    this.#factor = numbers["factor"] ?? 1;
    this.#reports = [];
  }

  dispose(): void {
    this.endStep();
  }
}

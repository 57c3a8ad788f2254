import { onesLike, record, requireScalar, type Recording } from "../autograd/index.ts";
import type { Parameter } from "../nn/index.ts";
import { apply, CheckpointError, owned, Tensor, tidy, unscoped, UsageError } from "../tensor/index.ts";
import type { Precondition, StepCapture } from "./curvature/precondition.ts";
import { hyperParameter, type Schedule } from "./schedules.ts";
import type { StepContext, Transform, TransformState, Updates } from "./transform.ts";

/** Seconds that the parts of one step took on the host. On a GPU, work is queued and the figures are those of issuing it. */
export interface StepPhases {
  readonly forward: number;
  readonly backward: number;
  /** Curvature: covariances, averages, further Fisher passes, and the review of a step. */
  readonly factorUpdate: number;
  readonly inversion: number;
  readonly precondition: number;
  /** Clipping, decay, momentum and the assignment. */
  readonly update: number;
}

export interface OptimizerState {
  readonly step: number;
  readonly transforms: readonly TransformState[];
}

export interface Pipeline {
  readonly learningRate: Schedule;
  /** In the order in which the gradient passes through them. */
  readonly transforms: readonly Transform[];
  /** The curvature link, if there is one; also an element of `transforms`. */
  readonly precondition?: Precondition;
  /** What looks at a step from both ends, if there is something; also the last element of `transforms`. */
  readonly review?: StepReview | null;
}

/** Judges a step by what it does to its own losses: sees them before and after it, and, as the last transform, the step itself. */
export interface StepReview {
  /** Before anything has changed, with the losses whose mean is minimised. */
  begin(step: number, parameters: readonly Parameter[], losses: readonly LossClosure[]): void;
  /** The parameters have moved, and the step counts as done. */
  finish(): Promise<void>;
  /** Releases what was kept, whatever became of the step. */
  endStep(): void;
}

/** Computes the loss to be minimised. Deterministic but for `updateState`: it may be evaluated more than once a step. */
export type LossClosure = () => Tensor;

/** Values that a loss closure gives back besides the loss, by name. */
export type Auxiliary = Readonly<Record<string, Tensor>>;

type Inspection = (values: Auxiliary & { readonly loss: Tensor }) => Promise<void>;

/**
 * Minimises a loss by steps θ ← θ − learning rate · update, the update being the gradient after a chain of transforms. The named
 * optimizers are this class with a chain.
 */
export class Optimizer {
  readonly parameters: readonly Parameter[];
  readonly #pipeline: Pipeline;
  #step = 0;
  #busy = false;
  #owned: Tensor[] = [];
  #phases: StepPhases = { forward: 0, backward: 0, factorUpdate: 0, inversion: 0, precondition: 0, update: 0 };

  /** @throws UsageError without parameters, or with one twice. */
  constructor(parameters: readonly Parameter[], pipeline: Pipeline) {
    if (parameters.length === 0) throw new UsageError("an optimizer needs at least one parameter; pass model.parameters()");
    if (new Set(parameters).size !== parameters.length) throw new UsageError("an optimizer was given one parameter twice");
    this.parameters = parameters;
    this.#pipeline = pipeline;
  }

  /** Number of steps done. */
  get steps(): number {
    return this.#step;
  }

  /** Where the last step's time went. */
  get phases(): StepPhases {
    return this.#phases;
  }

  /**
   * One step on the loss that `f` computes, or on the mean of the losses of several closures (gradient accumulation).
   * @returns the loss before the step; the optimizer owns it until its next call.
   * @throws UsageError while another call is running; ShapeError if a closure does not return one number.
   */
  async minimize(f: LossClosure | readonly LossClosure[]): Promise<Tensor> {
    const closures = typeof f === "function" ? [f] : f;
    const { loss } = await this.#run(closures.map((closure) => () => ({ loss: closure() })));
    return loss;
  }

  /**
   * One step on the loss of a closure that returns `{ loss, … }`, whose other values (logits, say) are given back. The optimizer
   * owns them until its next call. `inspect` sees them after the passes and before anything changes: if it throws, parameters
   * and optimizer are as before.
   */
  async step<Aux extends Auxiliary>(
    f: () => Aux & { readonly loss: Tensor },
    inspect?: (values: Aux & { readonly loss: Tensor }) => Promise<void>,
  ): Promise<Aux & { readonly loss: Tensor }> {
    return (await this.#run([f], inspect as Inspection | undefined)) as Aux & { readonly loss: Tensor };
  }

  async #run(
    closures: readonly (() => Auxiliary & { readonly loss: Tensor })[],
    inspect?: Inspection,
  ): Promise<Auxiliary & { readonly loss: Tensor }> {
    if (this.#busy) throw new UsageError("minimize: the previous step has not finished; await it before the next one");
    if (closures.length === 0) throw new UsageError("minimize: needs at least one loss closure");
    this.#busy = true;
    const { precondition, review } = this.#pipeline;
    const clock = new Stopwatch();
    const gradients = new Map<Parameter, Tensor>();
    try {
      this.#release();
      const result = unscoped(() => this.#differentiate(closures, gradients, clock));
      await inspect?.(result);
      clock.lap("backward"); // reading the loss waits for the passes
      if (precondition) {
        precondition.collect(this.#step);
        clock.lap("factorUpdate");
        await precondition.refresh(this.#step);
        clock.lap("inversion");
      }
      if (review) {
        review.begin(
          this.#step,
          this.parameters,
          closures.map((closure) => () => closure().loss),
        );
        clock.lap("factorUpdate");
      }
      unscoped(() => {
        this.#advance(gradients, clock);
      });
      this.#step++;
      await review?.finish();
      clock.lap("factorUpdate");
      this.#phases = clock.seconds;
      return result;
    } catch (error) {
      this.#release();
      throw error;
    } finally {
      for (const gradient of gradients.values()) gradient.dispose();
      precondition?.endStep();
      review?.endStep();
      this.#busy = false;
    }
  }

  /** Forward and reverse passes; leaves the mean gradient in `gradients` and returns what the first closure returned. */
  #differentiate(
    closures: readonly (() => Auxiliary & { readonly loss: Tensor })[],
    gradients: Map<Parameter, Tensor>,
    clock: Stopwatch,
  ): Auxiliary & { readonly loss: Tensor } {
    const capture = this.#pipeline.precondition?.capture(this.#step) ?? null;
    const share = 1 / closures.length;
    let first: (Auxiliary & { readonly loss: Tensor }) | undefined;
    for (const closure of closures) {
      clock.lap("update");
      const recording = record(() => ownedValues(closure()), this.parameters);
      this.#owned.push(...Object.values(recording.value).filter((value) => value instanceof Tensor));
      try {
        const { loss } = recording.value;
        requireScalar("minimize", loss);
        clock.lap("forward");
        this.#reverse(recording, loss, capture, gradients, share);
        clock.lap("backward");
        if (capture?.extraPasses) {
          capture.runExtraPasses(recording);
          clock.lap("factorUpdate");
        }
        if (!first) first = recording.value;
        else first = { ...first, loss: this.#own(tidy(() => (first as { loss: Tensor }).loss.add(loss))) };
      } finally {
        recording.dispose();
      }
    }
    if (gradients.size === 0) {
      throw new UsageError(
        "minimize: the loss depends on none of the optimizer's parameters; was it computed from other tensors, or passed through detach(), argmax or a cast to int32?",
      );
    }
    const result = first as Auxiliary & { readonly loss: Tensor };
    return closures.length === 1 ? result : { ...result, loss: this.#own(result.loss.multiply(share)) };
  }

  #reverse(
    recording: Recording<unknown>,
    loss: Tensor,
    capture: StepCapture | null,
    gradients: Map<Parameter, Tensor>,
    share: number,
  ): void {
    tidy(() => {
      const options = { observe: capture?.begin(), again: capture?.extraPasses ?? false };
      const own = recording.reverse([[loss, onesLike(loss)]], options);
      this.parameters.forEach((parameter, i) => {
        const gradient = own[i];
        if (!gradient) return; // not reached: left as it is, without decay, as in PyTorch
        const part = share === 1 ? gradient : gradient.multiply(share);
        const before = gradients.get(parameter);
        gradients.set(parameter, before ? apply("add", [before, part], {}, { donate: [0] })[0].hold() : part.hold());
      });
    });
  }

  /** Passes the gradient through the chain and subtracts the result. */
  #advance(gradients: ReadonlyMap<Parameter, Tensor>, clock: Stopwatch): void {
    const { transforms, precondition } = this.#pipeline;
    const learningRate = hyperParameter("learningRate", this.#pipeline.learningRate, this.#step, "at least 0");
    const context: StepContext = { step: this.#step, learningRate, gradients };
    tidy(() => {
      let updates: Updates = { values: gradients, layers: [] };
      for (const transform of transforms) {
        updates = transform.update(updates, context);
        clock.lap(transform === precondition ? "precondition" : "update");
      }
      for (const [parameter, update] of updates.values) {
        // The old value is given up, so the new one may be written over it.
        const params = { a: 1, b: -learningRate };
        parameter.assign(apply("linearCombination", [parameter.value, update], params, { donate: [0] })[0]);
      }
      clock.lap("update");
    });
  }

  #own(tensor: Tensor): Tensor {
    this.#owned.push(tensor);
    return tensor;
  }

  #release(): void {
    for (const tensor of this.#owned) tensor.dispose();
    this.#owned = [];
  }

  /** Everything needed to go on bit for bit, besides the parameters. Tensor handles are the caller's. */
  state(): OptimizerState {
    this.#requireIdle("state");
    return { step: this.#step, transforms: this.#pipeline.transforms.map((transform) => transform.state()) };
  }

  /** @throws CheckpointError if the state is another kind of optimizer's, or other parameters'; nothing has changed then. */
  load(state: OptimizerState): void {
    this.#requireIdle("load");
    const { transforms } = this.#pipeline;
    const [own, given] = [transforms, state.transforms].map((list) => list.map(({ kind }) => kind).join(", "));
    if (own !== given) {
      throw new CheckpointError(
        `load: the state is of an optimizer with the transforms [${given}] but this one has [${own}]; ` +
          "load it into an optimizer of the same class that was made with the same options",
      );
    }
    const states = transforms.map((transform, i) => [transform, state.transforms[i] as TransformState] as const);
    for (const [transform, saved] of states) transform.check(saved);
    for (const [transform, saved] of states) transform.load(saved);
    this.#step = state.step;
  }

  /** Frees the optimizer's own tensors: state and the last loss. Parameters stay. */
  dispose(): void {
    this.#requireIdle("dispose");
    this.#release();
    for (const transform of this.#pipeline.transforms) transform.dispose();
  }

  #requireIdle(operation: string): void {
    if (this.#busy) throw new UsageError(`${operation}: a step is running; await it first`);
  }
}

/** Returned tensors as handles of the optimizer's own: the closure may have returned one of its caller's. */
function ownedValues<Values extends Auxiliary>(values: Values): Values {
  const own = (value: unknown): unknown => (value instanceof Tensor ? owned(value) : value);
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [key, own(value)])) as Values;
}

/** Adds up the time between laps under the name of the part that just ended. */
class Stopwatch {
  readonly seconds = { forward: 0, backward: 0, factorUpdate: 0, inversion: 0, precondition: 0, update: 0 };
  #last = performance.now();

  lap(part: keyof StepPhases): void {
    const now = performance.now();
    this.seconds[part] += (now - this.#last) / 1000;
    this.#last = now;
  }
}

import type { Parameter } from "../../nn/index.ts";
import { Optimizer } from "../optimizer.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";
import { noState, type StepContext, type Updates } from "../transform.ts";
import { momentum, weightDecay, type MomentumOptions } from "../transforms.ts";
import type { AdaptiveDamping, DampingReport } from "./adaptiveDamping.ts";
import type { BlockFactory } from "./block.ts";
import { klClip, rmsClip, scaleOthers, type Clip } from "./clip.ts";
import { Precondition, type CurvatureOptions, type LayerReport, type RegistrationRow } from "./precondition.ts";

/** What every optimizer with curvature takes besides its method's own. */
export interface CurvatureOptimizerOptions extends CurvatureOptions, MomentumOptions {
  readonly learningRate: Schedule;
  /**
   * `{ kl: κ }` (all layers together), `{ rms: limit }` (each layer), or false. Default `{ kl: 1e-3 }`.
   *
   * An RMS clip does not know how wide a layer is: learning rate · limit must be small beside the weights' own RMS, which falls with the
   * width. The paper's code affords .3 · .07 only because its averages begin with the identity (`averageForm: "identity"`), which damps the
   * first steps; with the default average the same settings diverge on layers of a thousand inputs. `kfacet train` refuses that mixture.
   */
  readonly clip?: { readonly kl: Schedule } | { readonly rms: Schedule } | false | undefined;
  /** Decoupled from the preconditioner. Default 0. */
  readonly weightDecay?: Schedule | undefined;
}

/** What a method adds to the chain. */
export interface CurvatureChain {
  /** λ, for the figures of a step. */
  readonly damping?: Schedule | undefined;
  /** A factor for the updates of the parameters without a block. Default 1. */
  readonly others?: Schedule | undefined;
  /** What adapts the damping, if anything does: see `dampingOf`. */
  readonly review?: AdaptiveDamping | null | undefined;
}

/** What the last step did with its hyper-parameters. Null where there is no such thing, and before the first step. */
export interface StepFigures {
  /** λ. */
  readonly damping: number | null;
  /** ν, by which the clip multiplied the layers' updates, the least of them if each has its own: 1 where nothing was clipped. */
  readonly clip: number | null;
}

/**
 * The chain of the second-order optimizers: precondition → clip → weight decay → momentum. A method adds how a weight's block is
 * made.
 */
export class CurvatureOptimizer extends Optimizer {
  readonly #precondition: Precondition;
  readonly #review: AdaptiveDamping | null;
  readonly #clip: Clip | null;
  readonly #lastDamping: { value: number | null };

  /** @param kind names the method and the form of its state. */
  constructor(
    parameters: readonly Parameter[],
    kind: string,
    create: BlockFactory,
    options: CurvatureOptimizerOptions,
    { damping, others, review = null }: CurvatureChain = {},
  ) {
    const { clip: limit = { kl: 1e-3 } } = options;
    const precondition = new Precondition(parameters, kind, create, options);
    const clip = limit === false ? null : "kl" in limit ? klClip(limit.kl) : rmsClip(limit.rms);
    // Of the step itself: what adapts λ has changed it by the end of the step.
    const lastDamping: { value: number | null } = { value: null };
    const note = (updates: Updates, { step }: StepContext): Updates => {
      if (damping !== undefined) lastDamping.value = hyperParameter("damping", damping, step, "at least 0");
      return updates;
    };
    super(parameters, {
      learningRate: options.learningRate,
      transforms: [
        precondition,
        { ...noState, update: note },
        ...(others === undefined ? [] : [scaleOthers(others)]),
        ...(clip ? [clip] : []),
        weightDecay(options.weightDecay ?? 0),
        momentum(parameters, options),
        ...(review ? [review] : []),
      ],
      precondition,
      review,
    });
    this.#precondition = precondition;
    this.#review = review;
    this.#clip = clip;
    this.#lastDamping = lastDamping;
  }

  /** Figures of the last step. Reads from the device. */
  async stepFigures(): Promise<StepFigures> {
    return { damping: this.#lastDamping.value, clip: (await this.#clip?.factor()) ?? null };
  }

  /** What happened to the layers' curvature since it was last asked: figures, spectra, and failures with what was done instead. */
  reports(): LayerReport[] {
    return this.#precondition.reports();
  }

  /** The adaptations of the damping since they were last asked for; none unless the optimizer adapts it. */
  adaptations(): DampingReport[] {
    return this.#review?.reports() ?? [];
  }

  /** Which parameter got a block and why the others have none. Complete once every weight has been met. */
  registration(): RegistrationRow[] {
    return this.#precondition.registration();
  }
}

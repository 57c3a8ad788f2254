import type { Parameter } from "../../nn/index.ts";
import { Optimizer } from "../optimizer.ts";
import type { Schedule } from "../schedules.ts";
import { momentum, weightDecay, type MomentumOptions } from "../transforms.ts";
import type { AdaptiveDamping, DampingReport } from "./adaptiveDamping.ts";
import type { BlockFactory } from "./block.ts";
import { klClip, rmsClip, scaleOthers } from "./clip.ts";
import { Precondition, type CurvatureOptions, type LayerReport, type RegistrationRow } from "./precondition.ts";

/** What every optimizer with curvature takes besides its method's own. */
export interface CurvatureOptimizerOptions extends CurvatureOptions, MomentumOptions {
  readonly learningRate: Schedule;
  /** `{ kl: κ }` (all layers together), `{ rms: limit }` (each layer), or false. Default `{ kl: 1e-3 }`. */
  readonly clip?: { readonly kl: Schedule } | { readonly rms: Schedule } | false | undefined;
  /** Decoupled from the preconditioner. Default 0. */
  readonly weightDecay?: Schedule | undefined;
}

/** What a method adds to the chain. */
export interface CurvatureChain {
  /** A factor for the updates of the parameters without a block. Default 1. */
  readonly others?: Schedule | undefined;
  /** What adapts the damping, if anything does: see `dampingOf`. */
  readonly review?: AdaptiveDamping | null | undefined;
}

/**
 * The chain of the second-order optimizers: precondition → clip → weight decay → momentum. A method adds how a weight's block is
 * made.
 */
export class CurvatureOptimizer extends Optimizer {
  readonly #precondition: Precondition;
  readonly #review: AdaptiveDamping | null;

  /** @param kind names the method and the form of its state. */
  constructor(
    parameters: readonly Parameter[],
    kind: string,
    create: BlockFactory,
    options: CurvatureOptimizerOptions,
    { others, review = null }: CurvatureChain = {},
  ) {
    const { clip = { kl: 1e-3 } } = options;
    const precondition = new Precondition(parameters, kind, create, options);
    const clips = clip === false ? [] : ["kl" in clip ? klClip(clip.kl) : rmsClip(clip.rms)];
    super(parameters, {
      learningRate: options.learningRate,
      transforms: [
        precondition,
        ...(others === undefined ? [] : [scaleOthers(others)]),
        ...clips,
        weightDecay(options.weightDecay ?? 0),
        momentum(parameters, options),
        ...(review ? [review] : []),
      ],
      precondition,
      review,
    });
    this.#precondition = precondition;
    this.#review = review;
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

import type { Routines } from "../../linalg/index.ts";
import { NumericalError } from "../../tensor/index.ts";
import { joined, messageOf, partOf, type BlockState } from "./block.ts";
import type { FactorAverage, Factors, ShiftedFactor } from "./factor.ts";
import type { KroneckerInverse, Refreshed } from "./kronecker.ts";

/** How many times the damping an inversion that failed in float64, too, is tried with. */
export const MORE_DAMPING = [10, 100, 1000];

/** When an inversion begins, and λ then. */
export interface InversionStart {
  readonly step: number;
  readonly damping: number;
}

/** What became of an inversion. */
export interface Outcome {
  /** To be installed; null if every attempt failed. */
  readonly next: Refreshed | null;
  /** That of the first attempt, if it failed. */
  readonly failure: NumericalError | null;
  /** What failed, and what is done instead, in words. */
  readonly problem: string | null;
  /** Figures of the factors, if these were inverted as they are. */
  readonly terms: Readonly<Record<string, number>>;
}

/** Inverts, and where that fails tries again in float64, then with more damping. */
export async function invert<Snapshot>(
  inverse: KroneckerInverse<Snapshot>,
  factors: Factors<FactorAverage<Snapshot>>,
  { step, damping }: InversionStart,
  linalg: Routines,
): Promise<Outcome> {
  const attempts = [
    { name: "", wide: false, more: 0 },
    { name: "in float64", wide: true, more: 0 },
    ...MORE_DAMPING.map((more) => ({ name: `in float64 with ${more} times the damping`, wide: true, more })),
  ];
  let failure: NumericalError | null = null;
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
      const [input, output] = [await damped(factors.input), await damped(factors.output)];
      // With more on its diagonal a matrix is no average of these terms.
      const terms = more === 0 ? await termsOf(factors) : {};
      const next = await inverse.refresh(input, output, { step, damping: damping * Math.max(1, more), wide, linalg });
      const problem = failure && `inverted ${name} at step ${step}, since ${messageOf(failure)}`;
      return { next, failure, problem, terms };
    } catch (cause) {
      if (!(cause instanceof NumericalError)) throw cause;
      failure ??= cause;
    } finally {
      for (const shifted of own) shifted.dispose();
    }
  }
  const problem = `not inverted at step ${step}, so the inverse from before stays, since ${messageOf(failure)}`;
  return { next: null, failure, problem, terms: {} };
}

async function termsOf(factors: Factors<FactorAverage<unknown>>): Promise<Record<string, number>> {
  const figures: Record<string, number> = {};
  for (const [name, factor] of Object.entries(factors)) {
    const { bounds, ...terms } = await factor.terms();
    const parts = { ...terms, valueRank: bounds.rank, valueTrace: bounds.trace };
    for (const [key, value] of Object.entries(parts)) figures[`${name}.${key}`] = value;
  }
  return figures;
}

/** An inversion that runs while the training goes on: of the factors as they were when it began. */
export class InversionUnderWay<Snapshot> {
  readonly step: number;
  readonly #damping: number;
  readonly #inverse: KroneckerInverse<Snapshot>;
  readonly #factors: Factors<FactorAverage<Snapshot>>;
  /** Null until it runs: in a state that was loaded, it has begun but must begin again. */
  #outcome: Promise<Outcome> | null = null;

  /** @param factors copies, which it takes over. */
  constructor(inverse: KroneckerInverse<Snapshot>, factors: Factors<FactorAverage<Snapshot>>, { step, damping }: InversionStart) {
    this.step = step;
    this.#damping = damping;
    this.#inverse = inverse;
    this.#factors = factors;
  }

  /** Lets it run, unless it does. */
  run(linalg: Routines): Promise<Outcome> {
    if (!this.#outcome) {
      this.#outcome = invert(this.#inverse, this.#factors, { step: this.step, damping: this.#damping }, linalg);
      this.#outcome.catch(() => undefined); // `finish` tells
    }
    return this.#outcome;
  }

  /** Waits for the outcome, which is the caller's. If it fails for another reason than its numbers, the next call lets it run again. */
  async finish(linalg: Routines): Promise<Outcome> {
    try {
      const outcome = await this.run(linalg);
      this.#release();
      return outcome;
    } finally {
      this.#outcome = null;
    }
  }

  #release(): void {
    for (const factor of Object.values<FactorAverage<Snapshot>>(this.#factors)) factor.dispose();
  }

  state(): BlockState {
    const { input, output } = this.#factors;
    const own: BlockState = { tensors: new Map(), numbers: { step: this.step, damping: this.#damping } };
    return joined({ start: own, input: input.state(), output: output.state() });
  }

  /** Drops it; what it reads, and what comes of it, is released when it ends. */
  dispose(): void {
    const release = (outcome?: Outcome): void => {
      outcome?.next?.dispose();
      this.#release();
    };
    if (this.#outcome) void this.#outcome.then(release, () => release());
    else release();
    this.#outcome = null;
  }
}

/** When the inversion of a saved state began; null if the state has none under way. */
export function startOf(state: BlockState): InversionStart | null {
  const { step, damping } = partOf(state, "start").numbers;
  return step === undefined || damping === undefined ? null : { step, damping };
}

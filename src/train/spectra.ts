import type { RefreshEvent } from "./events.ts";

/** Eigenvalues above this part of the largest are counted: those before the spectrum has decayed by 1.5 orders of magnitude. */
export const THRESHOLD = 0.03;

/** A Kronecker factor at one refresh. */
export interface FactorFigures {
  readonly step: number;
  readonly largest: number;
  /** Eigenpairs kept. */
  readonly rank: number;
  /** Eigenvalues above `THRESHOLD` times the largest. */
  readonly above: number;
  /** The part of the trace that was left out, in [0, 1]; null if the method does not tell. */
  readonly truncation: number | null;
  /** What theory says of the decay; null if the method does not tell what the factor is made of. */
  readonly bound: DecayBound | null;
}

/** The theorem on the decay of an average's spectrum, for one factor: `decayBound`. */
export interface DecayBound {
  /** How many eigenvalues may exceed `THRESHOLD` times the largest, both without what is left of the identity. */
  readonly most: number;
  /** How many do, of those that are known. */
  readonly above: number;
  /** Eigenvalues that there are: where `most` is no smaller, the theorem says nothing. */
  readonly width: number;
  /** Null if all eigenvalues that are known exceed it, and those that were left out decide. */
  readonly holds: boolean | null;
}

/** What a factor was averaged from, as its block reports it. */
export interface FactorOrigin {
  /** Rows of the factor. */
  readonly width: number;
  /** Number of values. */
  readonly values: number;
  /** The largest ρ. */
  readonly decay: number;
  /** What is left of the identity that the average began with. */
  readonly identity: number;
  /** No value has a larger rank. */
  readonly valueRank: number;
  /** No value has a larger trace. */
  readonly valueTrace: number;
}

/**
 * A factor M = Σ wᵢXᵢ whose values Xᵢ have a rank of at most n and a norm of at most C, averaged with decays of at most ρ, has no more than
 * n · r eigenvalues above ε λ_max for the first r with ρʳ C ≤ ε λ_max: without its newest r terms its norm is at most ρʳ C, these terms have a
 * rank of n · r, and by Weyl's inequality no more eigenvalues than that can exceed the rest's norm (Puiu 2022, arXiv 2206.15397,
 * proposition 3.1, where r = ⌈log(α ε) / log ρ⌉ with α = λ_max / C). There are no more terms than values. For C stands the largest trace of a
 * value. What is left of the identity shifts all eigenvalues alike, and is subtracted. Eigenvalues of a projection are not above the
 * factor's own, so that the bound holds for what randomized methods find, too.
 */
export function decayBound(
  eigenvalues: readonly number[],
  { width, values, decay, identity, valueRank, valueTrace }: FactorOrigin,
  epsilon = THRESHOLD,
): DecayBound {
  const own = eigenvalues.map((value) => value - identity);
  const limit = epsilon * own.reduce((a, b) => Math.max(a, b), 0);
  // A factor of zeros has none above the limit, and a decay of 0 leaves the newest term alone.
  const terms = limit > 0 && decay > 0 ? Math.max(0, Math.ceil(Math.log(limit / valueTrace) / Math.log(decay))) : 1;
  const most = Math.min(valueRank, width) * Math.min(terms, values);
  const above = own.filter((value) => value > limit).length;
  const complete = above < eigenvalues.length || eigenvalues.length === width;
  const holds = above > most ? false : complete || most >= width ? true : null;
  return { most, above, width, holds };
}

const ORIGIN: readonly (keyof FactorOrigin)[] = ["width", "values", "decay", "identity", "valueRank", "valueTrace"];

function boundOf(factor: string, eigenvalues: readonly number[], figures: Readonly<Record<string, number>>): DecayBound | null {
  const own = Object.fromEntries(ORIGIN.map((name) => [name, figures[`${factor}.${name}`]]));
  const known = (all: typeof own): all is Record<keyof FactorOrigin, number> => Object.values(all).every((value) => value !== undefined);
  return known(own) ? decayBound(eigenvalues, own) : null;
}

/** A Kronecker factor of a layer over a run. */
export interface FactorHistory {
  readonly layer: string;
  readonly method: string;
  /** `input` (Ω) or `output` (Γ). */
  readonly factor: string;
  /** In the order of the run. */
  readonly refreshes: readonly (FactorFigures & { readonly eigenvalues: readonly number[] })[];
}

/** The spectra that a run's refreshes have told, by layer and factor, in the order in which they were first told of. */
export class SpectrumHistory {
  readonly #factors = new Map<string, { layer: string; method: string; factor: string; refreshes: FactorHistory["refreshes"][number][] }>();
  /** Methods that were refreshed, with and without spectra. */
  readonly methods = new Set<string>();

  add({ step, layers }: RefreshEvent): void {
    for (const { layer, method, figures, spectra } of layers) {
      this.methods.add(method);
      for (const [factor, values] of Object.entries(spectra)) {
        if (values.length === 0) continue;
        const key = JSON.stringify([layer, factor]);
        const history = this.#factors.get(key) ?? { layer, method, factor, refreshes: [] };
        this.#factors.set(key, history);
        const eigenvalues = [...values].sort((a, b) => b - a);
        const largest = eigenvalues[0] as number;
        history.refreshes.push({
          step,
          largest,
          rank: figures[`${factor}.rank`] ?? eigenvalues.length,
          above: eigenvalues.filter((value) => value > THRESHOLD * largest).length,
          truncation: figures[`${factor}.truncation`] ?? null,
          bound: boundOf(factor, eigenvalues, figures),
          eigenvalues,
        });
      }
    }
  }

  get factors(): readonly FactorHistory[] {
    return [...this.#factors.values()];
  }
}

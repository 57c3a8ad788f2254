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
          eigenvalues,
        });
      }
    }
  }

  get factors(): readonly FactorHistory[] {
    return [...this.#factors.values()];
  }
}

import type { TrainConfig } from "./config.ts";

export type Preset = NonNullable<TrainConfig["preset"]>;

/** What a preset sets for one optimizer; the keys of a configuration go before it. */
export interface PresetSettings extends Partial<TrainConfig> {
  /** How the factors' averages begin, and how their scale is split. */
  readonly averages?: "identity" | "normalized";
  /** SENG: inner products and back-projection as in the authors' code; otherwise inner products are right on average. */
  readonly sketch?: "paper";
  /** Weight decay begins at the step that is this many times `factorUpdateEvery`. Default: at once. */
  readonly weightDecayAfter?: number;
  /** The learning rate's own schedule, in place of half a cosine. */
  readonly polynomial?: { readonly power: number; readonly epochs: number };
}

/** `[from epoch, value]` pairs, epochs counted from 1, as one value for each of 50 epochs. */
function byEpoch(...points: readonly (readonly [from: number, value: number])[]): number[] {
  return Array.from({ length: 50 }, (_, i) => points.findLast(([from]) => i + 1 >= from)?.[1] as number);
}

/**
 * The K-FAC family as the paper's author runs it (notebooks of "Randomized K-FACs", arXiv 2206.15397), quirks included:
 * - averages that begin with the identity, whose remainder is damping that fades, with the factors' scale split as Ω/T² and T²Γ;
 * - damping relative to the largest eigenvalue: of the product for exact K-FAC, of each factor for the randomized ones, so that one λ
 *   means more for the latter;
 * - an RMS clip of each layer, not aware of its width, and no momentum;
 * - weight decay only from step 20 · T_KU on;
 * - the tail of the spectrum taken for zero, the identity in it, too: a factor that is hardly more than the identity is amplified in all
 *   directions but `rank`. Which ones these are is for chance to say, so no factor of more than rank + oversampling rows is decomposed
 *   exactly: its least directions would be amplified.
 *
 * Two quirks are left out: oversampling that silently becomes zero from epoch 15 on, and power iterations without bases in between.
 */
const paperFamily: PresetSettings = {
  averages: "identity",
  statDecay: 0.95,
  factorUpdateEvery: 10,
  momentum: 0,
  weightDecay: 7e-4,
  weightDecayAfter: 20,
  rmsClip: 0.07,
};
const paperRandomized: PresetSettings = {
  ...paperFamily,
  learningRate: byEpoch([1, 0.3], [2, 0.1], [13, 0.03], [18, 0.01], [27, 0.003], [40, 0.001]),
  damping: byEpoch([1, 0.1], [25, 0.05], [35, 0.01]),
  inversionEvery: byEpoch([1, 50], [20, 30]),
  rank: byEpoch([1, 220], [15, 230]),
  oversampling: byEpoch([1, 10], [22, 11], [30, 12]),
  exactUpTo: 0,
  iterations: 4,
  tail: "zero",
  thin: "off",
};
const laterStart = byEpoch([1, 0.3], [2, 0.2], [3, 0.1], [13, 0.03], [18, 0.01], [27, 0.003], [40, 0.001]);

/**
 * For wide layers, 4 epochs: a KL clip, which knows how large a step is, and averages without the identity. The two must not be mixed:
 * weight-normalised averages with relative damping, an RMS clip of .07 and a rate of .3 diverge on wide layers.
 */
const wideFamily: PresetSettings = {
  averages: "normalized",
  statDecay: 0.95,
  factorUpdateEvery: 10,
  inversionEvery: 30,
  damping: 0.1,
  momentum: 0,
  weightDecay: 0,
  klClip: 1e-3,
  learningRate: [0.3, 0.1, 0.03, 0.01],
};

const seng: PresetSettings = {
  damping: 2,
  momentum: 0.9,
  weightDecay: 1e-2,
  columns: 128,
  inversionEvery: 200,
  learningRate: 0.05,
  polynomial: { power: 6, epochs: 75 / 70 },
};

/** By preset and optimizer. First-order optimizers take nothing from them; the authors of the paper have no settings for EK-FAC. */
export const presets: Readonly<Record<Preset, Readonly<Record<string, PresetSettings>>>> = {
  paper: {
    kfac: {
      ...paperFamily,
      learningRate: laterStart,
      damping: byEpoch([1, 0.1], [35, 0.01]),
      inversionEvery: 30,
      inverse: "eigh",
    },
    "rs-kfac": paperRandomized,
    "sre-kfac": { ...paperRandomized, learningRate: laterStart },
    "nys-kfac": { ...paperRandomized, learningRate: laterStart, exactUpTo: undefined, iterations: undefined, tail: "mean", thin: "on" },
    // The spectrum goes on with the smallest eigenvalue of those kept.
    "b-kfac": { ...paperRandomized, tail: "smallest" },
    seng: { ...seng, sketch: "paper" },
  },
  wide: {
    kfac: { ...wideFamily, inverse: "eigh" },
    "rs-kfac": { ...wideFamily, thin: "off" },
    "sre-kfac": { ...wideFamily, thin: "off" },
    "nys-kfac": { ...wideFamily, thin: "on" },
    "b-kfac": { ...wideFamily, thin: "on" },
    "ek-fac": wideFamily,
    seng: { ...seng, inversionEvery: 50 },
  },
};

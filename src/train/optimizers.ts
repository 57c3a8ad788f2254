import type { Parameter } from "../nn/index.ts";
import {
  Adam,
  AdamW,
  BrandKfac,
  cosine,
  EkFac,
  factoredDampingKinds,
  Kfac,
  NysKfac,
  polynomial,
  RmsProp,
  RsKfac,
  Seng,
  Sgd,
  SreKfac,
  valueAt,
  type CurvatureOptimizerOptions,
  type DampingOptions,
  type DampingKind,
  type KroneckerOptions,
  type LowRankOptions,
  type Schedule,
} from "../optim/index.ts";
import { UsageError } from "../tensor/index.ts";
import type { TrainConfig } from "./config.ts";
import { presets, type Preset, type PresetSettings } from "./presets.ts";
import type { CurvatureTrainingOptimizer } from "./trainer.ts";

/** Keys of a configuration that some optimizer takes. */
const hyperParameters = [
  "learningRate",
  "momentum",
  "weightDecay",
  "damping",
  "dampingKind",
  "adaptDamping",
  "statDecay",
  "factorUpdateEvery",
  "inversionEvery",
  "inversionLag",
  "inverse",
  "fisher",
  "rank",
  "oversampling",
  "exactUpTo",
  "tolerance",
  "negligible",
  "iterations",
  "tail",
  "thin",
  "variant",
  "truncation",
  "restartEvery",
  "correctEvery",
  "eigenvalues",
  "columns",
  "skip",
  "batchNorm",
  "klClip",
  "rmsClip",
] as const satisfies readonly (keyof TrainConfig)[];
type HyperParameter = (typeof hyperParameters)[number];

/** What an optimizer is made from: the preset's settings, and the configuration's in their place. */
type Settings = PresetSettings & Pick<TrainConfig, "epochs" | "seed">;

interface Entry {
  /** The hyper-parameters that it takes besides the learning rate. Others are refused: one that is ignored would be believed. */
  readonly takes: readonly HyperParameter[];
  make(parameters: readonly Parameter[], settings: Settings, stepsPerEpoch: number): CurvatureTrainingOptimizer;
}

/** A value for each epoch as a schedule of steps; the last one holds on. */
function schedule(value: number | readonly number[], stepsPerEpoch: number): Schedule {
  if (typeof value === "number") return value;
  return (step) => value[Math.min(value.length - 1, Math.floor(step / stepsPerEpoch))] as number;
}

const maybe = (value: number | readonly number[] | undefined, stepsPerEpoch: number): Schedule | undefined =>
  value === undefined ? undefined : schedule(value, stepsPerEpoch);

/** One rate an epoch; or from the configured value (or the optimizer's own) along half a cosine to `end` times it. */
function rate({ learningRate, epochs, polynomial: shape }: Settings, own: number, stepsPerEpoch: number, end = 0): Schedule {
  if (typeof learningRate === "object") return schedule(learningRate, stepsPerEpoch);
  const start = learningRate ?? own;
  if (shape) return polynomial(start, shape.epochs * epochs * stepsPerEpoch, shape.power);
  return cosine(start, epochs * stepsPerEpoch, start * end);
}

/** Weight decay; if it is to wait for n factor updates, none before step n · T_KU, where T_KU is that of the step. */
function decay({ weightDecay, weightDecayAfter: updates }: Settings, factorUpdateEvery: Schedule | undefined): Schedule | undefined {
  if (weightDecay === undefined || updates === undefined) return weightDecay;
  return (step) => (step < updates * valueAt(factorUpdateEvery ?? 10, step) ? 0 : weightDecay);
}

const curvature: readonly HyperParameter[] = [
  "momentum",
  "weightDecay",
  "damping",
  "adaptDamping",
  "statDecay",
  "factorUpdateEvery",
  "inversionEvery",
  "inversionLag",
  "fisher",
  "skip",
  "batchNorm",
  "klClip",
  "rmsClip",
];
const lowRank: readonly HyperParameter[] = [...curvature, "dampingKind", "rank", "oversampling", "exactUpTo", "tail", "thin"];

/**
 * What the methods on Kronecker factors have in common. A run of a few epochs wants larger steps than the library's cautious defaults, and
 * inverses that follow sooner: of the 63 steps of an epoch of 8,000 images, 50 would be preconditioned with the first batch's factors.
 */
function kroneckerOptions(
  settings: Settings,
  stepsPerEpoch: number,
  damping = 0.03,
): CurvatureOptimizerOptions & KroneckerOptions & DampingOptions {
  const { averages, klClip, rmsClip } = settings;
  if (klClip !== undefined && rmsClip !== undefined) {
    throw new UsageError("klClip and rmsClip are two clips in place of each other; give one of them");
  }
  if (rmsClip !== undefined && averages !== "identity") {
    throw new UsageError(
      "rmsClip without the preset paper: averages that do not begin with the identity diverge on wide layers with it; use klClip, or the preset",
    );
  }
  const { epochs, inversionLag, inversionEvery = 20 } = settings;
  const shortest = typeof inversionEvery === "number" ? inversionEvery : Math.min(...inversionEvery.slice(0, epochs));
  if (inversionLag !== undefined && inversionLag >= shortest) {
    throw new UsageError(`inversionLag must be below inversionEvery, which is ${shortest} in some epoch, but is ${inversionLag}`);
  }
  const factorUpdateEvery = maybe(settings.factorUpdateEvery, stepsPerEpoch);
  return {
    learningRate: rate(settings, 0.15, stepsPerEpoch, 0.03),
    damping: schedule(settings.damping ?? damping, stepsPerEpoch),
    ...(settings.adaptDamping !== undefined && { adaptDamping: { interval: settings.adaptDamping } }),
    statDecay: settings.statDecay,
    ...(averages === "identity" && { averageForm: "identity", factorScaling: "paper" }),
    factorUpdateEvery,
    inversionEvery: schedule(inversionEvery, stepsPerEpoch),
    inversionLag,
    fisher: settings.fisher,
    fisherSeed: settings.seed,
    skip: settings.skip,
    scaleShift: settings.batchNorm === "block",
    clip: rmsClip === undefined ? { kl: schedule(klClip ?? 1e-2, stepsPerEpoch) } : { rms: schedule(rmsClip, stepsPerEpoch) },
    momentum: settings.momentum ?? 0.5,
    weightDecay: decay(settings, factorUpdateEvery),
  };
}

function thinOption({ thin }: Settings): { thin?: boolean } {
  return thin === undefined ? {} : { thin: thin === "on" };
}

/** The configured kind of damping, if it is one of those that an optimizer knows. */
function dampingKindOf<Kind extends DampingKind>({ dampingKind }: Settings, known: readonly Kind[]): Kind | undefined {
  if (dampingKind === undefined) return undefined;
  const kind = known.find((own) => own === dampingKind);
  if (kind === undefined) throw new UsageError(`dampingKind must be ${known.join(", ")}, not ${dampingKind}`);
  return kind;
}

function lowRankOptions(settings: Settings, stepsPerEpoch: number): LowRankOptions {
  return {
    ...kroneckerOptions(settings, stepsPerEpoch),
    dampingKind: dampingKindOf(settings, factoredDampingKinds),
    rank: maybe(settings.rank, stepsPerEpoch),
    oversampling: maybe(settings.oversampling, stepsPerEpoch),
    exactUpTo: settings.exactUpTo,
    tail: settings.tail,
    ...thinOption(settings),
    seed: settings.seed,
  };
}

const entries: Readonly<Record<string, Entry>> = {
  sgd: {
    takes: ["momentum", "weightDecay"],
    make: (parameters, settings, steps) =>
      new Sgd(parameters, {
        learningRate: rate(settings, 0.05, steps),
        momentum: settings.momentum ?? 0.9,
        weightDecay: settings.weightDecay ?? 5e-4,
      }),
  },
  adam: {
    takes: ["weightDecay"],
    make: (parameters, settings, steps) =>
      new Adam(parameters, { learningRate: rate(settings, 3e-3, steps), weightDecay: settings.weightDecay }),
  },
  adamw: {
    takes: ["weightDecay"],
    make: (parameters, settings, steps) =>
      new AdamW(parameters, { learningRate: rate(settings, 3e-3, steps), weightDecay: settings.weightDecay }),
  },
  rmsprop: {
    takes: ["momentum", "weightDecay"],
    make: (parameters, settings, steps) =>
      new RmsProp(parameters, {
        learningRate: rate(settings, 1e-3, steps),
        momentum: settings.momentum,
        weightDecay: settings.weightDecay,
      }),
  },
  kfac: {
    takes: [...curvature, "dampingKind", "inverse", "thin"],
    make: (parameters, settings, steps) =>
      new Kfac(parameters, {
        ...kroneckerOptions(settings, steps),
        ...thinOption(settings),
        dampingKind: settings.dampingKind,
        inverse: settings.inverse,
      }),
  },
  "rs-kfac": {
    takes: [...lowRank, "iterations"],
    make: (parameters, settings, steps) => new RsKfac(parameters, { ...lowRankOptions(settings, steps), iterations: settings.iterations }),
  },
  "sre-kfac": {
    takes: [...lowRank, "tolerance", "iterations"],
    make: (parameters, settings, steps) =>
      new SreKfac(parameters, {
        ...lowRankOptions(settings, steps),
        tolerance: maybe(settings.tolerance, steps),
        iterations: settings.iterations,
      }),
  },
  "nys-kfac": {
    takes: [...lowRank, "negligible"],
    make: (parameters, settings, steps) =>
      new NysKfac(parameters, { ...lowRankOptions(settings, steps), negligible: maybe(settings.negligible, steps) }),
  },
  "b-kfac": {
    takes: [...lowRank, "iterations", "variant", "truncation", "restartEvery", "correctEvery"],
    make: (parameters, settings, steps) =>
      new BrandKfac(parameters, {
        ...lowRankOptions(settings, steps),
        iterations: settings.iterations,
        variant: settings.variant,
        truncation: settings.truncation,
        restartEvery: maybe(settings.restartEvery, steps),
        correctEvery: maybe(settings.correctEvery, steps),
      }),
  },
  "ek-fac": {
    takes: [...curvature, "dampingKind", "eigenvalues"],
    make: (parameters, settings, steps) =>
      new EkFac(parameters, {
        ...kroneckerOptions(settings, steps),
        dampingKind: dampingKindOf(settings, ["relative", "absolute"]),
        eigenvalues: settings.eigenvalues,
      }),
  },
  seng: {
    takes: ["momentum", "weightDecay", "damping", "inversionEvery", "skip", "columns", "thin"],
    make: (parameters, settings, steps) =>
      new Seng(parameters, {
        learningRate: rate(settings, 0.05, steps),
        damping: maybe(settings.damping, steps),
        refreshEvery: maybe(settings.inversionEvery ?? 50, steps),
        skip: settings.skip,
        columns: settings.columns,
        ...thinOption(settings),
        ...(settings.sketch === "paper" && { scaling: "paper", backProjection: "paper" }),
        momentum: settings.momentum,
        weightDecay: settings.weightDecay,
        seed: settings.seed,
      }),
  },
};

export const optimizerNames: readonly string[] = Object.keys(entries);
/** Those that damp a curvature: the methods that presets are for. */
const curvatureMethods = optimizerNames.filter((name) => entries[name]?.takes.includes("damping"));

/**
 * The optimizer that a configuration names, for epochs of `stepsPerEpoch` steps.
 * @throws UsageError for an unknown name, a hyper-parameter that this optimizer does not take, a preset that has no settings for this curvature
 *   method, or settings that contradict each other.
 */
export function makeOptimizer(parameters: readonly Parameter[], config: TrainConfig, stepsPerEpoch: number): CurvatureTrainingOptimizer {
  const { optimizer, preset } = config;
  const entry = Object.hasOwn(entries, optimizer) ? entries[optimizer] : undefined;
  if (!entry) throw new UsageError(`there is no optimizer "${optimizer}"; known: ${optimizerNames.join(", ")}`);
  const takes: readonly HyperParameter[] = ["learningRate", ...entry.takes];
  const given = hyperParameters.filter((key) => config[key] !== undefined);
  const refused = given.filter((key) => !takes.includes(key));
  if (refused.length > 0) {
    throw new UsageError(`optimizer "${optimizer}" does not take ${refused.join(", ")}; it takes ${takes.join(", ")}`);
  }
  const own = Object.fromEntries(given.map((key) => [key, config[key]]));
  const base = { ...(preset && settingsOf(preset, optimizer)) };
  // One clip takes the place of the other.
  if (config.klClip !== undefined) delete base.rmsClip;
  if (config.rmsClip !== undefined) delete base.klClip;
  return entry.make(parameters, { ...base, ...own, epochs: config.epochs, seed: config.seed }, stepsPerEpoch);
}

/** A preset's settings for an optimizer: none for a first-order one. @throws UsageError for a curvature method that the preset does not know. */
function settingsOf(preset: Preset, optimizer: string): PresetSettings | undefined {
  const known = presets[preset];
  if (Object.hasOwn(known, optimizer) || !curvatureMethods.includes(optimizer)) return known[optimizer];
  const others = Object.entries(presets).flatMap(([name, own]) => (Object.hasOwn(own, optimizer) ? [name] : []));
  throw new UsageError(
    `preset "${preset}" has no settings for ${optimizer}, but for ${Object.keys(known).join(", ")}; ` +
      `leave the preset out${others.length > 0 ? `, or take ${others.join(" or ")}` : ""}`,
  );
}

import type { Parameter } from "../nn/index.ts";
import { Adam, AdamW, cosine, Kfac, RmsProp, Sgd, type Schedule } from "../optim/index.ts";
import { UsageError } from "../tensor/index.ts";
import type { TrainConfig } from "./config.ts";
import type { RegisteringOptimizer } from "./trainer.ts";

type HyperParameter = Exclude<
  keyof TrainConfig,
  "model" | "optimizer" | "data" | "epochs" | "batchSize" | "seed" | "device" | "threads" | "precision" | "out" | "fc" | "init"
>;

interface Entry {
  /** The hyper-parameters that it takes besides the learning rate. Others are refused: one that is ignored would be believed. */
  readonly takes: readonly HyperParameter[];
  make(parameters: readonly Parameter[], config: TrainConfig, totalSteps: number): RegisteringOptimizer;
}

const every: readonly HyperParameter[] = [
  "learningRate",
  "momentum",
  "weightDecay",
  "damping",
  "statDecay",
  "factorUpdateEvery",
  "inversionEvery",
  "inverse",
  "fisher",
  "klClip",
];

/** The learning rate falls along half a cosine from the configured value (or the optimizer's own) to `end` times it. */
function rate(config: TrainConfig, own: number, totalSteps: number, end = 0): Schedule {
  const start = config.learningRate ?? own;
  return cosine(start, totalSteps, start * end);
}

const entries: Readonly<Record<string, Entry>> = {
  sgd: {
    takes: ["momentum", "weightDecay"],
    make: (parameters, config, steps) =>
      new Sgd(parameters, {
        learningRate: rate(config, 0.05, steps),
        momentum: config.momentum ?? 0.9,
        weightDecay: config.weightDecay ?? 5e-4,
      }),
  },
  adam: {
    takes: ["weightDecay"],
    make: (parameters, config, steps) => new Adam(parameters, { learningRate: rate(config, 3e-3, steps), weightDecay: config.weightDecay }),
  },
  adamw: {
    takes: ["weightDecay"],
    make: (parameters, config, steps) =>
      new AdamW(parameters, { learningRate: rate(config, 3e-3, steps), weightDecay: config.weightDecay }),
  },
  rmsprop: {
    takes: ["momentum", "weightDecay"],
    make: (parameters, config, steps) =>
      new RmsProp(parameters, { learningRate: rate(config, 1e-3, steps), momentum: config.momentum, weightDecay: config.weightDecay }),
  },
  kfac: {
    takes: every,
    make: (parameters, config, steps) =>
      new Kfac(parameters, {
        learningRate: rate(config, 0.3, steps, 0.03),
        // A run of a few epochs wants larger steps than the library's cautious defaults (κ 1e-3, λ .1).
        damping: config.damping ?? 0.03,
        statDecay: config.statDecay,
        factorUpdateEvery: config.factorUpdateEvery,
        inversionEvery: config.inversionEvery,
        inverse: config.inverse,
        fisher: config.fisher,
        clip: { kl: config.klClip ?? 1e-2 },
        momentum: config.momentum,
        weightDecay: config.weightDecay,
      }),
  },
};

export const optimizerNames: readonly string[] = Object.keys(entries);

/**
 * The optimizer that a configuration names, for a run of `totalSteps` steps.
 * @throws UsageError for an unknown name, or a hyper-parameter that this optimizer does not take.
 */
export function makeOptimizer(parameters: readonly Parameter[], config: TrainConfig, totalSteps: number): RegisteringOptimizer {
  const { optimizer } = config;
  const entry = Object.hasOwn(entries, optimizer) ? entries[optimizer] : undefined;
  if (!entry) throw new UsageError(`there is no optimizer "${optimizer}"; known: ${optimizerNames.join(", ")}`);
  const takes: readonly HyperParameter[] = ["learningRate", ...entry.takes];
  const refused = every.filter((key) => config[key] !== undefined && !takes.includes(key));
  if (refused.length > 0) {
    throw new UsageError(`optimizer "${optimizer}" does not take ${refused.join(", ")}; it takes ${takes.join(", ")}`);
  }
  return entry.make(parameters, config, totalSteps);
}

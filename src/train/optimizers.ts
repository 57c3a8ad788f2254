import type { Parameter } from "../nn/index.ts";
import { Adam, AdamW, cosine, Kfac, RmsProp, Sgd, type Schedule } from "../optim/index.ts";
import { UsageError } from "../tensor/index.ts";
import type { TrainConfig } from "./config.ts";
import type { RegisteringOptimizer } from "./trainer.ts";

type Maker = (parameters: readonly Parameter[], config: TrainConfig, totalSteps: number) => RegisteringOptimizer;

/** The learning rate falls along half a cosine from the configured value (or the optimizer's own) to `end` times it. */
function rate(config: TrainConfig, own: number, totalSteps: number, end = 0): Schedule {
  const start = config.learningRate ?? own;
  return cosine(start, totalSteps, start * end);
}

const makers: Readonly<Record<string, Maker>> = {
  sgd: (parameters, config, steps) =>
    new Sgd(parameters, {
      learningRate: rate(config, 0.05, steps),
      momentum: config.momentum ?? 0.9,
      weightDecay: config.weightDecay ?? 5e-4,
    }),
  adam: (parameters, config, steps) => new Adam(parameters, { learningRate: rate(config, 1e-3, steps), weightDecay: config.weightDecay }),
  adamw: (parameters, config, steps) => new AdamW(parameters, { learningRate: rate(config, 1e-3, steps), weightDecay: config.weightDecay }),
  rmsprop: (parameters, config, steps) =>
    new RmsProp(parameters, { learningRate: rate(config, 1e-3, steps), momentum: config.momentum, weightDecay: config.weightDecay }),
  kfac: (parameters, config, steps) =>
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
};

export const optimizerNames: readonly string[] = Object.keys(makers);

/** The optimizer that a configuration names, for a run of `totalSteps` steps. @throws UsageError for an unknown name. */
export function makeOptimizer(parameters: readonly Parameter[], config: TrainConfig, totalSteps: number): RegisteringOptimizer {
  const make = Object.hasOwn(makers, config.optimizer) ? makers[config.optimizer] : undefined;
  if (!make) throw new UsageError(`there is no optimizer "${config.optimizer}"; known: ${optimizerNames.join(", ")}`);
  return make(parameters, config, totalSteps);
}

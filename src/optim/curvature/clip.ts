import type { Parameter } from "../../nn/index.ts";
import type { Tensor } from "../../tensor/index.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";
import { noState, type LayerParameters, type StepContext, type Transform, type Updates } from "../transform.ts";

/** Clipping touches the preconditioned layers only: all other parameters take the plain gradient. */
function scaleLayers(updates: Updates, factor: (layer: LayerParameters) => Tensor): Updates {
  const values = new Map(updates.values);
  for (const layer of updates.layers) {
    const nu = factor(layer);
    for (const parameter of members(layer)) {
      const update = updates.values.get(parameter);
      if (update) values.set(parameter, update.multiply(nu));
    }
  }
  return { ...updates, values };
}

function members({ weight, bias }: LayerParameters): Parameter[] {
  return bias ? [weight, bias] : [weight];
}

/**
 * One factor for all layers, ν = min(1, √(κ / |lr² Σ ⟨P, J⟩|)), so that the step's squared length in the curvature's metric (twice
 * the KL divergence, to second order) is at most κ (Ba, Grosse and Martens 2017, section 5). Computed on the device.
 */
export function klClip(kappa: Schedule): Transform {
  return {
    update: (updates: Updates, { step, learningRate, gradients }: StepContext) => {
      const terms = updates.layers.flatMap(members).flatMap((parameter) => {
        const [p, j] = [updates.values.get(parameter), gradients.get(parameter)];
        return p && j ? [p.multiply(j).sum()] : [];
      });
      if (terms.length === 0) return updates;
      const product = terms.reduce((a, b) => a.add(b)).abs();
      // κ / 0 is infinite, and the minimum is then 1.
      const nu = product
        .multiply(learningRate ** 2)
        .reciprocal()
        .multiply(hyperParameter("clip.kl", kappa, step, "positive"))
        .sqrt()
        .minimum(1);
      return scaleLayers(updates, () => nu);
    },
    ...noState,
  };
}

/** Each layer's weight and bias together scaled by ν = min(1, limit / RMS(P)): the paper code's clip, not a KL clip. */
export function rmsClip(limit: Schedule): Transform {
  return {
    update: (updates: Updates, { step }: StepContext) =>
      scaleLayers(updates, (layer) => {
        const parts = members(layer).flatMap((parameter) => updates.values.get(parameter) ?? []);
        const size = parts.reduce((count, part) => count + part.size, 0);
        const squares = parts.map((part) => part.square().sum()).reduce((a, b) => a.add(b));
        return squares
          .multiply(1 / size)
          .sqrt()
          .reciprocal()
          .multiply(hyperParameter("clip.rms", limit, step, "positive"))
          .minimum(1);
      }),
    ...noState,
  };
}

/** A factor for the parameters without a block. */
export function scaleOthers(factor: Schedule): Transform {
  return {
    update: (updates: Updates, { step }: StepContext) => {
      const own = new Set(updates.layers.flatMap(members));
      const by = hyperParameter("others", factor, step, "at least 0");
      const scaled = [...updates.values].map(
        ([parameter, update]) => [parameter, own.has(parameter) ? update : update.multiply(by)] as const,
      );
      return { ...updates, values: new Map(scaled) };
    },
    ...noState,
  };
}

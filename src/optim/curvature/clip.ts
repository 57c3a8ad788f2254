import type { Parameter } from "../../nn/index.ts";
import type { Tensor } from "../../tensor/index.ts";
import { hyperParameter, type Schedule } from "../schedules.ts";
import { noState, type LayerParameters, type StepContext, type Transform, type Updates } from "../transform.ts";

/** A transform that makes steps shorter, and tells by how much. */
export interface Clip extends Transform {
  /** ν of the last step, the least of the layers' own: 1 where nothing was clipped, null before the first step. Reads from the device. */
  factor(): Promise<number | null>;
}

/** A clip that multiplies each layer's update by its factor, a number on the device. */
function clip(factors: (updates: Updates, context: StepContext) => ReadonlyMap<LayerParameters, Tensor>): Clip {
  let last: readonly Tensor[] = [];
  const forget = (): void => {
    for (const nu of last) nu.dispose();
    last = [];
  };
  return {
    ...noState,
    update: (updates, context) => {
      const found = factors(updates, context);
      forget();
      last = [...new Set(found.values())].map((nu) => nu.hold());
      return scaleLayers(updates, found);
    },
    factor: async () => {
      const values = await Promise.all(last.map((nu) => nu.item()));
      return values.length === 0 ? null : Math.min(...values);
    },
    dispose: forget,
  };
}

/** Clipping touches the preconditioned layers only: all other parameters take the plain gradient. */
function scaleLayers(updates: Updates, factors: ReadonlyMap<LayerParameters, Tensor>): Updates {
  const values = new Map(updates.values);
  for (const [layer, nu] of factors) {
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
export function klClip(kappa: Schedule): Clip {
  return clip(({ values, layers }, { step, learningRate, gradients }) => {
    const terms = layers.flatMap(members).flatMap((parameter) => {
      const [p, j] = [values.get(parameter), gradients.get(parameter)];
      return p && j ? [p.multiply(j).sum()] : [];
    });
    if (terms.length === 0) return new Map();
    const product = terms.reduce((a, b) => a.add(b)).abs();
    // κ / 0 is infinite, and the minimum is then 1.
    const nu = product
      .multiply(learningRate ** 2)
      .reciprocal()
      .multiply(hyperParameter("clip.kl", kappa, step, "positive"))
      .sqrt()
      .minimum(1);
    return new Map(layers.map((layer) => [layer, nu]));
  });
}

/** Each layer's weight and bias together scaled by ν = min(1, limit / RMS(P)): the paper code's clip, not a KL clip. */
export function rmsClip(limit: Schedule): Clip {
  return clip(({ values, layers }, { step }) => {
    const factor = (layer: LayerParameters): Tensor => {
      const parts = members(layer).flatMap((parameter) => values.get(parameter) ?? []);
      const size = parts.reduce((count, part) => count + part.size, 0);
      const squares = parts.map((part) => part.square().sum()).reduce((a, b) => a.add(b));
      return squares
        .multiply(1 / size)
        .sqrt()
        .reciprocal()
        .multiply(hyperParameter("clip.rms", limit, step, "positive"))
        .minimum(1);
    };
    return new Map(layers.map((layer) => [layer, factor(layer)]));
  });
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

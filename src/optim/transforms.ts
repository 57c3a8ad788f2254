import type { Parameter } from "../nn/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { valueAt, type Schedule } from "./schedules.ts";
import { mapUpdates, movingAverage, ParameterSlots, stateless, type Transform } from "./transform.ts";

/**
 * Adds decay · parameter to the update. In front of the others it is L2 regularisation, behind a preconditioner it is decoupled
 * weight decay (Loshchilov and Hutter, arXiv 1711.05101).
 */
export function weightDecay(decay: Schedule): Transform {
  return stateless((update, parameter, { step }) => {
    const rate = valueAt(decay, step);
    return rate === 0 ? update : update.add(parameter.value.multiply(rate));
  });
}

export interface MomentumOptions {
  /** Default 0: no momentum. */
  readonly momentum?: Schedule | undefined;
  /** The newest update enters the buffer with weight 1 − dampening, except the very first. Default 0. */
  readonly dampening?: Schedule | undefined;
  /** Look one step ahead: update + momentum · buffer. Default false. */
  readonly nesterov?: boolean | undefined;
}

/** Heavy-ball momentum: b ← momentum · b + (1 − dampening) · u, with b = u at first (PyTorch's convention). */
export function momentum(parameters: readonly Parameter[], options: MomentumOptions): Transform {
  const { momentum = 0, dampening = 0, nesterov = false } = options;
  const buffers = new ParameterSlots("momentum");
  return {
    update: (updates, { step }) => {
      const decay = valueAt(momentum, step);
      if (decay === 0) return updates;
      const weight = 1 - valueAt(dampening, step);
      return mapUpdates(updates, (update, parameter) => {
        const before = buffers.get(parameter);
        buffers.set(parameter, before ? before.multiply(decay).add(weight === 1 ? update : update.multiply(weight)) : update);
        const buffer = buffers.get(parameter) as Tensor;
        return nesterov ? update.add(buffer.multiply(decay)) : buffer;
      });
    },
    ...slotState([buffers], parameters),
  };
}

export interface AdamScalingOptions {
  /** Decay of the mean and of the mean square. Defaults .9 and .999. */
  readonly betas?: readonly [Schedule, Schedule] | undefined;
  /** Added to the root of the second moment. Default 1e-8. */
  readonly epsilon?: number | undefined;
  /** Divide by the largest second moment so far (Reddi et al. 2018). Default false. */
  readonly amsgrad?: boolean | undefined;
}

/** m̂ / (√v̂ + ε) with bias-corrected moments (Kingma and Ba, arXiv 1412.6980). */
export function adamScaling(parameters: readonly Parameter[], options: AdamScalingOptions): Transform {
  const { betas = [0.9, 0.999], epsilon = 1e-8, amsgrad = false } = options;
  const [means, squares, largest] = [new ParameterSlots("mean"), new ParameterSlots("square"), new ParameterSlots("largest")];
  const numbers = { correction1: 1, correction2: 1 };
  return {
    update: (updates, { step }) => {
      const [beta1, beta2] = [valueAt(betas[0], step), valueAt(betas[1], step)];
      // Products of the decays: the weight that the zero start still has.
      numbers.correction1 *= beta1;
      numbers.correction2 *= beta2;
      return mapUpdates(updates, (update, parameter) => {
        const mean = movingAverage(means, parameter, beta1, update);
        let square = movingAverage(squares, parameter, beta2, update.square());
        if (amsgrad) {
          const before = largest.get(parameter);
          largest.set(parameter, before ? before.maximum(square) : square);
          square = largest.get(parameter) as Tensor;
        }
        const root = square.sqrt().multiply(1 / Math.sqrt(1 - numbers.correction2));
        return mean.multiply(1 / (1 - numbers.correction1)).divide(root.add(epsilon));
      });
    },
    ...slotState([means, squares, largest], parameters, numbers),
  };
}

export interface RmsScalingOptions {
  /** Decay of the mean square. Default .99. */
  readonly decay?: Schedule | undefined;
  /** Added to the root. Default 1e-8. */
  readonly epsilon?: number | undefined;
  /** Subtract the squared mean: divide by the standard deviation. Default false. */
  readonly centered?: boolean | undefined;
}

/** u / (√E[u²] + ε) without bias correction (Tieleman and Hinton 2012). */
export function rmsScaling(parameters: readonly Parameter[], options: RmsScalingOptions): Transform {
  const { decay = 0.99, epsilon = 1e-8, centered = false } = options;
  const [squares, means] = [new ParameterSlots("square"), new ParameterSlots("mean")];
  return {
    update: (updates, { step }) => {
      const rho = valueAt(decay, step);
      return mapUpdates(updates, (update, parameter) => {
        let square = movingAverage(squares, parameter, rho, update.square());
        if (centered) square = square.subtract(movingAverage(means, parameter, rho, update).square());
        return update.divide(square.sqrt().add(epsilon));
      });
    },
    ...slotState([squares, means], parameters),
  };
}

/** The bookkeeping of transforms whose state is slots and numbers. */
function slotState(
  slots: readonly ParameterSlots[],
  parameters: readonly Parameter[],
  numbers: Record<string, number> = {},
): Pick<Transform, "state" | "load" | "dispose"> {
  return {
    state: () => {
      const tensors = new Map<string, Tensor>();
      for (const slot of slots) slot.save(tensors);
      return { tensors, numbers: { ...numbers } };
    },
    load: (state) => {
      for (const slot of slots) slot.restore(state, parameters);
      Object.assign(numbers, state.numbers);
    },
    dispose: () => {
      for (const slot of slots) slot.dispose();
    },
  };
}

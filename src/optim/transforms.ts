import type { Parameter } from "../nn/index.ts";
import { apply, CheckpointError, type Tensor } from "../tensor/index.ts";
import { hyperParameter, type Schedule } from "./schedules.ts";
import { mapUpdates, movingAverage, parameterKeys, ParameterSlots, stateless, type Transform } from "./transform.ts";

/**
 * Adds decay · parameter to the update. In front of the others it is L2 regularisation, behind a preconditioner it is decoupled
 * weight decay (Loshchilov and Hutter, arXiv 1711.05101).
 */
export function weightDecay(decay: Schedule): Transform {
  return stateless((update, parameter, { step }) => {
    const rate = hyperParameter("weightDecay", decay, step, "at least 0");
    return rate === 0 ? update : apply("linearCombination", [update, parameter.value], { a: 1, b: rate })[0];
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
  const buffers = new ParameterSlots("momentum", parameters);
  return {
    update: (updates, { step }) => {
      const decay = hyperParameter("momentum", momentum, step, "at least 0");
      if (decay === 0) {
        buffers.dispose(); // what is switched on again later starts anew
        return updates;
      }
      const weight = 1 - hyperParameter("dampening", dampening, step, "any");
      return mapUpdates(updates, (update, parameter) => {
        const buffer = buffers.blend(parameter, decay, update, weight) ?? buffers.put(parameter, update);
        return nesterov ? apply("linearCombination", [update, buffer], { a: 1, b: decay })[0] : buffer;
      });
    },
    ...slotState("momentum", [buffers]),
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
  const [means, squares, largest] = [
    new ParameterSlots("mean", parameters),
    new ParameterSlots("square", parameters),
    new ParameterSlots("largest", parameters),
  ];
  // Products of the decays so far: the weight that the zero start still has in each parameter's moments.
  const keys = parameterKeys(parameters);
  const corrections: Record<string, number> = {};
  const correct = (moment: "mean" | "square", parameter: Parameter, beta: number): number => {
    const key = `${moment}:${keys.get(parameter)}`;
    return (corrections[key] = (corrections[key] ?? 1) * beta);
  };
  return {
    update: (updates, { step }) => {
      const [beta1, beta2] = betas.map((beta) => hyperParameter("betas", beta, step, "at least 0 and below 1")) as [number, number];
      return mapUpdates(updates, (update, parameter) => {
        const mean = movingAverage(means, parameter, beta1, update);
        let square = movingAverage(squares, parameter, beta2, update.square());
        if (amsgrad) {
          const before = largest.get(parameter);
          square = largest.put(parameter, before ? before.maximum(square) : square);
        }
        const [left1, left2] = [correct("mean", parameter, beta1), correct("square", parameter, beta2)];
        const params = { scale: 1 / (1 - left1), rootScale: 1 / Math.sqrt(1 - left2), epsilon };
        return apply("divideByRoot", [mean, square], params)[0];
      });
    },
    ...slotState("adam", [means, squares, largest], corrections),
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
  const [squares, means] = [new ParameterSlots("square", parameters), new ParameterSlots("mean", parameters)];
  return {
    update: (updates, { step }) => {
      const rho = hyperParameter("decay", decay, step, "at least 0 and below 1");
      return mapUpdates(updates, (update, parameter) => {
        let square = movingAverage(squares, parameter, rho, update.square());
        // Rounding may take a variance below 0.
        if (centered) square = square.subtract(movingAverage(means, parameter, rho, update).square()).maximum(0);
        return apply("divideByRoot", [update, square], { scale: 1, rootScale: 1, epsilon })[0];
      });
    },
    ...slotState("rms", [squares, means]),
  };
}

/** The bookkeeping of transforms whose state is slots and numbers. */
function slotState(
  kind: string,
  slots: readonly ParameterSlots[],
  numbers: Record<string, number> = {},
): Pick<Transform, "kind" | "state" | "check" | "load" | "dispose"> {
  return {
    kind,
    state: () => {
      const tensors = new Map<string, Tensor>();
      for (const slot of slots) slot.save(tensors);
      return { kind, tensors, numbers: { ...numbers } };
    },
    check: (state) => {
      const own = slots.flatMap((slot) => slot.entries(state));
      if (own.length !== state.tensors.size) throw new CheckpointError(`the ${kind} state has entries that this optimizer does not know`);
    },
    load: (state) => {
      for (const slot of slots) slot.restore(state);
      for (const key of Object.keys(numbers)) Reflect.deleteProperty(numbers, key);
      Object.assign(numbers, state.numbers);
    },
    dispose: () => {
      for (const slot of slots) slot.dispose();
    },
  };
}

import { onesLike, record, type AnyCall, type Recorded, type Recording } from "../../autograd/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { requireFloat, Tensor, UsageError } from "../../tensor/index.ts";
import { curvatureAlong, isLoss, lossCall, predictionOf, releaseLoss, type LossCall } from "./fisher.ts";

/** The derivative of a loss along a step δ, and its curvature there: gᵀδ and δᵀCδ, one number each. */
export interface Along {
  readonly slope: Tensor;
  readonly curvature: Tensor;
}

/**
 * gᵀδ and δᵀCδ of a recorded loss, with C the generalised Gauss–Newton matrix of all its cross-entropies and squared errors: of the whole
 * batch, over all parameters, and without a matrix.
 *
 * δᵀCδ = Σᵢ tᵢᵀ∇²ℓᵢ tᵢ needs t = Jδ, the change of each prediction along δ. The reverse passes of the type-2 Fisher give sums over samples,
 * and squares of sums are not sums of squares; so Jδ comes from a reverse pass over a reverse pass: u ↦ ⟨Jᵀu, δ⟩ is linear with the gradient
 * Jδ. Two passes, whatever the number of outputs.
 *
 * Releases the recording. Runs inside a tidy.
 * @throws UsageError if the loss contains no crossEntropy or meanSquaredError.
 */
export function alongStep(recording: Recording<Tensor>, parameters: readonly Parameter[], step: ReadonlyMap<Parameter, Tensor>): Along {
  const loss = recording.value;
  const predictions = predictionsOf(recording);
  const { backend } = loss;
  const ones = onesLike(loss);
  const zeros = predictions.map(({ shape, dtype }) => Tensor.zeros(shape, { dtype: requireFloat("adaptDamping", dtype), backend }));
  const losses: LossCall[] = [];
  const observe = (call: AnyCall, gradients: readonly (Tensor | null)[]): void => {
    const found = lossCall(call, gradients);
    if (found) losses.push(found);
  };
  try {
    using reverse = record(() => {
      const seeds = predictions.map((prediction, i) => [prediction, zeros[i] as Tensor] as const);
      const gradients = recording.reverse([[loss, ones], ...seeds], { observe });
      const terms = parameters.flatMap((parameter, i) => {
        const [gradient, delta] = [gradients[i], step.get(parameter)];
        return gradient && delta ? [gradient.multiply(delta).sum()] : [];
      });
      return terms.reduce((a, b) => a.add(b));
    }, [ones, ...zeros]);
    const [slope, ...changes] = reverse.reverse([[reverse.value, onesLike(reverse.value)]]);
    const terms = losses.flatMap((call) => {
      const change = changes[predictions.findIndex(({ id }) => id === call.prediction.id)];
      return change ? [curvatureAlong(call, change)] : [];
    });
    if (terms.length === 0) throw withoutLoss(); // there is one, but this loss does not depend on it
    return { slope: slope as Tensor, curvature: terms.reduce((a, b) => a.add(b)) };
  } finally {
    losses.forEach(releaseLoss);
  }
}

/** What the losses of a recording were given. @throws UsageError if it contains no crossEntropy or meanSquaredError. */
export function predictionsOf({ calls }: Recording<Tensor>): Recorded[] {
  const predictions = calls.filter(({ name }) => isLoss(name)).map(predictionOf);
  if (predictions.length === 0) throw withoutLoss();
  return predictions;
}

function withoutLoss(): UsageError {
  return new UsageError(
    "adaptDamping: the loss contains no crossEntropy or meanSquaredError, whose curvature it needs; use one, or a damping that is given",
  );
}

import type { AnyCall, Recorded } from "../../autograd/index.ts";
import { Tensor, tidy, UsageError, type Shape } from "../../tensor/index.ts";
import type { LossReduction } from "./capture.ts";

/**
 * Which Fisher matrix the output gradients sample:
 * - `empirical`: the labels are the true ones. The training pass is all it takes.
 * - `type-2`: the exact Fisher of the model's own distribution, equal to the generalised Gauss–Newton matrix. One reverse pass
 *   an output on the same tape.
 *
 * Difference and terminology: Martens 2020 (arXiv 1412.1193), section 9; Kunstner et al. 2019 (arXiv 1905.12558).
 */
export type Fisher = "empirical" | "type-2";

/** Seeds of one reverse pass, at a value in the middle of the tape: the loss primitive's input. */
export type Seeds = readonly (readonly [value: { readonly id: number; readonly shape: Shape }, seed: Tensor])[];

/** A loss primitive met by the training pass, with the gradient of each sample's loss: its weight in the whole loss. */
export interface LossCall {
  readonly name: "softmaxCrossEntropy" | "squaredError";
  readonly prediction: { readonly id: number; readonly shape: Shape };
  readonly probabilities: Tensor | null;
  readonly weights: Tensor;
}

/** Recognises a loss primitive; the handles it holds are released by `releaseLoss`. */
export function lossCall(call: AnyCall, gradients: readonly (Tensor | null)[]): LossCall | null {
  const [weights] = gradients;
  if (!weights || (call.name !== "softmaxCrossEntropy" && call.name !== "squaredError")) return null;
  const { id, shape } = call.inputs[0] as Recorded;
  const probabilities = call.name === "softmaxCrossEntropy" ? (call.outputs[1] as Recorded).value.hold() : null;
  return { name: call.name, prediction: { id, shape }, probabilities, weights: weights.hold() };
}

export function releaseLoss(loss: LossCall): void {
  loss.probabilities?.dispose();
  loss.weights.dispose();
}

/**
 * The seeds of all type-2 passes: for each loss and each of its outputs c, the c-th column of a root V of the loss's second
 * derivative, V Vᵀ = ∇²ℓ. With w a sample's weight in the whole loss and m the factor from the batch's gradient to a sample's
 * (`LossReduction`), the view later multiplies by m, so the seed is √(w/m) v_c: the outer products then add up to w m v_c v_cᵀ, the
 * sample's own second derivative. Losses have passes of their own, since their second derivatives add up, not their roots.
 *
 * - cross-entropy: ∇² = diag(p) − p pᵀ, v_c = √p_c (e_c − p), whatever the label smoothing;
 * - squared error: ∇² = 2 I, v_c = √2 e_c.
 *
 * @throws UsageError if there is no loss primitive.
 */
export function type2Passes(losses: readonly LossCall[], reduction: LossReduction): (() => Seeds)[] {
  if (losses.length === 0) {
    throw new UsageError(
      'fisher "type-2": the loss contains no crossEntropy or meanSquaredError, whose second derivative it needs; use one, or fisher: "empirical"',
    );
  }
  return losses.flatMap((loss) => Array.from({ length: outputs(loss.prediction.shape) }, (_, c) => () => type2Seeds(loss, c, reduction)));
}

function type2Seeds({ prediction, probabilities, weights }: LossCall, c: number, reduction: LossReduction): Seeds {
  const n = prediction.shape[0] as number;
  const classes = outputs(prediction.shape);
  const { dtype, backend } = weights;
  const seed = tidy(() => {
    const m = reduction === "mean" ? n : 1;
    const scale = weights
      .multiply(1 / m)
      .sqrt()
      .reshape([n, 1]);
    const unit = Tensor.arange(classes, { dtype, backend }).equal(c).cast(dtype).reshape([1, classes]);
    if (!probabilities) return scale.multiply(unit).multiply(Math.SQRT2).reshape(prediction.shape);
    const own = probabilities.slice([0, c], [n, 1]);
    return unit.subtract(probabilities).multiply(own.sqrt().multiply(scale));
  });
  return [[prediction, seed]];
}

function outputs(shape: Shape): number {
  return shape.slice(1).reduce((product, extent) => product * extent, 1);
}

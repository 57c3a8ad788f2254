import type { AnyCall, Recorded } from "../../autograd/index.ts";
import { requireFloat, Tensor, tidy, UsageError, type Generator, type Shape } from "../../tensor/index.ts";
import type { LossReduction } from "./capture.ts";

/**
 * Which Fisher matrix the output gradients sample:
 * - `empirical`: the labels are the true ones. The training pass is all it takes.
 * - `mc`: labels are drawn from the model's own distribution, anew in each step. One more reverse pass, whose average is the exact Fisher.
 * - `type-2`: the exact Fisher of the model's own distribution, equal to the generalised Gauss–Newton matrix. One reverse pass
 *   an output on the same tape.
 *
 * Difference and terminology: Martens 2020 (arXiv 1412.1193), section 9; Kunstner et al. 2019 (arXiv 1905.12558).
 */
export type Fisher = "empirical" | "mc" | "type-2";

/** Seeds of one reverse pass, at a value in the middle of the tape: the loss primitive's input. */
export type Seeds = readonly (readonly [value: { readonly id: number; readonly shape: Shape }, seed: Tensor])[];

/** A loss primitive met by the training pass, with the gradient of each sample's loss: its weight in the whole loss. */
export interface LossCall {
  readonly name: "softmaxCrossEntropy" | "squaredError";
  readonly prediction: { readonly id: number; readonly shape: Shape };
  readonly probabilities: Tensor | null;
  readonly weights: Tensor;
}

export function isLoss(name: string): name is LossCall["name"] {
  return name === "softmaxCrossEntropy" || name === "squaredError";
}

/**
 * Which input of a loss primitive is the prediction: of a squared error, in which both are alike, the one that depends on parameters.
 * @throws UsageError if both do, since then neither is a target.
 */
export function predictionOf({ name, inputs, needed }: AnyCall): Recorded {
  const [first, second] = inputs as [Recorded, Recorded];
  if (name !== "squaredError" || !needed[1]) return first;
  if (!needed[0]) return second;
  throw new UsageError(
    "meanSquaredError: both its arguments depend on parameters, so that neither is the target of a distribution around the other; " +
      'detach() the target, or use fisher: "empirical" and a damping that is given',
  );
}

/** Recognises a loss primitive; the handles it holds are released by `releaseLoss`. @throws UsageError as `predictionOf` does. */
export function lossCall(call: AnyCall, gradients: readonly (Tensor | null)[]): LossCall | null {
  const [weights] = gradients;
  if (!weights || !isLoss(call.name)) return null;
  const { id, shape } = predictionOf(call);
  const probabilities = call.name === "softmaxCrossEntropy" ? (call.outputs[1] as Recorded).value.hold() : null;
  return { name: call.name, prediction: { id, shape }, probabilities, weights: weights.hold() };
}

export function releaseLoss(loss: LossCall): void {
  loss.probabilities?.dispose();
  loss.weights.dispose();
}

/**
 * The stream of one micro-batch's draws, counted from 1. Depends on the step and the micro-batch alone, so that a resumed run draws what it
 * would have drawn.
 */
export function drawsOf(generator: Generator, step: number, microBatch: number): Generator {
  return generator.fork(`fisher of step ${step}, micro-batch ${microBatch}`);
}

/**
 * The seeds of the Fisher's further passes.
 *
 * - `mc`: one pass, the gradient of each sample's loss for a label y drawn from the model: p − e_y for cross-entropy, and for squared
 *   error √2 ξ with a standard normal ξ, as for a target from the normal distribution around the prediction whose logarithm it is.
 * - `type-2`: see `type2Passes`.
 *
 * @throws UsageError if there is no loss primitive.
 */
export function fisherPasses(
  fisher: Exclude<Fisher, "empirical">,
  losses: readonly LossCall[],
  reduction: LossReduction,
  generator: Generator,
): (() => Seeds)[] {
  if (losses.length === 0) {
    throw new UsageError(
      `fisher "${fisher}": the loss contains no crossEntropy or meanSquaredError, whose distribution it needs; use one, or fisher: "empirical"`,
    );
  }
  if (fisher === "type-2") return type2Passes(losses, reduction);
  // Losses are independent, so that one pass may carry a sample of each.
  return [() => losses.map((loss, i) => sampledSeed(loss, reduction, generator.fork(`loss ${i}`)))];
}

function sampledSeed(loss: LossCall, reduction: LossReduction, generator: Generator): Seeds[number] {
  const { prediction, probabilities, weights } = loss;
  const { dtype, backend } = weights;
  const random = { dtype: requireFloat("fisher", dtype), backend };
  const [n, classes] = [prediction.shape[0] as number, outputs(prediction.shape)];
  const seed = tidy(() => {
    const scale = rootOfWeights(loss, reduction);
    if (!probabilities) return generator.normal([n, classes], random).multiply(scale).multiply(Math.SQRT2).reshape(prediction.shape);
    // The largest of log p + Gumbel noise is class c with probability p_c.
    const noise = generator.uniform([n, classes], random).log().negative().log().negative();
    const label = probabilities.log().add(noise).argmax().reshape([n, 1]);
    const drawn = Tensor.arange(classes, { dtype: "int32", backend }).reshape([1, classes]).equal(label).cast(dtype);
    return probabilities.subtract(drawn).multiply(scale);
  });
  return [prediction, seed];
}

/** √(w/m) [n, 1]: see `type2Passes`. */
function rootOfWeights({ prediction, weights }: LossCall, reduction: LossReduction): Tensor {
  const n = prediction.shape[0] as number;
  return weights
    .multiply(1 / (reduction === "mean" ? n : 1))
    .sqrt()
    .reshape([n, 1]);
}

/**
 * The seeds of all type-2 passes: for each loss and each of its outputs c, the c-th column of a root V of the loss's second
 * derivative, V Vᵀ = ∇²ℓ. With w a sample's weight in the whole loss and m the factor from the batch's gradient to a sample's
 * (`LossReduction`), the view later multiplies by m, so the seed is √(w/m) v_c: the outer products then add up to w m v_c v_cᵀ, the
 * sample's own second derivative. Losses have passes of their own, since their second derivatives add up, not their roots.
 *
 * - cross-entropy: ∇² = diag(p) − p pᵀ, v_c = √p_c (e_c − p), whatever the label smoothing;
 * - squared error: ∇² = 2 I, v_c = √2 e_c.
 */
function type2Passes(losses: readonly LossCall[], reduction: LossReduction): (() => Seeds)[] {
  return losses.flatMap((loss) => Array.from({ length: outputs(loss.prediction.shape) }, (_, c) => () => type2Seeds(loss, c, reduction)));
}

function type2Seeds(loss: LossCall, c: number, reduction: LossReduction): Seeds {
  const { prediction, probabilities, weights } = loss;
  const n = prediction.shape[0] as number;
  const classes = outputs(prediction.shape);
  const { dtype, backend } = weights;
  const seed = tidy(() => {
    const scale = rootOfWeights(loss, reduction);
    const unit = Tensor.arange(classes, { dtype, backend }).equal(c).cast(dtype).reshape([1, classes]);
    if (!probabilities) return scale.multiply(unit).multiply(Math.SQRT2).reshape(prediction.shape);
    const own = probabilities.slice([0, c], [n, 1]);
    return unit.subtract(probabilities).multiply(own.sqrt().multiply(scale));
  });
  return [[prediction, seed]];
}

/**
 * tᵀ∇²ℓ t, one number, for a change t of the loss's prediction: w Σ_c p_c (t_c − Σ p t)² for cross-entropy, 2w Σ t² for squared error, with
 * the samples' weights w.
 */
export function curvatureAlong({ prediction, probabilities, weights }: LossCall, t: Tensor): Tensor {
  const n = prediction.shape[0] as number;
  const rows = t.reshape([n, -1]);
  if (!probabilities) return rows.square().sum(1).multiply(weights).sum().multiply(2);
  const centred = rows.subtract(probabilities.multiply(rows).sum(1, { keepDims: true }));
  return probabilities.multiply(centred.square()).sum(1).multiply(weights).sum();
}

function outputs(shape: Shape): number {
  return shape.slice(1).reduce((product, extent) => product * extent, 1);
}

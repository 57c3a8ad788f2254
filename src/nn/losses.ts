import {
  formatShape,
  ShapeError,
  softmaxCrossEntropy,
  squaredError,
  tidy,
  UsageError,
  type LabelSmoothing,
  type Tensor,
} from "../tensor/index.ts";

export interface LossOptions {
  /** Over samples (and, for the squared error, elements). Default `mean`. */
  readonly reduction?: "mean" | "sum";
}

/** @throws UsageError for another one, as "none": then the primitive itself is what is wanted. */
function requireReduction(operation: string, reduction: string, primitive: string): void {
  if (reduction === "mean" || reduction === "sum") return;
  throw new UsageError(
    `${operation}: reduction must be "mean" or "sum" but is "${reduction}"; for each sample's own loss use ${primitive}`,
  );
}

/**
 * Cross-entropy of logits [n, classes] against int32 labels [n], as one number.
 * @throws DataError for a label out of range, naming the sample; UsageError for another reduction.
 */
export function crossEntropy(logits: Tensor, labels: Tensor, options: LossOptions & Partial<LabelSmoothing> = {}): Tensor {
  requireReduction("crossEntropy", options.reduction ?? "mean", "softmaxCrossEntropy");
  return tidy(() => {
    const losses = softmaxCrossEntropy(logits, labels, options);
    return options.reduction === "sum" ? losses.sum() : losses.mean();
  });
}

/**
 * Mean (over all elements, as PyTorch) or sum of (prediction − target)², as one number.
 * @throws ShapeError if the shapes differ, or for the mean of no elements; UsageError for another reduction.
 */
export function meanSquaredError(prediction: Tensor, target: Tensor, { reduction = "mean" }: LossOptions = {}): Tensor {
  requireReduction("meanSquaredError", reduction, "squaredError");
  return tidy(() => {
    const total = squaredError(prediction, target).sum();
    if (reduction === "sum") return total;
    if (prediction.size === 0) throw new ShapeError(`meanSquaredError: ${formatShape(prediction.shape)} has no elements to take a mean of`);
    return total.divide(prediction.size);
  });
}

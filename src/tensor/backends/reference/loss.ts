import { DataError } from "../../errors.ts";
import type { LabelSmoothing } from "../../primitives.ts";
import type { Kernels, Operand } from "./kernel.ts";

function labelOf(operation: string, labels: Operand, row: number, classes: number): number {
  const label = labels.data[row]!;
  if (label < 0 || label >= classes) {
    throw new DataError(
      `${operation}: label ${label} of sample ${row} is out of range; with ${classes} classes labels go from 0 to ${classes - 1}`,
    );
  }
  return label;
}

/** The smoothed target distribution as (probability of the true class, probability of each other class). */
function target({ smoothing, smoothingKind }: LabelSmoothing, classes: number): [own: number, other: number] {
  if (smoothingKind === "uniform") return [1 - smoothing + smoothing / classes, smoothing / classes];
  return [1 - smoothing, smoothing / (classes - 1)];
}

/**
 * The maximum of one row, and log Σ exp(x − maximum). Apart, since x − maximum is exact where x and the maximum are close, and
 * their sum would round away the digits of the logarithm when logits are large.
 */
function logSumExp(x: ArrayLike<number>, start: number, length: number): [top: number, logSum: number] {
  let top = -Infinity;
  for (let j = 0; j < length; j++) top = Math.max(top, x[start + j]!);
  let sum = 0;
  for (let j = 0; j < length; j++) sum += Math.exp(x[start + j]! - top);
  return [top, Math.log(sum)];
}

export const loss: Kernels<"logSoftmax" | "softmaxCrossEntropy" | "softmaxCrossEntropyGradient" | "squaredError"> = {
  logSoftmax: ([x], _, [y]) => {
    const length = x.shape.at(-1)!;
    for (let start = 0; start < x.data.length; start += length) {
      const [top, logSum] = logSumExp(x.data, start, length);
      for (let j = 0; j < length; j++) y.data[start + j] = x.data[start + j]! - top - logSum;
    }
  },
  softmaxCrossEntropy: ([logits, labels], smoothing, [y, probabilities]) => {
    const [n, classes] = logits.shape as [number, number];
    const [own, other] = target(smoothing, classes);
    for (let i = 0; i < n; i++) {
      const label = labelOf("softmaxCrossEntropy", labels, i, classes);
      const start = i * classes;
      const [top, logSum] = logSumExp(logits.data, start, classes);
      let sum = 0;
      for (let j = 0; j < classes; j++) {
        const logp = logits.data[start + j]! - top - logSum;
        probabilities.data[start + j] = Math.exp(logp);
        const q = j === label ? own : other;
        if (q !== 0) sum -= q * logp; // 0 · ∞ would be NaN
      }
      y.data[i] = sum;
    }
  },
  softmaxCrossEntropyGradient: ([probabilities, labels, gradient], smoothing, [y]) => {
    const [n, classes] = probabilities.shape as [number, number];
    const [own, other] = target(smoothing, classes);
    for (let i = 0; i < n; i++) {
      const label = labelOf("softmaxCrossEntropyGradient", labels, i, classes);
      for (let j = 0; j < classes; j++) {
        y.data[i * classes + j] = gradient.data[i]! * (probabilities.data[i * classes + j]! - (j === label ? own : other));
      }
    }
  },
  squaredError: ([prediction, wanted], _, [y]) => {
    const row = prediction.data.length / Math.max(1, y.data.length);
    for (let i = 0; i < y.data.length; i++) {
      let sum = 0;
      for (let j = 0; j < row; j++) sum += (prediction.data[i * row + j]! - wanted.data[i * row + j]!) ** 2;
      y.data[i] = sum;
    }
  },
};

import { DataError } from "../../errors.ts";
import type { LabelSmoothing } from "../../primitives.ts";
import type { Engine } from "./engine.ts";
import { floatSuffix, type Kernels, type Operand } from "./kernel.ts";

/** Nanoseconds of an exponential and what goes with it. */
const EXP_COST = 6;

function checkLabels(engine: Engine, operation: string, labels: Operand, classes: number): void {
  const row = engine.call("firstWrongLabel_i32", labels.pointer, labels.size, classes);
  if (row < 0) return;
  const label = engine.view("int32", labels.pointer + row * 4, 1)[0]!;
  throw new DataError(
    `${operation}: label ${label} of sample ${row} is out of range; with ${classes} classes labels go from 0 to ${classes - 1}`,
  );
}

/** The smoothed target distribution: probability of the true class, and of each other class. */
function own({ smoothing, smoothingKind }: LabelSmoothing, classes: number): number {
  return smoothingKind === "uniform" ? 1 - smoothing + smoothing / classes : 1 - smoothing;
}
function other({ smoothing, smoothingKind }: LabelSmoothing, classes: number): number {
  return smoothing / (smoothingKind === "uniform" ? classes : classes - 1);
}

export const loss: Kernels<"logSoftmax" | "softmaxCrossEntropy" | "softmaxCrossEntropyGradient" | "squaredError"> = {
  logSoftmax: (engine, [x], _, [y]) => {
    if (x.size === 0) return;
    const length = x.shape.at(-1)!;
    engine.run(`logSoftmax_${floatSuffix(x.dtype)}`, x.size / length, 20 + length * EXP_COST, x.pointer, length, y.pointer);
  },
  softmaxCrossEntropy: (engine, [logits, labels], smoothing, [y, probabilities]) => {
    const [n, classes] = logits.shape as [number, number];
    checkLabels(engine, "softmaxCrossEntropy", labels, classes);
    const name = `crossEntropy_${floatSuffix(logits.dtype)}` as const;
    const [p, q] = [own(smoothing, classes), other(smoothing, classes)];
    const cost = 20 + 2 * classes * EXP_COST;
    engine.run(name, n, cost, logits.pointer, labels.pointer, classes, p, q, y.pointer, probabilities.pointer);
  },
  softmaxCrossEntropyGradient: (engine, [probabilities, labels, gradient], smoothing, [y]) => {
    const [n, classes] = probabilities.shape as [number, number];
    checkLabels(engine, "softmaxCrossEntropyGradient", labels, classes);
    const name = `crossEntropyGradient_${floatSuffix(probabilities.dtype)}` as const;
    const [p, q] = [own(smoothing, classes), other(smoothing, classes)];
    const cost = 5 + classes;
    engine.run(name, n, cost, probabilities.pointer, labels.pointer, gradient.pointer, classes, p, q, y.pointer);
  },
  squaredError: (engine, [prediction, wanted], _, [y]) => {
    const length = prediction.size / Math.max(1, y.size);
    engine.run(`squaredError_${floatSuffix(y.dtype)}`, y.size, 10 + length * 0.3, prediction.pointer, wanted.pointer, length, y.pointer);
  },
};

import type { DataLoader } from "../data/index.ts";
import { crossEntropy, type Module } from "../nn/index.ts";
import { enterEvaluation } from "../nn/module.ts";
import { tidy } from "../tensor/index.ts";

export interface Evaluation {
  /** Mean cross-entropy over the samples. */
  readonly loss: number;
  /** Share of samples whose largest logit is the label's, in [0, 1]. */
  readonly accuracy: number;
}

/** Loss and accuracy of a classifier on one epoch of a loader, in evaluation mode; every module's mode is put back afterwards. */
export async function evaluate(model: Module, loader: DataLoader): Promise<Evaluation> {
  const restoreModes = enterEvaluation(model);
  try {
    let [count, loss, correct] = [0, 0, 0];
    for await (const { images, labels, size } of loader.epoch(0)) {
      const sums = tidy(() => {
        const logits = model.forward(images);
        return { loss: crossEntropy(logits, labels, { reduction: "sum" }), correct: logits.argmax().equal(labels).sum() };
      });
      loss += await sums.loss.item();
      correct += await sums.correct.item();
      sums.loss.dispose();
      sums.correct.dispose();
      count += size;
    }
    return { loss: loss / count, accuracy: correct / count };
  } finally {
    restoreModes();
  }
}

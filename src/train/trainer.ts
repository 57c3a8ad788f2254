import type { DataLoader } from "../data/index.ts";
import { crossEntropy, type Module } from "../nn/index.ts";
import type { DampingReport, LayerReport, Optimizer, RegistrationRow, StepFigures } from "../optim/index.ts";
import { tidy, type GeneratorState, type Tensor } from "../tensor/index.ts";
import { explainNonFiniteLoss } from "./diagnose.ts";
import { evaluate } from "./evaluate.ts";
import { addPhases, NO_TIME, type TrainEvent } from "./events.ts";

/** An optimizer that may be able to say what became of each parameter, and of its curvature, as those with curvature are. */
export type CurvatureTrainingOptimizer = Optimizer & {
  registration?(): readonly RegistrationRow[];
  reports?(): readonly LayerReport[];
  adaptations?(): readonly DampingReport[];
  stepFigures?(): Promise<StepFigures>;
};

export interface TrainOptions {
  readonly model: Module;
  readonly optimizer: CurvatureTrainingOptimizer;
  readonly train: DataLoader;
  readonly test: DataLoader;
  readonly epochs: number;
}

/**
 * Trains a classifier with cross-entropy and tells what happens as a stream of events: each step, each epoch with its test
 * accuracy, and the end. Leaving the loop stops the training after the step that has been told of.
 *
 * @throws NumericalError when the loss is not finite, naming the step and the first layer that is not; parameters, running
 * statistics and random streams are then those of the last good step.
 */
export async function* train({ model, optimizer, train, test, epochs }: TrainOptions): AsyncGenerator<TrainEvent, void, undefined> {
  const start = performance.now();
  let total = NO_TIME;
  let known = "";
  model.train();
  const buffers = [...model.namedBuffers().values()];
  const streams = [...model.namedGenerators().values()];
  for (let epoch = 0; epoch < epochs; epoch++) {
    const epochStart = performance.now();
    let [count, lossSum, correct] = [0, 0, 0];
    let waiting = performance.now();
    for await (const { images, labels, size } of train.epoch(epoch)) {
      const data = (performance.now() - waiting) / 1000;
      const step = optimizer.steps;
      let loss = NaN;
      // The forward pass moves running statistics and random streams before anybody knows whether its loss is finite.
      const statistics = buffers.map(({ value }) => value.keep());
      const draws = streams.map((stream) => stream.state());
      const { logits } = await optimizer
        .step(
          () => {
            const logits = model.forward(images);
            return { loss: crossEntropy(logits, labels), logits };
          },
          async (values) => {
            loss = await values.loss.item();
            if (Number.isFinite(loss)) return;
            buffers.forEach((buffer, i) => buffer.assign(statistics[i] as Tensor));
            streams.forEach((stream, i) => stream.load(draws[i] as GeneratorState));
            throw await explainNonFiniteLoss(model, images, step, loss);
          },
        )
        .finally(() => statistics.forEach((tensor) => tensor.dispose()));
      const hits = tidy(() => logits.argmax().equal(labels).sum());
      correct += await hits.item();
      hits.dispose();
      lossSum += loss * size;
      count += size;
      const phases = { ...optimizer.phases, data };
      total = addPhases(total, phases);
      const registration = optimizer.registration?.();
      if (registration && JSON.stringify(registration) !== known) {
        known = JSON.stringify(registration);
        yield { type: "curvature", step, registration };
      }
      const reports = optimizer.reports?.() ?? [];
      if (reports.length > 0) yield { type: "refresh", step, layers: reports };
      for (const adaptation of optimizer.adaptations?.() ?? []) yield { type: "damping", ...adaptation };
      yield { type: "step", step, epoch, loss, ...(await optimizer.stepFigures?.()), phases };
      waiting = performance.now();
    }
    const seconds = (performance.now() - epochStart) / 1000;
    const { loss: testLoss, accuracy: testAccuracy } = await evaluate(model, test);
    yield { type: "epoch", epoch, trainLoss: lossSum / count, trainAccuracy: correct / count, testLoss, testAccuracy, seconds };
  }
  yield { type: "end", epochs, steps: optimizer.steps, seconds: (performance.now() - start) / 1000, phases: total };
}

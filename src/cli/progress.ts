import cliProgress from "cli-progress";
import type { EpochEvent, StepEvent } from "../train/index.ts";

/** What a person sees of a run while it goes on. */
export interface Progress {
  step(event: StepEvent): void;
  epoch(event: EpochEvent): void;
  stop(): void;
}

/** A bar an epoch on stderr, and a line when it is over. Where stderr is no terminal, the lines alone. */
export function progressBar(epochs: number, stepsPerEpoch: number): Progress {
  const bar = new cliProgress.SingleBar({
    format: `epoch {epoch}/${epochs} {bar} {value}/{total} · loss {loss} · {eta_formatted} left`,
    barCompleteChar: "█",
    barIncompleteChar: "░",
    barsize: 30,
    hideCursor: true,
    clearOnComplete: true,
    stream: process.stderr,
  });
  let running = false;
  return {
    step({ step, epoch, loss }) {
      const done = (step % stepsPerEpoch) + 1;
      const payload = { epoch: epoch + 1, loss: loss.toFixed(4) };
      if (!running) {
        bar.start(stepsPerEpoch, done, payload);
        running = true;
      } else bar.update(done, payload);
    },
    epoch(event) {
      this.stop();
      const accuracy = (share: number): string => `${(100 * share).toFixed(2)} %`;
      console.error(
        `epoch ${event.epoch + 1}/${epochs} · train loss ${event.trainLoss.toFixed(4)}, accuracy ${accuracy(event.trainAccuracy)} · ` +
          `test loss ${event.testLoss.toFixed(4)}, accuracy ${accuracy(event.testAccuracy)} · ${event.seconds.toFixed(1)} s`,
      );
    },
    stop() {
      if (running) bar.stop();
      running = false;
    },
  };
}

export const silent: Progress = { step: () => undefined, epoch: () => undefined, stop: () => undefined };

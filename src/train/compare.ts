import type { EpochEvent } from "./events.ts";

/** How the training of one run with one seed ended: with its epochs, or with what made it fail. */
export type Outcome =
  { readonly seed: number; readonly epochs: readonly EpochEvent[] } | { readonly seed: number; readonly failure: string };

/** One of the things compared, with what became of each seed. */
export interface ComparedOutcomes {
  readonly name: string;
  readonly outcomes: readonly Outcome[];
}

/** Of several numbers. */
export interface Statistic {
  readonly mean: number;
  /** Of a sample (n − 1); null for a single number. */
  readonly std: number | null;
  readonly count: number;
}

/** A point of a learning curve: after an epoch. */
export interface CurvePoint {
  /** 1 for the first. */
  readonly epoch: number;
  /** Of training from the first epoch on, without evaluation. */
  readonly seconds: number;
  /** Mean over the epoch, each batch before its step. */
  readonly trainLoss: number;
  /** In [0, 1]. */
  readonly testAccuracy: number;
}

/** The way to a test accuracy, over the seeds that reached it. */
export interface TargetFigures {
  /** In %. */
  readonly target: number;
  /** How many of the finished seeds reached it. */
  readonly reached: number;
  /** Null if none did. */
  readonly epochs: Statistic | null;
  readonly seconds: Statistic | null;
  /** Mean seconds, as a multiple of the first run's; null if one of the two never reached it. */
  readonly ratio: number | null;
}

/** What a comparison tells about one run. Figures are null if no seed finished. */
export interface RunFigures {
  readonly name: string;
  readonly seeds: number;
  readonly finished: number;
  readonly failures: readonly { readonly seed: number; readonly message: string }[];
  /** Over seeds, in [0, 1]. */
  readonly finalAccuracy: Statistic | null;
  readonly bestAccuracy: Statistic | null;
  /** Over all epochs of all seeds: training alone. */
  readonly secondsPerEpoch: Statistic | null;
  /** Mean seconds per epoch, as a multiple of the first run's. */
  readonly ratio: number | null;
  readonly targets: readonly TargetFigures[];
  readonly curves: readonly { readonly seed: number; readonly points: readonly CurvePoint[] }[];
}

/** Mean and sample standard deviation; null for no numbers. */
export function statistic(values: readonly number[]): Statistic | null {
  const count = values.length;
  if (count === 0) return null;
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, std: count > 1 ? Math.sqrt(squares / (count - 1)) : null, count };
}

/** The learning curve of a training. */
export function curveOf(epochs: readonly EpochEvent[]): CurvePoint[] {
  let seconds = 0;
  return epochs.map((event) => {
    seconds += event.seconds;
    return { epoch: event.epoch + 1, seconds, trainLoss: event.trainLoss, testAccuracy: event.testAccuracy };
  });
}

/** Accuracies are shares of at most millions of images, so what is closer than this is rounding: 98.6 / 100 and 986 / 1000 may differ. */
const ROUNDING = 1e-9;

/** The first point of a curve with at least a test accuracy of `target` %. */
export function firstReaching(curve: readonly CurvePoint[], target: number): CurvePoint | undefined {
  return curve.find(({ testAccuracy }) => testAccuracy >= target / 100 - ROUNDING);
}

/**
 * The figures of a comparison, run by run: accuracies, seconds per epoch, and epochs and seconds to each target (in %), with ratios to the
 * first run.
 */
export function compareRuns(runs: readonly ComparedOutcomes[], targets: readonly number[]): RunFigures[] {
  const figures = runs.map((run) => figuresOf(run, targets));
  const first = figures[0];
  return figures.map((own) => ({
    ...own,
    ratio: ratioOf(own.secondsPerEpoch, first?.secondsPerEpoch),
    targets: own.targets.map((to, i) => ({ ...to, ratio: ratioOf(to.seconds, first?.targets[i]?.seconds) })),
  }));
}

function ratioOf(own: Statistic | null, first: Statistic | null | undefined): number | null {
  return own && first && first.mean > 0 ? own.mean / first.mean : null;
}

/** All but the ratios. */
function figuresOf({ name, outcomes }: ComparedOutcomes, targets: readonly number[]): RunFigures {
  const done = outcomes.flatMap((outcome) => ("epochs" in outcome ? [outcome] : []));
  const curves = done.map(({ seed, epochs }) => ({ seed, points: curveOf(epochs) }));
  const accuracies = curves.map(({ points }) => points.map(({ testAccuracy }) => testAccuracy));
  return {
    name,
    seeds: outcomes.length,
    finished: done.length,
    failures: outcomes.flatMap((outcome) => ("failure" in outcome ? [{ seed: outcome.seed, message: outcome.failure }] : [])),
    finalAccuracy: statistic(accuracies.flatMap((values) => values.slice(-1))),
    bestAccuracy: statistic(accuracies.map((values) => values.reduce((a, b) => Math.max(a, b), 0))),
    secondsPerEpoch: statistic(done.flatMap(({ epochs }) => epochs.map(({ seconds }) => seconds))),
    ratio: null,
    targets: targets.map((target) => {
      const reaching = curves.flatMap(({ points }) => firstReaching(points, target) ?? []);
      return {
        target,
        reached: reaching.length,
        epochs: statistic(reaching.map(({ epoch }) => epoch)),
        seconds: statistic(reaching.map(({ seconds }) => seconds)),
        ratio: null,
      };
    }),
    curves,
  };
}

/** Several seeds' curves as one, epoch by epoch. */
export interface MeanPoint {
  readonly epoch: number;
  readonly seconds: number;
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

/** Mean and extremes over the seeds of one quantity, after each epoch that all of them have; its time is the mean of theirs. */
export function meanCurve(curves: RunFigures["curves"], quantity: "trainLoss" | "testAccuracy"): MeanPoint[] {
  const length = curves.reduce((least, { points }) => Math.min(least, points.length), Infinity);
  if (!Number.isFinite(length)) return [];
  return Array.from({ length }, (_, i) => {
    const points = curves.flatMap(({ points }) => points.slice(i, i + 1));
    const values = points.map((point) => point[quantity]);
    const average = (numbers: readonly number[]): number => numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
    return {
      epoch: i + 1,
      seconds: average(points.map(({ seconds }) => seconds)),
      mean: average(values),
      low: Math.min(...values),
      high: Math.max(...values),
    };
  });
}

import { UsageError } from "../tensor/index.ts";

/** A hyper-parameter: a number, or a function of the step (0 for the first). */
export type Schedule = number | ((step: number) => number);

/** What a hyper-parameter may be, beyond finite. */
export type Range = "any" | "at least 0" | "at least 0 and below 1" | "positive" | "a whole number of at least 1";

/** The value of a named hyper-parameter at a step. @throws UsageError if it is not in its range: a schedule may stray. */
export function hyperParameter(name: string, schedule: Schedule, step: number, range: Range): number {
  const value = valueAt(schedule, step);
  const fits: Record<Range, boolean> = {
    any: true,
    "at least 0": value >= 0,
    "at least 0 and below 1": value >= 0 && value < 1,
    positive: value > 0,
    "a whole number of at least 1": Number.isInteger(value) && value >= 1,
  };
  if (!Number.isFinite(value) || !fits[range]) {
    throw new UsageError(`${name} must be ${range === "any" ? "a finite number" : range} but is ${value} at step ${step}`);
  }
  return value;
}

export function valueAt(schedule: Schedule, step: number): number {
  return typeof schedule === "number" ? schedule : schedule(step);
}

/**
 * Values that change at given steps: `stepwise([[0, 0.1], [1000, 0.01]])` is .1 before step 1000 and .01 from there on. Before the
 * first step named, the first value holds.
 */
export function stepwise(points: readonly (readonly [fromStep: number, value: number])[]): (step: number) => number {
  if (points.length === 0) throw new UsageError("stepwise: needs at least one point [fromStep, value]");
  const sorted = [...points].sort((p, q) => p[0] - q[0]);
  return (step) => (sorted.findLast(([from]) => step >= from) ?? sorted[0] ?? [0, 0])[1];
}

/** From `start` to `end` (default 0) along half a cosine over `steps` steps, then `end` (arXiv 1608.03983 without restarts). */
export function cosine(start: number, steps: number, end = 0): (step: number) => number {
  return (step) => end + 0.5 * (start - end) * (1 + Math.cos(Math.PI * Math.min(1, step / Math.max(1, steps))));
}

/** start · factor^(step / every). */
export function exponential(start: number, factor: number, every = 1): (step: number) => number {
  return (step) => start * factor ** (step / every);
}

/** start · (1 − step / steps)^power, and 0 from `steps` on. */
export function polynomial(start: number, steps: number, power = 1): (step: number) => number {
  return (step) => start * Math.max(0, 1 - step / Math.max(1, steps)) ** power;
}

/** Grows linearly from 0 over `steps` steps, then follows `schedule`, whose own step 0 is the end of the warm-up. */
export function warmup(steps: number, schedule: Schedule): (step: number) => number {
  return (step) => (step < steps ? (valueAt(schedule, 0) * (step + 1)) / (steps + 1) : valueAt(schedule, step - steps));
}

import { setTimeout } from "node:timers/promises";
import { Bench } from "tinybench";

/** Milliseconds of rest before a sample: threads of the one before may spin for more work, OpenBLAS's for 20 ms. */
const SETTLE = 60;

/** Something to time, by name. */
export interface Task {
  readonly name: string;
  /** One sample. Gives its milliseconds itself where a sample is many calls, or another process held the clock. */
  readonly f: (() => Promise<void>) | (() => Promise<number>);
}

/**
 * Times tasks in interleaved rounds (a, b, c, a, b, c, …), so that a slow minute of the machine falls on all of them.
 * @returns the median of each in milliseconds.
 */
export async function interleaved(tasks: readonly Task[], rounds: number, warmup: number): Promise<Map<string, number>> {
  for (let i = 0; i < warmup; i++) for (const { f } of tasks) await f();
  const samples = new Map<string, number[]>(tasks.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    const bench = new Bench({ iterations: 1, time: 0, warmup: false });
    for (const { name, f } of tasks) {
      bench.add(
        name,
        async () => {
          const milliseconds = await f();
          return typeof milliseconds === "number" ? { overriddenDuration: milliseconds } : undefined;
        },
        { beforeEach: () => setTimeout(SETTLE) },
      );
    }
    await bench.run();
    for (const task of bench.tasks) {
      const { result } = task;
      if (!("latency" in result)) throw new Error(`benchmark "${task.name}" failed`, { cause: "error" in result ? result.error : result });
      samples.get(task.name)?.push(result.latency.mean);
    }
  }
  return new Map([...samples].map(([name, values]) => [name, median(values)]));
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? (sorted[middle] as number) : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

/** A sample shorter than this many milliseconds is repeated, and its mean taken: clocks and caches need some time. */
const LONG_ENOUGH = 50;

/**
 * Samples of a call, in milliseconds: the mean of as many calls as take a while.
 * @param least how long, in milliseconds; 0 for exactly one call.
 */
export function sampler(f: () => void | Promise<void>, least = LONG_ENOUGH): () => Promise<number> {
  let calls = 1;
  return async () => {
    for (;;) {
      const start = performance.now();
      for (let i = 0; i < calls; i++) await f();
      const took = performance.now() - start;
      if (took >= least || calls >= 1e6) return took / calls;
      calls = Math.ceil((calls * 1.2 * least) / Math.max(took, least / 10));
    }
  };
}

/** The exponent p of the power law time ∝ nᵖ that fits best, by least squares of the logarithms. */
export function exponentOf(points: readonly (readonly [n: number, time: number])[]): number {
  const logs = points.map(([n, time]) => [Math.log(n), Math.log(time)] as const);
  const mean = (i: 0 | 1): number => logs.reduce((sum, point) => sum + point[i], 0) / logs.length;
  const [x, y] = [mean(0), mean(1)];
  let [above, below] = [0, 0];
  for (const [a, b] of logs) {
    above += (a - x) * (b - y);
    below += (a - x) ** 2;
  }
  return above / below;
}

/** ‖values − truth‖ / ‖truth‖. */
export function distance(values: ArrayLike<number>, truth: ArrayLike<number>): number {
  let [difference, size] = [0, 0];
  for (let i = 0; i < truth.length; i++) {
    difference += ((values[i] as number) - (truth[i] as number)) ** 2;
    size += (truth[i] as number) ** 2;
  }
  return Math.sqrt(difference / size);
}

import { Bench } from "tinybench";

/** Something to time, by name; `f` is called once a sample. */
export interface Task {
  readonly name: string;
  readonly f: () => Promise<void>;
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
    for (const { name, f } of tasks) bench.add(name, f);
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

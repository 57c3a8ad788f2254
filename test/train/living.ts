import { queryObjects, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Tensor } from "../../src/tensor/index.ts";

setFlagsFromString("--expose-gc");
export const collectGarbage = runInNewContext("gc") as () => void;

export interface Living {
  /** Tensor handles, those of forgotten scopes and tapes included. */
  readonly tensors: number;
  /** All objects of the process. */
  readonly objects: number;
  readonly heapBytes: number;
}

/**
 * What is still in use after everything unreachable is gone, finalizers' work included: the least of several looks. What is kept
 * is there at every look. A single one has been seen to count a handle too many that a heap snapshot right after it did not have;
 * who held it is not known.
 */
export async function living(): Promise<Living> {
  const looks: Living[] = [];
  for (const milliseconds of [5, 20, 80]) looks.push(await lookAfter(milliseconds));
  const least = (figure: keyof Living): number => Math.min(...looks.map((living) => living[figure]));
  return { tensors: least("tensors"), objects: least("objects"), heapBytes: least("heapBytes") };
}

async function lookAfter(milliseconds: number): Promise<Living> {
  collectGarbage();
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
  const count = (type: new (...args: never[]) => unknown): number => queryObjects(type, { format: "count" });
  return { tensors: count(Tensor), objects: count(Object), heapBytes: process.memoryUsage().heapUsed };
}

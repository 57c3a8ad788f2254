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

/** What is still in use after everything unreachable is gone, finalizers' work included. */
export async function living(): Promise<Living> {
  collectGarbage();
  await new Promise((resolve) => setTimeout(resolve, 5));
  const count = (type: new (...args: never[]) => unknown): number => queryObjects(type, { format: "count" });
  return { tensors: count(Tensor), objects: count(Object), heapBytes: process.memoryUsage().heapUsed };
}

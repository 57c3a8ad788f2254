import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { defaultBackend } from "../src/tensor/index.ts";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/**
 * The buffers of the default backend in use, once those of tensors that earlier tests dropped without disposing them are back:
 * else they come back at any time, and a later count is smaller.
 */
export async function settledBuffers(): Promise<number> {
  for (let round = 0; round < 2; round++) {
    collect();
    // Finalizers run in tasks of their own.
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return defaultBackend().memory().buffers;
}

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
  const backend = defaultBackend();
  let [count, rounds] = [backend.memory().buffers, 0];
  // Finalizers run in tasks of their own, on a busy machine some rounds later; and what one of them lets go may be another's to find.
  while (rounds < 4) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 5));
    const now = backend.memory().buffers;
    rounds = now === count ? rounds + 1 : 0;
    count = now;
  }
  return count;
}

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, test } from "vitest";
import { Adam, Kfac, Sgd, type Optimizer } from "../../src/optim/index.ts";
import type { Parameter } from "../../src/nn/index.ts";
import { defaultBackend } from "../../src/tensor/index.ts";
import { train } from "../../src/train/index.ts";
import { loaders, smallData, smallModel } from "./small.ts";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/** Bytes that are still in use after everything unreachable is gone, finalizers' work included. */
async function heapInUse(): Promise<number> {
  for (let i = 0; i < 3; i++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return process.memoryUsage().heapUsed;
}

/**
 * A training of 200 steps must stand still: no buffer more than after the first steps, when optimizer state and curvature
 * factors exist, and no JavaScript object either (a forgotten handle, a tape, a registration with a finalizer). Between steps 50
 * and 200 a leak of one tensor handle a step, of about 200 bytes with its storage and registration, would add 30 kB; compiled
 * code and the runner's own work move the heap by some tens of kB. What is forbidden here is 1 kB a step: a leak of a graph.
 */
const slack = 150 * 1024;

const optimizers: [name: string, make: (parameters: Parameter[]) => Optimizer][] = [
  ["SGD", (parameters) => new Sgd(parameters, { learningRate: 0.02, momentum: 0.9 })],
  ["Adam", (parameters) => new Adam(parameters, { learningRate: 1e-3 })],
  ["K-FAC by eigh", (parameters) => new Kfac(parameters, { learningRate: 0.03, momentum: 0.9, inversionEvery: 10 })],
  ["K-FAC by Cholesky, type-2 Fisher", (parameters) => new Kfac(parameters, { learningRate: 0.03, inverse: "cholesky", fisher: "type-2", inversionEvery: 10 })],
]; // prettier-ignore

describe("200 steps of training stand still in memory", () => {
  test.each(optimizers)("%s", async (_, make) => {
    const before = defaultBackend().memory().buffers;
    const model = smallModel();
    const optimizer = make(model.parameters());
    const data = loaders(await smallData(40));
    const buffers = new Map<number, number>();
    const heap = new Map<number, number>();
    for await (const event of train({ model, optimizer, ...data, epochs: 100 })) {
      if (event.type !== "step") continue;
      buffers.set(event.step, defaultBackend().memory().buffers);
      if (event.step === 50 || event.step === 199) heap.set(event.step, await heapInUse());
    }
    expect(optimizer.steps).toBe(200);
    expect(new Set([...buffers].filter(([step]) => step >= 2).map(([, count]) => count)).size).toBe(1);
    expect((heap.get(199) ?? NaN) - (heap.get(50) ?? NaN)).toBeLessThan(slack);

    optimizer.dispose();
    model.dispose();
    expect(defaultBackend().memory().buffers).toBe(before);
  });
});

import { expect, test } from "vitest";
import { loadSynthetic } from "../../../src/data/index.ts";
import type { Parameter } from "../../../src/nn/index.ts";
import { RsKfac, Sgd, type Optimizer } from "../../../src/optim/index.ts";
import { defaultBackend } from "../../../src/tensor/index.ts";
import { train } from "../../../src/train/index.ts";
import { smallVgg } from "../../optim/smallVgg.ts";
import { collectGarbage, living } from "../../train/living.ts";
import { loaders } from "../../train/small.ts";
import { describeByDefaultOnGpu } from "./byDefault.ts";

/*
 * A training must stand still on the device too: not one buffer and not one byte more after any step from the tenth on, and not one tensor
 * handle. Resident memory, where a software driver keeps its buffers and objects, goes on moving: the queue's bind groups fill up over some
 * 110 steps before they are dropped and made anew, and V8 compiles. What each of 500 steps lost beside the device's own numbers would show
 * there from 150 kB on.
 */
const warmUp = 10;
const residentSlack = { relative: 0.05, bytes: 20 * 2 ** 20 };

/** 400 images in batches of 20, then 20 to test with. */
const images = { classes: 5, train: 400, test: 20, height: 8, width: 8, channels: 3, noise: 0.4 };
const stepsOfEpoch = 20;

const trainings: [name: string, steps: number, make: (parameters: Parameter[]) => Optimizer][] = [
  ["SGD", 500, (parameters) => new Sgd(parameters, { learningRate: 0.02, momentum: 0.9 })],
  [
    "RS-KFAC, inverted every tenth",
    120,
    (parameters) =>
      new RsKfac(parameters, {
        learningRate: 0.02,
        momentum: 0.9,
        rank: 6,
        oversampling: 4,
        exactUpTo: 0,
        factorUpdateEvery: 2,
        inversionEvery: 10,
      }),
  ],
];

/** In milliseconds: a software driver takes some 40 s for the longer one. */
const timeout = 300_000;

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

describeByDefaultOnGpu("training on a GPU stands still in memory", () => {
  test.each(trainings)("%s: %d steps", { timeout }, async (_, steps, make) => {
    const backend = defaultBackend();
    const atStart = backend.memory();
    const model = smallVgg("float32");
    const optimizer = make(model.parameters());
    const data = loaders(await loadSynthetic(images));
    const inUse = new Set<string>();
    const [handles, kept] = [new Set<number>(), new Set<number>()];
    const resident: number[] = [];
    for await (const event of train({ model, optimizer, ...data, epochs: steps / stepsOfEpoch })) {
      if (event.type === "epoch") collectGarbage();
      if (event.type !== "step" || event.step < warmUp) continue;
      const { buffers, bytes, pooledBytes } = backend.memory();
      inUse.add(`${buffers} buffers, ${bytes} bytes`);
      resident.push(process.memoryUsage().rss);
      // What is kept for reuse is all there once the network has been tested for the first time.
      if (event.step >= stepsOfEpoch) kept.add(pooledBytes);
      if ((event.step + 1) % (steps / 4) === 0) handles.add((await living()).tensors);
    }
    expect(optimizer.steps).toBe(steps);
    expect([...inUse]).toHaveLength(1);
    expect(kept.size).toBe(1);
    expect(handles.size).toBe(1);
    const [before, after] = [resident.slice(0, resident.length / 2), resident.slice(resident.length / 2)].map(mean) as [number, number];
    expect(after).toBeLessThan(before * (1 + residentSlack.relative) + residentSlack.bytes);

    optimizer.dispose();
    model.dispose();
    const { buffers, bytes } = backend.memory();
    expect({ buffers, bytes }).toEqual({ buffers: atStart.buffers, bytes: atStart.bytes });
  });
});

import { describe, expect, test } from "vitest";
import { Kfac, Sgd, type Optimizer } from "../../src/optim/index.ts";
import type { Parameter } from "../../src/nn/index.ts";
import { defaultBackend } from "../../src/tensor/index.ts";
import { train } from "../../src/train/index.ts";
import { living, type Living } from "./living.ts";
import { loaders, smallData, smallModel } from "./small.ts";

/*
 * A training must stand still once optimizer state and curvature factors exist: not one buffer and not one tensor handle more at
 * step 199 than at step 50, and hardly any object (the test runner makes some of its own). Bytes say less: V8 compiles and
 * discards code all the time, which moves the heap by some 100 kB in either direction.
 */
const objectSlack = 20;
const heapSlack = 2 ** 20;

const optimizers: [name: string, make: (parameters: Parameter[]) => Optimizer][] = [
  ["SGD", (parameters) => new Sgd(parameters, { learningRate: 0.02, momentum: 0.9 })],
  ["K-FAC by eigh", (parameters) => new Kfac(parameters, { learningRate: 0.03, momentum: 0.9, inverse: "eigh", inversionEvery: 10 })],
  [
    "K-FAC by Cholesky, type-2 Fisher",
    (parameters) => new Kfac(parameters, { learningRate: 0.03, inverse: "cholesky", fisher: "type-2", inversionEvery: 10 }),
  ],
];

describe("200 steps of training stand still in memory", () => {
  test.each(optimizers)("%s", async (_, make) => {
    const before = defaultBackend().memory().buffers;
    const model = smallModel();
    const optimizer = make(model.parameters());
    const data = loaders(await smallData(400));
    const buffers = new Map<number, number>();
    let [early, late]: (Living | undefined)[] = [];
    for await (const event of train({ model, optimizer, ...data, epochs: 10 })) {
      if (event.type !== "step") continue;
      buffers.set(event.step, defaultBackend().memory().buffers);
      if (event.step === 50) early = await living();
      if (event.step === 199) late = await living();
    }
    expect(optimizer.steps).toBe(200);
    expect(new Set([...buffers].filter(([step]) => step >= 2).map(([, count]) => count)).size).toBe(1);
    if (!early || !late) throw new Error("the training was too short to be measured");
    expect(late.tensors).toBe(early.tensors);
    expect(late.objects - early.objects).toBeLessThan(objectSlack);
    expect(late.heapBytes - early.heapBytes).toBeLessThan(heapSlack);

    optimizer.dispose();
    model.dispose();
    expect(defaultBackend().memory().buffers).toBe(before);
  });
});

import { describe, expect, test } from "vitest";
import { Dropout, Linear, Module, ReLU, Sequential, type Parameter } from "../../src/nn/index.ts";
import { Kfac, Sgd, type Optimizer } from "../../src/optim/index.ts";
import { defaultBackend, Generator, NumericalError, Tensor, tidy } from "../../src/tensor/index.ts";
import { evaluate, train, type EpochEvent, type TrainEvent } from "../../src/train/index.ts";
import { loaders, smallData, smallModel } from "./small.ts";
import { settledBuffers } from "../settled.ts";

const data = await smallData();
const sgd = (model: Module): Optimizer => new Sgd(model.parameters(), { learningRate: 0.1, momentum: 0.9 });
const kfac = (model: Module): Kfac => new Kfac(model.parameters(), { learningRate: 0.1, momentum: 0.9, clip: { kl: 1e-2 } });

interface Trial {
  readonly seed?: number;
  readonly epochs?: number;
  readonly model?: Module;
  readonly optimizer?: (model: Module) => Optimizer;
}

async function trained({ seed = 0, epochs = 2, model = smallModel(seed), optimizer = sgd }: Trial = {}): Promise<TrainEvent[]> {
  const own = optimizer(model);
  const events: TrainEvent[] = [];
  for await (const event of train({ model, optimizer: own, ...loaders(data, seed), epochs })) events.push(event);
  own.dispose();
  return events;
}

/** What must not depend on the speed of the machine. */
const untimed = (events: readonly TrainEvent[]): unknown[] =>
  events.map((event) => Object.fromEntries(Object.entries(event).filter(([key]) => key !== "seconds" && key !== "phases")));
const epochsOf = (events: readonly TrainEvent[]): EpochEvent[] => events.filter((event) => event.type === "epoch");

describe("a training is a stream of events", () => {
  test("each step, each epoch, the end; with curvature told of once, and refreshes with the steps that make them", async () => {
    const types = (events: readonly TrainEvent[]): string[] => events.map(({ type }) => type);
    const epoch = ["step", "step", "step", "epoch"];
    expect(types(await trained())).toEqual([...epoch, ...epoch, "end"]);
    const events = await trained({ optimizer: kfac });
    expect(types(events.filter(({ type }) => type !== "refresh"))).toEqual(["curvature", ...epoch, ...epoch, "end"]);
    const refreshes = events.flatMap((event) => (event.type === "refresh" ? [event] : []));
    expect(refreshes[0]?.step).toBe(0);
    for (const { layers } of refreshes) {
      expect(layers.length).toBeGreaterThan(0);
      for (const { layer, figures, spectra, problems } of layers) {
        expect(problems).toEqual([]);
        expect(layer).toMatch(/weight$/);
        expect(figures["bytes"]).toBeGreaterThan(0);
        for (const [factor, values] of Object.entries(spectra)) {
          expect(values).toEqual([...values].sort((a, b) => b - a));
          expect(figures[`${factor}.largest`]).toBe(values[0]);
        }
      }
    }
  });

  test("numbered from 0, with times that add up", async () => {
    const events = await trained({ optimizer: kfac });
    const steps = events.filter((event) => event.type === "step");
    expect(steps.map(({ step, epoch }) => [step, epoch])).toEqual([
      [0, 0],
      [1, 0],
      [2, 0],
      [3, 1],
      [4, 1],
      [5, 1],
    ]);
    expect(epochsOf(events).map(({ epoch }) => epoch)).toEqual([0, 1]);
    const end = events.at(-1);
    if (end?.type !== "end") throw new Error("the last event is not the end");
    expect(end).toMatchObject({ epochs: 2, steps: 6 });
    for (const key of ["forward", "backward", "factorUpdate", "inversion", "precondition", "update", "data"] as const) {
      expect(end.phases[key]).toBeGreaterThan(0);
      expect(steps.reduce((sum, { phases }) => sum + phases[key], 0)).toBeCloseTo(end.phases[key], 12);
    }
    for (const { damping, clip } of steps) {
      expect(damping).toBe(0.1);
      expect(clip).toBeGreaterThan(0);
      expect(clip).toBeLessThanOrEqual(1);
    }
    for (const event of await trained()) if (event.type === "step") expect(event).not.toHaveProperty("clip");
    expect(end.seconds).toBeGreaterThanOrEqual(epochsOf(events).reduce((sum, { seconds }) => sum + seconds, 0));
  });

  test("an epoch's training loss and accuracy are means over its samples, before each step", async () => {
    const events = await trained({ epochs: 1 });
    const losses = events.flatMap((event) => (event.type === "step" ? [event.loss] : []));
    const [epoch] = epochsOf(events);
    expect(epoch?.trainLoss).toBeCloseTo(losses.reduce((a, b) => a + b, 0) / 3, 12);
    expect(epoch?.trainAccuracy).toBeGreaterThan(0);
    expect((epoch?.trainAccuracy ?? NaN) * 60).toBeCloseTo(Math.round((epoch?.trainAccuracy ?? NaN) * 60), 10);
  });

  test("K-FAC says what became of every parameter", async () => {
    const [first] = await trained({ optimizer: kfac, epochs: 1 });
    if (first?.type !== "curvature") throw new Error("the first event is not about curvature");
    const blocks = first.registration.map(({ parameter, block }) => [parameter, block !== null]);
    expect(blocks).toEqual([
      ["0.weight", true],
      ["0.bias", true],
      ["1.weight", false],
      ["1.bias", false],
      ["5.weight", true],
      ["5.bias", true],
    ]);
    for (const { block, reason } of first.registration) expect(reason === "").toBe(block !== null);
  });
});

describe.each([
  ["SGD", sgd],
  ["K-FAC", kfac],
] as const)("training with %s", (_, optimizer) => {
  test("lowers the loss and learns to tell the classes apart", async () => {
    const epochs = epochsOf(await trained({ epochs: 6, optimizer }));
    const [first, last] = [epochs[0], epochs.at(-1)];
    expect(last?.trainLoss).toBeLessThan(0.5 * (first?.trainLoss ?? NaN));
    expect(last?.testLoss).toBeLessThan(first?.testLoss ?? NaN);
    expect(last?.testAccuracy).toBeGreaterThan(0.8);
  });

  test("depends on nothing but the seed", async () => {
    const events = untimed(await trained({ optimizer, seed: 1 }));
    expect(untimed(await trained({ optimizer, seed: 1 }))).toEqual(events);
    expect(untimed(await trained({ optimizer, seed: 2 }))).not.toEqual(events);
  });
});

test("a loop that is left stops the training after the step told of, and frees the batch", async () => {
  const model = smallModel();
  const optimizer = sgd(model);
  const before = await settledBuffers();
  for await (const event of train({ model, optimizer, ...loaders(data), epochs: 5 })) {
    if (event.type === "step" && event.step === 1) break;
  }
  expect(optimizer.steps).toBe(2);
  optimizer.dispose();
  expect(defaultBackend().memory().buffers).toBe(before);
});

describe("a loss that is not finite", () => {
  /** The error of a training that must fail, the events before it, and whether any variable changed in the failing step. */
  async function failure(
    model: Module,
    poison: { atStep: number; spoil: () => void },
    optimizer = sgd(model),
  ): Promise<{ error: unknown; events: TrainEvent[]; changed: string[] }> {
    const events: TrainEvent[] = [];
    let before = new Map<string, readonly number[]>();
    const values = (): Map<string, readonly number[]> =>
      tidy(() => new Map([...model.stateDict()].map(([name, tensor]) => [name, [...tensor.dataSync()]])));
    const spoil = (): void => {
      tidy(poison.spoil);
      before = values();
    };
    if (poison.atStep === 0) spoil();
    let error: unknown;
    try {
      for await (const event of train({ model, optimizer, ...loaders(data), epochs: 2 })) {
        events.push(event);
        if (event.type === "step" && event.step === poison.atStep - 1) spoil();
      }
    } catch (caught) {
      error = caught;
    }
    const changed = [...values()].flatMap(([name, after]) => (Object.is(`${before.get(name)?.join()}`, after.join()) ? [] : [name]));
    return { error, events, changed };
  }
  const set = (parameter: Parameter | undefined, value: number): void => parameter?.assign(Tensor.full(parameter.shape, value));

  test.each([
    ["SGD", sgd],
    ["K-FAC", kfac],
  ] as const)(
    "%s: a NaN in one weight is traced to its layer and step; nothing has changed and earlier events stay",
    async (_, optimizer) => {
      const model = smallModel();
      const { error, events, changed } = await failure(
        model,
        { atStep: 2, spoil: () => set(model.namedParameters().get("5.weight"), NaN) },
        optimizer(model),
      );
      expect(error).toBeInstanceOf(NumericalError);
      expect(String(error)).toContain("the loss is NaN at step 2");
      expect(String(error)).toContain('the first layer whose output is not finite is "5" (Linear)');
      expect(events.filter(({ type }) => type === "step")).toHaveLength(2);
      expect(changed).toEqual([]);
    },
  );

  test("a NaN before batch norm does not reach the running statistics", async () => {
    const model = smallModel();
    const { error, changed } = await failure(model, { atStep: 1, spoil: () => set(model.namedParameters().get("0.bias"), NaN) });
    expect(String(error)).toContain('is "0" (Conv2d)');
    expect(changed).toEqual([]);
    expect([...model.namedBuffers().values()].flatMap(({ value }) => [...value.dataSync()]).every(Number.isFinite)).toBe(true);
  });

  test("the pass that is repeated to find the layer drops what the failed one dropped, and the stream stays where it was", async () => {
    // Only the elements that this mask keeps are spoilt: with another mask the layer's output might be finite.
    const generator = new Generator(3);
    const dropout = new Dropout(0.5, { generator });
    class Spoilt extends Module {
      readonly dropout = dropout;
      readonly outputs: number[][] = [];
      protected compute(input: Tensor): Tensor {
        const output = this.dropout.forward(input);
        this.outputs.push([...output.dataSync()]);
        return output.multiply(1e30).square();
      }
    }
    const spoilt = new Spoilt();
    const before = generator.state();
    const { error } = await failure(new Sequential(smallModel(), spoilt), { atStep: 0, spoil: () => undefined });
    expect(String(error)).toContain('is "1" (Spoilt)');
    expect(spoilt.outputs).toHaveLength(2);
    expect(spoilt.outputs[1]).toEqual(spoilt.outputs[0]);
    expect(generator.state()).toEqual(before);
  });

  test("an overflow is traced to the layer that overflows, not to the one with the large weights before it", async () => {
    const model = new Sequential(smallModel(), new Linear(4, 8), new ReLU(), new Linear(8, 4));
    const named = model.namedParameters();
    const { error } = await failure(model, {
      atStep: 0,
      spoil: () => {
        set(named.get("1.weight"), 1e20);
        set(named.get("1.bias"), 1e20);
        set(named.get("3.weight"), 1e30);
      },
    });
    expect(String(error)).toContain("at step 0");
    expect(String(error)).toContain('is "3" (Linear)');
  });

  test("is traced to a module that computes by itself around its inner ones", async () => {
    class Squared extends Module {
      readonly inner = smallModel();
      protected compute(input: Tensor): Tensor {
        return this.inner.forward(input).multiply(1e30).square();
      }
    }
    const { error } = await failure(new Sequential(new Squared()), { atStep: 0, spoil: () => undefined });
    expect(String(error)).toContain('is "0" (Squared)');
  });

  test("with finite layers is the loss's own", async () => {
    const model = smallModel();
    const { error } = await failure(model, {
      atStep: 0,
      spoil: () => {
        const bias = model.namedParameters().get("5.bias");
        bias?.assign(Tensor.from([3e38, -3e38, 3e38, -3e38]));
      },
    });
    expect(String(error)).toContain("the loss is Infinity at step 0; every layer's output is finite, so the loss itself overflowed");
  });

  test("leaves no tensor behind, and training can go on from there", async () => {
    const model = new Sequential(
      ...smallModel()
        .children()
        .map(([, module]) => module),
      new Dropout(0.1),
    );
    const optimizer = sgd(model);
    const weight = model.namedParameters().get("5.weight");
    const good = weight?.value.keep();
    const buffers = await settledBuffers();
    await failure(model, { atStep: 0, spoil: () => set(weight, NaN) }, optimizer);
    weight?.assign(good as Tensor);
    optimizer.dispose();
    expect(defaultBackend().memory().buffers).toBe(buffers);
    const events: TrainEvent[] = [];
    for await (const event of train({ model, optimizer, ...loaders(data), epochs: 1 })) events.push(event);
    expect(events.at(-1)).toMatchObject({ type: "end", steps: 3 });
  });
});

describe("evaluate", () => {
  test("equals a loop written by hand", async () => {
    const model = smallModel(3);
    await trained({ model, epochs: 1 });
    const { test: loader } = loaders(data);
    const result = await evaluate(model, loader);
    model.eval();
    let [loss, correct] = [0, 0];
    for await (const { images, labels } of loader.epoch(0)) {
      const logits = model.forward(images);
      const rows = logits.dataSync();
      for (const [i, label] of labels.dataSync().entries()) {
        const row = [...rows.subarray(4 * i, 4 * i + 4)];
        const top = Math.max(...row);
        loss += top + Math.log(row.reduce((sum, v) => sum + Math.exp(v - top), 0)) - (row[label] ?? NaN);
        if (row.indexOf(top) === label) correct++;
      }
      logits.dispose();
    }
    expect(result.accuracy).toBe(correct / 20);
    expect(result.loss).toBeCloseTo(loss / 20, 5);
    expect(result.accuracy).toBeGreaterThan(0);
  });

  test("does not depend on the batch size, changes no state and leaves nothing behind", async () => {
    const model = smallModel(3);
    await trained({ model, epochs: 1 });
    const state = (): unknown => [...model.stateDict()].map(([name, tensor]) => [name, tensor.id]);
    const before = state();
    const { test: loader, train: other } = loaders(data);
    const buffers = await settledBuffers();
    const result = await evaluate(model, loader);
    expect(await evaluate(model, loader)).toEqual(result);
    expect(defaultBackend().memory().buffers).toBe(buffers);
    expect(state()).toEqual(before);
    expect(await evaluate(model, other)).not.toEqual(result);
  });

  test("puts every module's mode back, also when it fails", async () => {
    const model = smallModel();
    const frozenNorm = model.children()[1]?.[1].eval();
    const modes = (): boolean[] => [model.training, ...model.children().map(([, { training }]) => training)];
    const before = modes();
    expect(before.filter((training) => !training)).toHaveLength(1);
    await evaluate(model, loaders(data).test);
    expect(modes()).toEqual(before);
    expect(frozenNorm?.training).toBe(false);
    const wrong = loaders(await smallData()).test;
    const narrow = new Sequential(model, new Linear(5, 4));
    await expect(evaluate(narrow, wrong)).rejects.toThrow();
    expect(modes()).toEqual(before);
    model.eval();
    await evaluate(model, loaders(data).test);
    expect(new Set(modes())).toEqual(new Set([false]));
  });
});

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { crossEntropy, Linear, Parameter, Sequential, Tanh, BatchNorm1d } from "../../src/nn/index.ts";
import {
  Adam,
  AdamW,
  BrandKfac,
  cosine,
  EkFac,
  exponential,
  Kfac,
  NysKfac,
  Optimizer,
  polynomial,
  RmsProp,
  RsKfac,
  Seng,
  Sgd,
  SreKfac,
  stepwise,
  valueAt,
  warmup,
  type OptimizerState,
  type StepContext,
} from "../../src/optim/index.ts";
import { stateless } from "../../src/optim/transform.ts";
import { CheckpointError, defaultBackend, Generator, Tensor, UsageError, type Shape } from "../../src/tensor/index.ts";
import { settledBuffers } from "../settled.ts";

const options = { dtype: "float64" } as const;
const normal = (shape: Shape, seed: number): Tensor => new Generator(seed).normal(shape, options);
const labels = Tensor.from(Int32Array.from([0, 1, 2, 0, 1, 2]));

function network(): Sequential {
  const generator = new Generator(1);
  return new Sequential(
    new Linear(4, 6, { ...options, generator }),
    new BatchNorm1d(6, options),
    new Tanh(),
    new Linear(6, 3, { ...options, generator }),
  );
}

/** Data of step i: the same for every optimizer. */
const batch = (i: number): Tensor => normal([6, 4], 100 + i);

const optimizers: [string, (parameters: Parameter[]) => Optimizer][] = [
  ["SGD with Nesterov momentum", (p) => new Sgd(p, { learningRate: cosine(0.1, 8), momentum: 0.9, nesterov: true, weightDecay: 0.01 })],
  [
    "Adam with AMSGrad",
    (p) => new Adam(p, { learningRate: 0.01, amsgrad: true, betas: [0.8, (step) => Math.min(0.99, 0.9 + 0.01 * step)] }),
  ],
  ["AdamW", (p) => new AdamW(p, { learningRate: 0.01 })],
  ["centred RMSprop with momentum", (p) => new RmsProp(p, { learningRate: 0.01, centered: true, momentum: 0.5 })],
  ["K-FAC by eigh", (p) => new Kfac(p, { learningRate: 0.1, inverse: "eigh", factorUpdateEvery: 2, inversionEvery: 3, momentum: 0.9 })],
  [
    "K-FAC by Cholesky, type-2",
    (p) =>
      new Kfac(p, {
        learningRate: 0.1,
        inverse: "cholesky",
        fisher: "type-2",
        factorUpdateEvery: 1,
        inversionEvery: 2,
        averageForm: "zero",
      }),
  ],
];

describe("an optimizer's state", () => {
  it.each(optimizers)("of %s, loaded into a new one, goes on bit for bit", async (_, make) => {
    const run = async (interruptAt: number | null): Promise<number[]> => {
      const model = network();
      let optimizer = make(model.parameters());
      for (let i = 0; i < 7; i++) {
        if (i === interruptAt) {
          const state = optimizer.state();
          optimizer.dispose();
          optimizer = make(model.parameters());
          optimizer.load(state);
          for (const { tensors } of state.transforms) for (const tensor of tensors.values()) tensor.dispose();
        }
        const x = batch(i);
        await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
      }
      return model.parameters().flatMap((p) => [...p.value.dataSync()]);
    };
    const whole = await run(null);
    for (const at of [1, 4]) expect(await run(at)).toEqual(whole);
  });

  it("of another kind of optimizer, of other parameters or of other shapes is refused, and nothing changes", async () => {
    const model = network();
    const x = batch(0);
    const after = async (optimizer: Optimizer): Promise<OptimizerState> => {
      await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
      return optimizer.state();
    };
    const parameters = model.parameters();
    const sgd = new Sgd(parameters, { learningRate: 0.1, momentum: 0.9 });
    const states = {
      sgd: await after(sgd),
      adam: await after(new Adam(parameters, { learningRate: 0.1 })),
      eigh: await after(new Kfac(parameters, { learningRate: 0.1, inverse: "eigh" })),
      cholesky: await after(new Kfac(parameters, { learningRate: 0.1, inverse: "cholesky" })),
    };
    for (const [name, state] of Object.entries(states)) {
      for (const [other, make] of Object.entries({
        sgd: () => new Sgd(parameters, { learningRate: 0.1, momentum: 0.9 }),
        adam: () => new Adam(parameters, { learningRate: 0.1 }),
        eigh: () => new Kfac(parameters, { learningRate: 0.1, inverse: "eigh" }),
        cholesky: () => new Kfac(parameters, { learningRate: 0.1, inverse: "cholesky" }),
      })) {
        const load = (): void => make().load(state);
        if (other === name) expect(load).not.toThrow();
        else expect(load).toThrow(CheckpointError);
      }
    }
    const stranger = new Parameter("stranger", normal([2, 2], 1));
    expect(() => new Sgd([stranger], { learningRate: 0.1, momentum: 0.9 }).load(states.sgd)).toThrow(/belongs to no parameter/);
    expect(() => new Kfac([stranger], { learningRate: 0.1, inverse: "eigh" }).load(states.eigh)).toThrow(/belongs to no weight/);
    const misshapen = new Parameter("0.weight", normal([1, 4], 1));
    expect(() => new Sgd([misshapen], { learningRate: 0.1, momentum: 0.9 }).load(states.sgd)).toThrow(
      /\[6, 4\] but the parameter \[1, 4\]/,
    );
    const before = sgd.state();
    expect(() => sgd.load(states.adam)).toThrow(CheckpointError);
    expect(sgd.state().transforms.map(({ tensors }) => [...tensors].map(([key, tensor]) => [key, tensor.id]))).toEqual(
      before.transforms.map(({ tensors }) => [...tensors].map(([key, tensor]) => [key, tensor.id])),
    );
  });

  it.each(optimizers)("of %s, taken at the start and loaded again, is a new start", async (_, make) => {
    const model = network();
    const weights = model.stateDict();
    const optimizer = make(model.parameters());
    const start = optimizer.state();
    const run = async (): Promise<number[]> => {
      model.loadStateDict(weights);
      for (let i = 0; i < 3; i++) {
        const x = batch(i);
        await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
      }
      return model.parameters().flatMap((p) => [...p.value.dataSync()]);
    };
    const first = await run();
    optimizer.load(start);
    expect(await run()).toEqual(first);
  });

  it("of K-FAC survives being loaded and saved again before a step, and is held once", async () => {
    const x = batch(0);
    const make = (): { optimizer: Kfac; step: () => Promise<Tensor> } => {
      const model = network();
      const optimizer = new Kfac(model.parameters(), { learningRate: 0.1, momentum: 0.9 });
      return { optimizer, step: () => optimizer.minimize(() => crossEntropy(model.forward(x), labels)) };
    };
    const disposeStates = (...states: OptimizerState[]): void => {
      for (const { tensors } of states.flatMap(({ transforms }) => transforms)) for (const tensor of tensors.values()) tensor.dispose();
    };
    /** Buffers that only this optimizer holds. */
    const held = (optimizer: Optimizer): number => {
      const before = defaultBackend().memory().buffers;
      optimizer.dispose();
      return before - defaultBackend().memory().buffers;
    };
    const whole = make();
    await whole.step();
    await whole.step();

    const [original, resumed] = [make(), make()];
    await original.step();
    const state = original.optimizer.state();
    resumed.optimizer.load(state);
    const again = resumed.optimizer.state();
    const keys = ({ transforms }: OptimizerState): string[] => transforms.flatMap(({ tensors }) => [...tensors.keys()]).sort();
    expect(keys(again)).toEqual(keys(state));
    original.optimizer.dispose();
    disposeStates(state, again);
    await resumed.step();
    expect(held(resumed.optimizer)).toBe(held(whole.optimizer));
  });

  it("keeps parameters of one name apart", async () => {
    const [a, b] = [network(), network()];
    const optimizer = new Sgd([...a.parameters(), ...b.parameters()], { learningRate: 0.1, momentum: 0.9 });
    const x = batch(0);
    await optimizer.minimize(() => crossEntropy(a.forward(x), labels).add(crossEntropy(b.forward(x), labels)));
    expect(optimizer.state().transforms[1]?.tensors.size).toBe(12);
  });
});

describe("minimize", () => {
  it("returns the loss before the step and owns it until the next call", async () => {
    const p = new Parameter("p", Tensor.from(3, options));
    const optimizer = new Sgd([p], { learningRate: 0.5 });
    const first = await optimizer.minimize(() => p.value.square());
    expect(await first.item()).toBe(9);
    expect(p.value.dataSync()[0]).toBe(0); // 3 − .5 · 6
    await optimizer.minimize(() => p.value.square());
    expect(first.isDisposed).toBe(true);
  });

  it("of several closures is one step on the mean loss", async () => {
    const run = async (split: boolean): Promise<number[]> => {
      const model = new Sequential(new Linear(4, 3, { ...options, generator: new Generator(2) }));
      const optimizer = new Kfac(model.parameters(), { learningRate: 0.1, factorUpdateEvery: 1, inversionEvery: 1 });
      for (let i = 0; i < 3; i++) {
        const x = batch(i);
        const part = (from: number) => (): Tensor => crossEntropy(model.forward(x.slice([from, 0], [3, 4])), labels.slice([from], [3]));
        const loss = await optimizer.minimize(split ? [part(0), part(3)] : () => crossEntropy(model.forward(x), labels));
        expect(loss.size).toBe(1);
      }
      return model.parameters().flatMap((p) => [...p.value.dataSync()]);
    };
    expect(await run(true)).toBeAllclose(await run(false), { relative: 1e-12 });
  });

  it("refuses to overlap with itself", async () => {
    const p = new Parameter("p", Tensor.from(1, options));
    const optimizer = new Sgd([p], { learningRate: 0.1 });
    const running = optimizer.minimize(() => p.value.square());
    await expect(optimizer.minimize(() => p.value.square())).rejects.toThrow(UsageError);
    await running;
    await optimizer.minimize(() => p.value.square());
  });

  it("refuses losses that are not one floating number, and promises", async () => {
    const p = new Parameter("p", normal([2], 1));
    const optimizer = new Sgd([p], { learningRate: 0.1 });
    await expect(optimizer.minimize(() => p.value)).rejects.toThrow(/single number.*\[2\]/);
    await expect(optimizer.minimize(() => p.value.sum().cast("int32"))).rejects.toThrow(/floating/);
    await expect(optimizer.minimize((() => Promise.resolve(p.value.sum())) as unknown as () => Tensor)).rejects.toThrow(/Promise/);
    await expect(optimizer.minimize([])).rejects.toThrow(/at least one/);
    await optimizer.minimize(() => p.value.sum());
  });

  it("leaves a parameter that the loss does not reach exactly as it is, and refuses a loss that reaches none", async () => {
    const [p, q] = [new Parameter("p", normal([2], 1)), new Parameter("q", normal([2], 2))];
    const before = q.value.dataSync();
    const optimizer = new Sgd([p, q], { learningRate: 0.1, momentum: 0.9, weightDecay: 0.1 });
    await optimizer.minimize(() => p.value.square().sum());
    expect(q.value.dataSync()).toEqual(before);
    await expect(optimizer.minimize(() => p.value.detach().sum())).rejects.toThrow(/depends on none of the optimizer's parameters/);
  });

  it("disposes none of the caller's tensors that a closure returns", async () => {
    const p = new Parameter("p", Tensor.from(1, options));
    const optimizer = new Sgd([p], { learningRate: 0.1 });
    const mine = normal([2], 1);
    await optimizer.step(() => ({ loss: p.value.square(), mine, value: p.value }));
    await optimizer.minimize(() => p.value);
    await optimizer.minimize(() => p.value);
    expect(mine.isDisposed).toBe(false);
    expect(p.value.isDisposed).toBe(false);
  });

  it("lets nobody save, load or dispose while a step runs", async () => {
    const p = new Parameter("p", Tensor.from(1, options));
    const optimizer = new Sgd([p], { learningRate: 0.1 });
    const state = optimizer.state();
    const running = optimizer.minimize(() => p.value.square());
    for (const act of [() => optimizer.state(), () => optimizer.load(state), () => optimizer.dispose()])
      expect(act).toThrow(/step is running/);
    await running;
  });

  it("leaves no tensor behind when the loss is not one number", async () => {
    const p = new Parameter("p", normal([2], 1));
    const optimizer = new Sgd([p], { learningRate: 0.1 });
    await optimizer.minimize(() => p.value.sum());
    await expect(optimizer.minimize(() => p.value.square())).rejects.toThrow();
    const before = await settledBuffers();
    await expect(optimizer.minimize(() => p.value.square())).rejects.toThrow();
    expect(defaultBackend().memory().buffers).toBe(before);
  });

  it("by Adam moves a parameter that joins late by the learning rate, as from the start", async () => {
    const [p, q] = [new Parameter("p", Tensor.from(0, options)), new Parameter("q", Tensor.from(0, options))];
    const optimizer = new Adam([p, q], { learningRate: 0.1 });
    for (let i = 0; i < 5; i++) await optimizer.minimize(() => p.value.multiply(3));
    await optimizer.minimize(() => p.value.add(q.value.multiply(-7)));
    expect(q.value.dataSync()[0]).toBeCloseTo(0.1, 8);
  });

  it("centred RMSprop stays finite where gradients do not change, though their variance may round below 0", async () => {
    // In float32: after some 1200 steps the mean of the squares is below the square of the mean.
    const p = new Parameter("p", Tensor.zeros([3]));
    const slopes = Tensor.from([0.1, 0.7, 0.123]);
    const optimizer = new RmsProp([p], { learningRate: 1e-12, centered: true });
    for (let i = 0; i < 1300; i++) await optimizer.minimize(() => p.value.multiply(slopes).sum());
    expect(p.value.dataSync().every(Number.isFinite)).toBe(true);
  });

  it("with momentum that is switched off and on again starts its buffer anew", async () => {
    const p = new Parameter("p", Tensor.from(0, options));
    const optimizer = new Sgd([p], { learningRate: 1, momentum: (step) => (step === 1 ? 0 : 0.9) });
    for (let i = 0; i < 3; i++) await optimizer.minimize(() => p.value.multiply(1));
    expect(p.value.dataSync()[0]).toBeCloseTo(-3, 12);
  });

  it.each([Kfac, RsKfac, SreKfac, NysKfac, BrandKfac, EkFac, Seng])(
    "by %o takes an option that is undefined as one left out",
    async (Method) => {
      const none = { clip: undefined, momentum: undefined, damping: undefined, weightDecay: undefined, fisher: undefined, thin: undefined };
      const after = async (own: object): Promise<number[][]> => {
        const model = network();
        const optimizer = new Method(model.parameters(), { learningRate: 0.1, ...own });
        for (let i = 0; i < 3; i++) await optimizer.minimize(() => crossEntropy(model.forward(batch(i)), labels));
        optimizer.dispose();
        return model.parameters().map(({ value }) => [...value.dataSync()]);
      };
      expect(await after(none)).toEqual(await after({}));
    },
  );
  it("refuses decays of squares that are 1 or more, which divide by 0", async () => {
    const model = network();
    const step = (optimizer: Optimizer): Promise<Tensor> => optimizer.minimize(() => crossEntropy(model.forward(batch(0)), labels));
    const range = "must be at least 0 and below 1 but is 1 at step 0";
    await expect(step(new Adam(model.parameters(), { learningRate: 0.1, betas: [0.9, 1] }))).rejects.toThrow(`betas ${range}`);
    await expect(step(new RmsProp(model.parameters(), { learningRate: 0.1, decay: 1 }))).rejects.toThrow(`decay ${range}`);
  });
  it("refuses to be made without parameters, or with one twice", () => {
    const p = new Parameter("p", normal([2], 1));
    expect(() => new Sgd([], { learningRate: 0.1 })).toThrow(/model\.parameters/);
    expect(() => new Sgd([p, p], { learningRate: 0.1 })).toThrow(/twice/);
  });

  it("uses no buffer more after many steps than after a few", async () => {
    for (const [, make] of optimizers) {
      const model = network();
      const optimizer = make(model.parameters());
      const x = batch(0);
      const step = (): Promise<Tensor> => optimizer.minimize(() => crossEntropy(model.forward(x), labels));
      for (let i = 0; i < 4; i++) await step();
      const before = await settledBuffers();
      for (let i = 0; i < 12; i++) await step();
      expect(defaultBackend().memory().buffers).toBe(before);
      optimizer.dispose();
      model.dispose();
    }
  });
});

describe("step", () => {
  it("gives the closure's other values back", async () => {
    const model = network();
    const optimizer = new Sgd(model.parameters(), { learningRate: 0.1 });
    const x = batch(0);
    const { loss, logits } = await optimizer.step(() => {
      const logits = model.forward(x);
      return { loss: crossEntropy(logits, labels), logits };
    });
    expect(logits.shape).toEqual([6, 3]);
    expect(await loss.item()).toBeGreaterThan(0);
  });

  it("changes nothing when its inspection throws", async () => {
    const model = network();
    const optimizer = new Kfac(model.parameters(), { learningRate: 0.1 });
    const before = model.parameters().map((p) => p.value.dataSync());
    const x = batch(0);
    await expect(
      optimizer.step(
        () => ({ loss: crossEntropy(model.forward(x), labels) }),
        () => Promise.reject(new Error("no")),
      ),
    ).rejects.toThrow("no");
    expect(model.parameters().map((p) => p.value.dataSync())).toEqual(before);
    expect(optimizer.steps).toBe(0);
  });
});

describe("the chain of transforms", () => {
  it("sees the step, the rate and the loss's own gradients, and runs in order", async () => {
    const p = new Parameter("p", Tensor.from(2, options));
    const seen: [number, number, number][] = [];
    const look = (context: StepContext): void => {
      seen.push([context.step, context.learningRate, context.gradients.get(p)?.dataSync()[0] as number]);
    };
    const optimizer = new Optimizer([p], {
      learningRate: (step) => 1 / (step + 1),
      transforms: [
        stateless((u) => u.add(1)),
        stateless((u, _, context) => {
          look(context);
          return u.multiply(2);
        }),
      ],
    });
    await optimizer.minimize(() => p.value.square());
    expect(p.value.dataSync()[0]).toBe(2 - (4 + 1) * 2);
    await optimizer.minimize(() => p.value.square());
    expect(seen).toEqual([
      [0, 1, 4],
      [1, 0.5, -16],
    ]);
  });

  it("leaves parameters without a block exactly what the base optimizer gives them", async () => {
    const [a, b] = [network(), network()];
    const x = batch(0);
    const common = { learningRate: 0.05, momentum: 0.9 };
    await new Sgd(a.parameters(), common).minimize(() => crossEntropy(a.forward(x), labels));
    await new Kfac(b.parameters(), { ...common, clip: { rms: 1e-3 } }).minimize(() => crossEntropy(b.forward(x), labels));
    for (const name of ["1.weight", "1.bias"]) {
      expect(b.namedParameters().get(name)?.value.dataSync()).toEqual(a.namedParameters().get(name)?.value.dataSync());
    }
    expect(b.namedParameters().get("0.weight")?.value.dataSync()).not.toEqual(a.namedParameters().get("0.weight")?.value.dataSync());
  });
});

describe("schedules", () => {
  it("stepwise keeps a value until the next point, whatever the points' order", () => {
    const f = stepwise([
      [10, 0.1],
      [0, 1],
      [20, 0.01],
    ]);
    expect([0, 9, 10, 19, 20, 1000].map(f)).toEqual([1, 1, 0.1, 0.1, 0.01, 0.01]);
  });
  it("cosine and polynomial start at their value, fall, and stay at their end", () => {
    fc.assert(
      fc.property(fc.double({ min: 0.01, max: 1, noNaN: true }), fc.integer({ min: 1, max: 100 }), (start, steps) => {
        for (const f of [cosine(start, steps), polynomial(start, steps, 2)]) {
          expect(f(0)).toBeCloseTo(start, 12);
          for (let i = 0; i < steps; i++) expect(f(i + 1)).toBeLessThanOrEqual(f(i));
          expect(f(steps)).toBeCloseTo(0, 12);
          expect(f(steps + 7)).toBeCloseTo(0, 12);
        }
      }),
      { numRuns: 20 },
    );
  });
  it("exponential multiplies by its factor every so many steps", () => {
    expect(exponential(2, 0.5, 10)(20)).toBeCloseTo(0.5, 12);
  });
  it("warmup climbs linearly to the schedule's start and then follows it", () => {
    const f = warmup(3, cosine(1, 10));
    expect([0, 1, 2].map(f)).toEqual([0.25, 0.5, 0.75]);
    expect(f(3)).toBe(1);
    expect(f(13)).toBeCloseTo(0, 12);
    expect(valueAt(0.3, 5)).toBe(0.3);
  });
});

import { describe, expect, it } from "vitest";
import { BatchNorm2d, Conv2d, crossEntropy, Dropout, Flatten, Linear, Module, Parameter, ReLU, Sequential } from "../../../src/nn/index.ts";
import { Kfac, Optimizer, Precondition, Seng, Sgd, type BlockState, type CurvatureBlock } from "../../../src/optim/index.ts";
import { stateless } from "../../../src/optim/transform.ts";
import { defaultBackend, Generator, openBackend, setDefaultBackend, Tensor } from "../../../src/tensor/index.ts";
import { parseConfig } from "../../../src/train/config.ts";
import { makeOptimizer } from "../../../src/train/optimizers.ts";
import { eachBackend } from "../../backends.ts";
import { settledBuffers } from "../../settled.ts";
import { positiveMethods, type Method } from "./methods.ts";

const options = { dtype: "float64" } as const;

/** Layers with and without blocks: a convolution, a batch norm, a dense layer, and a scale that no layer knows. */
class Network extends Module {
  readonly dropout = new Dropout(0.3, { generator: new Generator(9) });
  readonly body: Sequential;
  readonly scale = new Parameter("scale", Tensor.from(Float64Array.of(1, 1.1, 0.9)));
  constructor() {
    super();
    const generator = new Generator(1);
    this.body = new Sequential(
      new Conv2d(1, 3, 2, { ...options, generator }),
      new BatchNorm2d(3, options),
      new ReLU(),
      new Flatten(),
      this.dropout,
      new Linear(12, 3, { ...options, generator }),
    );
  }
  protected compute(input: Tensor): Tensor {
    return this.body.forward(input).multiply(this.scale.value);
  }
}
const WITHOUT_BLOCK = ["body.1.weight", "body.1.bias", "scale"];

const batchOf = (i: number): { x: Tensor; labels: Tensor } => ({
  x: new Generator(100 + i).normal([6, 3, 3, 1], options),
  labels: Tensor.from(Int32Array.from({ length: 6 }, (_, k) => (k + i) % 3)),
});

const valuesOf = (model: Module): Map<string, number[]> =>
  new Map([...model.stateDict()].map(([name, tensor]) => [name, Array.from(tensor.dataSync())]));

async function stepsOf(model: Module, optimizer: Optimizer, from: number, to: number): Promise<void> {
  for (let i = from; i < to; i++) {
    const { x, labels } = batchOf(i);
    await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
  }
}

const methods: readonly Method[] = [
  ...positiveMethods,
  // Draws labels: the stream is part of what a resumed run must go on with.
  ["K-FAC with the Fisher mc", (parameters, common) => new Kfac(parameters, { ...common, fisher: "mc", fisherSeed: 3 })],
  ["SENG", (parameters, common) => new Seng(parameters, { momentum: 0, ...common, columns: 3 })],
];

describe("a network on another backend than the default one", () => {
  it.each(methods)("is trained by %s there", async (_, make) => {
    const backend = await openBackend("wasm", { threads: 1 });
    try {
      const before = defaultBackend();
      setDefaultBackend(backend);
      const [model, { x, labels }] = [new Network(), batchOf(0)];
      setDefaultBackend(before);
      expect(before).not.toBe(backend);
      const optimizer = make(model.parameters(), { learningRate: 0.1 });
      for (let step = 0; step < 2; step++) await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
      optimizer.dispose();
    } finally {
      backend.close?.();
    }
  });
});

eachBackend(() => {
  describe("parameters without a block", () => {
    // SENG takes the Fisher matrix of these for the identity, so that it divides their gradients by 1 + λ.
    it.each(methods.filter(([name]) => !name.startsWith("SENG")))(
      "get from %s exactly what SGD with the same rate, decay and momentum gives them",
      async (_, make) => {
        const common = { learningRate: (step: number) => 0.05 / (step + 1), momentum: 0.9, weightDecay: 0.01 };
        const [model, plain] = [new Network(), new Network()];
        const optimizer = make(model.parameters(), { ...common, clip: { kl: 1e-6 }, factorUpdateEvery: 1 } as Parameters<typeof make>[1]);
        // Both networks have the same values before every step, so that the gradients are the same, too.
        const sgd = new Sgd(plain.parameters(), common);
        for (let step = 0; step < 3; step++) {
          await stepsOf(model, optimizer, step, step + 1);
          await stepsOf(plain, sgd, step, step + 1);
          const [own, others] = [valuesOf(model), valuesOf(plain)];
          for (const name of WITHOUT_BLOCK) expect(own.get(name)).toEqual(others.get(name));
          expect(own.get("body.0.weight")).not.toEqual(others.get("body.0.weight"));
          for (const [name, parameter] of plain.namedParameters()) parameter.assign(model.namedParameters().get(name)?.value as Tensor);
        }
        const plainly = optimizer.registration().filter(({ block }) => block === null);
        expect(new Set(plainly.map(({ parameter }) => parameter))).toEqual(new Set(WITHOUT_BLOCK));
        optimizer.dispose();
      },
    );
  });

  describe("parameters without a block get from SENG", () => {
    it("what SGD gives them at a rate divided by 1 + λ: their Fisher matrix counts as the identity", async () => {
      const [lambda, common] = [3, { learningRate: 0.05, momentum: 0.9 }];
      const [model, plain] = [new Network(), new Network()];
      const seng = new Seng(model.parameters(), { ...common, damping: lambda, columns: 3 });
      const sgd = new Sgd(plain.parameters(), { ...common, learningRate: common.learningRate / (1 + lambda) });
      for (let step = 0; step < 3; step++) {
        await stepsOf(model, seng, step, step + 1);
        await stepsOf(plain, sgd, step, step + 1);
        const [own, others] = [valuesOf(model), valuesOf(plain)];
        // 1 / (1 + λ) is applied to the gradient, or to the rate: one rounding apart.
        for (const name of WITHOUT_BLOCK) expect(own.get(name) ?? []).toBeAllclose(others.get(name) ?? [], { relative: 1e-14 });
        for (const [name, parameter] of plain.namedParameters()) parameter.assign(model.namedParameters().get(name)?.value as Tensor);
      }
      for (const optimizer of [seng, sgd]) optimizer.dispose();
    });
  });

  describe("weight decay of the preset `paper`", () => {
    it("is off for the first 20 factor updates, which is 200 steps, and on from then on", async () => {
      const model = (): Sequential => new Sequential(new Linear(2, 2, { ...options, generator: new Generator(3) }));
      const x = new Generator(4).normal([4, 2], options);
      const labels = Tensor.from(Int32Array.of(0, 1, 1, 0));
      const runs = [0.01, 0].map((weightDecay) => {
        const own = model();
        const config = parseConfig({ optimizer: "kfac", preset: "paper", weightDecay });
        return { own, optimizer: makeOptimizer(own.parameters(), config, 1000) };
      });
      for (let step = 0; step <= 200; step++) {
        for (const { own, optimizer } of runs) await optimizer.minimize(() => crossEntropy(own.forward(x), labels));
        const [decayed, plain] = runs.map(({ own }) => valuesOf(own));
        if (step < 200) expect(decayed).toEqual(plain);
        else expect(decayed).not.toEqual(plain);
      }
      for (const { optimizer } of runs) optimizer.dispose();
    });
  });

  describe("a saved state", () => {
    it.each(methods)("of %s goes on bit for bit: factors, counters, random streams and the last inverse", async (_, make) => {
      const common = { learningRate: 0.05, momentum: 0.5, factorUpdateEvery: 2, inversionEvery: 4 } as Parameters<typeof make>[1];
      const run = async (interrupted: readonly number[]): Promise<Map<string, number[]>> => {
        const model = new Network();
        let optimizer = make(model.parameters(), common);
        for (let step = 0; step < 9; step++) {
          if (interrupted.includes(step)) {
            const state = optimizer.state();
            optimizer.dispose();
            optimizer = make(model.parameters(), common);
            optimizer.load(state);
            for (const { tensors } of state.transforms) for (const tensor of tensors.values()) tensor.dispose();
          }
          await stepsOf(model, optimizer, step, step + 1);
        }
        optimizer.dispose();
        return valuesOf(model);
      };
      const whole = await run([]);
      // Between a factor update and the inversion, right before one, and twice in a row.
      for (const interrupted of [[1], [3], [4], [5, 6]]) expect(await run(interrupted)).toEqual(whole);
    });
  });

  describe("the capture", () => {
    const identityBlock = (seen: () => void, due: (step: number) => boolean): CurvatureBlock => ({
      method: "look",
      needs: (step) => ({ curvature: due(step), gradient: due(step) }),
      observe: (view) => {
        seen();
        if (view.kind === "scaleShift") view.channelMoments();
        else {
          view.inputCovariance();
          view.outputCovariance();
          view.gram();
        }
      },
      refresh: () => Promise.resolve(),
      precondition: (gradient) => gradient,
      state: (): BlockState => ({ tensors: new Map(), numbers: {} }),
      load: () => undefined,
      dispose: () => undefined,
    });

    it.each(["empirical", "mc", "type-2"] as const)(
      "changes no bit of loss, gradient, parameter, running statistic or random stream (%s)",
      async (fisher) => {
        const run = async (watched: boolean): Promise<unknown> => {
          const model = new Network();
          const parameters = model.parameters();
          let seen = 0;
          const block = identityBlock(
            () => seen++,
            () => true,
          );
          const precondition = new Precondition(parameters, "look", () => block, { fisher, scaleShift: true });
          const found: unknown[] = [];
          // After the passes and the blocks: the gradients, which every optimizer starts from.
          const look = stateless((gradient, parameter) => {
            found.push([parameter.name, gradient.dataSync()]);
            return gradient;
          });
          const optimizer = watched
            ? new Optimizer(parameters, { learningRate: 0.1, transforms: [precondition, look], precondition })
            : new Optimizer(parameters, { learningRate: 0.1, transforms: [look] });
          for (let i = 0; i < 3; i++) {
            const { x, labels } = batchOf(i);
            const { loss, logits } = await optimizer.step(() => {
              const logits = model.forward(x);
              return { loss: crossEntropy(logits, labels), logits };
            });
            found.push(loss.dataSync(), logits.dataSync(), valuesOf(model), model.dropout.generator.state());
          }
          expect(seen > 0).toBe(watched);
          optimizer.dispose();
          return found;
        };
        expect(await run(true)).toEqual(await run(false));
      },
    );

    it("costs nothing in a step in which no block needs anything: not one buffer more than plain SGD, at no time", async () => {
      const { x, labels } = batchOf(0);
      const peaks = async (make: (parameters: Parameter[]) => Optimizer): Promise<number[]> => {
        const model = new Network();
        const optimizer = make(model.parameters());
        const found: number[] = [];
        for (let step = 0; step < 4; step++) {
          const before = await settledBuffers();
          defaultBackend().resetPeak();
          await optimizer.minimize(() => crossEntropy(model.forward(x), labels));
          found.push(defaultBackend().memory().peakBuffers - before);
        }
        optimizer.dispose();
        return found;
      };
      const plain = await peaks((parameters) => new Optimizer(parameters, { learningRate: 0.1, transforms: [] }));
      const quiet = await peaks((parameters) => {
        const block = identityBlock(
          () => undefined,
          (step) => step === 0,
        );
        const precondition = new Precondition(parameters, "look", () => block);
        // Beside the chain: what a quiet step pays is capture alone.
        return new Optimizer(parameters, { learningRate: 0.1, transforms: [], precondition });
      });
      expect(quiet[0]).toBeGreaterThan(plain[0] as number);
      expect(quiet.slice(1)).toEqual(plain.slice(1));
    });
  });
});

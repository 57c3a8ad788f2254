import { describe, expect, it } from "vitest";
import { record, valueAndGrad } from "../../src/autograd/index.ts";
import {
  BatchNorm2d,
  Conv2d,
  crossEntropy,
  Dropout,
  Flatten,
  Linear,
  MaxPool2d,
  meanSquaredError,
  Module,
  Parameter,
  ReLU,
  Sequential,
} from "../../src/nn/index.ts";
import {
  Capture,
  Kfac,
  Optimizer,
  Precondition,
  RecordedView,
  releaseRecords,
  RsKfac,
  Sgd,
  type LayerRecord,
} from "../../src/optim/index.ts";
import { conv2d, defaultBackend, Generator, linear, tidy, Tensor, type Shape } from "../../src/tensor/index.ts";
import { settledBuffers } from "../settled.ts";

const options = { dtype: "float64" } as const;

function normal(shape: Shape, seed: number): Tensor {
  return new Generator(seed).normal(shape, options);
}

/** Records of one pass, their view, and the gradients. */
function captured(
  loss: () => Tensor,
  parameters: Parameter[],
  weight: Parameter,
): { view: RecordedView; records: LayerRecord[]; gradients: Tensor[]; value: number } {
  const records: LayerRecord[] = [];
  const observe = new Capture([weight], parameters, "mean").observer(records);
  const { value, gradients } = valueAndGrad(loss, parameters, { observe });
  return {
    view: new RecordedView([{ training: records, fisher: [records], share: 1 }]),
    records,
    gradients,
    value: value.dataSync()[0] as number,
  };
}

/** Σ over rows of xᵀx, times scale. */
function outer(rows: Tensor, scale: number): Float64Array {
  return tidy(() => rows.matmul(rows, { transposeA: true }).multiply(scale)).dataSync() as Float64Array;
}

const withOnes = (rows: Tensor): Tensor => {
  const data = rows.dataSync();
  const [n, d] = rows.shape as [number, number];
  return Tensor.from(
    Float64Array.from({ length: n * (d + 1) }, (_, i) =>
      i % (d + 1) === d ? 1 : (data[Math.floor(i / (d + 1)) * d + (i % (d + 1))] as number),
    ),
    { shape: [n, d + 1] },
  );
};

describe("a layer that is called twice", () => {
  // y = W·tanh(W x + b) + b with x [n, 3]: both calls by hand.
  const n = 5;
  const weight = new Parameter("weight", normal([3, 3], 1));
  const bias = new Parameter("bias", normal([3], 2));
  const x = normal([n, 3], 3);
  const target = normal([n, 3], 4);
  const layer = (input: Tensor): Tensor => linear(input, weight.value, bias.value);
  const { view, gradients } = captured(() => meanSquaredError(layer(layer(x).tanh()), target), [weight, bias], weight);

  // By hand: s₁ = W x + b, h = tanh s₁, s₂ = W h + b, g₂ = ∂ℓ/∂s₂, g₁ = (g₂ W)(1 − h²).
  const h = layer(x).tanh();
  const g2 = layer(h)
    .subtract(target)
    .multiply(2 / (n * 3));
  const g1 = g2.matmul(weight.value).multiply(h.square().negative().add(1));
  const [a1, a2] = [withOnes(x), withOnes(h)];

  it("has as input factor the sum over both calls", () => {
    const expected = outer(a1, 1 / n).map((v, i) => v + (outer(a2, 1 / n)[i] as number));
    expect(view.inputCovariance().dataSync()).toBeAllclose(expected, { relative: 1e-12 });
  });
  it("has as output factor the mean over samples and both calls", () => {
    const scale = n ** 2 / (n * 2);
    const expected = outer(g1, scale).map((v, i) => v + (outer(g2, scale)[i] as number));
    expect(view.outputCovariance().dataSync()).toBeAllclose(expected, { relative: 1e-12 });
  });
  it("has as gradient the sum over both calls, which the samples' gradients average to", () => {
    const byHand = g1
      .matmul(a1, { transposeA: true })
      .add(g2.matmul(a2, { transposeA: true }))
      .dataSync();
    const w = (gradients[0] as Tensor).dataSync();
    const b = (gradients[1] as Tensor).dataSync();
    const matrix = Float64Array.from(
      { length: 12 },
      (_, i) => (i % 4 === 3 ? b[Math.floor(i / 4)] : w[Math.floor(i / 4) * 3 + (i % 4)]) as number,
    );
    expect(matrix).toBeAllclose(byHand, { relative: 1e-12 });
    const { a, g } = view.perSample(0, n);
    const mean = g.matmul(a, { transposeA: true }).mean(0).dataSync();
    expect(mean).toBeAllclose(byHand, { relative: 1e-12 });
  });
  it("counts both calls as positions, so it has no thin factors", () => {
    expect(view.positions).toBe(2);
    expect(() => view.thinInput()).toThrow(/one position/);
  });
});

describe("a weight that two modules share", () => {
  class Tied extends Module {
    readonly first = new Linear(4, 4, { ...options, generator: new Generator(5) });
    readonly second = new Linear(4, 4, { ...options, generator: new Generator(6) });
    constructor() {
      super();
      Object.assign(this.second, { weight: this.first.weight, bias: this.first.bias });
    }
    protected compute(input: Tensor): Tensor {
      return this.second.forward(this.first.forward(input).tanh());
    }
  }
  const n = 6;
  const model = new Tied();
  const [x, target] = [normal([n, 4], 7), normal([n, 4], 8)];

  it("appears once among the parameters and is captured with both calls", () => {
    const parameters = model.parameters();
    expect(parameters.map((p) => p.name)).toEqual(["first.weight", "first.bias"]);
    const weight = parameters[0] as Parameter;
    const { view, records } = captured(() => meanSquaredError(model.forward(x), target), parameters, weight);
    expect(records).toHaveLength(2);
    const s = linear(x, weight.value, (parameters[1] as Parameter).value);
    const expected = outer(withOnes(x), 1 / n).map((v, i) => v + (outer(withOnes(s.tanh()), 1 / n)[i] as number));
    expect(view.inputCovariance().dataSync()).toBeAllclose(expected, { relative: 1e-12 });
    view.dispose();
    releaseRecords(records);
  });
});

describe("calls with and without the bias", () => {
  it("pad the homogeneous coordinate with 0 where the bias is left out, dense and convolutional", () => {
    const dense = { weight: new Parameter("w", normal([3, 3], 1)), bias: new Parameter("b", normal([3], 2)) };
    const x = normal([4, 3], 3);
    const { view } = captured(
      () => linear(linear(x, dense.weight.value), dense.weight.value, dense.bias.value).square().mean(),
      [dense.weight, dense.bias],
      dense.weight,
    );
    const a = view.inputCovariance().dataSync();
    expect(a[15]).toBeCloseTo(1, 12); // (1/n) Σ over the one call with a bias

    const conv = { weight: new Parameter("w", normal([2, 3, 3, 2], 4)), bias: new Parameter("b", normal([2], 5)) };
    const image = normal([3, 5, 5, 2], 6);
    const twice = captured(
      () =>
        conv2d(conv2d(image, conv.weight.value, null, { padding: 1 }), conv.weight.value, conv.bias.value, { padding: 1 })
          .square()
          .mean(),
      [conv.weight, conv.bias],
      conv.weight,
    ).view;
    const d = twice.dA;
    expect(twice.inputCovariance().dataSync()[d * d - 1]).toBeCloseTo(25, 10);
    const { a: rows } = twice.perSample(0, 3);
    expect(outer(rows.reshape([-1, d]), 1 / 3)).toBeAllclose(twice.inputCovariance().dataSync(), { relative: 1e-12 });
  });
});

describe("the quantities of a view agree with each other", () => {
  it.each([
    ["dense", true],
    ["dense", false],
    ["convolution", true],
    ["convolution", false],
  ] as const)("%s layer, bias %s", (kind, hasBias) => {
    const n = 4;
    const weight = new Parameter("w", kind === "dense" ? normal([3, 5], 1) : normal([3, 3, 2, 2], 1));
    const bias = hasBias ? new Parameter("b", normal([3], 2)) : null;
    const x = kind === "dense" ? normal([n, 5], 3) : normal([n, 6, 5, 2], 3);
    const call = (): Tensor =>
      kind === "dense"
        ? linear(x, weight.value, bias?.value)
        : conv2d(x, weight.value, bias?.value, { stride: [2, 1], padding: { top: 1, bottom: 0, left: 0, right: 2 } });
    const parameters = bias ? [weight, bias] : [weight];
    const { view, gradients } = captured(
      () =>
        call()
          .square()
          .sum([1, ...(kind === "dense" ? [] : [2, 3])])
          .mean(),
      parameters,
      weight,
    );
    const { a, g } = view.perSample(0, n);
    const d = view.dA;
    expect(outer(a.reshape([-1, d]), 1 / n)).toBeAllclose(view.inputCovariance().dataSync(), { relative: 1e-12 });
    expect(outer(g.reshape([-1, 3]), 1 / (n * view.positions))).toBeAllclose(view.outputCovariance().dataSync(), { relative: 1e-12 });
    const each = g.matmul(a, { transposeA: true });
    const mean = each
      .mean(0)
      .slice([0, 0], [3, d - (bias ? 1 : 0)])
      .dataSync();
    expect(mean).toBeAllclose((gradients[0] as Tensor).dataSync(), { relative: 1e-12 });
    const flat = each.reshape([n, 3 * d]);
    expect(view.gram().dataSync()).toBeAllclose(flat.matmul(flat, { transposeB: true }).dataSync(), { relative: 1e-12 });
    const part = view.perSample(1, 3);
    expect(part.a.dataSync()).toEqual(a.slice([1, 0, 0], [2, ...a.shape.slice(1)]).dataSync());
    if (view.positions === 1) {
      const [c, e] = [view.thinInput(), view.thinOutputGradient()];
      expect(c.matmul(c, { transposeB: true }).dataSync()).toBeAllclose(view.inputCovariance().dataSync(), { relative: 1e-12 });
      expect(e.matmul(e, { transposeB: true }).dataSync()).toBeAllclose(view.outputCovariance().dataSync(), { relative: 1e-12 });
      expect(e.matmul(c, { transposeB: true }).dataSync()).toBeAllclose(each.mean(0).dataSync(), { relative: 1e-12 });
    }
  });

  it("a 1 × 1 convolution is a dense layer with positions", () => {
    const n = 3;
    const weight = new Parameter("w", normal([4, 2], 1));
    const kernel = new Parameter("k", weight.value.reshape([4, 1, 1, 2]));
    const x = normal([n, 2, 3, 2], 2);
    const dense = captured(() => linear(x, weight.value).square().mean(), [weight], weight).view;
    const conv = captured(() => conv2d(x, kernel.value).square().mean(), [kernel], kernel).view;
    expect([dense.positions, dense.dA, dense.dOut]).toEqual([conv.positions, conv.dA, conv.dOut]);
    expect(dense.inputCovariance().dataSync()).toBeAllclose(conv.inputCovariance().dataSync(), { relative: 1e-13 });
    expect(dense.outputCovariance().dataSync()).toBeAllclose(conv.outputCovariance().dataSync(), { relative: 1e-13 });
  });

  it("micro-batches give the covariances of the whole batch", () => {
    const weight = new Parameter("w", normal([3, 4], 1));
    const bias = new Parameter("b", normal([3], 2));
    const x = normal([6, 4], 3);
    const part = (from: number, to: number): LayerRecord[] => {
      const records: LayerRecord[] = [];
      const rows = x.slice([from, 0], [to - from, 4]);
      valueAndGrad(() => linear(rows, weight.value, bias.value).square().sum(1).mean(), [weight, bias], {
        observe: new Capture([weight], [weight, bias], "mean").observer(records),
      });
      return records;
    };
    const whole = part(0, 6);
    const parts = [part(0, 2), part(2, 6)];
    const one = new RecordedView([{ training: whole, fisher: [whole], share: 1 }]);
    const several = new RecordedView(parts.map((records) => ({ training: records, fisher: [records], share: 1 / 2 })));
    expect(several.n).toBe(6);
    expect(several.inputCovariance().dataSync()).toBeAllclose(one.inputCovariance().dataSync(), { relative: 1e-13 });
    expect(several.outputCovariance().dataSync()).toBeAllclose(one.outputCovariance().dataSync(), { relative: 1e-13 });
    expect(several.thinInput().dataSync()).toBeAllclose(one.thinInput().dataSync(), { relative: 1e-13 });
    expect(several.gram().dataSync()).toBeAllclose(one.gram().dataSync(), { relative: 1e-13 });
  });

  it("a loss that sums over samples gives the factors of one that averages", () => {
    const weight = new Parameter("w", normal([3, 4], 1));
    const x = normal([5, 4], 2);
    const factors = (reduction: "mean" | "sum"): Float64Array => {
      const records: LayerRecord[] = [];
      const observe = new Capture([weight], [weight], reduction).observer(records);
      valueAndGrad(
        () => {
          const rows = linear(x, weight.value).square().sum(1);
          return reduction === "sum" ? rows.sum() : rows.mean();
        },
        [weight],
        { observe },
      );
      return new RecordedView([{ training: records, fisher: [records], share: 1 }]).outputCovariance().dataSync() as Float64Array;
    };
    expect(factors("sum")).toBeAllclose(factors("mean"), { relative: 1e-13 });
  });
});

// ── capture changes nothing ──

function network(seed: number): { model: Sequential; dropout: Dropout } {
  const generator = new Generator(seed);
  const dropout = new Dropout(0.3, { generator: new Generator(99) });
  const model = new Sequential(
    new Conv2d(2, 3, 3, { padding: 1, generator, ...options }),
    new BatchNorm2d(3, options),
    new ReLU(),
    new MaxPool2d(2),
    new Flatten(),
    new Linear(12, 6, { generator, ...options }),
    new ReLU(),
    dropout,
    new Linear(6, 3, { generator, ...options }),
  );
  return { model, dropout };
}

const images = normal([6, 4, 4, 2], 11);
const labels = Tensor.from(Int32Array.from([0, 1, 2, 0, 1, 2]));

describe("observing", () => {
  it("changes no output, gradient or random state", () => {
    const run = (observed: boolean): unknown => {
      const { model, dropout } = network(1);
      const parameters = model.parameters();
      const records: LayerRecord[] = [];
      const observe = observed ? new Capture(parameters, parameters, "mean").observer(records) : undefined;
      const recording = record(() => {
        const logits = model.forward(images);
        return { logits, loss: crossEntropy(logits, labels) };
      }, parameters);
      const { logits, loss } = recording.value;
      const gradients = recording.reverse([[loss, Tensor.ones([], options)]], { observe });
      releaseRecords(records);
      return [
        logits.dataSync(),
        gradients.map((g) => g?.dataSync()),
        dropout.generator.state(),
        [...model.namedBuffers()].map(([, b]) => b.value.dataSync()),
      ];
    };
    expect(run(true)).toEqual(run(false));
  });

  it("is left out in steps in which no block needs anything: there is no observer, and the step holds less", async () => {
    const peakOf = async (optimizer: Optimizer, model: Sequential): Promise<number> => {
      const before = defaultBackend().memory().buffers;
      defaultBackend().resetPeak();
      await optimizer.minimize(() => crossEntropy(model.forward(images), labels));
      return defaultBackend().memory().peakBuffers - before;
    };
    const { model } = network(2);
    // A block that looks at step 0 and is the identity: what remains of curvature in later steps is capture alone.
    const looks = (step: number): boolean => step === 0;
    const precondition = new Precondition(model.parameters(), "look", () => ({
      method: "look",
      needs: (step) => ({ curvature: looks(step), gradient: looks(step) }),
      observe: () => undefined,
      refresh: () => Promise.resolve(),
      precondition: (gradient) => gradient,
      state: () => ({ tensors: new Map(), numbers: {} }),
      load: () => undefined,
      dispose: () => undefined,
    }));
    expect(precondition.capture(0)).not.toBeNull();
    precondition.endStep();
    const optimizer = new Optimizer(model.parameters(), { learningRate: 0.01, transforms: [precondition], precondition });
    const seeing = await peakOf(optimizer, model);
    expect(precondition.capture(1)).toBeNull();
    const quiet = await peakOf(optimizer, model);
    expect(seeing).toBeGreaterThan(quiet);
  });

  it("is not disturbed by a tidy inside the loss closure, nor by a nested tape", async () => {
    const run = async (wrap: (loss: () => Tensor, parameters: Parameter[]) => Tensor): Promise<number[]> => {
      const { model } = network(3);
      const parameters = model.parameters();
      const optimizer = new Kfac(parameters, { learningRate: 0.1, factorUpdateEvery: 1, inversionEvery: 1 });
      for (let i = 0; i < 3; i++) await optimizer.minimize(() => wrap(() => crossEntropy(model.forward(images), labels), parameters));
      return parameters.flatMap((p) => [...p.value.dataSync()]);
    };
    const plain = await run((loss) => loss());
    expect(await run((loss) => tidy(loss))).toEqual(plain);
    const other = new Parameter("other", normal([3], 1));
    expect(
      await run((loss) => {
        valueAndGrad(() => other.value.square().sum(), [other]);
        return loss();
      }),
    ).toEqual(plain);
  });

  it("leaves no tensor behind, even when the loss closure throws half way", async () => {
    const { model } = network(4);
    const optimizer = new Kfac(model.parameters(), { learningRate: 0.01, factorUpdateEvery: 1 });
    await optimizer.minimize(() => crossEntropy(model.forward(images), labels));
    await optimizer.minimize(() => crossEntropy(model.forward(images), labels));
    const before = await settledBuffers();
    const good = (): Tensor => crossEntropy(model.forward(images), labels);
    await expect(
      optimizer.minimize([
        good,
        () => {
          throw new Error("half way");
        },
      ]),
    ).rejects.toThrow("half way");
    // The loss of the good step before was released as this one began.
    expect(defaultBackend().memory().buffers).toBe(before - 1);
    await optimizer.minimize(good);
    expect(defaultBackend().memory().buffers).toBe(before);
  });
});

describe("thin factors of the training pass", () => {
  const weight = new Parameter("w", normal([3, 4], 1));
  const bias = new Parameter("b", normal([3], 2));
  const x = normal([6, 4], 3);
  /** Looks at the view of a step and at its gradient. */
  const product = async (
    closures: (() => Tensor)[],
    reduction: "mean" | "sum",
  ): Promise<{ thin: Float64Array; gradient: Float64Array }> => {
    let thin = new Float64Array();
    let gradient = new Float64Array();
    const precondition = new Precondition(
      [weight, bias],
      "thin",
      () => ({
        method: "thin",
        needs: () => ({ curvature: false, gradient: true }),
        observe: (view) => {
          thin = view.thinOutputGradient("training").matmul(view.thinInput(), { transposeB: true }).dataSync() as Float64Array<ArrayBuffer>;
        },
        refresh: () => Promise.resolve(),
        precondition: (j) => {
          gradient = j.dataSync() as Float64Array<ArrayBuffer>;
          return j;
        },
        state: () => ({ tensors: new Map(), numbers: {} }),
        load: () => undefined,
        dispose: () => undefined,
      }),
      { reduction },
    );
    await new Optimizer([weight, bias], { learningRate: 0, transforms: [precondition], precondition }).minimize(closures);
    return { thin, gradient };
  };
  const rowsOf = (from: number, to: number): Tensor =>
    linear(x.slice([from, 0], [to - from, 4]), weight.value, bias.value)
      .square()
      .sum(1);

  it.each([
    ["of a mean", [() => rowsOf(0, 6).mean()], "mean"],
    ["of a sum", [() => rowsOf(0, 6).sum()], "sum"],
    ["of uneven micro-batches", [() => rowsOf(0, 2).mean(), () => rowsOf(2, 6).mean()], "mean"],
    ["of uneven micro-batches that sum", [() => rowsOf(0, 2).sum(), () => rowsOf(2, 6).sum()], "sum"],
  ] as const)("%s multiply to the gradient", async (_, closures, reduction) => {
    const { thin, gradient } = await product([...closures], reduction);
    expect(thin).toBeAllclose(gradient, { relative: 1e-13 });
  });
});

describe("a weight that is first met in a quiet step", () => {
  it.each(["empirical", "type-2"] as const)("is observed, inverted and preconditioned at once (%s)", async (fisher) => {
    const make = (): { first: Linear; second: Linear; parameters: Parameter[] } => {
      const [first, second] = [4, 5].map((seed) => new Linear(4, 4, { ...options, generator: new Generator(seed) })) as [Linear, Linear];
      const parameters = [...first.parameters(), ...second.parameters()];
      parameters.forEach((p, i) => (p.name = `p${i}`));
      return { first, second, parameters };
    };
    const x = normal([6, 4], 1);
    const four = Tensor.from(Int32Array.from([0, 1, 2, 3, 0, 1]));
    const settings = { learningRate: 0, fisher, factorUpdateEvery: 10, inversionEvery: 10 };
    const late = make();
    const optimizer = new Kfac(late.parameters, { ...settings, learningRate: (step) => (step === 3 ? 1 : 0), clip: false });
    const through = (net: ReturnType<typeof make>, deep: boolean): Tensor => {
      const hidden = net.first.forward(x);
      return crossEntropy(deep ? net.second.forward(hidden.tanh()) : hidden, four);
    };
    for (let i = 0; i < 3; i++) await optimizer.minimize(() => through(late, false));
    expect(optimizer.registration().map(({ block }) => block)).toEqual(["kfac (cholesky)", "kfac (cholesky)", null, null]);
    await optimizer.minimize(() => through(late, true));
    expect(optimizer.registration().every(({ block }) => block === "kfac (cholesky)")).toBe(true);
    // Nothing had moved before step 3, so a fresh optimizer's first step is the same for the second layer.
    const fresh = make();
    await new Kfac(fresh.parameters, { ...settings, learningRate: 1, clip: false }).minimize(() => through(fresh, true));
    expect(late.second.weight.value.dataSync()).toBeAllclose(fresh.second.weight.value.dataSync(), { relative: 1e-13 });
  });
});

describe("a bias that a quiet step leaves out", () => {
  it("stays where it is, and its column counts as 0 in the layer's matrix", async () => {
    const layer = new Linear(4, 3, { ...options, generator: new Generator(1) });
    const optimizer = new Kfac(layer.parameters(), { learningRate: 0.1, inverse: "eigh", factorUpdateEvery: 5 });
    const x = normal([6, 4], 1);
    const bias = layer.bias as Parameter;
    await optimizer.minimize(() => crossEntropy(layer.forward(x), labels));
    const [w, b] = [layer.weight.value.dataSync(), bias.value.dataSync()];
    await optimizer.minimize(() => crossEntropy(linear(x, layer.weight.value), labels));
    expect(bias.value.dataSync()).toEqual(b);
    expect(layer.weight.value.dataSync()).not.toEqual(w);
    expect(layer.weight.value.dataSync().every(Number.isFinite)).toBe(true);
  });
});

describe("a weight whose calls do not make one layer", () => {
  const four = Tensor.from(Int32Array.from([0, 1, 2, 3, 0, 1]));
  const x = normal([6, 4], 1);
  const layer = (seed: number): Linear => new Linear(4, 4, { ...options, generator: new Generator(seed) });
  const reasons = (optimizer: Kfac): string[] => optimizer.registration().map(({ reason }) => reason);

  it("gets no block when its bias is another layer's too", async () => {
    const [first, second, third] = [layer(1), layer(2), layer(3)];
    const bias = first.bias as Parameter;
    const parameters = [first.weight, second.weight, bias, ...third.parameters()];
    parameters.forEach((p, i) => (p.name = `p${i}`));
    const optimizer = new Kfac(parameters, { learningRate: 0.1 });
    await optimizer.minimize(() => {
      const hidden = linear(linear(x, first.weight.value, bias.value).tanh(), second.weight.value, bias.value);
      return crossEntropy(third.forward(hidden), four);
    });
    expect(reasons(optimizer).slice(0, 2)).toEqual(['its bias is shared with "p1"', 'its bias is shared with "p0"']);
    expect(optimizer.registration()[3]?.block).toBe("kfac (cholesky)");
  });

  it("gets no block when it sees batches of two sizes, or its bias comes and goes", async () => {
    const [first, second, third] = [layer(1), layer(2), layer(3)];
    const parameters = [...first.parameters(), ...second.parameters(), ...third.parameters()];
    parameters.forEach((p, i) => (p.name = `p${i}`));
    const optimizer = new Kfac(parameters, { learningRate: 0.1, factorUpdateEvery: 1 });
    let withBias = true;
    const loss = (): Tensor => {
      const small = first.forward(first.forward(x).slice([0, 0], [3, 4]));
      const hidden = linear(x, second.weight.value, withBias ? (second.bias as Parameter).value : null);
      return crossEntropy(third.forward(hidden), four).add(small.square().mean());
    };
    await optimizer.minimize(loss);
    withBias = false;
    await optimizer.minimize(loss);
    expect(reasons(optimizer)[0]).toBe("called with batches of two sizes");
    expect(reasons(optimizer)[2]).toBe("called with its bias in one step and without it in another");
    expect(optimizer.registration()[4]?.block).toBe("kfac (cholesky)");
  });

  it("gets none after a resume either, where it would be one: the resumed run is the other one's", async () => {
    const after = async (interrupted: boolean): Promise<unknown[]> => {
      const [first, second] = [layer(1), layer(2)];
      const parameters = [...first.parameters(), ...second.parameters()];
      const make = (): Kfac => new Kfac(parameters, { learningRate: 0.1, factorUpdateEvery: 1, inversionEvery: 1 });
      let optimizer = make();
      const step = (withBias: boolean): Promise<Tensor> =>
        optimizer.minimize(() => {
          const hidden = linear(x, first.weight.value, withBias ? (first.bias as Parameter).value : null);
          return crossEntropy(second.forward(hidden.tanh()), four);
        });
      for (const withBias of [true, false]) await step(withBias);
      if (interrupted) {
        const state = optimizer.state();
        optimizer.dispose();
        optimizer = make();
        optimizer.load(state);
        expect(reasons(optimizer)[0]).toBe("it had none when the state was saved that was loaded");
      }
      for (let i = 0; i < 2; i++) await step(true);
      return [optimizer.registration().map(({ block }) => block), ...parameters.map(({ value }) => [...value.dataSync()])];
    };
    const whole = await after(false);
    expect(whole[0]).toEqual([null, null, "kfac (cholesky)", "kfac (cholesky)"]);
    expect(await after(true)).toEqual(whole);
  });
});

describe("the registration table", () => {
  it("says which parameters are preconditioned and why others are not", async () => {
    const { model } = network(5);
    const parameters = model.parameters();
    const grouped = new Conv2d(2, 2, 3, { groups: 2, ...options });
    const tied = new Parameter("tied", normal([2, 2], 1));
    const free = new Parameter("free", normal([2, 2], 2));
    const [w, b] = [grouped.weight, grouped.bias as Parameter];
    [w.name, b.name] = ["grouped.weight", "grouped.bias"];
    const optimizer = new Kfac([...parameters, w, b, tied, free], { learningRate: 0.01 });
    const x = normal([3, 2], 3);
    await optimizer.minimize(() =>
      crossEntropy(model.forward(images), labels)
        .add(grouped.forward(images).square().mean())
        .add(linear(x.matmul(tied.value), tied.value).square().mean()),
    );
    const rows = new Map(optimizer.registration().map((row) => [row.parameter, row]));
    expect(rows.get("0.weight")).toEqual({ parameter: "0.weight", block: "kfac (cholesky)", reason: "" });
    expect(rows.get("0.bias")?.block).toBe("kfac (cholesky)");
    const reason = "no weight of a linear or conv2d call, nor the bias of one that has a block";
    expect(rows.get("1.weight")).toEqual({ parameter: "1.weight", block: null, reason });
    expect(rows.get("grouped.bias")?.reason).toBe(reason);
    expect(rows.get("grouped.weight")?.reason).toBe("a convolution with groups > 1");
    expect(rows.get("tied")?.reason).toBe("also used by matmul");
    expect(rows.get("free")?.reason).toBe("not met yet in a linear or conv2d call");
  });
});

describe("weights that are skipped", () => {
  const [x, four] = [normal([6, 4], 1), Tensor.from(Int32Array.from([0, 1, 2, 3, 0, 1]))];
  const layers = (...names: string[]): Parameter[] =>
    names.flatMap((name, i) => {
      const parameters = new Linear(4, 4, { ...options, generator: new Generator(i) }).parameters();
      parameters.forEach((parameter) => (parameter.name = `${name}.${parameter.name}`));
      return parameters;
    });
  const loss = (parameters: readonly Parameter[]) => (): Tensor => {
    let y = x;
    for (let i = 0; i < parameters.length; i += 2) {
      y = linear(i === 0 ? y : y.tanh(), (parameters[i] as Parameter).value, (parameters[i + 1] as Parameter).value);
    }
    return crossEntropy(y, four);
  };

  it.each([
    ["a name", ["b.1.weight"], ["b.1"]],
    ["several names", ["b.1.weight", "head.weight"], ["b.1", "head"]],
    ["a name with *", ["b.*"], ["b.1", "b.2"]],
    ["a name with * within", ["*.1.w*t"], ["b.1"]],
    ["a function", ({ name }: Parameter) => name.startsWith("b"), ["b.1", "b.2"]],
  ] as const)("by %s take exactly the plain step, their biases too, and the table says why", async (_, skip, skipped) => {
    const [parameters, others] = [layers("b.1", "b.2", "bb", "head"), layers("b.1", "b.2", "bb", "head")];
    const own = typeof skip === "function" ? (weight: Parameter) => skip(weight) && weight.name !== "bb.weight" : skip;
    const optimizer = new Kfac(parameters, { learningRate: 0.1, skip: own, momentum: 0.5 });
    const plain = new Sgd(others, { learningRate: 0.1, momentum: 0.5 });
    await optimizer.minimize(loss(parameters));
    await plain.minimize(loss(others));
    for (const [i, { name, value }] of parameters.entries()) {
      const equal = expect([...value.dataSync()]);
      const expected = [...(others[i] as Parameter).value.dataSync()];
      if (skipped.some((layer) => name.startsWith(`${layer}.`))) equal.toEqual(expected);
      else equal.not.toEqual(expected);
    }
    const rows = optimizer.registration().filter(({ block }) => block === null);
    expect(rows.map(({ parameter }) => parameter)).toEqual(skipped.flatMap((layer) => [`${layer}.weight`, `${layer}.bias`]));
    for (const { parameter, reason } of rows) {
      expect(reason).toBe(
        parameter.endsWith("weight")
          ? "left out by the option skip"
          : "no weight of a linear or conv2d call, nor the bias of one that has a block",
      );
    }
    optimizer.dispose();
  });

  it("by a name that no weight has are an error that names them: a dot is no wildcard, and a bias no weight", () => {
    for (const name of ["b11.weight", "b.1.bias", "b", ""]) {
      expect(() => new Kfac(layers("b.1", "head"), { learningRate: 0.1, skip: [name] })).toThrow(
        `skip: no weight is called "${name}"; they are b.1.weight, head.weight`,
      );
    }
  });

  it("may share a bias with a layer that has a block: that one's thin factors are then not its whole gradient, and are not used", async () => {
    const run = async (thin: boolean): Promise<number[]> => {
      const [first, bias, second] = layers("first", "second") as [Parameter, Parameter, Parameter];
      const optimizer = new RsKfac([first, bias, second], { learningRate: 0.1, skip: ["first.weight"], rank: 1, oversampling: 0, thin });
      await optimizer.minimize(() =>
        crossEntropy(
          linear(linear(x.slice([0, 0], [2, 4]), first.value, bias.value).tanh(), second.value, bias.value),
          four.slice([0], [2]),
        ),
      );
      return [first, bias, second].flatMap(({ value }) => [...value.dataSync()]);
    };
    expect(await run(true)).toEqual(await run(false));
  });
});

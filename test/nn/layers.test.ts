import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { frozen, gradcheck, valueAndGrad } from "../../src/autograd/index.ts";
import {
  AdaptiveAveragePool2d,
  AveragePool2d,
  BatchNorm1d,
  BatchNorm2d,
  Conv2d,
  Dropout,
  Flatten,
  Linear,
  MaxPool2d,
  type BatchNormOptions,
} from "../../src/nn/index.ts";
import {
  averagePool2d,
  conv2d,
  DTypeError,
  Generator,
  linear,
  maxPool2d,
  ShapeError,
  Tensor,
  tidy,
  UsageError,
  type Shape,
} from "../../src/tensor/index.ts";

const generator = new Generator(0);
const float64 = { dtype: "float64", generator } as const;
const normal = (...shape: number[]): Tensor => generator.normal(shape, { dtype: "float64" });

describe("a layer equals its primitive", () => {
  test.each([true, false])("Linear, bias %s, on any number of axes", (bias) => {
    const layer = new Linear(5, 3, { bias, ...float64 });
    for (const lead of [[4], [2, 3], [2, 1, 3]]) {
      const x = normal(...lead, 5);
      const y = layer.forward(x);
      expect(y.shape).toEqual([...lead, 3]);
      expect(y.dataSync()).toEqual(linear(x, layer.weight.value, layer.bias?.value ?? null).dataSync());
    }
    expect(layer.bias === null).toBe(!bias);
  });

  const geometries = {
    "as it is": {},
    "stride and padding by direction": { stride: [2, 1], padding: [0, 2] },
    "padding of each side": { padding: { top: 2, bottom: 0, left: 1, right: 3 } },
    dilation: { dilation: [2, 1], padding: 1 },
    groups: { groups: 2 },
    "one group a channel": { groups: 4, stride: 2 },
  } as const;
  test.each(Object.entries(geometries))("Conv2d: %s", (_, geometry) => {
    const layer = new Conv2d(4, 8, [3, 2], { ...geometry, ...float64 });
    const x = normal(2, 7, 6, 4);
    const groups = "groups" in geometry ? geometry.groups : 1;
    expect(layer.weight.shape).toEqual([8, 3, 2, 4 / groups]);
    const y = layer.forward(x);
    expect(y.dataSync()).toEqual(conv2d(x, layer.weight.value, layer.bias?.value ?? null, geometry).dataSync());
  });

  test("Conv2d without bias, and with one kernel size for both directions", () => {
    const layer = new Conv2d(2, 3, 3, { bias: false, ...float64 });
    expect([...layer.namedParameters().keys()]).toEqual(["weight"]);
    expect(layer.weight.shape).toEqual([3, 3, 3, 2]);
  });

  test("padding of each side is a padded image", () => {
    const layer = new Conv2d(1, 2, 3, { padding: { top: 2, bottom: 0, left: 1, right: 3 }, ...float64 });
    const x = normal(1, 4, 4, 1);
    const plain = conv2d(x.pad([0, 2, 1, 0], [0, 0, 3, 0]), layer.weight.value, layer.bias?.value ?? null);
    expect(layer.forward(x).shape).toEqual([1, 4, 6, 2]);
    expect(layer.forward(x).dataSync()).toBeAllclose(plain.dataSync(), { relative: 1e-14 });
  });

  test("groups are independent convolutions", () => {
    const layer = new Conv2d(4, 6, 3, { groups: 2, ...float64 });
    const x = normal(2, 5, 5, 4);
    const y = layer.forward(x);
    for (const group of [0, 1]) {
      const alone = conv2d(
        x.slice([0, 0, 0, 2 * group], [2, 5, 5, 2]),
        layer.weight.value.slice([3 * group, 0, 0, 0], [3, 3, 3, 2]),
        layer.bias?.value.slice([3 * group], [3]) ?? null,
      );
      expect(y.slice([0, 0, 0, 3 * group], [2, 3, 3, 3]).dataSync()).toBeAllclose(alone.dataSync(), { relative: 1e-14 });
    }
  });

  test("pooling, whose stride defaults to the kernel", () => {
    const x = normal(2, 6, 7, 3);
    expect(new MaxPool2d(2).forward(x).dataSync()).toEqual(maxPool2d(x, 2).dataSync());
    expect(new MaxPool2d(2).forward(x).shape).toEqual([2, 3, 3, 3]);
    const window = { stride: 1, padding: [1, 0] } as const;
    expect(new MaxPool2d([3, 2], window).forward(x).dataSync()).toEqual(maxPool2d(x, [3, 2], window).dataSync());
    for (const countPadding of [true, false]) {
      const geometry = { ...window, countPadding };
      expect(new AveragePool2d([3, 2], geometry).forward(x).dataSync()).toEqual(averagePool2d(x, [3, 2], geometry).dataSync());
    }
  });
});

test("groups that do not divide the channels are refused", () => {
  expect(() => new Conv2d(3, 4, 3, { groups: 2 })).toThrow(ShapeError);
  expect(() => new Conv2d(4, 3, 3, { groups: 2 })).toThrow("Conv2d: groups 2 must divide 4 input and 3 output channels");
});

describe("adaptive average pooling", () => {
  test("to 1 × 1 is the mean of each channel, and to the image's own size the image", () => {
    const x = normal(2, 3, 5, 2);
    for (const size of [0, 1.5, -1])
      expect(() => new AdaptiveAveragePool2d([2, size])).toThrow("AdaptiveAveragePool2d: width must be a whole number");
    expect(new AdaptiveAveragePool2d(1).forward(x).dataSync()).toBeAllclose(x.mean([1, 2]).dataSync(), { relative: 1e-13 });
    expect(new AdaptiveAveragePool2d([3, 5]).forward(x).dataSync()).toBeAllclose(x.dataSync(), { relative: 1e-15 });
  });

  test("where the sizes divide is average pooling", () => {
    const x = normal(2, 6, 4, 3);
    const y = new AdaptiveAveragePool2d([3, 2]).forward(x);
    expect(y.dataSync()).toBeAllclose(averagePool2d(x, 2).dataSync(), { relative: 1e-14 });
  });

  test("of a constant image is constant, to larger sizes as well", () => {
    fc.assert(
      fc.property(
        fc.tuple(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 6 })),
        fc.integer({ min: 1, max: 8 }),
        ([h, w], size) => {
          tidy(() => {
            const y = new AdaptiveAveragePool2d([size, 2]).forward(Tensor.full([1, h, w, 1], 3, { dtype: "float64" }));
            expect(y.shape).toEqual([1, size, 2, 1]);
            expect(y.dataSync()).toBeAllclose(new Float64Array(size * 2).fill(3), { relative: 1e-14 });
          });
        },
      ),
      { numRuns: 25 },
    );
  });

  test("of anything but images is a ShapeError", () => {
    expect(() => new AdaptiveAveragePool2d(1).forward(normal(3, 3, 3))).toThrow(ShapeError);
  });
});

describe("a layer refuses what makes no layer", () => {
  const extents: [string, () => unknown, string][] = [
    ["Linear of no inputs", () => new Linear(0, 3), "Linear: inFeatures must be a whole number of at least 1 but is 0"],
    ["Linear of half an output", () => new Linear(3, 0.5), "Linear: outFeatures must be a whole number of at least 1 but is 0.5"],
    ["Conv2d of no channels", () => new Conv2d(0, 3, 3), "Conv2d: inChannels must be"],
    ["Conv2d of NaN channels", () => new Conv2d(3, NaN, 3), "Conv2d: outChannels must be a whole number of at least 1 but is NaN"],
    ["Conv2d of an empty kernel", () => new Conv2d(3, 3, [3, 0]), "Conv2d: kernelWidth must be"],
    ["Conv2d of half a group", () => new Conv2d(4, 4, 3, { groups: 0.5 }), "Conv2d: groups must be"],
    ["BatchNorm1d of no channels", () => new BatchNorm1d(0), "BatchNorm1d: channels must be"],
  ];
  test.each(extents)("%s", (_, make, message) => {
    expect(() => {
      expect(make).toThrow(ShapeError);
      expect(make).toThrow(message);
    }).toHaveNoLeaks();
  });

  test.each<[BatchNormOptions, string]>([
    [{ epsilon: 0 }, "epsilon must be finite and above 0 but is 0"],
    [{ epsilon: -1 }, "epsilon must be"],
    [{ epsilon: NaN }, "epsilon must be"],
    [{ momentum: 1.1 }, "momentum must be in [0, 1] but is 1.1"],
    [{ momentum: -0.1 }, "momentum must be"],
    [{ momentum: NaN }, "momentum must be"],
  ])("BatchNorm2d with %j", (options, message) => {
    expect(() => new BatchNorm2d(3, options)).toThrow(UsageError);
    expect(() => new BatchNorm2d(3, options)).toThrow(`BatchNorm2d: ${message}`);
  });

  test("but takes options that are undefined for left out", () => {
    const layer = new BatchNorm2d(3, { epsilon: undefined, momentum: undefined });
    expect([layer.epsilon, layer.momentum]).toEqual([1e-5, 0.1]);
    const nothing = { stride: undefined, padding: undefined, dilation: undefined };
    const x = normal(2, 6, 6, 4);
    expect(new MaxPool2d(2, nothing).forward(x).dataSync()).toEqual(new MaxPool2d(2).forward(x).dataSync());
    const average = new AveragePool2d(2, { ...nothing, countPadding: undefined });
    expect(average.forward(x).dataSync()).toEqual(new AveragePool2d(2).forward(x).dataSync());
    const same = { ...float64, generator: new Generator(1) };
    const conv = new Conv2d(4, 2, 3, { ...same, ...nothing, groups: undefined, bias: undefined });
    expect(conv.forward(x).shape).toEqual([2, 4, 4, 2]);
  });
});

describe("Flatten", () => {
  test.each<[Shape, Shape]>([
    [
      [2, 3, 4, 5],
      [2, 60],
    ],
    [
      [2, 3],
      [2, 3],
    ],
    [[2], [2, 1]],
    [
      [0, 3, 2],
      [0, 6],
    ],
  ])("%j → %j", (from, to) => {
    const x = Tensor.zeros(from);
    expect(new Flatten().forward(x).shape).toEqual(to);
  });

  test("a scalar has no samples: ShapeError", () => {
    expect(() => new Flatten().forward(Tensor.zeros([]))).toThrow(ShapeError);
  });
});

describe("batch normalisation", () => {
  const channels = 3;
  /** Mean and unbiased variance of each channel by the textbook. */
  const moments = (x: Tensor): { mean: number[]; variance: number[] } => {
    const data = x.dataSync();
    const columns = Array.from({ length: channels }, (_, c) => [...data].filter((_, i) => i % channels === c));
    const mean = columns.map((column) => column.reduce((a, b) => a + b, 0) / column.length);
    const variance = columns.map((column, c) => column.reduce((sum, v) => sum + (v - (mean[c] ?? 0)) ** 2, 0) / (column.length - 1));
    return { mean, variance };
  };
  const inputs: [name: string, shape: Shape][] = [
    ["BatchNorm1d on features [n, c]", [6, channels]],
    ["BatchNorm1d on sequences [n, l, c]", [2, 4, channels]],
    ["BatchNorm2d on images [n, h, w, c]", [2, 3, 2, channels]],
  ];
  const layerFor = (shape: Shape, options = {}): BatchNorm1d | BatchNorm2d =>
    new (shape.length === 4 ? BatchNorm2d : BatchNorm1d)(channels, { ...float64, ...options });

  test.each(inputs)("%s: training gives every channel mean 0 and variance 1, then scale and shift", (_, shape) => {
    const layer = layerFor(shape, { epsilon: 1e-12 });
    const x = normal(...shape)
      .multiply(3)
      .add(5);
    const plain = moments(layer.forward(x));
    const count = x.size / channels;
    expect(plain.mean).toBeAllclose([0, 0, 0], { relative: 1e-12 });
    expect(plain.variance.map((v) => (v * (count - 1)) / count)).toBeAllclose([1, 1, 1], { relative: 1e-9 });
    layer.weight.assign(Tensor.from([1, -2, 0.5], { dtype: "float64" }));
    layer.bias.assign(Tensor.from([0, 1, 2], { dtype: "float64" }));
    const scaled = moments(layer.forward(x));
    expect(scaled.mean).toBeAllclose([0, 1, 2], { relative: 1e-12 });
    expect(scaled.variance.map((v) => (v * (count - 1)) / count)).toBeAllclose([1, 4, 0.25], { relative: 1e-9 });
  });

  test.each(inputs)("%s: running statistics move towards the mean and the unbiased variance", (_, shape) => {
    const layer = layerFor(shape, { momentum: 0.25 });
    const x = normal(...shape)
      .multiply(3)
      .add(5);
    const { mean, variance } = moments(x);
    layer.forward(x);
    expect(layer.runningMean.value.dataSync()).toBeAllclose(
      mean.map((m) => 0.25 * m),
      { relative: 1e-12 },
    );
    expect(layer.runningVariance.value.dataSync()).toBeAllclose(
      variance.map((v) => 0.75 + 0.25 * v),
      { relative: 1e-12 },
    );
  });

  test.each(inputs)("%s: evaluation uses the running statistics and changes none, for one value a channel too", (_, shape) => {
    const layer = layerFor(shape);
    for (let i = 0; i < 3; i++) layer.forward(normal(...shape).add(i));
    layer.weight.assign(normal(channels));
    layer.bias.assign(normal(channels));
    layer.eval();
    const before = [...layer.stateDict().values()].map((tensor) => [tensor.id, ...tensor.dataSync()]);
    const [weight, bias, mean, variance] = [layer.weight, layer.bias, layer.runningMean, layer.runningVariance].map(({ value }) =>
      value.dataSync(),
    );
    for (const size of [shape, shape.with(-1, channels).map((extent, axis) => (axis === shape.length - 1 ? extent : 1))]) {
      const x = normal(...size);
      const expected = x.dataSync().map((v, i) => {
        const at = (array: ArrayLike<number> | undefined): number => array?.[i % channels] ?? NaN;
        return ((v - at(mean)) / Math.sqrt(at(variance) + 1e-5)) * at(weight) + at(bias);
      });
      expect(layer.forward(x).dataSync()).toBeAllclose(expected, { relative: 1e-12 });
    }
    expect([...layer.stateDict().values()].map((tensor) => [tensor.id, ...tensor.dataSync()])).toEqual(before);
  });

  test("under frozen() training changes no running statistics", () => {
    const layer = layerFor([4, channels]);
    frozen(() => layer.forward(normal(4, channels)));
    expect([...layer.runningMean.value.dataSync(), ...layer.runningVariance.value.dataSync()]).toEqual([0, 0, 0, 1, 1, 1]);
  });

  test("running statistics are not part of the derivative: a tape around the pass may update them", () => {
    const layer = layerFor([4, channels]);
    const x = normal(4, channels);
    const { gradients } = valueAndGrad(() => layer.forward(x).square().sum(), [layer.weight]);
    expect(layer.runningMean.value.dataSync()).not.toEqual(new Float64Array(3));
    expect(gradients[0]?.shape).toEqual([channels]);
  });

  test("a constant channel gives the shift and a running variance that moves to 0, never below", () => {
    const layer = new BatchNorm1d(1, { generator });
    for (let i = 0; i < 200; i++) tidy(() => layer.forward(Tensor.full([8, 1], 0.3)));
    expect([...layer.forward(Tensor.full([8, 1], 0.3)).dataSync()].every((y) => Math.abs(y) < 1e-3)).toBe(true);
    const [variance = NaN] = layer.runningVariance.value.dataSync();
    expect(variance).toBeGreaterThanOrEqual(0);
    expect(variance).toBeLessThan(1e-8);
  });

  test.each<[string, Shape]>([
    ["one sample", [1, channels]],
    ["one image of one pixel", [1, 1, 1, channels]],
  ])("%s is one value a channel: training is a ShapeError, evaluation is not", (_, shape) => {
    const layer = layerFor(shape);
    const x = normal(...shape);
    expect(() => layer.forward(x)).toThrow(ShapeError);
    expect(() => layer.forward(x)).toThrow("more than one value a channel");
    expect(() => layer.eval().forward(x)).not.toThrow();
  });

  test("the wrong number of axes or channels is a ShapeError", () => {
    expect(() => new BatchNorm1d(channels).forward(normal(2, 2, 2, channels))).toThrow("BatchNorm1d: expects [n, channels]");
    expect(() => new BatchNorm2d(channels).forward(normal(4, channels))).toThrow("BatchNorm2d: expects [n, height, width, channels]");
    for (const layer of [new BatchNorm1d(channels, float64), new BatchNorm1d(channels, float64).eval()]) {
      expect(() => layer.forward(normal(4, channels + 1))).toThrow(ShapeError);
      expect(() => layer.forward(normal(4, 1))).toThrow(ShapeError);
    }
  });

  test("derivatives agree with differences, in training and in evaluation", async () => {
    const layer = layerFor([5, channels]);
    for (const mode of [layer.train(), layer.eval()]) await gradcheck((x) => mode.forward(x), [normal(5, channels)], { order: 2 });
  });
});

describe("Dropout", () => {
  const ones = Tensor.ones([100, 100]);

  test("keeps the mean and scales what it keeps", () => {
    for (const probability of [0.1, 0.5, 0.9]) {
      const data = new Dropout(probability, { generator: new Generator(7) }).forward(ones).dataSync();
      const kept = data.filter((v) => v !== 0);
      expect(new Set(kept)).toEqual(new Set([Math.fround(1 / (1 - probability))]));
      // Five standard deviations of the share of 10⁴ independent draws.
      expect(Math.abs(kept.length / data.length - (1 - probability))).toBeLessThan(5 * Math.sqrt((probability * (1 - probability)) / 1e4));
    }
  });

  test("is the identity in evaluation and with probability 0", () => {
    expect(new Dropout(0.5).eval().forward(ones).dataSync()).toEqual(ones.dataSync());
    expect(new Dropout(0).forward(ones).dataSync()).toEqual(ones.dataSync());
  });

  test("draws a new mask every time, the same from the same seed, and any from entropy", () => {
    const masks = (layer: Dropout): string[] => Array.from({ length: 3 }, () => layer.forward(ones).dataSync().join());
    const first = masks(new Dropout(0.5, { generator: new Generator(7) }));
    expect(new Set(first).size).toBe(3);
    expect(masks(new Dropout(0.5, { generator: new Generator(7) }))).toEqual(first);
    expect(masks(new Dropout(0.5, { generator: new Generator(8) }))).not.toEqual(first);
    expect(masks(new Dropout(0.5))).not.toEqual(masks(new Dropout(0.5)));
  });

  test("called twice in one frozen() drops differently each time, and the same again in the next one", () => {
    const layer = new Dropout(0.5, { generator: new Generator(7) });
    const draw = (): string => layer.forward(ones).dataSync().join();
    const before = layer.generator.state();
    const first = frozen(() => [draw(), draw()]);
    expect(first[0]).not.toBe(first[1]);
    expect(layer.generator.state()).toEqual(before);
    expect(frozen(() => [draw(), draw()])).toEqual(first);
    expect([draw(), draw()]).toEqual(first);
    expect(layer.generator.state()).not.toEqual(before);
  });

  test("that fails under frozen() leaves its stream where it was", () => {
    const layer = new Dropout(0.5, { generator: new Generator(7) });
    const before = layer.generator.state();
    const failing = (): never => {
      layer.forward(ones);
      throw new Error("later");
    };
    expect(() => frozen(failing)).toThrow("later");
    expect(layer.generator.state()).toEqual(before);
  });

  test("of integers is a DTypeError, and draws nothing", () => {
    const layer = new Dropout(0.5, { generator: new Generator(7) });
    expect(() => layer.forward(Tensor.zeros([2], { dtype: "int32" }))).toThrow(DTypeError);
    expect(layer.generator.state()).toEqual(new Generator(7).state());
  });

  test("passes gradients where it passes values, and so agrees with differences", async () => {
    const layer = new Dropout(0.5, { generator: new Generator(7) });
    await gradcheck((x) => layer.forward(x), [normal(4, 5)]);
  });

  test.each([-0.1, 1, 1.5, NaN])("refuses the probability %d", (probability) => {
    expect(() => new Dropout(probability)).toThrow(UsageError);
  });
});

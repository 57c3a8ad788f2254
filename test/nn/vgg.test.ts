import { describe, expect, test, vi } from "vitest";
import { openReference } from "../../src/tensor/backends/reference/index.ts";
import { BatchNorm2d, Dropout, Linear, ReLU, Sequential, summarize, vgg, vggNames, type VggOptions } from "../../src/nn/index.ts";
import { defaultBackend, DTypeError, Generator, ShapeError, UsageError, type Backend } from "../../src/tensor/index.ts";

/** Computes nothing and holds nothing: shapes can be had without drawing millions of weights. */
const hollow: Backend = {
  name: "hollow",
  alloc: () => null,
  free: () => undefined,
  upload: () => undefined,
  download: async () => new Float32Array(),
  run: () => undefined,
  memory: () => ({ buffers: 0, bytes: 0, peakBuffers: 0, peakBytes: 0, pooledBytes: 0 }),
  resetPeak: () => undefined,
  describe: () => "",
};

function counted(name: string, options: VggOptions = {}): number {
  const parameters = vgg(name, { backend: hollow, ...options }).parameters();
  return parameters.reduce((sum, { value }) => sum + value.size, 0);
}

describe("vgg", () => {
  test.each([
    ["vgg_tiny_bn", 51_890],
    ["vgg_tiny", 51_666],
    ["vgg_small_bn", 205_018],
    ["vgg_small", 204_570],
    ["vgg11_bn", 9_493_770],
    ["vgg11", 9_488_266],
    ["vgg13_bn", 9_678_666],
    ["vgg13", 9_672_778],
    ["vgg16_bn", 14_990_922],
    ["vgg16", 14_982_474],
    ["vgg19_bn", 20_303_178],
    ["vgg19", 20_292_170],
  ])("%s has %i parameters for 32 × 32 × 3 and 10 classes", (name, parameters) => {
    expect(counted(name)).toBe(parameters);
  });

  test("every known name is counted above", () => {
    expect(vggNames).toHaveLength(12);
    expect(new Set(vggNames).size).toBe(12);
  });

  test("vgg_small_bn has 147,386 parameters for 28 × 28 × 1", () => {
    expect(counted("vgg_small_bn", { size: 28, channels: 1 })).toBe(147_386);
  });

  test("sizes, classes, hidden layers and dropout are options", () => {
    const model = vgg("vgg_tiny_bn", { size: [8, 16], channels: 2, classes: 4, fc: [7, 6], dropout: 0.25 });
    const modules = model.children().map(([, module]) => module);
    expect(modules.filter((module) => module instanceof Dropout).map(({ probability }) => probability)).toEqual([0.25, 0.25]);
    expect(modules.filter((module) => module instanceof Linear).map(({ weight }) => weight.shape)).toEqual([
      [7, 64],
      [6, 7],
      [4, 6],
    ]);
    const x = new Generator(1).normal([3, 8, 16, 2]);
    expect(() => {
      const y = model.forward(x);
      expect(y.shape).toEqual([3, 4]);
      y.dispose();
    }).toHaveNoLeaks();
    const shallow = vgg("vgg_tiny", { size: 8, fc: [], dtype: "float64" });
    expect([...shallow.stateDict()].at(-2)).toMatchObject(["16.weight", { shape: [10, 32], dtype: "float64" }]);
  });

  test("is reproducible from its seed, which is 0 by default", () => {
    const numbers = (seed?: number): number[] => {
      const model = vgg("vgg_tiny_bn", { size: 8, seed, dropout: 0.5 });
      const x = new Generator(1).normal([2, 8, 8, 3]);
      const state = [...model.stateDict().values()].flatMap((tensor) => [...tensor.dataSync()]);
      return [...state, ...model.forward(x).dataSync()];
    };
    expect(numbers()).toEqual(numbers(0));
    expect(numbers(5)).toEqual(numbers(5));
    expect(numbers(5)).not.toEqual(numbers(0));
  });

  test("draws convolutions with variance 2 / (9 out) and zero biases, or as PyTorch", () => {
    const conv = (init: "vgg" | "pytorch"): { weight: number[]; bias: number[] } => {
      const state = vgg("vgg_small", { size: 8, fc: [], init }).stateDict();
      // The last convolution, 64 → 64.
      return { weight: [...(state.get("12.weight")?.dataSync() ?? [])], bias: [...(state.get("12.bias")?.dataSync() ?? [])] };
    };
    const variance = (values: readonly number[]): number => values.reduce((sum, v) => sum + v * v, 0) / values.length;
    const [own, pytorch] = [conv("vgg"), conv("pytorch")];
    expect(own.weight).toHaveLength(64 * 9 * 64);
    expect(variance(own.weight) / (2 / 576)).toBeCloseTo(1, 1);
    expect(new Set(own.bias)).toEqual(new Set([0]));
    expect(Math.max(...pytorch.weight.map(Math.abs))).toBeLessThanOrEqual(Math.fround(1 / 24));
    expect(new Set(pytorch.bias).size).toBeGreaterThan(60);
  });

  test("an unknown name is a UsageError that lists the known ones", () => {
    for (const name of ["vgg17", "constructor", "", "vgg16_bn_bn"]) {
      expect(() => vgg(name)).toThrow(UsageError);
      expect(() => vgg(name)).toThrow(`"${name}"; known: ${vggNames.join(", ")}`);
    }
  });

  test("an image too small for the poolings is a ShapeError, and nothing is allocated", () => {
    expect(() => {
      for (const size of [16, [32, 31], 0, NaN] as const) expect(() => vgg("vgg16_bn", { size })).toThrow(ShapeError);
    }).toHaveNoLeaks();
    expect(() => vgg("vgg_tiny", { size: [8, 7] })).toThrow("halves the image 3 times, so it needs at least 8 × 8 pixels but got 8 × 7");
  });
});

describe("summarize", () => {
  const model = vgg("vgg_tiny_bn", { size: 8, channels: 1, dropout: 0.1 });

  test("lists layers, output shapes and parameters", () => {
    const summary = summarize(model, [1, 8, 8, 1]);
    expect(`\n${summary.toString()}\n`).toMatchInlineSnapshot(`
      "
          layer        output         parameters
      0   Conv2d       [1, 8, 8, 8]           80
      1   BatchNorm2d  [1, 8, 8, 8]           16
      2   ReLU         [1, 8, 8, 8]            0
      3   Conv2d       [1, 8, 8, 8]          584
      4   BatchNorm2d  [1, 8, 8, 8]           16
      5   ReLU         [1, 8, 8, 8]            0
      6   MaxPool2d    [1, 4, 4, 8]            0
      7   Conv2d       [1, 4, 4, 16]       1,168
      8   BatchNorm2d  [1, 4, 4, 16]          32
      9   ReLU         [1, 4, 4, 16]           0
      10  Conv2d       [1, 4, 4, 16]       2,320
      11  BatchNorm2d  [1, 4, 4, 16]          32
      12  ReLU         [1, 4, 4, 16]           0
      13  MaxPool2d    [1, 2, 2, 16]           0
      14  Conv2d       [1, 2, 2, 32]       4,640
      15  BatchNorm2d  [1, 2, 2, 32]          64
      16  ReLU         [1, 2, 2, 32]           0
      17  Conv2d       [1, 2, 2, 32]       9,248
      18  BatchNorm2d  [1, 2, 2, 32]          64
      19  ReLU         [1, 2, 2, 32]           0
      20  MaxPool2d    [1, 1, 1, 32]           0
      21  Flatten      [1, 32]                 0
      22  Linear       [1, 64]             2,112
      23  ReLU         [1, 64]                 0
      24  Dropout      [1, 64]                 0
      25  Linear       [1, 10]               650
          total                           21,026
      "
    `);
    expect(summary.parameters).toBe(summary.rows.reduce((sum, { parameters }) => sum + parameters, 0));
    expect(summary.rows.at(-1)).toEqual({ path: "25", layer: "Linear", outputShape: [1, 10], parameters: 650 });
  });

  test("feeds a model on another backend from there, and one without parameters from what it is told", () => {
    const backend = openReference();
    const elsewhere = vgg("vgg_tiny", { size: 8, channels: 1, dtype: "float64", backend });
    const run = vi.spyOn(defaultBackend(), "run");
    expect(summarize(elsewhere, [1, 8, 8, 1]).rows.at(-1)?.outputShape).toEqual([1, 10]);
    expect(run).not.toHaveBeenCalled();
    run.mockRestore();
    const plain = new Sequential(new ReLU());
    expect(summarize(plain, [2, 3]).rows).toHaveLength(1);
    expect(() => summarize(plain, [2, 3], { dtype: "int32" })).toThrow(DTypeError);
  });

  test("names modules inside of modules by path, and takes the dtype of the model", () => {
    const nested = new Sequential(new Sequential(new Linear(3, 2, { dtype: "float64" })), new ReLU());
    expect(summarize(nested, [4, 3]).rows.map(({ path, outputShape }) => [path, outputShape])).toEqual([
      ["0.0", [4, 2]],
      ["1", [4, 2]],
    ]);
  });

  test("changes no state, no mode and no random stream, and leaves nothing behind", () => {
    const inner = model.children()[1]?.[1] as BatchNorm2d;
    const dropout = model.children().find(([, module]) => module instanceof Dropout)?.[1] as Dropout;
    inner.eval();
    const state = (): unknown[] => [
      [...model.stateDict().values()].map(({ id }) => id),
      dropout.generator.state(),
      model.children().map(([, { training }]) => training),
    ];
    const before = state();
    expect(model.training).toBe(true);
    expect(() => summarize(model, [2, 8, 8, 1])).toHaveNoLeaks();
    expect(() => {
      expect(() => summarize(model, [2, 8, 8, 3])).toThrow(ShapeError);
    }).toHaveNoLeaks();
    expect(state()).toEqual(before);
  });
});

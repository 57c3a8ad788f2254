import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import { openWasm, type WasmBackend } from "../../../src/tensor/backends/wasm/index.ts";
import type { Operand } from "../../../src/tensor/backends/wasm/kernel.ts";
import {
  winogradApplies,
  winogradForward,
  winogradInputGradient,
  winogradWeightGradient,
} from "../../../src/tensor/backends/wasm/winograd.ts";
import type { View } from "../../../src/tensor/backend.ts";
import type { Engine } from "../../../src/tensor/backends/wasm/engine.ts";
import type { DType, TypedArray } from "../../../src/tensor/dtype.ts";
import type { Inputs, Outputs, Params } from "../../../src/tensor/primitives.ts";
import { sizeOf, windowOutput, type Padding, type Shape } from "../../../src/tensor/shape.ts";

/** Σ (a − b)² against Σ b², square roots taken. A direct sum in float32 has about 3e-7 here. */
const ACCEPTED = 5e-6;

const engines = [1, 2, 3].map((threads) => openWasm({ threads }));
const reference = openReference();
afterAll(() => {
  for (const { engine } of engines) engine.close();
});

interface Case {
  readonly images: number;
  readonly size: readonly [number, number];
  readonly channels: number;
  readonly outChannels: number;
  readonly padding: Padding;
  /** Images without negative numbers, as they come out of a ReLU. */
  readonly positive?: boolean;
  readonly bias: boolean;
}

const around = (padding: number): Padding => ({ top: padding, bottom: padding, left: padding, right: padding });

/** Numbers between -1 and 1, the same for every backend. */
function numbers(shape: Shape, seed: number, positive = false): Float32Array {
  let state = seed + 1;
  return Float32Array.from({ length: sizeOf(shape) }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state >>> 8) / 2 ** (positive ? 24 : 23) - (positive ? 0 : 1);
  });
}

type Data = readonly [shape: Shape, numbers: Float32Array];

/** Runs a kernel in an engine's memory, and returns what it leaves in the output, which starts with NaN. */
function inEngine({ engine, ...backend }: WasmBackend, inputs: readonly Data[], output: Shape, kernel: (...operands: Operand[]) => void) {
  const all = [...inputs, [output, new Float32Array(sizeOf(output)).fill(NaN)] as const];
  const buffers = all.map(([shape, numbers]) => {
    const buffer = backend.alloc("float32", sizeOf(shape));
    backend.upload(buffer, numbers);
    return { shape, buffer, dtype: "float32" as const };
  });
  const { blocks } = engine.arena;
  kernel(...buffers.map(({ shape, buffer, dtype }) => ({ pointer: buffer.block.start, shape, dtype, size: sizeOf(shape) })));
  expect(engine.arena.blocks, "temporary blocks left").toBe(blocks);
  const results = buffers.map(({ buffer }) => {
    const result = engine.view("float32", buffer.block.start, buffer.size).slice();
    backend.free(buffer);
    return result;
  });
  return results.at(-1) as Float32Array;
}

function inReference<K extends "conv2d" | "conv2dInputGradient" | "conv2dWeightGradient">(
  name: K,
  inputs: readonly Data[],
  output: Shape,
  params: Params<K>,
): Float64Array {
  const views = inputs.map(([shape, numbers]) => ({ shape, dtype: "float64" as const, buffer: Float64Array.from(numbers) }));
  const result = { shape: output, dtype: "float64" as const, buffer: new Float64Array(sizeOf(output)) };
  reference.run(name, views as unknown as Inputs<K, View<TypedArray>>, params, [result] as unknown as Outputs<K, View<TypedArray>>);
  return result.buffer;
}

/** Norm of the difference over the norm of what is expected; NaN anywhere makes it NaN. */
function relativeError(actual: Float32Array, expected: Float64Array): number {
  expect(actual.length).toBe(expected.length);
  let [difference, norm] = [0, 0];
  expected.forEach((b, i) => {
    difference += ((actual[i] as number) - b) ** 2;
    norm += b ** 2;
  });
  return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm);
}

/** The operands of all three convolutions of a case, and how each is computed here and there. */
function convolutions({ images, size, channels, outChannels, padding, positive, bias }: Case) {
  const [kernel, settings] = [[3, 3] as const, { padding, stride: [1, 1], dilation: [1, 1], groups: 1 } as const];
  const outSize = windowOutput("test", size, { ...settings, kernel });
  const [xShape, wShape, yShape] = [
    [images, ...size, channels],
    [outChannels, 3, 3, channels],
    [images, ...outSize, outChannels],
  ] as const;
  const x: Data = [xShape, numbers(xShape, 1, positive)];
  const weight: Data = [wShape, numbers(wShape, 2)];
  const gradient: Data = [yShape, numbers(yShape, 3)];
  const b: Data = [[outChannels], numbers([outChannels], 4)];
  return {
    forward: {
      here: (backend: WasmBackend) =>
        bias
          ? inEngine(backend, [x, weight, b], yShape, (a, w, b, y) => winogradForward(backend.engine, a, w, b, padding, y))
          : inEngine(backend, [x, weight], yShape, (a, w, y) => winogradForward(backend.engine, a, w, undefined, padding, y)),
      there: () => inReference("conv2d", bias ? [x, weight, b] : [x, weight], yShape, settings),
    },
    inputGradient: {
      here: (backend: WasmBackend) =>
        inEngine(backend, [gradient, weight], xShape, (g, w, y) => winogradInputGradient(backend.engine, g, w, padding, y)),
      there: () => inReference("conv2dInputGradient", [gradient, weight], xShape, { ...settings, inputSize: size }),
    },
    weightGradient: {
      here: (backend: WasmBackend) =>
        inEngine(backend, [x, gradient], wShape, (a, g, y) => winogradWeightGradient(backend.engine, a, g, padding, y)),
      there: () => inReference("conv2dWeightGradient", [x, gradient], wShape, { ...settings, kernel }),
    },
  };
}

/** Each convolution is near the float64 result, and its bytes are the same on one, two and three threads. */
function check(c: Case): void {
  for (const [kind, { here, there }] of Object.entries(convolutions(c))) {
    const [first, ...others] = engines.map(here) as [Float32Array, ...Float32Array[]];
    expect(relativeError(first, there()), kind).toBeLessThan(ACCEPTED);
    for (const other of others) expect(Buffer.compare(bytes(first), bytes(other)), `${kind}: threads agree`).toBe(0);
  }
}

const bytes = ({ buffer }: Float32Array): Uint8Array => new Uint8Array(buffer);

const extents = fc.integer({ min: 1, max: 11 });
const channels = fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(8, 16, 24, 32, 40));
const paddings = fc.integer({ min: 0, max: 3 });

const cases: fc.Arbitrary<Case> = fc
  .record({
    images: fc.integer({ min: 0, max: 3 }),
    size: fc.tuple(extents, extents),
    channels,
    outChannels: channels,
    padding: fc.record({ top: paddings, bottom: paddings, left: paddings, right: paddings }),
    bias: fc.boolean(),
  })
  .filter(({ size: [h, w], padding: { top, bottom, left, right } }) => h + top + bottom >= 3 && w + left + right >= 3);

const layer = (images: number, size: number, channels: number, outChannels: number, padding = 1): Case => ({
  images,
  size: [size, size],
  channels,
  outChannels,
  padding: around(padding),
  bias: true,
});

describe("Winograd convolutions have the values of direct sums in float64", () => {
  test("for images of any size, padding and number of channels", () => {
    fc.assert(fc.property(cases, check), { numRuns: 150 });
  });

  test.each<[string, Case]>([
    ["many blocks", layer(17, 18, 32, 32)],
    ["many channels: several segments", layer(3, 32, 96, 104)],
    ["many channels that fill no vector", layer(2, 9, 203, 101)],
    ["more channels than tiles", layer(1, 4, 300, 260)],
    ["single pixels", layer(5, 1, 16, 16)],
    ["no padding", layer(3, 13, 24, 48, 0)],
    ["full padding", layer(3, 13, 24, 48, 2)],
  ])("%s", (_, c) => check(c));

  test("for a large batch, where sums are long", () => check(layer(128, 32, 8, 8)));
  test("for a large batch of images without negative numbers", () => check({ ...layer(128, 32, 8, 8), positive: true }));
});

describe("winogradApplies", () => {
  const { engine: fast } = openWasm({ threads: 1 });
  const ordinary = { padding: around(1), stride: [1, 1], dilation: [1, 1], groups: 1 } as const;
  type Changes = Partial<Parameters<typeof winogradApplies>[5]> & { kernel?: readonly [number, number]; dtype?: DType; engine?: Engine };
  const applies = (images: number, size: number, channels: number, outChannels: number, changes: Changes = {}): boolean[] => {
    const { kernel = [3, 3], dtype = "float32", engine = fast, ...rest } = changes;
    const [x, y] = [
      [images, size, size, channels],
      [images, size, size, outChannels],
    ];
    const kinds = ["forward", "inputGradient", "weightGradient"] as const;
    return kinds.map((kind) => winogradApplies(engine, kind, x, y, kernel, { ...ordinary, ...rest }, dtype));
  };
  const [all, none] = [
    [true, true, true],
    [false, false, false],
  ];

  test("to the layers of VGG down to images of 4 × 4", () => {
    for (const [size, channels] of [
      [32, 64],
      [16, 128],
      [8, 256],
      [4, 512],
    ] as const)
      expect(applies(32, size, channels, channels)).toEqual(all);
  });
  test("not where direct sums are as fast: tiny images, few channels, one small image", () => {
    expect(applies(128, 2, 512, 512)).toEqual(none);
    expect(applies(128, 32, 3, 16)).toEqual(none);
    expect(applies(1, 4, 512, 512)).toEqual(none);
    expect(applies(0, 32, 64, 64)).toEqual(none);
  });
  test("not to other convolutions and types", () => {
    const others: Changes[] = [{ stride: [1, 2] }, { dilation: [2, 1] }, { groups: 2 }, { kernel: [3, 1] }, { dtype: "float64" }];
    for (const other of others) expect(applies(32, 16, 64, 64, other)).toEqual(none);
  });
  test("not where the engine is to be exact", () => {
    const { engine } = openWasm({ threads: 1, precision: "exact" });
    expect(applies(32, 16, 64, 64, { engine })).toEqual(none);
    engine.close();
  });
});

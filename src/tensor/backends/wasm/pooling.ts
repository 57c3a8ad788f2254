import { bytesPerElement, type DType } from "../../dtype.ts";
import { DataError } from "../../errors.ts";
import type { WindowGeometry } from "../../shape.ts";
import type { Engine } from "./engine.ts";
import { floatSuffix, imageShape, type ImageShape, type Kernels, type Operand } from "./kernel.ts";

/** Vectors in a row of an image. */
const vectorsOf = ([, , width, channels]: ImageShape, dtype: DType): number => (width * channels * bytesPerElement[dtype]) / 16;

/** The numbers of `Images` in assembly/pooling.ts, in its order, for images `x` and their pooled ones. */
const imagesPlan = (x: ImageShape, [, outHeight, outWidth]: ImageShape): readonly number[] => [...x, outHeight, outWidth];

/** And those of `Windows`. */
function windowsPlan(x: ImageShape, y: ImageShape, geometry: WindowGeometry, countPadding: boolean): readonly number[] {
  const { kernel, stride, dilation, padding } = geometry;
  return [...imagesPlan(x, y), ...kernel, ...stride, ...dilation, padding.top, padding.left, countPadding ? 1 : 0];
}

/** Bytes that the numbers of a plan take, at most. */
const PLAN_BYTES = 64;

/** Runs `f` with a plan's address, and that of `bytes` behind it. */
function withPlan(
  engine: Engine,
  operation: string,
  numbers: readonly number[],
  bytes: number,
  f: (plan: number, behind: number) => void,
): void {
  engine.temporary(PLAN_BYTES + bytes, operation, (plan) => {
    const to = engine.view("int32", plan, numbers.length);
    for (let i = 0; i < numbers.length; i++) to[i] = numbers[i]!;
    f(plan, plan + PLAN_BYTES);
  });
}

/** Windows that neither leave the image nor skip a pixel. */
function plain({ padding: { top, bottom, left, right }, dilation }: WindowGeometry): boolean {
  return top + bottom + left + right === 0 && dilation[0] === 1 && dilation[1] === 1;
}

/** From this many images on an image is an item of the scatter; with fewer, a group of channels. */
const MANY_IMAGES = 8;
const CHANNEL_GROUP = 32;
/** Elements of an item of the gather. */
const GATHER = 4096;

/**
 * Runs a kernel that checks indices of pixels of images `x`: `run` gets, with the plan, the address of one int32 an item, where the
 * kernel leaves the position of a wrong index, else −1.
 * @throws DataError for the first index that is none of the image's pixels.
 */
function checkingIndices(
  engine: Engine,
  operation: string,
  x: ImageShape,
  indices: Operand,
  items: number,
  run: (plan: number, faults: number) => void,
): void {
  withPlan(engine, operation, imagesPlan(x, imageShape(indices.shape)), items * 4, (plan, faults) => {
    run(plan, faults);
    const position = engine.call("firstFault_i32", faults, items);
    if (position < 0) return;
    const index = engine.view("int32", indices.pointer + position * 4, 1)[0]!;
    throw new DataError(`${operation}: index ${index} at position ${position} is outside of an image of ${x[1] * x[2]} pixels`);
  });
}

export const pooling: Kernels<"maxPool2d" | "maxPool2dScatter" | "maxPool2dGather" | "averagePool2d" | "averagePool2dGradient"> = {
  maxPool2d: (engine, [x], geometry, [y, indices]) => {
    if (y.size === 0) return;
    const { kernel, stride } = geometry;
    const [n, outHeight] = imageShape(y.shape);
    const vectors = vectorsOf(imageShape(y.shape), y.dtype);
    const sideBySide = kernel[0] === 2 && kernel[1] === 2 && stride[0] === 2 && stride[1] === 2 && plain(geometry);
    const name = `${sideBySide ? "maxPool2x2" : "maxPool2d"}_${floatSuffix(x.dtype)}` as const;
    const cost = 10 + vectors * (sideBySide ? 6 : 2 * kernel[0] * kernel[1]);
    withPlan(engine, "maxPool2d", windowsPlan(imageShape(x.shape), imageShape(y.shape), geometry, false), 0, (plan) => {
      engine.run(name, n * outHeight, cost, plan, x.pointer, y.pointer, indices.pointer);
    });
  },
  maxPool2dScatter: (engine, [y, indices], _, [x]) => {
    const [n, height, width, channels] = imageShape(x.shape);
    if (n === 0 || channels === 0) return;
    const [, outHeight, outWidth] = imageShape(y.shape);
    const group = n >= MANY_IMAGES ? channels : CHANNEL_GROUP;
    const items = n * Math.ceil(channels / group);
    const cost = 20 + Math.min(group, channels) * (height * width * 0.3 + outHeight * outWidth);
    const name = `maxPool2dScatter_${floatSuffix(x.dtype)}` as const;
    checkingIndices(engine, "maxPool2dScatter", imageShape(x.shape), indices, items, (plan, faults) => {
      engine.run(name, items, cost, plan, y.pointer, indices.pointer, x.pointer, group, faults);
    });
  },
  maxPool2dGather: (engine, [x, indices], _, [y]) => {
    if (y.size === 0) return;
    const [n, outHeight, outWidth, channels] = imageShape(y.shape);
    const group = Math.ceil(GATHER / channels);
    const items = Math.ceil((n * outHeight * outWidth) / group);
    const name = `maxPool2dGather_${floatSuffix(x.dtype)}` as const;
    checkingIndices(engine, "maxPool2dGather", imageShape(x.shape), indices, items, (plan, faults) => {
      engine.run(name, items, group * channels, plan, x.pointer, indices.pointer, y.pointer, group, faults);
    });
  },
  averagePool2d: (engine, [x], params, [y]) => {
    if (y.size === 0) return;
    const { kernel, countPadding } = params;
    const [n, outHeight] = imageShape(y.shape);
    const cost = 10 + vectorsOf(imageShape(y.shape), y.dtype) * kernel[0] * kernel[1];
    withPlan(engine, "averagePool2d", windowsPlan(imageShape(x.shape), imageShape(y.shape), params, countPadding), 0, (plan) => {
      engine.run(`averagePool2d_${floatSuffix(x.dtype)}`, n * outHeight, cost, plan, x.pointer, y.pointer);
    });
  },
  averagePool2dGradient: (engine, [gradient], params, [x]) => {
    if (x.size === 0) return;
    const { kernel, stride, countPadding } = params;
    const [n, height, width] = imageShape(x.shape);
    const vectors = vectorsOf(imageShape(x.shape), x.dtype);
    const sideBySide = kernel[0] === stride[0] && kernel[1] === stride[1] && plain(params);
    const overlapping = Math.ceil(kernel[0] / stride[0]) * Math.ceil(kernel[1] / stride[1]);
    const name = `${sideBySide ? "averagePool2dGradientTiled" : "averagePool2dGradient"}_${floatSuffix(x.dtype)}` as const;
    const cost = sideBySide ? 10 + vectors : 10 + width * 30 + 2 * vectors * overlapping;
    withPlan(
      engine,
      "averagePool2dGradient",
      windowsPlan(imageShape(x.shape), imageShape(gradient.shape), params, countPadding),
      0,
      (plan) => {
        engine.run(name, n * height, cost, plan, gradient.pointer, x.pointer);
      },
    );
  },
};

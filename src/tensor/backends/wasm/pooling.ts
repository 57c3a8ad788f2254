import { bytesPerElement } from "../../dtype.ts";
import { DataError } from "../../errors.ts";
import type { WindowGeometry } from "../../shape.ts";
import { suffixOf, type Engine } from "./engine.ts";
import type { Kernels, Operand } from "./kernel.ts";

type ImageShape = readonly [n: number, height: number, width: number, channels: number];

const shape4 = (x: Operand): ImageShape => x.shape as unknown as ImageShape;
const floatSuffix = (x: Operand): "f32" | "f64" => suffixOf(x.dtype) as "f32" | "f64";

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
 * Runs a kernel that checks indices: `run` gets the address of one int32 an item, where the kernel leaves the position of a
 * wrong index, else −1.
 * @throws DataError for the first index that is none of the image's pixels.
 */
function checkingIndices(
  engine: Engine,
  operation: string,
  indices: Operand,
  pixels: number,
  items: number,
  run: (faults: number) => void,
): void {
  engine.temporary(items * 4, operation, (faults) => {
    run(faults);
    const position = engine.call("firstFault_i32", faults, items);
    if (position < 0) return;
    const index = engine.view("int32", indices.pointer + position * 4, 1)[0]!;
    throw new DataError(`${operation}: index ${index} at position ${position} is outside of an image of ${pixels} pixels`);
  });
}

export const pooling: Kernels<"maxPool2d" | "maxPool2dScatter" | "maxPool2dGather" | "averagePool2d" | "averagePool2dGradient"> = {
  maxPool2d: (engine, [x], geometry, [y, indices]) => {
    const [n, height, width, channels] = shape4(x);
    const [, outHeight, outWidth] = shape4(y);
    const { kernel, stride, padding, dilation } = geometry;
    const type = floatSuffix(x);
    const items = y.size === 0 ? 0 : n * outHeight;
    const vectors = (outWidth * channels * bytesPerElement[x.dtype]) / 16;
    if (kernel[0] === 2 && kernel[1] === 2 && stride[0] === 2 && stride[1] === 2 && plain(geometry)) {
      const cost = 10 + 6 * vectors;
      engine.run(`maxPool2x2_${type}`, items, cost, x.pointer, y.pointer, indices.pointer, height, width, channels, outHeight, outWidth);
      return;
    }
    engine.run(
      `maxPool2d_${type}`,
      items,
      10 + 2 * vectors * kernel[0] * kernel[1],
      x.pointer,
      y.pointer,
      indices.pointer,
      height,
      width,
      channels,
      outHeight,
      outWidth,
      kernel[0],
      kernel[1],
      stride[0],
      stride[1],
      padding.top,
      padding.left,
      dilation[0],
      dilation[1],
    );
  },
  maxPool2dScatter: (engine, [y, indices], _, [x]) => {
    const [n, height, width, channels] = shape4(x);
    if (n === 0 || channels === 0) return;
    const [pixels, outPixels] = [height * width, y.size / (n * channels)];
    const group = n >= MANY_IMAGES ? channels : CHANNEL_GROUP;
    const items = n * Math.ceil(channels / group);
    const cost = 20 + Math.min(group, channels) * (pixels * 0.3 + outPixels);
    checkingIndices(engine, "maxPool2dScatter", indices, pixels, items, (faults) => {
      const name = `maxPool2dScatter_${floatSuffix(x)}` as const;
      engine.run(name, items, cost, y.pointer, indices.pointer, x.pointer, pixels, outPixels, channels, group, faults);
    });
  },
  maxPool2dGather: (engine, [x, indices], _, [y]) => {
    if (y.size === 0) return;
    const [, height, width, channels] = shape4(x);
    const [n, outHeight, outWidth] = shape4(y);
    const [pixels, count] = [height * width, n * outHeight * outWidth];
    const group = Math.ceil(GATHER / channels);
    const items = Math.ceil(count / group);
    checkingIndices(engine, "maxPool2dGather", indices, pixels, items, (faults) => {
      const name = `maxPool2dGather_${floatSuffix(x)}` as const;
      const cost = group * channels;
      engine.run(name, items, cost, x.pointer, indices.pointer, y.pointer, pixels, outHeight * outWidth, channels, count, group, faults);
    });
  },
  averagePool2d: (engine, [x], { kernel, stride, padding, dilation, countPadding }, [y]) => {
    const [n, height, width, channels] = shape4(x);
    const [, outHeight, outWidth] = shape4(y);
    engine.run(
      `averagePool2d_${floatSuffix(x)}`,
      y.size === 0 ? 0 : n * outHeight,
      10 + (outWidth * channels * bytesPerElement[x.dtype] * kernel[0] * kernel[1]) / 16,
      x.pointer,
      y.pointer,
      height,
      width,
      channels,
      outHeight,
      outWidth,
      kernel[0],
      kernel[1],
      stride[0],
      stride[1],
      padding.top,
      padding.left,
      dilation[0],
      dilation[1],
      countPadding ? 1 / (kernel[0] * kernel[1]) : 0,
    );
  },
  averagePool2dGradient: (engine, [gradient], params, [x]) => {
    const [n, height, width, channels] = shape4(x);
    const [, outHeight, outWidth] = shape4(gradient);
    const { kernel, stride, padding, dilation, countPadding } = params;
    const type = floatSuffix(x);
    const items = x.size === 0 ? 0 : n * height;
    const vectors = (width * channels * bytesPerElement[x.dtype]) / 16;
    if (kernel[0] === stride[0] && kernel[1] === stride[1] && plain(params)) {
      const name = `averagePool2dGradientTiled_${type}` as const;
      const cost = 10 + vectors;
      const [g, y] = [gradient.pointer, x.pointer];
      engine.run(name, items, cost, g, y, height, width, channels, outHeight, outWidth, kernel[0], kernel[1]);
      return;
    }
    engine.run(
      `averagePool2dGradient_${type}`,
      items,
      10 + width * 30 + 2 * vectors * Math.ceil(kernel[0] / stride[0]) * Math.ceil(kernel[1] / stride[1]),
      gradient.pointer,
      x.pointer,
      height,
      width,
      channels,
      outHeight,
      outWidth,
      kernel[0],
      kernel[1],
      stride[0],
      stride[1],
      padding.top,
      padding.left,
      dilation[0],
      dilation[1],
      countPadding ? 1 / (kernel[0] * kernel[1]) : 0,
    );
  },
};

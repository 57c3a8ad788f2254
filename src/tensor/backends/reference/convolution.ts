import type { FloatArray } from "../../dtype.ts";
import type { Conv2dParams } from "../../primitives.ts";
import { windowOutput, type WindowGeometry } from "../../shape.ts";
import { gemm } from "./gemm.ts";
import type { Kernels, Operand } from "./kernel.ts";
import { addBias, floatsOf, mirrorLower, rowMajor, transposed } from "./product.ts";

/**
 * Convolution as matrix products over patches, one image at a time: with P [T, d] the T windows of an image as rows,
 * Y = P Wᵀ, ∂W = Σ ∂Yᵀ P, and ∂X adds the rows of ∂Y W back to their windows. Groups are independent convolutions over
 * slices of the channels.
 */

type ImageShape = readonly [n: number, height: number, width: number, channels: number];

/**
 * Calls `visit(row, column, pixel)` for each window (row) and kernel position (column) that lies inside the image; `pixel` is
 * the position row · width + column of the image point. Everything that knows about windows is here.
 */
function forEachWindowPixel(
  [, height, width]: ImageShape,
  [outHeight, outWidth]: readonly [number, number],
  { kernel, stride, padding, dilation }: WindowGeometry,
  visit: (row: number, column: number, pixel: number) => void,
): void {
  for (let oh = 0; oh < outHeight; oh++) {
    for (let ow = 0; ow < outWidth; ow++) {
      for (let kh = 0; kh < kernel[0]; kh++) {
        const h = oh * stride[0] + kh * dilation[0] - padding.top;
        if (h < 0 || h >= height) continue;
        for (let kw = 0; kw < kernel[1]; kw++) {
          const w = ow * stride[1] + kw * dilation[1] - padding.left;
          if (w >= 0 && w < width) visit(oh * outWidth + ow, kh * kernel[1] + kw, h * width + w);
        }
      }
    }
  }
}

/** Where patches come from and go to: pairs (place in patch matrix, place in image) of runs of `channels` numbers. */
interface PatchMap {
  readonly rows: number;
  readonly columns: number;
  readonly patch: Int32Array;
  readonly image: Int32Array;
  readonly channels: number;
}

/** The map for channels `[from, from + count)` of an image, with `extra` columns (the bias) left free at the end of a row. */
function patchMap(
  x: ImageShape,
  out: readonly [number, number],
  geometry: WindowGeometry,
  from: number,
  count: number,
  extra = 0,
): PatchMap {
  const kernelSize = geometry.kernel[0] * geometry.kernel[1];
  const rows = out[0] * out[1];
  const columns = kernelSize * count + extra;
  const patch = new Int32Array(rows * kernelSize);
  const image = new Int32Array(rows * kernelSize);
  let length = 0;
  forEachWindowPixel(x, out, geometry, (row, column, pixel) => {
    patch[length] = row * columns + column * count;
    image[length++] = pixel * x[3] + from;
  });
  return { rows, columns, patch: patch.subarray(0, length), image: image.subarray(0, length), channels: count };
}

function readPatches(map: PatchMap, x: FloatArray, offset: number, patches: FloatArray, at = 0): void {
  const { patch, image, channels } = map;
  for (let i = 0; i < patch.length; i++) {
    const to = at + patch[i]!;
    const from = offset + image[i]!;
    for (let c = 0; c < channels; c++) patches[to + c] = x[from + c]!;
  }
}

function addPatches(map: PatchMap, patches: FloatArray, x: FloatArray, offset: number, at = 0): void {
  const { patch, image, channels } = map;
  for (let i = 0; i < patch.length; i++) {
    const from = at + patch[i]!;
    const to = offset + image[i]!;
    for (let c = 0; c < channels; c++) x[to + c] = x[to + c]! + patches[from + c]!;
  }
}

/** Visits every group of a convolution with its patch map and the offsets of its channels. */
function forEachGroup(
  x: ImageShape,
  out: ImageShape,
  kernel: readonly [number, number],
  params: Conv2dParams,
  visit: (map: PatchMap, weightOffset: number, outOffset: number, outCount: number) => void,
): void {
  const { groups } = params;
  const [perIn, perOut] = [x[3] / groups, out[3] / groups];
  for (let g = 0; g < groups; g++) {
    const map = patchMap(x, [out[1], out[2]], { ...params, kernel }, g * perIn, perIn);
    visit(map, g * perOut * map.columns, g * perOut, perOut);
  }
}

const shape4 = (x: Operand): ImageShape => x.shape as unknown as ImageShape;
const imageSize = (shape: ImageShape): number => shape[1] * shape[2] * shape[3];

export const convolution: Kernels<"conv2d" | "conv2dInputGradient" | "conv2dWeightGradient" | "im2col" | "col2im" | "patchCovariance"> = {
  conv2d: ([x, weight, bias], params, [y]) => {
    const [from, to] = [shape4(x), shape4(y)];
    forEachGroup(from, to, [weight.shape[1]!, weight.shape[2]!], params, (map, weightOffset, outOffset, outCount) => {
      const patches = new Float64Array(map.rows * map.columns);
      const w = transposed(rowMajor(floatsOf(weight), map.columns, weightOffset));
      for (let i = 0; i < from[0]; i++) {
        readPatches(map, floatsOf(x), i * imageSize(from), patches);
        const c = rowMajor(floatsOf(y), to[3], i * imageSize(to) + outOffset);
        gemm(map.rows, outCount, map.columns, rowMajor(patches, map.columns), w, c);
      }
    });
    if (bias) addBias(floatsOf(y), floatsOf(bias));
  },

  conv2dInputGradient: ([gradient, weight], params, [y]) => {
    const [out, to] = [shape4(gradient), shape4(y)];
    y.data.fill(0);
    forEachGroup(to, out, [weight.shape[1]!, weight.shape[2]!], params, (map, weightOffset, outOffset, outCount) => {
      const patches = new Float64Array(map.rows * map.columns);
      const w = rowMajor(floatsOf(weight), map.columns, weightOffset);
      for (let i = 0; i < to[0]; i++) {
        const g = rowMajor(floatsOf(gradient), out[3], i * imageSize(out) + outOffset);
        gemm(map.rows, map.columns, outCount, g, w, rowMajor(patches, map.columns));
        addPatches(map, patches, floatsOf(y), i * imageSize(to));
      }
    });
  },

  conv2dWeightGradient: ([x, gradient], params, [y]) => {
    const [from, out] = [shape4(x), shape4(gradient)];
    const total = new Float64Array(y.data.length);
    forEachGroup(from, out, params.kernel, params, (map, weightOffset, outOffset, outCount) => {
      const patches = new Float64Array(map.rows * map.columns);
      for (let i = 0; i < from[0]; i++) {
        readPatches(map, floatsOf(x), i * imageSize(from), patches);
        const g = transposed(rowMajor(floatsOf(gradient), out[3], i * imageSize(out) + outOffset));
        const c = rowMajor(total, map.columns, weightOffset);
        gemm(outCount, map.columns, map.rows, g, rowMajor(patches, map.columns), c, { accumulate: true });
      }
    });
    y.data.set(total);
  },

  im2col: ([x], geometry, [y]) => {
    const [from, to] = [shape4(x), shape4(y)];
    const map = patchMap(from, [to[1], to[2]], geometry, 0, from[3]);
    y.data.fill(0);
    for (let i = 0; i < from[0]; i++) readPatches(map, floatsOf(x), i * imageSize(from), floatsOf(y), i * imageSize(to));
  },

  col2im: ([columns], geometry, [y]) => {
    const [from, to] = [shape4(columns), shape4(y)];
    const map = patchMap(to, [from[1], from[2]], geometry, 0, to[3]);
    y.data.fill(0);
    for (let i = 0; i < to[0]; i++) addPatches(map, floatsOf(columns), floatsOf(y), i * imageSize(to), i * imageSize(from));
  },

  // The definition: a symmetric product of the patches with themselves.
  patchCovariance: ([x], { bias, scale, ...geometry }, [y]) => {
    const from = shape4(x);
    const [height, width] = windowOutput("patchCovariance", [from[1], from[2]], geometry);
    const map = patchMap(from, [height, width], geometry, 0, from[3], bias ? 1 : 0);
    const patches = new Float64Array(map.rows * map.columns);
    if (bias) for (let row = 1; row <= map.rows; row++) patches[row * map.columns - 1] = 1;
    const total = new Float64Array(y.data.length);
    const p = rowMajor(patches, map.columns);
    for (let i = 0; i < from[0]; i++) {
      readPatches(map, floatsOf(x), i * imageSize(from), patches);
      const options = { accumulate: true, scale, lowerOnly: true };
      gemm(map.columns, map.columns, map.rows, transposed(p), p, rowMajor(total, map.columns), options);
    }
    mirrorLower(total, map.columns);
    y.data.set(total);
  },
};

import type { Conv2dParams } from "../../primitives.ts";
import { windowOutput, type WindowGeometry } from "../../shape.ts";
import { gemm, rowMajor, transposed } from "./gemm.ts";
import type { Kernels, Operand } from "./kernel.ts";
import { addBias, inFloat64, mirrorLower, toFloat64 } from "./product.ts";

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

/** Copies an image's windows to the rows of a patch matrix; places that no pixel maps to stay as they are. */
function readPatches({ patch, image, channels }: PatchMap, x: Float64Array, patches: Float64Array): void {
  for (let i = 0; i < patch.length; i++) {
    const to = patch[i]!;
    const from = image[i]!;
    for (let c = 0; c < channels; c++) patches[to + c] = x[from + c]!;
  }
}

/** Adds the rows of a patch matrix to the windows of an image: the transpose of `readPatches`. */
function addPatches({ patch, image, channels }: PatchMap, patches: Float64Array, x: Float64Array): void {
  for (let i = 0; i < patch.length; i++) {
    const from = patch[i]!;
    const to = image[i]!;
    for (let c = 0; c < channels; c++) x[to + c] = x[to + c]! + patches[from + c]!;
  }
}

/** One group of a convolution: its patches, a scratch matrix for them, and where its channels are. */
interface Group {
  readonly map: PatchMap;
  readonly patches: Float64Array;
  readonly weightOffset: number;
  readonly outOffset: number;
  readonly outCount: number;
}

function groupsOf(x: ImageShape, out: ImageShape, kernel: readonly [number, number], params: Conv2dParams): Group[] {
  const { groups } = params;
  const [perIn, perOut] = [x[3] / groups, out[3] / groups];
  return Array.from({ length: groups }, (_, g) => {
    const map = patchMap(x, [out[1], out[2]], { ...params, kernel }, g * perIn, perIn);
    const patches = new Float64Array(map.rows * map.columns);
    return { map, patches, weightOffset: g * perOut * map.columns, outOffset: g * perOut, outCount: perOut };
  });
}

const shape4 = (x: Operand): ImageShape => x.shape as unknown as ImageShape;

/** Image `i` of a batch as numbers in float64. */
function imageOf(x: Operand, i: number, to: Float64Array): void {
  to.set(x.data.subarray(i * to.length, (i + 1) * to.length));
}

/** A scratch array for one image of a batch. */
function scratch([, height, width, channels]: ImageShape): Float64Array {
  return new Float64Array(height * width * channels);
}

export const convolution: Kernels<"conv2d" | "conv2dInputGradient" | "conv2dWeightGradient" | "im2col" | "col2im" | "patchCovariance"> = {
  conv2d: ([x, weight, bias], params, [y]) => {
    const [from, to] = [shape4(x), shape4(y)];
    const [image, result, w] = [scratch(from), scratch(to), toFloat64(weight)];
    const groups = groupsOf(from, to, [weight.shape[1]!, weight.shape[2]!], params);
    for (let i = 0; i < from[0]; i++) {
      imageOf(x, i, image);
      for (const { map, patches, weightOffset, outOffset, outCount } of groups) {
        readPatches(map, image, patches);
        const p = rowMajor(patches, map.columns);
        gemm(map.rows, outCount, map.columns, p, transposed(rowMajor(w, map.columns, weightOffset)), rowMajor(result, to[3], outOffset));
      }
      y.data.set(result, i * result.length);
    }
    if (bias) addBias(y, bias);
  },

  conv2dInputGradient: ([gradient, weight], params, [y]) => {
    const [out, to] = [shape4(gradient), shape4(y)];
    const [g, image, w] = [scratch(out), scratch(to), toFloat64(weight)];
    const groups = groupsOf(to, out, [weight.shape[1]!, weight.shape[2]!], params);
    for (let i = 0; i < to[0]; i++) {
      imageOf(gradient, i, g);
      image.fill(0);
      for (const { map, patches, weightOffset, outOffset, outCount } of groups) {
        const p = rowMajor(patches, map.columns);
        gemm(map.rows, map.columns, outCount, rowMajor(g, out[3], outOffset), rowMajor(w, map.columns, weightOffset), p);
        addPatches(map, patches, image);
      }
      y.data.set(image, i * image.length);
    }
  },

  conv2dWeightGradient: ([x, gradient], params, [y]) => {
    const [from, out] = [shape4(x), shape4(gradient)];
    const [image, g] = [scratch(from), scratch(out)];
    const groups = groupsOf(from, out, params.kernel, params);
    inFloat64(y, (total) => {
      total.fill(0);
      for (let i = 0; i < from[0]; i++) {
        imageOf(x, i, image);
        imageOf(gradient, i, g);
        for (const { map, patches, weightOffset, outOffset, outCount } of groups) {
          readPatches(map, image, patches);
          const c = rowMajor(total, map.columns, weightOffset);
          const gt = transposed(rowMajor(g, out[3], outOffset));
          gemm(outCount, map.columns, map.rows, gt, rowMajor(patches, map.columns), c, { accumulate: true });
        }
      }
    });
  },

  im2col: ([x], geometry, [y]) => {
    const [from, to] = [shape4(x), shape4(y)];
    const map = patchMap(from, [to[1], to[2]], geometry, 0, from[3]);
    const [image, patches] = [scratch(from), scratch(to)];
    for (let i = 0; i < from[0]; i++) {
      imageOf(x, i, image);
      readPatches(map, image, patches);
      y.data.set(patches, i * patches.length);
    }
  },

  col2im: ([columns], geometry, [y]) => {
    const [from, to] = [shape4(columns), shape4(y)];
    const map = patchMap(to, [from[1], from[2]], geometry, 0, to[3]);
    const [patches, image] = [scratch(from), scratch(to)];
    for (let i = 0; i < to[0]; i++) {
      imageOf(columns, i, patches);
      image.fill(0);
      addPatches(map, patches, image);
      y.data.set(image, i * image.length);
    }
  },

  // The definition: a symmetric product of the patches with themselves.
  patchCovariance: ([x], { bias, scale, ...geometry }, [y]) => {
    const from = shape4(x);
    const [height, width] = windowOutput("patchCovariance", [from[1], from[2]], geometry);
    const map = patchMap(from, [height, width], geometry, 0, from[3], bias ? 1 : 0);
    const [image, patches] = [scratch(from), new Float64Array(map.rows * map.columns)];
    if (bias) for (let row = 1; row <= map.rows; row++) patches[row * map.columns - 1] = 1;
    const p = rowMajor(patches, map.columns);
    inFloat64(y, (total) => {
      total.fill(0);
      for (let i = 0; i < from[0]; i++) {
        imageOf(x, i, image);
        readPatches(map, image, patches);
        const options = { accumulate: true, scale, lowerOnly: true };
        gemm(map.columns, map.columns, map.rows, transposed(p), p, rowMajor(total, map.columns), options);
      }
      mirrorLower(total, map.columns);
    });
  },
};

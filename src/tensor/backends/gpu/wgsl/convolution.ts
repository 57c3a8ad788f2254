import type { Conv2dParams } from "../../../primitives.ts";
import { portable, type DeviceArray, type Operand } from "../kernel.ts";
import { MOST_GROUPS, type Parameter, type WgslKernel, type WgslQueue } from "../queue.ts";
import { MOST_NUMBERS } from "../patches.ts";
import { sums } from "../reduction.ts";
import { packRows } from "./gemm.ts";

/*
 * Convolutions without groups as products of matrices that are never written: a thread computes four channels of four neighbouring pixels,
 * and of each four input channels come 64 multiply-adds, as in gemm.ts. The input gradient at stride 1 is such a convolution, too, with the
 * kernel turned around. Channels are read as vectors: an image whose channels are no multiple of four is copied with zeros first. What needs
 * more workgroups than a device has, or a copy that is more than kernels see, is left to the portable kernels.
 */

const rows = [0, 1, 2, 3];
/** Threads of a workgroup along channels and pixels. */
const [ACROSS, DOWN] = [4, 16];

const code = (bias: boolean): string => `
struct Params {
  height : i32, width : i32, outHeight : i32, outWidth : i32, kernelHeight : i32, kernelWidth : i32, strideHeight : i32, strideWidth : i32,
  dilationHeight : i32, dilationWidth : i32, top : i32, left : i32, c4 : i32, o4 : i32, outChannels : i32, quads : i32, total : i32,
}
@group(1) @binding(0) var<uniform> p : Params;
@group(0) @binding(0) var<storage, read> x : array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> w : array<vec4<f32>>;
${bias ? "@group(0) @binding(2) var<storage, read> bias : array<f32>;" : ""}
@group(0) @binding(${bias ? 3 : 2}) var<storage, read_write> y : array<f32>;
fn put(pixel : i32, first : i32, values : vec4<f32>) {
  for (var j = 0; j < 4; j++) {
    if (first + j < p.outChannels) { y[pixel * p.outChannels + first + j] = values[j]${bias ? " + bias[first + j]" : ""}; }
  }
}
@compute @workgroup_size(${ACROSS}, ${DOWN}) fn main(@builtin(global_invocation_id) id : vec3<u32>) {
  let o = i32(id.x);
  let item = i32(id.y + id.z * ${DOWN}u * 32768u);
  if (o >= p.o4 || item >= p.total) { return; }
  let row = item / p.quads;
  let column = 4 * (item % p.quads);
  let image = row / p.outHeight;
  ${rows.map((i) => `var sum${i} = vec4<f32>();`).join("\n  ")}
  for (var kh = 0; kh < p.kernelHeight; kh++) {
    let h = (row % p.outHeight) * p.strideHeight + kh * p.dilationHeight - p.top;
    if (h < 0 || h >= p.height) { continue; }
    for (var kw = 0; kw < p.kernelWidth; kw++) {
      let at = kw * p.dilationWidth - p.left;
      ${rows.map((i) => `let w${i} = (column + ${i}) * p.strideWidth + at;`).join("\n      ")}
      ${rows.map((i) => `let in${i} = f32(w${i} >= 0 && w${i} < p.width);`).join("\n      ")}
      ${rows.map((i) => `let x${i} = ((image * p.height + h) * p.width + clamp(w${i}, 0, p.width - 1)) * p.c4;`).join("\n      ")}
      var weights = (kh * p.kernelWidth + kw) * p.c4 * 4 * p.o4 + o;
      ${rows.map((i) => `var part${i} = vec4<f32>();`).join("\n      ")}
      for (var c = 0; c < p.c4; c++) {
        ${rows.map((i) => `let b${i} = w[weights + ${i} * p.o4];`).join("\n        ")}
        weights += 4 * p.o4;
        ${rows.map((i) => `let a${i} = x[x${i} + c];`).join("\n        ")}
        ${rows.map((i) => `part${i} += a${i}.x * b0 + a${i}.y * b1 + a${i}.z * b2 + a${i}.w * b3;`).join("\n        ")}
      }
      ${rows.map((i) => `sum${i} += select(vec4<f32>(), part${i}, in${i} > 0.0);`).join("\n      ")}
    }
  }
  let first = row * p.outWidth + column;
  ${rows.map((i) => `if (column + ${i} < p.outWidth) { put(first + ${i}, 4 * o, sum${i}); }`).join("\n  ")}
}
`;
const plain: WgslKernel = { name: "conv2d", code: code(false), reads: 2, writes: 1 };
const biased: WgslKernel = { name: "conv2d with bias", code: code(true), reads: 3, writes: 1 };

/** The kernel [kh, kw, in, out] with zeros up to whole vectors; `flip` turns it around. Threads: x out, y in, z the kernel's position. */
const packWeights = portable(
  "conv2d: weights in vectors",
  {
    w: "array",
    taps: "integer",
    ins: "integer",
    outs: "integer",
    inStride: "integer",
    outStride: "integer",
    tapStride: "integer",
    flip: "integer",
  },
  `if (this.thread.x >= outs) { return 0; }
  if (this.thread.y >= ins) { return 0; }
  return w[this.thread.x * outStride + this.thread.y * inStride + (this.thread.z + flip * (taps - 1 - 2 * this.thread.z)) * tapStride];`,
);

type Geometry = Omit<Conv2dParams, "groups">;

interface Weights {
  readonly array: DeviceArray;
  readonly kernel: readonly [number, number];
  /** Input and output channels, and how far they are apart. */
  readonly ins: number;
  readonly outs: number;
  readonly inStride: number;
  readonly outStride: number;
  readonly tapStride: number;
  readonly flip: boolean;
}

/** Numbers of an image with its channels in whole vectors. */
const sizeInVectors = ({ array, shape }: Operand): number => {
  const channels = shape[3] as number;
  return 4 * Math.ceil(channels / 4) * (array.size / channels);
};

/** An image's channels in whole vectors: itself, or a copy. */
function inVectors(queue: WgslQueue, x: Operand, f: (x: DeviceArray, vectors: number) => void): void {
  const { array, shape } = x;
  const channels = shape[3] as number;
  const vectors = Math.ceil(channels / 4);
  const pixels = array.size / channels;
  if (channels % 4 === 0) {
    f(array, vectors);
    return;
  }
  queue.temporary(sizeInVectors(x), "conv2d", (copy) => {
    const numbers = { rows: pixels, columns: channels, rowStride: channels, columnStride: 1 };
    queue.run(packRows, [4 * vectors, pixels], copy, { x: array, ...numbers });
    f(copy, vectors);
  });
}

function correlate(queue: WgslQueue, x: Operand, weights: Weights, geometry: Geometry, y: Operand, bias?: DeviceArray): boolean {
  const { array, kernel, ins, outs, flip, ...strides } = weights;
  const [n, outHeight, outWidth] = y.shape as [number, number, number];
  const [, height, width] = x.shape as [number, number, number];
  const { stride, dilation, padding } = geometry;
  const taps = kernel[0] * kernel[1];
  const o4 = Math.ceil(outs / 4);
  const packedSize = 16 * Math.ceil(ins / 4) * o4 * taps;
  if (Math.ceil(o4 / ACROSS) > MOST_GROUPS || !queue.holds(sizeInVectors(x), packedSize)) return false;
  inVectors(queue, x, (image, c4) => {
    queue.temporary(packedSize, "conv2d", (packed) => {
      queue.run(packWeights, [4 * o4, 4 * c4, taps], packed, { w: array, taps, ins, outs, ...strides, flip: Number(flip) });
      const quads = Math.ceil(outWidth / 4);
      const total = n * outHeight * quads;
      const numbers = [
        height,
        width,
        outHeight,
        outWidth,
        ...kernel,
        ...stride,
        ...dilation,
        padding.top,
        padding.left,
        c4,
        o4,
        outs,
        quads,
        total,
      ];
      const parameters: Parameter[] = numbers.map((i) => ({ i }));
      const blocks = Math.ceil(total / DOWN);
      const groups = [Math.ceil(o4 / ACROSS), Math.min(blocks, 32768), Math.ceil(blocks / 32768)] as const;
      queue.runWgsl(bias ? biased : plain, groups, [image, packed, ...(bias ? [bias] : [])], [y.array], parameters);
    });
  });
  return true;
}

/** Issues `conv2d`, if it can. @returns whether it did. */
export function conv2d(queue: WgslQueue, x: Operand, weight: Operand, geometry: Geometry, y: Operand, bias?: DeviceArray): boolean {
  const [outs, kernelHeight, kernelWidth, ins] = weight.shape as [number, number, number, number];
  const taps = kernelHeight * kernelWidth;
  const layout = { ins, outs, inStride: 1, outStride: taps * ins, tapStride: ins, flip: false };
  return correlate(queue, x, { array: weight.array, kernel: [kernelHeight, kernelWidth], ...layout }, geometry, y, bias);
}

/** Issues `conv2dInputGradient`, if it can, at stride 1. @returns whether it did. */
export function conv2dInputGradient(
  queue: WgslQueue,
  gradient: Operand,
  weight: Operand,
  { stride, dilation, padding }: Geometry,
  y: Operand,
): boolean {
  if (stride[0] !== 1 || stride[1] !== 1) return false;
  const [ins, kernelHeight, kernelWidth, outs] = weight.shape as [number, number, number, number];
  const taps = kernelHeight * kernelWidth;
  const turned = {
    ...padding,
    top: dilation[0] * (kernelHeight - 1) - padding.top,
    left: dilation[1] * (kernelWidth - 1) - padding.left,
  };
  const layout = { ins, outs, inStride: taps * outs, outStride: 1, tapStride: outs, flip: true };
  return correlate(
    queue,
    gradient,
    { array: weight.array, kernel: [kernelHeight, kernelWidth], ...layout },
    { stride, dilation, padding: turned },
    y,
  );
}

/** Four output channels by four input channels of one kernel position, over some rows of all images. */
const weightGradient: WgslKernel = {
  name: "conv2dWeightGradient",
  reads: 2,
  writes: 1,
  code: `
struct Params {
  height : i32, width : i32, outHeight : i32, outWidth : i32, kernelHeight : i32, kernelWidth : i32, strideHeight : i32, strideWidth : i32,
  dilationHeight : i32, dilationWidth : i32, top : i32, left : i32, c4 : i32, o4 : i32, rows : i32, perPart : i32, channels : i32, outChannels : i32,
}
@group(1) @binding(0) var<uniform> p : Params;
@group(0) @binding(0) var<storage, read> x : array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> g : array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y : array<f32>;
@compute @workgroup_size(4, 4, 4) fn main(@builtin(global_invocation_id) id : vec3<u32>) {
  let c = i32(id.x);
  let o = i32(id.y);
  let taps = p.kernelHeight * p.kernelWidth;
  let part = i32(id.z) / taps;
  let tap = i32(id.z) % taps;
  let begin = part * p.perPart;
  if (c >= p.c4 || o >= p.o4 || begin >= p.rows) { return; }
  let across = (tap % p.kernelWidth) * p.dilationWidth - p.left;
  let down = (tap / p.kernelWidth) * p.dilationHeight - p.top;
  ${rows.map((i) => `var total${i} = vec4<f32>();`).join("\n  ")}
  for (var row = begin; row < min(p.rows, begin + p.perPart); row++) {
    let h = (row % p.outHeight) * p.strideHeight + down;
    if (h < 0 || h >= p.height) { continue; }
    let line = (row / p.outHeight * p.height + h) * p.width;
    ${rows.map((i) => `var sum${i} = vec4<f32>();`).join("\n    ")}
    for (var column = 0; column < p.outWidth; column++) {
      let w = column * p.strideWidth + across;
      if (w < 0 || w >= p.width) { continue; }
      let a = g[(row * p.outWidth + column) * p.o4 + o];
      let b = x[(line + w) * p.c4 + c];
      ${["x", "y", "z", "w"].map((lane, i) => `sum${i} += a.${lane} * b;`).join("\n      ")}
    }
    ${rows.map((i) => `total${i} += sum${i};`).join("\n    ")}
  }
  ${rows
    .map(
      (i) => `if (4 * o + ${i} < p.outChannels) {
    for (var j = 0; j < 4; j++) {
      if (4 * c + j < p.channels) { y[((part * p.outChannels + 4 * o + ${i}) * taps + tap) * p.channels + 4 * c + j] = total${i}[j]; }
    }
  }`,
    )
    .join("\n  ")}
}
`,
};

/** Issues `conv2dWeightGradient`, if it can. @returns whether it did. */
export function conv2dWeightGradient(queue: WgslQueue, x: Operand, gradient: Operand, geometry: Geometry, y: Operand): boolean {
  const [n, outHeight, outWidth, outChannels] = gradient.shape as [number, number, number, number];
  const [, height, width, channels] = x.shape as [number, number, number, number];
  const [, ...kernel] = y.shape.slice(0, 3) as [number, number, number];
  const { stride, dilation, padding } = geometry;
  const taps = kernel[0] * kernel[1];
  const count = n * outHeight;
  // About as many sums as each has rows, if there is room for them, and workgroups, each of which sees to four.
  const most = Math.max(1, Math.floor(Math.min(MOST_NUMBERS / y.array.size, (4 * MOST_GROUPS) / taps)));
  const perPart = Math.max(Math.ceil(Math.sqrt(count)), Math.ceil(count / most));
  const parts = Math.ceil(count / perPart);
  const groups = [Math.ceil(channels / 16), Math.ceil(outChannels / 16), Math.ceil((parts * taps) / 4)] as const;
  if (Math.max(...groups) > MOST_GROUPS || !queue.holds(sizeInVectors(x), sizeInVectors(gradient))) return false;
  inVectors(queue, x, (image, c4) => {
    inVectors(queue, gradient, (g, o4) => {
      queue.temporary(parts * y.array.size, "conv2dWeightGradient", (partial) => {
        const sizes = [height, width, outHeight, outWidth, ...kernel, ...stride, ...dilation, padding.top, padding.left];
        const parameters: Parameter[] = [...sizes, c4, o4, count, perPart, channels, outChannels].map((i) => ({ i }));
        queue.runWgsl(weightGradient, groups, [image, g], [partial], parameters);
        sums.plain(queue, [1, parts, y.array.size], { x: partial }, y.array);
      });
    });
  });
  return true;
}

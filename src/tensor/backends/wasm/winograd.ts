import type { DType } from "../../dtype.ts";
import type { Conv2dParams, Size2d } from "../../primitives.ts";
import type { Padding, Shape } from "../../shape.ts";
import type { Engine } from "./engine.ts";
import { imageShape, roundUp, type ImageShape, type Operand } from "./kernel.ts";

/**
 * Winograd's convolution F(4 × 4, 3 × 3); the mathematics is in assembly/winograd.ts. Tiles of 4 × 4 outputs of all images are one
 * list, with V the transformed windows of the tiles, U the transformed kernels, and M = V U their 36 products.
 *
 * Few channels: each item is a block of tiles that goes through all three steps in scratch memory, which the cache holds. Many
 * channels: steps follow each other over segments of the list, since U no longer fits in the cache and is read once a segment.
 */

export type WinogradKind = "forward" | "inputGradient" | "weightGradient";

/** Bytes that V and M may have together: of a block, and of a segment. */
const BLOCK_BYTES = 600_000;
const SEGMENT_BYTES = 2 * 2 ** 20;
/** The weight gradient's sum, up to which each part of the tiles has one of its own, and the number of parts. */
const PART_BYTES = 700_000;
const MOST_PARTS = 16;
/** Channels, in and out together, up to which blocks are used; the number of blocks, at least, and of tiles that make one worth it. */
const BLOCK_CHANNELS = 256;
const BLOCKS = 32;
const BLOCK_TILES = 12;

/**
 * Whether Winograd's convolution can compute this one and is faster than direct sums, by what both were measured to take.
 * @param x shape of the convolution's images, [n, height, width, channels]. @param y shape of its output. For every kind.
 */
export function winogradApplies(
  { precision }: Engine,
  kind: WinogradKind,
  x: Shape,
  y: Shape,
  kernel: Size2d,
  { stride, dilation, groups, padding }: Conv2dParams,
  dtype: DType,
): boolean {
  if (precision === "exact" || dtype !== "float32" || groups !== 1) return false;
  if (kernel[0] !== 3 || kernel[1] !== 3 || stride[0] !== 1 || stride[1] !== 1 || dilation[0] !== 1 || dilation[1] !== 1) return false;
  const [images, height, width, channels] = x as ImageShape;
  const [, outHeight, outWidth, outChannels] = y as ImageShape;
  const [down, across] = kind === "inputGradient" ? [height, width] : [outHeight, outWidth];
  const tiles = images * Math.ceil(down / 4) * Math.ceil(across / 4);
  const pairs = channels * outChannels;
  // Nanoseconds on one thread: 40 to 45 floating-point operations each in all products; then the transforms of images and kernels.
  const direct = 0.05 * pairs * images * taps(height, outHeight, padding.top) * taps(width, outWidth, padding.left);
  const products = 1.7 * roundUp(channels, 8) * roundUp(outChannels, 8);
  return tiles * (products + 15 * (channels + outChannels)) + 20 * pairs < direct;
}

/** Pairs of output and kernel row (or column) that meet the image and not its padding. */
function taps(extent: number, out: number, padding: number): number {
  let count = 0;
  for (let k = 0; k < 3; k++) count += Math.max(0, Math.min(out, extent + padding - k) - Math.max(0, padding - k));
  return count;
}

/** y = conv2d(x, weight) + bias. */
export function winogradForward(
  engine: Engine,
  x: Operand,
  weight: Operand,
  bias: Operand | undefined,
  { top, left }: Padding,
  y: Operand,
): void {
  const channels = imageShape(x.shape)[3];
  const row = 4 * channels; // bytes from one position of a kernel to the next
  const kernels = { start: weight.pointer, depthStride: 4, columnStride: 9 * row, positionStride: row };
  convolve(engine, x, kernels, top, left, bias?.pointer ?? 0, y);
}

/** The input's gradient: the convolution of the output's gradient with the kernels turned by 180°. */
export function winogradInputGradient(engine: Engine, gradient: Operand, weight: Operand, { top, left }: Padding, y: Operand): void {
  const row = 4 * imageShape(y.shape)[3];
  const kernels = { start: weight.pointer + 8 * row, depthStride: 9 * row, columnStride: 4, positionStride: -row };
  convolve(engine, gradient, kernels, 2 - top, 2 - left, 0, y);
}

/** Where kernels are, in bytes: from one input channel, output channel or position to the next. */
interface KernelLayout {
  readonly start: number;
  readonly depthStride: number;
  readonly columnStride: number;
  readonly positionStride: number;
}

function convolve(engine: Engine, x: Operand, kernels: KernelLayout, top: number, left: number, bias: number, y: Operand): void {
  const [images, height, width, depth] = imageShape(x.shape);
  const [, outHeight, outWidth, n] = imageShape(y.shape);
  const [down, across] = [Math.ceil(outHeight / 4), Math.ceil(outWidth / 4)];
  const tiles = images * down * across;
  if (tiles === 0 || n === 0) return;
  const panels = Math.ceil(n / 8);
  const tileBytes = 4 * 36 * (roundUp(depth, 8) + 8 * panels);
  const uStep = spread(panels * depth * 32);
  engine.temporary(36 * uStep, "conv2d", (u) => {
    const { start, depthStride, columnStride, positionStride } = kernels;
    const cost = 25 * depth;
    engine.run("winogradKernels_f32", Math.ceil(panels / 2), cost, start, depth, n, depthStride, columnStride, positionStride, u, uStep);

    const block = 4 * Math.ceil(Math.min(BLOCK_BYTES / tileBytes, tiles / BLOCKS) / 4);
    if (depth + n <= BLOCK_CHANNELS && block >= BLOCK_TILES) {
      const [vStep, mStep] = [spread(block * roundUp(depth, 8) * 4), spread(block * panels * 32)];
      const cost = block * (1.6 * depth * n + 10 * (depth + n));
      const image = [x.pointer, height, width, depth, top, left, down, across] as const;
      engine.run(
        "winogradBlock_f32",
        Math.ceil(tiles / block),
        cost,
        ...image,
        u,
        uStep,
        y.pointer,
        outHeight,
        outWidth,
        n,
        bias,
        block,
        tiles,
        vStep,
        mStep,
      );
      return;
    }

    const segment = 4 * Math.ceil(Math.min(Math.max(SEGMENT_BYTES / tileBytes, 64), tiles) / 4);
    const [vStep, mStep] = [spread(segment * roundUp(depth, 8) * 4), spread(segment * panels * 32)];
    const group = Math.min(panels, 8);
    engine.temporary(36 * (vStep + mStep), "conv2d", (v) => {
      const m = v + 36 * vStep;
      for (let first = 0; first < tiles; first += segment) {
        const count = Math.min(segment, tiles - first);
        const blocks = Math.ceil(count / 4);
        engine.run(
          "winogradInput_f32",
          blocks,
          40 * depth,
          x.pointer,
          height,
          width,
          depth,
          top,
          left,
          down,
          across,
          first,
          count,
          v,
          vStep,
        );
        const items = 36 * Math.ceil(panels / group);
        engine.run("winogradProduct_f32", items, 0.36 * group * depth * count, v, vStep, u, uStep, m, mStep, count, depth, n, group);
        engine.run("winogradOutput_f32", blocks, 30 * n, m, mStep, y.pointer, outHeight, outWidth, n, down, across, first, count, bias);
      }
    });
  });
}

/** The weight's gradient: M = Σ of the outer products of transformed output gradients and V over all tiles. */
export function winogradWeightGradient(engine: Engine, x: Operand, gradient: Operand, { top, left }: Padding, y: Operand): void {
  const [images, height, width, depth] = imageShape(x.shape);
  const [, outHeight, outWidth, n] = imageShape(gradient.shape);
  const [down, across] = [Math.ceil(outHeight / 4), Math.ceil(outWidth / 4)];
  const tiles = images * down * across;
  if (tiles === 0 || n === 0 || depth === 0) {
    engine.view("float32", y.pointer, y.size).fill(0);
    return;
  }
  const [panels, blocks] = [Math.ceil(depth / 8), Math.ceil(n / 4)];
  const tileBytes = 4 * 36 * (8 * panels + 4 * blocks);
  const uStep = spread(blocks * panels * 128);
  const geometry = [x.pointer, height, width, depth, top, left, gradient.pointer, outHeight, outWidth, n, down, across] as const;

  // An odd number of quadruples: panels then start in different sets of the cache.
  const oddly = (bytes: number): number => 8 * Math.floor(bytes / tileBytes / 8) + 4;
  const parts = Math.min(MOST_PARTS, Math.floor(tiles / 64));
  if (36 * uStep <= PART_BYTES && parts > 1) {
    const block = oddly(BLOCK_BYTES);
    const part = Math.ceil(tiles / parts);
    const [vStep, gStep] = [spread(block * panels * 32), spread(block * blocks * 16)];
    engine.temporary(36 * uStep * parts, "conv2dWeightGradient", (u) => {
      const uPart = 36 * uStep;
      const cost = part * (1.8 * depth * n + 10 * (depth + n));
      engine.run("winogradPart_f32", Math.ceil(tiles / part), cost, ...geometry, part, tiles, block, vStep, gStep, u, uStep, uPart);
      engine.run("winogradAddParts_f32", Math.ceil(uPart / 4096), 150 * parts, u, uPart, uPart, Math.ceil(tiles / part));
      engine.run("winogradKernelGradient_f32", n, 5 * depth, u, uStep, depth, y.pointer);
    });
    return;
  }

  const segment = Math.min(tiles, oddly(Math.max(SEGMENT_BYTES, 128 * tileBytes)));
  const [vStep, gStep] = [spread(segment * panels * 32), spread(segment * blocks * 16)];
  const group = Math.min(blocks, 16);
  const items = 36 * Math.ceil(blocks / group);
  engine.temporary(36 * (vStep + gStep + uStep), "conv2dWeightGradient", (v) => {
    const g = v + 36 * vStep;
    const u = g + 36 * gStep;
    for (let first = 0; first < tiles; first += segment) {
      const count = Math.min(segment, tiles - first);
      engine.run("winogradFactors_f32", Math.ceil(count / 4), 40 * (depth + n), ...geometry, first, count, v, vStep, g, gStep);
      const cost = 0.18 * group * depth * count;
      engine.run("winogradAccumulate_f32", items, cost, v, vStep, g, gStep, u, uStep, count, depth, n, group, first > 0 ? 1 : 0);
    }
    engine.run("winogradKernelGradient_f32", n, 5 * depth, u, uStep, depth, y.pointer);
  });
}

/** Bytes from one matrix to the next: an odd number of cache lines, so that the same place in all 36 is in different sets of the cache. */
function spread(bytes: number): number {
  return 64 * (Math.ceil(bytes / 64) | 1);
}

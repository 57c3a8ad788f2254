import { bytesPerElement, type DType } from "../../dtype.ts";
import type { WindowGeometry } from "../../shape.ts";
import { denseApplies, denseForward, denseInputGradient, denseWeightGradient } from "./dense.ts";
import type { Engine } from "./engine.ts";
import { SCRATCH_BYTES } from "./plan.ts";
import { winogradApplies, winogradForward, winogradInputGradient, winogradWeightGradient } from "./winograd.ts";
import { floatSuffix, imageShape, roundUp, type ImageShape, type Kernels } from "./kernel.ts";

/** The numbers of a plan in the order of assembly/convolutionPlan.ts, which says what they mean. */
const planFields = [
  ...(["images", "height", "width", "channels", "groups", "perIn", "perOut", "kernelHeight", "kernelWidth"] as const),
  ...(["strideHeight", "strideWidth", "dilationHeight", "dilationWidth", "top", "left", "outHeight", "outWidth"] as const),
  ...(["toImage", "toRow", "toPixel", "blockImages", "blockRows", "blockColumns", "panels", "inside"] as const),
  ...(["splits", "blockChannels", "merged"] as const),
] as const;
type Plan = Record<(typeof planFields)[number], number>;
const PLAN_BYTES = 128;

/** A block of pixels: enough that packed weights pay, few enough that what their windows cover stays in the second-level cache. */
const BLOCK_PIXELS = 256;
const BLOCK_BYTES = 512 * 1024;
/** Most pixels of a block, and bytes that a copy of a part of the images may take: what the kernels have room for. */
const MOST_PIXELS = 512;
const MOST_BYTES = SCRATCH_BYTES - 2 ** 16;
/** Bytes of sums that an item of the weight's gradient works on, so that they stay in the second-level cache. */
const SUM_BYTES = 1.25 * 2 ** 20;
/** Partial sums of the weight's gradient are bounded by number and by bytes together. */
const MOST_SPLITS = 16;
const SPLIT_BYTES = 32 * 2 ** 20;
const MOST_DEPTHWISE_SPLITS = 64;
/** Columns of a row that depthwise convolutions take at a time: few enough for short sums, and for threads to share a long row. */
const DEPTHWISE_COLUMNS = 128;
/** Items that a large convolution is divided into, at least, and nanoseconds below which an item is not divided further. */
const ITEMS = 32;
const ITEM_COST = 50_000;
/** Up to so many channels the weight's gradient reads runs of a kernel row rather than four channels at a time. */
const MOST_MERGED = 16;
/** Multiplications and additions a nanosecond on one thread, about. */
const SPEED = 40;

/** Elements of two vectors: the columns of a panel. */
const panelWidth = (dtype: DType): number => 32 / bytesPerElement[dtype];
/** The size of parts of at most `most` that are about equal. */
const evenly = (total: number, most: number): number => Math.ceil(total / Math.ceil(total / most));

/** A plan for windows over images `x` with results `y`, not yet divided. */
function planOf(
  x: ImageShape,
  y: ImageShape,
  kernel: readonly [number, number],
  geometry: Omit<WindowGeometry, "kernel">,
  groups: number,
): Plan {
  const { stride, dilation, padding } = geometry;
  return {
    images: x[0],
    height: x[1],
    width: x[2],
    channels: x[3],
    groups,
    perIn: x[3] / groups,
    perOut: y[3] / groups,
    kernelHeight: kernel[0],
    kernelWidth: kernel[1],
    strideHeight: stride[0],
    strideWidth: stride[1],
    dilationHeight: dilation[0],
    dilationWidth: dilation[1],
    top: padding.top,
    left: padding.left,
    outHeight: y[1],
    outWidth: y[2],
    toImage: y[1] * y[2] * y[3],
    toRow: y[2] * y[3],
    toPixel: y[3],
    blockImages: 1,
    blockRows: y[1],
    blockColumns: y[2],
    panels: 1,
    inside: 0,
    splits: 1,
    blockChannels: 1,
    merged: 0,
  };
}

function writePlan(engine: Engine, plan: Plan, pointer: number): void {
  const to = engine.view("int32", pointer, planFields.length);
  for (let i = 0; i < planFields.length; i++) to[i] = plan[planFields[i]!];
}

/** Bytes of the part of the images that the windows of a block cover, at `unit` bytes a pixel. */
function coveredBytes(plan: Plan, images: number, rows: number, columns: number, unit: number): number {
  const height = (rows - 1) * plan.strideHeight + (plan.kernelHeight - 1) * plan.dilationHeight + 1;
  const width = (columns - 1) * plan.strideWidth + (plan.kernelWidth - 1) * plan.dilationWidth + 1;
  return images * height * width * unit;
}

/**
 * Divides the output into blocks: some images, some rows of one, or a part of one row. `unit` is the bytes of a pixel that is
 * copied, 0 if none is.
 *
 * @returns the bytes of a copy that is too large for the threads' scratch, or else 0.
 */
function divide(plan: Plan, unit: number): number {
  const { images, outHeight: height, outWidth: width } = plan;
  if (height * width <= BLOCK_PIXELS && coveredBytes(plan, 1, height, width, unit) <= BLOCK_BYTES) {
    const bytes = coveredBytes(plan, 1, height, width, unit);
    plan.blockImages = evenly(images, Math.max(1, Math.floor(Math.min(BLOCK_PIXELS / (height * width), BLOCK_BYTES / bytes))));
    return 0;
  }
  let rows = Math.min(height, Math.max(1, Math.floor(BLOCK_PIXELS / width)));
  while (rows > 1 && coveredBytes(plan, 1, rows, width, unit) > BLOCK_BYTES) rows--;
  plan.blockRows = evenly(height, rows);
  if (plan.blockRows > 1) return 0;
  let columns = width > MOST_PIXELS ? BLOCK_PIXELS : width;
  while (columns > 4 && coveredBytes(plan, 1, 1, columns, unit) > MOST_BYTES) columns = Math.ceil(columns / 2);
  plan.blockColumns = evenly(width, columns);
  const bytes = coveredBytes(plan, 1, 1, plan.blockColumns, unit);
  return bytes > MOST_BYTES ? bytes : 0;
}

function blocksOf(plan: Plan): number {
  const { images, outHeight, outWidth, blockImages, blockRows, blockColumns } = plan;
  return Math.ceil(images / blockImages) * Math.ceil(outHeight / blockRows) * Math.ceil(outWidth / blockColumns);
}

/** Whether no window leaves the image. */
function staysInside(plan: Plan): boolean {
  const { top, left, height, width, outHeight, outWidth, kernelHeight, kernelWidth } = plan;
  const bottom = (outHeight - 1) * plan.strideHeight + (kernelHeight - 1) * plan.dilationHeight - top;
  const right = (outWidth - 1) * plan.strideWidth + (kernelWidth - 1) * plan.dilationWidth - left;
  return top <= 0 && left <= 0 && bottom < height && right < width;
}

/** Runs all items of a task `(start, end, …numbers, area, first)`: one at a time over memory of its own if scratch is too small. */
function runItems(
  engine: Engine,
  name: "convolve_f32" | "convolve_f64" | "weightPartials_f32" | "weightPartials_f64",
  items: number,
  cost: number,
  area: number,
  [plan, x, packed, y]: readonly [number, number, number, number],
): void {
  if (area === 0) {
    engine.run(name, items, cost, plan, x, packed, y, 0, 0);
    return;
  }
  engine.temporary(area + 64, name, (pointer) => {
    for (let i = 0; i < items; i++) engine.run(name, 1, cost, plan, x, packed, y, pointer, i);
  });
}

/** Bytes that the packed weights of a plan take: a row for the bias, and one for each element of a window. */
function packedBytes({ groups, perIn, perOut, kernelHeight, kernelWidth }: Plan, dtype: DType): number {
  return groups * Math.ceil(perOut / panelWidth(dtype)) * (kernelHeight * kernelWidth * perIn + 1) * 32;
}

/** Convolves with packed weights; `plan` lies before them, in memory from `pointer` on. */
function convolve(engine: Engine, plan: Plan, dtype: DType, pointer: number, x: number, y: number): void {
  plan.inside = staysInside(plan) ? 1 : 0;
  const depth = plan.kernelHeight * plan.kernelWidth * plan.perIn;
  const area = divide(plan, plan.inside ? 0 : plan.perIn * bytesPerElement[dtype]);
  const blocks = blocksOf(plan) * plan.groups;
  const pixels = plan.blockImages * plan.blockRows * plan.blockColumns;
  const panels = Math.ceil(plan.perOut / panelWidth(dtype));
  const cost = (pixels * (depth + 4) * 16) / SPEED;
  plan.panels = Math.min(panels, Math.max(Math.ceil((panels * blocks) / ITEMS), Math.ceil(ITEM_COST / cost)));
  writePlan(engine, plan, pointer);
  const items = blocks * Math.ceil(panels / plan.panels);
  runItems(engine, `convolve_${floatSuffix(dtype)}`, items, cost * plan.panels, area, [pointer, x, pointer + PLAN_BYTES, y]);
}

/** What one axis of the input's gradient needs at positions ≡ `at` (mod stride): a convolution of stride 1 with some of the kernel. */
interface Phase {
  /** Number of such positions, from `at` on. */
  readonly count: number;
  /** Kernel elements `first`, `first + step`, …, `length` of them: in descending order they are the kernel. */
  readonly first: number;
  readonly step: number;
  readonly length: number;
  readonly dilation: number;
  readonly padding: number;
}

/**
 * Input position i gets weight k of output o where o s + k d − p = i (stride s, dilation d, padding p), so k d ≡ i + p (mod s).
 * Such k are k₀ + u s/g with g = gcd(s, d); with i = at + s t, the outputs are o = t + (at + p − k₀ d)/s − u d/g.
 */
function phaseOf(at: number, extent: number, kernel: number, stride: number, dilation: number, padding: number): Phase {
  const step = stride / gcd(stride, dilation);
  let first = 0;
  while (first < step && (at + padding - first * dilation) % stride !== 0) first++;
  const length = first < step ? Math.max(0, Math.ceil((kernel - first) / step)) : 0;
  const own = (dilation * step) / stride;
  return {
    count: Math.max(0, Math.ceil((extent - at) / stride)),
    ...{ first, step, length, dilation: own },
    padding: length === 0 ? 0 : (length - 1) * own - (at + padding - first * dilation) / stride,
  };
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** Whether every channel is convolved on its own. */
function isDepthwise({ groups, perIn, perOut }: Plan): boolean {
  return groups > 1 && perIn === 1 && perOut === 1;
}

/** Weights and bias (0 if there is none) of a convolution, by address. */
type Weights = readonly [weight: number, bias: number];

function forward(engine: Engine, plan: Plan, dtype: DType, [weight, bias]: Weights, x: number, y: number): void {
  const suffix = floatSuffix(dtype);
  const { groups, perIn, perOut, kernelHeight, kernelWidth } = plan;
  if (isDepthwise(plan)) {
    depthwise(engine, plan, dtype, [weight, bias], [kernelHeight * kernelWidth, kernelWidth, 0, 1, 0, 1], x, y);
    return;
  }
  const depth = kernelHeight * kernelWidth * perIn;
  engine.temporary(PLAN_BYTES + packedBytes(plan, dtype), "conv2d", (pointer) => {
    const panels = groups * Math.ceil(perOut / panelWidth(dtype));
    engine.run(`packWeights_${suffix}`, panels, depth * 4, weight, bias, pointer + PLAN_BYTES, depth, perOut);
    convolve(engine, plan, dtype, pointer, x, y);
  });
}

/** @param elements of the kernel: all, in a row; then the first and the step, downwards and to the right, of those in the plan. */
function depthwise(
  engine: Engine,
  plan: Plan,
  dtype: DType,
  [weight, bias]: Weights,
  elements: readonly [number, number, number, number, number, number],
  x: number,
  y: number,
): void {
  const suffix = floatSuffix(dtype);
  const { channels, kernelWidth } = plan;
  const rows = 1 + plan.kernelHeight * kernelWidth;
  engine.temporary(PLAN_BYTES + rows * channels * bytesPerElement[dtype], "conv2d", (pointer) => {
    const packed = pointer + PLAN_BYTES;
    engine.run(`packDepthwise_${suffix}`, rows, channels, weight, bias, packed, channels, ...elements, kernelWidth);
    plan.blockColumns = evenly(plan.outWidth, DEPTHWISE_COLUMNS);
    writePlan(engine, plan, pointer);
    const items = plan.images * plan.outHeight * Math.ceil(plan.outWidth / plan.blockColumns);
    const cost = (plan.blockColumns * channels * rows * bytesPerElement[dtype]) / SPEED;
    engine.run(`depthwise_${suffix}`, items, cost, pointer, x, packed, y);
  });
}

function depthwiseWeightGradient(engine: Engine, plan: Plan, dtype: DType, x: number, gradient: number, y: number): void {
  const suffix = floatSuffix(dtype);
  const positions = plan.kernelHeight * plan.kernelWidth;
  const bytes = positions * plan.channels * bytesPerElement[dtype];
  plan.blockColumns = evenly(plan.outWidth, DEPTHWISE_COLUMNS);
  const blocks = plan.images * plan.outHeight * Math.ceil(plan.outWidth / plan.blockColumns);
  plan.splits = Math.max(1, Math.min(MOST_DEPTHWISE_SPLITS, blocks >> 2, Math.floor(SPLIT_BYTES / bytes)));
  engine.temporary(PLAN_BYTES + plan.splits * bytes, "conv2dWeightGradient", (pointer) => {
    writePlan(engine, plan, pointer);
    const partials = pointer + PLAN_BYTES;
    const cost = ((blocks / plan.splits) * plan.blockColumns * bytes) / SPEED;
    engine.run(`depthwisePartials_${suffix}`, plan.splits, cost, pointer, x, gradient, partials);
    engine.run(`depthwiseSum_${suffix}`, positions, plan.channels * plan.splits, pointer, partials, y);
  });
}

function weightGradient(engine: Engine, plan: Plan, dtype: DType, x: number, gradient: number, y: number): void {
  const suffix = floatSuffix(dtype);
  const size = bytesPerElement[dtype];
  const { groups, perIn, perOut, kernelHeight, kernelWidth } = plan;
  const positions = kernelHeight * kernelWidth;
  const panels = Math.ceil(perOut / panelWidth(dtype));
  plan.merged = plan.dilationWidth === 1 && perIn <= MOST_MERGED ? 1 : 0;
  const most = Math.max(4, 4 * Math.floor(SUM_BYTES / (positions * panels * 128)));
  plan.blockChannels = plan.merged ? perIn : roundUp(evenly(perIn, most), 4);
  const area = divide(plan, plan.blockChannels * size);
  const tiles = plan.merged ? kernelHeight * Math.ceil((kernelWidth * perIn) / 4) : positions * Math.ceil(perIn / 4);
  const bytes = groups * panels * tiles * 128;
  const channelBlocks = groups * Math.ceil(perIn / plan.blockChannels);
  const splits = Math.min(MOST_SPLITS, Math.ceil(ITEMS / channelBlocks), blocksOf(plan) >> 1, Math.floor(SPLIT_BYTES / bytes));
  plan.splits = Math.max(1, splits);
  const items = plan.splits * channelBlocks;
  const pixels = plan.images * plan.outHeight * plan.outWidth;
  engine.temporary(PLAN_BYTES + plan.splits * bytes, "conv2dWeightGradient", (pointer) => {
    writePlan(engine, plan, pointer);
    const partials = pointer + PLAN_BYTES;
    const cost = (pixels * bytes) / 2 / SPEED / items;
    runItems(engine, `weightPartials_${suffix}`, items, cost, area, [pointer, x, gradient, partials]);
    const lines = groups * panels * (plan.merged ? kernelHeight : positions);
    engine.run(`weightSum_${suffix}`, lines, (bytes / 4 / lines) * plan.splits, pointer, partials, y);
  });
}

export const convolution: Kernels<"conv2d" | "conv2dInputGradient" | "conv2dWeightGradient" | "im2col" | "col2im"> = {
  conv2d: (engine, [x, weight, bias], params, [y]) => {
    if (y.size === 0) return;
    const [, kernelHeight, kernelWidth] = imageShape(weight.shape);
    if (denseApplies(engine, x.shape, y.shape, [kernelHeight, kernelWidth], params, y.dtype)) {
      denseForward(engine, x, weight, bias, params, y);
      return;
    }
    if (winogradApplies(engine, "forward", x.shape, y.shape, [kernelHeight, kernelWidth], params, y.dtype)) {
      winogradForward(engine, x, weight, bias, params.padding, y);
      return;
    }
    const plan = planOf(imageShape(x.shape), imageShape(y.shape), [kernelHeight, kernelWidth], params, params.groups);
    forward(engine, plan, y.dtype, [weight.pointer, bias?.pointer ?? 0], x.pointer, y.pointer);
  },

  conv2dInputGradient: (engine, [gradient, weight], params, [y]) => {
    if (y.size === 0) return;
    const { stride, dilation, padding, groups } = params;
    const { dtype } = y;
    const suffix = floatSuffix(dtype);
    const from = imageShape(gradient.shape);
    const [out, kernelHeight, kernelWidth, perIn] = imageShape(weight.shape);
    const [images, height, width, channels] = imageShape(y.shape);
    if (denseApplies(engine, y.shape, gradient.shape, [kernelHeight, kernelWidth], params, dtype)) {
      denseInputGradient(engine, gradient, weight, params, y);
      return;
    }
    if (winogradApplies(engine, "inputGradient", y.shape, gradient.shape, [kernelHeight, kernelWidth], params, dtype)) {
      winogradInputGradient(engine, gradient, weight, padding, y);
      return;
    }
    const perOut = out / groups;
    const panels = groups * Math.ceil(perIn / panelWidth(dtype));
    for (let i = 0; i < stride[0]; i++) {
      const h = phaseOf(i, height, kernelHeight, stride[0], dilation[0], padding.top);
      for (let j = 0; j < stride[1]; j++) {
        const w = phaseOf(j, width, kernelWidth, stride[1], dilation[1], padding.left);
        if (h.count === 0 || w.count === 0) continue;
        const geometry = {
          stride: [1, 1],
          dilation: [h.dilation, w.dilation],
          padding: { top: h.padding, bottom: 0, left: w.padding, right: 0 },
        } as const;
        const plan = planOf(from, [images, h.count, w.count, channels], [h.length, w.length], geometry, groups);
        plan.toImage = height * width * channels;
        plan.toRow = stride[0] * width * channels;
        plan.toPixel = stride[1] * channels;
        const to = y.pointer + (i * width + j) * channels * bytesPerElement[dtype];
        if (isDepthwise(plan)) {
          const lasts = [h.first + (h.length - 1) * h.step, w.first + (w.length - 1) * w.step] as const;
          const elements = [kernelHeight * kernelWidth, kernelWidth, lasts[0], -h.step, lasts[1], -w.step] as const;
          depthwise(engine, plan, dtype, [weight.pointer, 0], elements, gradient.pointer, to);
          continue;
        }
        if (h.length === 0 || w.length === 0) {
          // Nothing is added here: windows without channels.
          [plan.kernelHeight, plan.kernelWidth, plan.perIn, plan.top, plan.left] = [1, 1, 0, 0, 0];
        }
        engine.temporary(PLAN_BYTES + packedBytes(plan, dtype), "conv2dInputGradient", (pointer) => {
          const packed = pointer + PLAN_BYTES;
          const elements = [kernelHeight, kernelWidth, h.first, h.step, h.length, w.first, w.step, w.length] as const;
          engine.run(`packFlipped_${suffix}`, panels, perOut * h.length * w.length * 4, weight.pointer, packed, perOut, perIn, ...elements);
          convolve(engine, plan, dtype, pointer, gradient.pointer, to);
        });
      }
    }
  },

  conv2dWeightGradient: (engine, [x, gradient], params, [y]) => {
    const { dtype } = y;
    if (y.size === 0) return;
    if (x.size === 0) {
      engine.view(dtype, y.pointer, y.size).fill(0);
      return;
    }
    if (denseApplies(engine, x.shape, gradient.shape, params.kernel, params, dtype)) {
      denseWeightGradient(engine, x, gradient, params, y);
      return;
    }
    if (winogradApplies(engine, "weightGradient", x.shape, gradient.shape, params.kernel, params, dtype)) {
      winogradWeightGradient(engine, x, gradient, params.padding, y);
      return;
    }
    const plan = planOf(imageShape(x.shape), imageShape(gradient.shape), params.kernel, params, params.groups);
    if (isDepthwise(plan)) depthwiseWeightGradient(engine, plan, dtype, x.pointer, gradient.pointer, y.pointer);
    else weightGradient(engine, plan, dtype, x.pointer, gradient.pointer, y.pointer);
  },

  im2col: (engine, [x], geometry, [y]) => {
    const plan = planOf(imageShape(x.shape), imageShape(y.shape), geometry.kernel, geometry, 1);
    engine.temporary(PLAN_BYTES, "im2col", (pointer) => {
      writePlan(engine, plan, pointer);
      const rows = plan.images * plan.outHeight;
      engine.run("im2col", rows, plan.toRow / 4, pointer, x.pointer, y.pointer, plan.channels * bytesPerElement[x.dtype]);
    });
  },

  col2im: (engine, [columns], geometry, [y]) => {
    const plan = planOf(imageShape(y.shape), imageShape(columns.shape), geometry.kernel, geometry, 1);
    engine.temporary(PLAN_BYTES, "col2im", (pointer) => {
      writePlan(engine, plan, pointer);
      const rows = plan.images * plan.height;
      engine.run(`col2im_${floatSuffix(y.dtype)}`, rows, columns.size / rows / 2, pointer, columns.pointer, y.pointer);
    });
  },
};

import type { DType } from "../../dtype.ts";
import type { WindowGeometry } from "../../shape.ts";
import type { Engine } from "./engine.ts";
import { winogradApplies, winogradForward, winogradInputGradient, winogradWeightGradient } from "./winograd.ts";
import type { Kernels, Operand } from "./kernel.ts";

/** The numbers of a plan in the order of assembly/convolution.ts, which says what they mean. */
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
const MOST_BYTES = 4 * 2 ** 20 - 2 ** 16;
/** Bytes of sums that an item of the weight's gradient works on, so that they stay in the second-level cache. */
const SUM_BYTES = 1.25 * 2 ** 20;
/** Partial sums of the weight's gradient are bounded by number and by bytes together. */
const MOST_SPLITS = 16;
const SPLIT_BYTES = 32 * 2 ** 20;
/** Items that a large convolution is divided into, at least, and nanoseconds below which an item is not divided further. */
const ITEMS = 32;
const ITEM_COST = 50_000;
/** Up to so many channels the weight's gradient reads runs of a kernel row rather than four channels at a time. */
const MOST_MERGED = 16;
/** Multiplications and additions a nanosecond on one thread, about. */
const SPEED = 40;

type ImageShape = readonly [n: number, height: number, width: number, channels: number];
const shape4 = (x: Operand): ImageShape => x.shape as unknown as ImageShape;
const suffixOf = (dtype: DType): "f32" | "f64" => (dtype === "float64" ? "f64" : "f32");
const bytesOf = (dtype: DType): number => (dtype === "float64" ? 8 : 4);
/** Elements of two vectors: the columns of a panel. */
const panelWidth = (dtype: DType): number => 32 / bytesOf(dtype);
const roundUp = (x: number, multiple: number): number => Math.ceil(x / multiple) * multiple;
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
  const area = divide(plan, plan.inside ? 0 : plan.perIn * bytesOf(dtype));
  const blocks = blocksOf(plan) * plan.groups;
  const pixels = plan.blockImages * plan.blockRows * plan.blockColumns;
  const panels = Math.ceil(plan.perOut / panelWidth(dtype));
  const cost = (pixels * (depth + 4) * 2 * panelWidth(dtype) * (bytesOf(dtype) / 4)) / SPEED;
  plan.panels = Math.min(panels, Math.max(Math.ceil((panels * blocks) / ITEMS), Math.ceil(ITEM_COST / cost)));
  writePlan(engine, plan, pointer);
  const items = blocks * Math.ceil(panels / plan.panels);
  runItems(engine, `convolve_${suffixOf(dtype)}`, items, cost * plan.panels, area, [pointer, x, pointer + PLAN_BYTES, y]);
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

export const convolution: Kernels<"conv2d" | "conv2dInputGradient" | "conv2dWeightGradient" | "im2col" | "col2im"> = {
  conv2d: (engine, [x, weight, bias], params, [y]) => {
    if (y.size === 0) return;
    const [, kernelHeight, kernelWidth] = shape4(weight);
    const { dtype } = y;
    if (winogradApplies(engine, "forward", x.shape, y.shape, [kernelHeight, kernelWidth], params, dtype)) {
      winogradForward(engine, x, weight, bias, params.padding, y);
      return;
    }
    const plan = planOf(shape4(x), shape4(y), [kernelHeight, kernelWidth], params, params.groups);
    const depth = kernelHeight * kernelWidth * plan.perIn;
    engine.temporary(PLAN_BYTES + packedBytes(plan, dtype), "conv2d", (pointer) => {
      const panels = plan.groups * Math.ceil(plan.perOut / panelWidth(dtype));
      const numbers = [weight.pointer, bias?.pointer ?? 0, pointer + PLAN_BYTES, depth, plan.perOut];
      engine.run(`packWeights_${suffixOf(dtype)}`, panels, depth * 4, ...numbers);
      convolve(engine, plan, dtype, pointer, x.pointer, y.pointer);
    });
  },

  conv2dInputGradient: (engine, [gradient, weight], params, [y]) => {
    if (y.size === 0) return;
    const { stride, dilation, padding, groups } = params;
    const { dtype } = y;
    const [out, kernelHeight, kernelWidth, perIn] = shape4(weight);
    const [, height, width, channels] = shape4(y);
    if (winogradApplies(engine, "inputGradient", y.shape, gradient.shape, [kernelHeight, kernelWidth], params, dtype)) {
      winogradInputGradient(engine, gradient, weight, padding, y);
      return;
    }
    const suffix = suffixOf(dtype);
    const panels = groups * Math.ceil(perIn / panelWidth(dtype));
    const most = Math.ceil(kernelHeight / stride[0]) * Math.ceil(kernelWidth / stride[1]);
    for (let i = 0; i < stride[0]; i++) {
      const rows = phaseOf(i, height, kernelHeight, stride[0], dilation[0], padding.top);
      for (let j = 0; j < stride[1]; j++) {
        const columns = phaseOf(j, width, kernelWidth, stride[1], dilation[1], padding.left);
        if (rows.count === 0 || columns.count === 0) continue;
        const plan = planOf(
          shape4(gradient),
          [y.shape[0]!, rows.count, columns.count, channels],
          [rows.length, columns.length],
          {
            stride: [1, 1],
            dilation: [rows.dilation, columns.dilation],
            padding: { top: rows.padding, bottom: 0, left: columns.padding, right: 0 },
          },
          groups,
        );
        plan.toImage = height * width * channels;
        plan.toRow = stride[0] * width * channels;
        plan.toPixel = stride[1] * channels;
        if (rows.length === 0 || columns.length === 0) {
          // Nothing adds to these: a kernel without channels.
          [plan.kernelHeight, plan.kernelWidth, plan.perIn, plan.top, plan.left] = [1, 1, 0, 0, 0];
        }
        engine.temporary(PLAN_BYTES + packedBytes(plan, dtype), "conv2dInputGradient", (pointer) => {
          const numbers = [weight.pointer, pointer + PLAN_BYTES, out / groups, perIn, kernelHeight, kernelWidth];
          const kernels = [rows.first, rows.step, rows.length, columns.first, columns.step, columns.length];
          engine.run(`packFlipped_${suffix}`, panels, (out / groups) * most * 4, ...numbers, ...kernels);
          convolve(engine, plan, dtype, pointer, gradient.pointer, y.pointer + (i * width + j) * channels * bytesOf(dtype));
        });
      }
    }
  },

  conv2dWeightGradient: (engine, [x, gradient], params, [y]) => {
    const { dtype } = y;
    const suffix = suffixOf(dtype);
    const size = bytesOf(dtype);
    if (y.size === 0) return;
    if (x.shape[0] === 0) {
      engine.view(dtype, y.pointer, y.size).fill(0);
      return;
    }
    if (winogradApplies(engine, "weightGradient", x.shape, gradient.shape, params.kernel, params, dtype)) {
      winogradWeightGradient(engine, x, gradient, params.padding, y);
      return;
    }
    const plan = planOf(shape4(x), shape4(gradient), params.kernel, params, params.groups);
    const { groups, perIn, perOut, kernelHeight, kernelWidth } = plan;
    const positions = kernelHeight * kernelWidth;
    const panels = Math.ceil(perOut / panelWidth(dtype));
    plan.merged = params.dilation[1] === 1 && perIn <= MOST_MERGED ? 1 : 0;
    const most = Math.max(4, 4 * Math.floor(SUM_BYTES / (positions * panels * 32) / 4));
    plan.blockChannels = plan.merged ? perIn : Math.min(perIn, roundUp(evenly(perIn, most), 4));
    const area = divide(plan, (plan.merged ? perIn : roundUp(plan.blockChannels, 4)) * size);
    const tiles = plan.merged ? kernelHeight * Math.ceil((kernelWidth * perIn) / 4) : positions * Math.ceil(perIn / 4);
    const sumBytes = groups * panels * tiles * 128;
    const channelBlocks = groups * Math.ceil(perIn / plan.blockChannels);
    const blocks = blocksOf(plan);
    plan.splits = Math.max(
      1,
      Math.min(MOST_SPLITS, Math.ceil(ITEMS / channelBlocks), Math.floor(blocks / 2), Math.floor(SPLIT_BYTES / sumBytes)),
    );
    const pixels = plan.images * plan.outHeight * plan.outWidth;
    const items = plan.splits * channelBlocks;
    const cost = (pixels * groups * panels * tiles * 16 * size) / SPEED / items;
    engine.temporary(PLAN_BYTES + plan.splits * sumBytes, "conv2dWeightGradient", (pointer) => {
      writePlan(engine, plan, pointer);
      const partials = pointer + PLAN_BYTES;
      runItems(engine, `weightPartials_${suffix}`, items, cost, area, [pointer, x.pointer, gradient.pointer, partials]);
      const lines = groups * panels * (plan.merged ? kernelHeight : positions);
      engine.run(`weightSum_${suffix}`, lines, (sumBytes / 128 / lines) * plan.splits * 40 * groups, pointer, partials, y.pointer);
    });
  },

  im2col: (engine, [x], geometry, [y]) => {
    const plan = planOf(shape4(x), shape4(y), geometry.kernel, geometry, 1);
    engine.temporary(PLAN_BYTES, "im2col", (pointer) => {
      writePlan(engine, plan, pointer);
      const rows = plan.images * plan.outHeight;
      engine.run("im2col", rows, plan.toRow / 4, pointer, x.pointer, y.pointer, plan.channels * bytesOf(x.dtype));
    });
  },

  col2im: (engine, [columns], geometry, [y]) => {
    const plan = planOf(shape4(y), shape4(columns), geometry.kernel, geometry, 1);
    engine.temporary(PLAN_BYTES, "col2im", (pointer) => {
      writePlan(engine, plan, pointer);
      const rows = plan.images * plan.height;
      engine.run(`col2im_${suffixOf(y.dtype)}`, rows, columns.size / rows / 2, pointer, columns.pointer, y.pointer);
    });
  },
};

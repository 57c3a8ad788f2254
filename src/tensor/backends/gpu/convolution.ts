import type { Shape } from "../../shape.ts";
import { portable, type Kernels, type Operand } from "./kernel.ts";
import { columnOf, isColumn, isRow, MOST_NUMBERS, overWindow, overWindowsOf, rowOf, WINDOW, windowNumbers } from "./patches.ts";
import type { Queue, WgslQueue } from "./queue.ts";
import { inBlocks } from "./sums.ts";
import * as wgsl from "./wgsl/convolution.ts";

/*
 * Convolutions as their definitions: every thread sums up one element of the result. Weights are [out, kernelHeight, kernelWidth, perIn],
 * and of the groups each takes `perIn` channels of the image to `perOut` of the result.
 */

const CHANNELS = { channels: "integer", outChannels: "integer", perIn: "integer", perOut: "integer" } as const;

function channelNumbers(image: Shape, out: Shape, groups: number): Record<keyof typeof CHANNELS, number> {
  const [channels, outChannels] = [image[3] as number, out[3] as number];
  return { channels, outChannels, perIn: channels / groups, perOut: outChannels / groups };
}

/** Threads: x the output channel. */
const correlate = `
  let total = 0;
  ${overWindow((row, column) => {
    const pixel = `(quotient(this.thread.z, outHeight) * height + ${row}) * width + ${column}`;
    const from = `(${pixel}) * channels + quotient(this.thread.x, perOut) * perIn`;
    const of = "((this.thread.x * kernelHeight + kh) * kernelWidth + kw) * perIn";
    return inBlocks("perIn", (c) => `part += x[${from} + ${c}] * weight[${of} + ${c}];`);
  })}`;

const plain = portable("conv2d", { x: "array", weight: "array", ...WINDOW, ...CHANNELS }, `${correlate} return total;`);
const biased = portable(
  "conv2d with bias",
  { x: "array", weight: "array", bias: "array", ...WINDOW, ...CHANNELS },
  `${correlate} return total + bias[this.thread.x];`,
);

/** Threads: x the input channel. */
const inputGradient = portable(
  "conv2dInputGradient",
  { gradient: "array", weight: "array", ...WINDOW, ...CHANNELS },
  `let total = 0;
  ${overWindowsOf((row, column) => {
    const first = "quotient(this.thread.x, perIn) * perOut"; // output channel of the group
    const from = `((quotient(this.thread.z, height) * outHeight + ${row}) * outWidth + ${column}) * outChannels + ${first}`;
    const of = (o: string): string =>
      `(((${first} + ${o}) * kernelHeight + kh) * kernelWidth + kw) * perIn + remainder(this.thread.x, perIn)`;
    return inBlocks("perOut", (o) => `part += gradient[${from} + ${o}] * weight[${of(o)}];`);
  })}
  return total;`,
);

const out = "remainder(this.thread.z, outChannels)";
const outRow = "(quotient(this.thread.z, outChannels) * perPart + r)";
const row = rowOf(`remainder(${outRow}, outHeight)`, "quotient(this.thread.y, kernelWidth)");
const column = (outColumn: string): string => columnOf(outColumn, "remainder(this.thread.y, kernelWidth)");
const pixel = (outColumn: string): string => `(quotient(${outRow}, outHeight) * height + ${row}) * width + ${column(outColumn)}`;

/** What `perPart` rows of all images add. Threads: x the input channel in its group, y the kernel position, z part and output channel. */
const weightGradient = portable(
  "conv2dWeightGradient",
  { x: "array", gradient: "array", ...WINDOW, ...CHANNELS, rows: "integer", perPart: "integer" },
  `let total = 0;
  for (let r = 0; r < perPart && ${outRow} < rows; r++) {
    if (${isRow(row)}) {
      ${inBlocks(
        "outWidth",
        (outColumn) => `if (${isColumn(column(outColumn))}) {
        part += x[(${pixel(outColumn)}) * channels + quotient(${out}, perOut) * perIn + this.thread.x]
          * gradient[(${outRow} * outWidth + ${outColumn}) * outChannels + ${out}];
      }`,
      )}
    }
  }
  return total;`,
);

const sumOfParts = portable(
  "conv2dWeightGradient, sum",
  { x: "array", parts: "integer", size: "integer" },
  `let total = 0;
  for (let part = 0; part < parts; part++) { total += x[part * size + this.thread.x]; }
  return total;`,
);

/** The queue for a kernel in WGSL, if one takes over: it has no words for groups, nor for nothing. */
function overridden({ wgsl }: Queue, groups: number, operands: readonly Operand[]): WgslQueue | null {
  return groups === 1 && operands.every(({ array }) => array.size > 0) ? wgsl : null;
}

export const convolution: Kernels<"conv2d" | "conv2dInputGradient" | "conv2dWeightGradient"> = {
  conv2d: (queue, [x, weight, bias], { groups, ...window }, [y]) => {
    const own = overridden(queue, groups, [x, weight, y]);
    if (own && wgsl.conv2d(own, x, weight, window, y, bias?.array)) return;
    const [n, outHeight, outWidth, outChannels] = y.shape as [number, number, number, number];
    const kernel = [weight.shape[1] as number, weight.shape[2] as number] as const;
    const numbers = { ...windowNumbers(x.shape, y.shape, { ...window, kernel }), ...channelNumbers(x.shape, y.shape, groups) };
    const arrays = { x: x.array, weight: weight.array };
    const threads = [outChannels, outWidth, n * outHeight] as const;
    if (bias) queue.run(biased, threads, y.array, { ...arrays, bias: bias.array, ...numbers });
    else queue.run(plain, threads, y.array, { ...arrays, ...numbers });
  },
  conv2dInputGradient: (queue, [gradient, weight], { groups, ...window }, [y]) => {
    const own = overridden(queue, groups, [gradient, weight, y]);
    if (own && wgsl.conv2dInputGradient(own, gradient, weight, window, y)) return;
    const [n, height, width, channels] = y.shape as [number, number, number, number];
    const kernel = [weight.shape[1] as number, weight.shape[2] as number] as const;
    const numbers = {
      ...windowNumbers(y.shape, gradient.shape, { ...window, kernel }),
      ...channelNumbers(y.shape, gradient.shape, groups),
    };
    queue.run(inputGradient, [channels, width, n * height], y.array, { gradient: gradient.array, weight: weight.array, ...numbers });
  },
  conv2dWeightGradient: (queue, [x, gradient], { groups, ...window }, [weight]) => {
    const own = overridden(queue, groups, [x, gradient, weight]);
    if (own && wgsl.conv2dWeightGradient(own, x, gradient, window, weight)) return;
    const { array: y } = weight;
    const [n, outHeight] = gradient.shape as [number, number];
    const rows = n * outHeight;
    if (y.size === 0) return;
    const channels = channelNumbers(x.shape, gradient.shape, groups);
    const { outChannels, perIn } = channels;
    // About as many sums as each has rows: small weights have few elements, and all threads are wanted.
    const most = Math.max(1, Math.min(Math.ceil(Math.sqrt(rows)), Math.floor(MOST_NUMBERS / y.size)));
    const perPart = Math.max(1, Math.ceil(rows / most));
    const parts = Math.max(1, Math.ceil(rows / perPart));
    const numbers = { ...windowNumbers(x.shape, gradient.shape, window), ...channels, rows, perPart };
    const threads = [perIn, numbers.kernelHeight * numbers.kernelWidth, parts * outChannels] as const;
    const arrays = { x: x.array, gradient: gradient.array };
    if (parts === 1) {
      queue.run(weightGradient, threads, y, { ...arrays, ...numbers });
      return;
    }
    queue.temporary(parts * y.size, "conv2dWeightGradient", (sums) => {
      queue.run(weightGradient, threads, sums, { ...arrays, ...numbers });
      queue.run(sumOfParts, [y.size], y, { x: sums, parts, size: y.size });
    });
  },
};

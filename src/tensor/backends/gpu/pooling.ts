import { requireHeld } from "./creation.ts";
import { portable, type Kernels, type Operand } from "./kernel.ts";
import { requireAny } from "./movement.ts";
import { overWindow, overWindowsOf, WINDOW, windowNumbers } from "./patches.ts";

/* Pooling: every thread sees to one window, or to the windows of one point. Threads' x are the channels. */

const CHANNELS = { channels: "integer" } as const;

type ImageShape = readonly [n: number, height: number, width: number, channels: number];
const shape4 = ({ shape }: Operand): ImageShape => shape as unknown as ImageShape;
/** One thread an element. */
const threadsOf = ([n, height, width, channels]: ImageShape): readonly [number, number, number] => [channels, width, n * height];

/**
 * `best` is the largest element of a window, the first of equals, and `at` its place. NaN takes the place of all numbers.
 */
const largest = `
  let best = 0;
  let at = -1;
  ${overWindow(
    (row, column) => `
          const candidate = x[((quotient(this.thread.z, outHeight) * height + ${row}) * width + ${column}) * channels + this.thread.x];
          if (at < 0 || isNan(candidate) == 1 || (isNan(best) == 0 && candidate > best)) {
            best = candidate;
            at = ${row} * width + ${column};
          }`,
  )}`;
const maximum = portable("maxPool2d", { x: "array", ...WINDOW, ...CHANNELS }, `${largest} return best;`);
const position = portable("maxPool2d, indices", { x: "array", ...WINDOW, ...CHANNELS }, `${largest} return at;`);

/** Of each row of indices the smallest, and with z = 1 the largest but for its sign. Threads: y the rows of all images. */
const bounds = portable(
  "maxPool2dScatter, bounds",
  { indices: "array", outWidth: "integer", ...CHANNELS },
  `const sign = 1 - 2 * this.thread.z;
  let least = sign * indices[this.thread.y * outWidth * channels + this.thread.x];
  for (let ow = 1; ow < outWidth; ow++) {
    least = Math.min(least, sign * indices[(this.thread.y * outWidth + ow) * channels + this.thread.x]);
  }
  return least;`,
);

const outRow = "(quotient(this.thread.z, height) * outHeight + oh)";
/** Looks for its own place among the indices, in rows between whose bounds it is: in pooled images they are few. */
const scatter = portable(
  "maxPool2dScatter",
  {
    y: "array",
    indices: "array",
    limits: "array",
    height: "integer",
    width: "integer",
    outHeight: "integer",
    outWidth: "integer",
    rows: "integer",
    ...CHANNELS,
  },
  `const place = remainder(this.thread.z, height) * width + this.thread.y;
  let total = 0;
  for (let oh = 0; oh < outHeight; oh++) {
    const least = limits[${outRow} * channels + this.thread.x];
    const most = -limits[(rows + ${outRow}) * channels + this.thread.x];
    if (least <= place && place <= most) {
      let part = 0;
      for (let ow = 0; ow < outWidth; ow++) {
        if (indices[(${outRow} * outWidth + ow) * channels + this.thread.x] == place) {
          part += y[(${outRow} * outWidth + ow) * channels + this.thread.x];
        }
      }
      total += part;
    }
  }
  return total;`,
);

const own = "((this.thread.z * outWidth + this.thread.y) * channels + this.thread.x)";
/** An index out of range counts as the nearest one: the device cannot throw. */
const pick = portable(
  "maxPool2dGather",
  { x: "array", indices: "array", pixels: "integer", last: "float", outHeight: "integer", outWidth: "integer", ...CHANNELS },
  `const index = Math.max(0, Math.min(last, indices[${own}]));
  return x[(quotient(this.thread.z, outHeight) * pixels + whole(index)) * channels + this.thread.x];`,
);

/** The mean of `points`, or of as many as are inside the image for −1. */
const average = portable(
  "averagePool2d",
  { x: "array", ...WINDOW, ...CHANNELS, points: "integer" },
  `let total = 0;
  let inside = 0;
  ${overWindow(
    (row, column) => `
          total += x[((quotient(this.thread.z, outHeight) * height + ${row}) * width + ${column}) * channels + this.thread.x];
          inside += 1;`,
  )}
  if (points > 0) { return total / points; }
  return total / inside;`,
);

/** What each point of a window gets of its gradient. */
const share = portable(
  "averagePool2dGradient, shares",
  { gradient: "array", ...WINDOW, ...CHANNELS, points: "integer" },
  `let inside = 0;
  ${overWindow(() => "inside += 1;")}
  if (points > 0) { inside = points; }
  return gradient[${own}] / inside;`,
);
const addShares = portable(
  "averagePool2dGradient",
  { shares: "array", ...WINDOW, ...CHANNELS },
  `let total = 0;
  ${overWindowsOf(
    (row, column) =>
      `total += shares[((quotient(this.thread.z, height) * outHeight + ${row}) * outWidth + ${column}) * channels + this.thread.x];`,
  )}
  return total;`,
);

export const pooling: Kernels<"maxPool2d" | "maxPool2dScatter" | "maxPool2dGather" | "averagePool2d" | "averagePool2dGradient"> = {
  maxPool2d: (queue, [x], geometry, [y, indices]) => {
    const to = shape4(y);
    const [, height, width] = shape4(x);
    requireHeld("maxPool2d", height * width);
    const values = { x: x.array, ...windowNumbers(x.shape, y.shape, geometry), channels: to[3] };
    queue.run(maximum, threadsOf(to), y.array, values);
    queue.run(position, threadsOf(to), indices.array, values);
  },
  maxPool2dScatter: (queue, [y, indices], _, [x]) => {
    const [[, outHeight, outWidth, channels], to] = [shape4(y), shape4(x)];
    const [n, height, width] = to;
    requireHeld("maxPool2dScatter", height * width);
    const rows = n * outHeight;
    queue.temporary(2 * rows * channels, "maxPool2dScatter", (limits) => {
      queue.run(bounds, [channels, rows, 2], limits, { indices: indices.array, outWidth, channels });
      const sizes = { height, width, outHeight, outWidth, rows, channels };
      queue.run(scatter, threadsOf(to), x.array, { y: y.array, indices: indices.array, limits, ...sizes });
    });
  },
  maxPool2dGather: (queue, [x, indices], _, [y]) => {
    const [[, height, width, channels], to] = [shape4(x), shape4(y)];
    const pixels = height * width;
    requireAny("maxPool2dGather", "pixels", pixels, indices.array.size);
    const sizes = { pixels, last: pixels - 1, outHeight: to[1], outWidth: to[2], channels };
    queue.run(pick, threadsOf(to), y.array, { x: x.array, indices: indices.array, ...sizes });
  },
  averagePool2d: (queue, [x], { countPadding, ...geometry }, [y]) => {
    const numbers = { ...windowNumbers(x.shape, y.shape, geometry), channels: shape4(y)[3] };
    const points = countPadding ? numbers.kernelHeight * numbers.kernelWidth : -1;
    queue.run(average, threadsOf(shape4(y)), y.array, { x: x.array, ...numbers, points });
  },
  averagePool2dGradient: (queue, [gradient], { countPadding, ...geometry }, [x]) => {
    const numbers = { ...windowNumbers(x.shape, gradient.shape, geometry), channels: shape4(x)[3] };
    const points = countPadding ? numbers.kernelHeight * numbers.kernelWidth : -1;
    queue.temporary(gradient.array.size, "averagePool2dGradient", (shares) => {
      queue.run(share, threadsOf(shape4(gradient)), shares, { gradient: gradient.array, ...numbers, points });
      queue.run(addShares, threadsOf(shape4(x)), x.array, { shares, ...numbers });
    });
  },
};

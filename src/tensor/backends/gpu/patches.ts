import { sizeOf, windowOutput, type Shape, type WindowGeometry } from "../../shape.ts";
import { portable, type DeviceArray, type Kernels } from "./kernel.ts";
import type { Queue, WgslQueue } from "./queue.ts";
import { productsOfColumns } from "./wgsl/gram.ts";
import { MOST_ROWS, MOST_WIDTH, writeWindows } from "./wgsl/patches.ts";

/*
 * Windows over images, and the primitives that lay them out as rows. A kernel's threads are x along the channels, y along the columns of an
 * image and z along the rows of all images, so that image z / rows, row z % rows is theirs.
 */

/** What a kernel that walks windows takes. */
export const WINDOW = {
  height: "integer",
  width: "integer",
  outHeight: "integer",
  outWidth: "integer",
  kernelHeight: "integer",
  kernelWidth: "integer",
  strideHeight: "integer",
  strideWidth: "integer",
  dilationHeight: "integer",
  dilationWidth: "integer",
  top: "integer",
  left: "integer",
} as const;

/** WINDOW's numbers. Shapes are those of the images and of what there is one of for each window: [n, height, width, …]. */
export function windowNumbers(
  image: Shape,
  out: Shape,
  { kernel, stride, padding, dilation }: WindowGeometry,
): Record<keyof typeof WINDOW, number> {
  const [, height, width] = image as [number, number, number];
  const [, outHeight, outWidth] = out as [number, number, number];
  const [kernelHeight, kernelWidth] = kernel;
  const [strideHeight, strideWidth] = stride;
  const [dilationHeight, dilationWidth] = dilation;
  const { top, left } = padding;
  const sizes = { height, width, outHeight, outWidth, kernelHeight, kernelWidth };
  return { ...sizes, strideHeight, strideWidth, dilationHeight, dilationWidth, top, left };
}

/** The image's row, or column, of a kernel position in a window: outside of the image in the padding. */
export const rowOf = (outRow: string, kernelRow: string): string => `(${outRow} * strideHeight + ${kernelRow} * dilationHeight - top)`;
export const columnOf = (outColumn: string, kernelColumn: string): string =>
  `(${outColumn} * strideWidth + ${kernelColumn} * dilationWidth - left)`;
export const isRow = (row: string): string => `${row} >= 0 && ${row} < height`;
export const isColumn = (column: string): string => `${column} >= 0 && ${column} < width`;

/** Statements for each point inside the image of a thread's window: `visit` is given the row and column, and the window's are `kh` and `kw`. */
export function overWindow(visit: (row: string, column: string) => string): string {
  const row = rowOf("remainder(this.thread.z, outHeight)", "kh");
  const column = columnOf("this.thread.y", "kw");
  return `
  for (let kh = 0; kh < kernelHeight; kh++) {
    if (${isRow(row)}) {
      for (let kw = 0; kw < kernelWidth; kw++) {
        if (${isColumn(column)}) {
          ${visit(row, column)}
        }
      }
    }
  }`;
}

/** Statements for each window that a thread's point of an image lies in, at `kh` and `kw` of it: `visit` is given the window. */
export function overWindowsOf(visit: (outRow: string, outColumn: string) => string): string {
  // How far the window begins from the padding's border: quotients of what is negative would round up.
  const down = "(remainder(this.thread.z, height) + top - kh * dilationHeight)";
  const across = "(this.thread.y + left - kw * dilationWidth)";
  const [row, column] = [`quotient(${down}, strideHeight)`, `quotient(${across}, strideWidth)`];
  return `
  for (let kh = 0; kh < kernelHeight; kh++) {
    if (${down} >= 0 && remainder(${down}, strideHeight) == 0 && ${row} < outHeight) {
      for (let kw = 0; kw < kernelWidth; kw++) {
        if (${across} >= 0 && remainder(${across}, strideWidth) == 0 && ${column} < outWidth) {
          ${visit(row, column)}
        }
      }
    }
  }`;
}

const column = {
  row: rowOf("remainder(this.thread.z + first, outHeight)", "quotient(this.thread.x, kernelWidth * channels)"),
  column: columnOf("this.thread.y", "remainder(quotient(this.thread.x, channels), kernelWidth)"),
  image: "quotient(this.thread.z + first, outHeight)",
};

/** Windows as rows, from row `first` of all images on. Threads: x an element of a window, or one more for a trailing 1. */
const windows = portable(
  "im2col",
  { x: "array", ...WINDOW, channels: "integer", first: "integer" },
  `if (this.thread.x == kernelHeight * kernelWidth * channels) { return 1; }
  if (${isRow(column.row)} && ${isColumn(column.column)}) {
    return x[((${column.image} * height + ${column.row}) * width + ${column.column}) * channels + remainder(this.thread.x, channels)];
  }
  return 0;`,
);

const addWindows = portable(
  "col2im",
  { columns: "array", ...WINDOW, channels: "integer" },
  `let total = 0;
  ${overWindowsOf((row, column) => {
    const window = `((quotient(this.thread.z, height) * outHeight + ${row}) * outWidth + ${column})`;
    return `total += columns[((${window} * kernelHeight + kh) * kernelWidth + kw) * channels + this.thread.x];`;
  })}
  return total;`,
);

const inRow = "((this.thread.z * blocks + b) * 64 + i)";
/** The lower half of XᵀX of `blocks` blocks of 64 rows of X [rows, columns]. Threads: z which blocks. */
const products = portable(
  "patchCovariance, products",
  { x: "array", rows: "integer", columns: "integer", blocks: "integer" },
  `if (this.thread.x > this.thread.y) { return 0; }
  let total = 0;
  for (let b = 0; b < blocks; b++) {
    let part = 0;
    for (let i = 0; i < 64 && ${inRow} < rows; i++) {
      part += x[${inRow} * columns + this.thread.x] * x[${inRow} * columns + this.thread.y];
    }
    total += part;
  }
  return total;`,
);

/** The sum of matrices [parts, size, size] of which the lower half counts, and that above it. */
const symmetricSum = portable(
  "patchCovariance, sum",
  { x: "array", parts: "integer", size: "integer", scale: "float" },
  `let total = 0;
  for (let part = 0; part < parts; part++) {
    if (this.thread.x > this.thread.y) { total += x[(part * size + this.thread.x) * size + this.thread.y]; }
    else { total += x[(part * size + this.thread.y) * size + this.thread.x]; }
  }
  return scale * total;`,
);

const add = portable("patchCovariance, halves", { a: "array", b: "array" }, `return a[this.thread.x] + b[this.thread.x];`);

/** Numbers in a temporary: 64 MiB of them. */
export const MOST_NUMBERS = 2 ** 24;

/** Runs of rows of all images, and how to write their windows. */
interface Rows {
  /** Whether they are written and multiplied by kernels in WGSL. */
  readonly wgsl: WgslQueue | null;
  readonly outWidth: number;
  /** Elements of a window, and 1 for the bias. */
  readonly columns: number;
  readonly scale: number;
  readonly write: (to: DeviceArray, first: number, count: number, columns: number) => void;
}

/** `scale` · Σ a aᵀ over the windows of `count` rows from `first` on. */
function covariance(queue: Queue, rows: Rows, first: number, count: number, y: DeviceArray): void {
  const { wgsl, outWidth, columns, scale, write } = rows;
  // Rows of whole vectors, where vectors are read.
  const padded = wgsl ? 4 * Math.ceil(columns / 4) : columns;
  const size = count * outWidth * padded;
  if ((size > MOST_NUMBERS && count > 1) || count > MOST_ROWS) {
    const half = Math.ceil(count / 2);
    queue.temporary(y.size, "patchCovariance", (a) => {
      covariance(queue, rows, first, half, a);
      queue.temporary(y.size, "patchCovariance", (b) => {
        covariance(queue, rows, first + half, count - half, b);
        queue.run(add, [y.size], y, { a, b });
      });
    });
    return;
  }
  // As many sums as each has terms.
  const blocks = Math.ceil((count * outWidth) / 64);
  const parts = Math.max(1, Math.min(Math.ceil(Math.sqrt(blocks)), Math.floor(MOST_NUMBERS / y.size)));
  queue.temporary(parts * y.size, "patchCovariance", (sums) => {
    queue.temporary(size, "patchCovariance", (x) => {
      write(x, first, count, padded);
      if (wgsl) {
        const rows = count * outWidth;
        productsOfColumns(wgsl, x, [rows, columns], { parts, perPart: Math.ceil(rows / parts) }, sums);
        return;
      }
      const numbers = { rows: count * outWidth, columns, blocks: Math.ceil(blocks / parts) };
      queue.run(products, [columns, columns, parts], sums, { x, ...numbers });
    });
    queue.run(symmetricSum, [columns, columns], y, { x: sums, parts, size: columns, scale });
  });
}

export const patches: Kernels<"im2col" | "col2im" | "patchCovariance"> = {
  im2col: (queue, [{ array: x, shape }], geometry, [y]) => {
    const [n, outHeight, outWidth, columns] = y.shape as [number, number, number, number];
    const numbers = { ...windowNumbers(shape, y.shape, geometry), channels: shape[3] as number, first: 0 };
    queue.run(windows, [columns, outWidth, n * outHeight], y.array, { x, ...numbers });
  },
  col2im: (queue, [columns], geometry, [y]) => {
    const [n, height, width, channels] = y.shape as [number, number, number, number];
    const numbers = { ...windowNumbers(y.shape, columns.shape, geometry), channels };
    queue.run(addWindows, [channels, width, n * height], y.array, { columns: columns.array, ...numbers });
  },
  patchCovariance: (queue, [{ array: x, shape }], { bias, scale, ...geometry }, [y]) => {
    const [n, height, width, channels] = shape as [number, number, number, number];
    const [outHeight, outWidth] = windowOutput("patchCovariance", [height, width], geometry);
    const columns = sizeOf(geometry.kernel) * channels + (bias ? 1 : 0);
    const numbers = { ...windowNumbers(shape, [n, outHeight, outWidth], geometry), channels };
    const wgsl = outWidth <= MOST_WIDTH && queue.holds(4 * Math.ceil(columns / 4) * outWidth) ? queue.wgsl : null;
    const write: Rows["write"] = (to, first, count, padded) => {
      if (wgsl) {
        const { channels, ...window } = numbers;
        const extents = { channels, taps: sizeOf(geometry.kernel), first, count, outWidth, columns: padded };
        writeWindows(wgsl, x, to, Object.keys(WINDOW).map((name) => window[name as keyof typeof WINDOW]), extents); // prettier-ignore
      } else queue.run(windows, [columns, outWidth, count], to, { x, ...numbers, first });
    };
    if (columns > 0) covariance(queue, { wgsl, outWidth, columns, scale, write }, 0, n * outHeight, y.array);
  },
};

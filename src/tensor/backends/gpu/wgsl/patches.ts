import type { DeviceArray } from "../kernel.ts";
import { MOST_GROUPS, type Parameter, type WgslKernel, type WgslQueue } from "../queue.ts";

/* For covariances of patches: windows as rows. The products of the rows' columns are those of gram.ts. */

const [ACROSS, DOWN] = [8, 8];

/** The most rows of images whose windows are written at once, and the most windows in a row. */
export const [MOST_ROWS, MOST_WIDTH] = [DOWN * MOST_GROUPS, ACROSS * MOST_GROUPS];

/** Windows as rows of `columns` numbers, which is a multiple of four. Threads: a kernel position, a column of the image, a row of all images. */
const windows: WgslKernel = {
  name: "im2col in vectors",
  reads: 1,
  writes: 1,
  code: `
struct Params {
  height : i32, width : i32, outHeight : i32, outWidth : i32, kernelHeight : i32, kernelWidth : i32, strideHeight : i32, strideWidth : i32,
  dilationHeight : i32, dilationWidth : i32, top : i32, left : i32, channels : i32, first : i32, count : i32, columns : i32,
}
@group(1) @binding(0) var<uniform> p : Params;
@group(0) @binding(0) var<storage, read> x : array<f32>;
@group(0) @binding(1) var<storage, read_write> y : array<f32>;
@compute @workgroup_size(1, ${ACROSS}, ${DOWN}) fn main(@builtin(global_invocation_id) id : vec3<u32>) {
  let tap = i32(id.x);
  let column = i32(id.y);
  let row = i32(id.z);
  if (column >= p.outWidth || row >= p.count) { return; }
  let at = row + p.first;
  let to = (row * p.outWidth + column) * p.columns;
  let taps = p.kernelHeight * p.kernelWidth;
  if (tap == taps) {
    for (var c = taps * p.channels; c < p.columns; c++) { y[to + c] = 1.0; }
    return;
  }
  let h = (at % p.outHeight) * p.strideHeight + (tap / p.kernelWidth) * p.dilationHeight - p.top;
  let w = column * p.strideWidth + (tap % p.kernelWidth) * p.dilationWidth - p.left;
  let inside = h >= 0 && h < p.height && w >= 0 && w < p.width;
  let source = ((at / p.outHeight * p.height + clamp(h, 0, p.height - 1)) * p.width + clamp(w, 0, p.width - 1)) * p.channels;
  for (var c = 0; c < p.channels; c++) { y[to + tap * p.channels + c] = select(0.0, x[source + c], inside); }
}
`,
};

/**
 * Issues the windows of `count` rows from `first` on. What is behind a window's own numbers, the bias's column first, is 1.
 * @param numbers those of `WINDOW`, in its order.
 */
export function writeWindows(
  queue: WgslQueue,
  x: DeviceArray,
  to: DeviceArray,
  numbers: readonly number[],
  {
    channels,
    taps,
    first,
    count,
    outWidth,
    columns,
  }: Readonly<Record<"channels" | "taps" | "first" | "count" | "outWidth" | "columns", number>>,
): void {
  const parameters: Parameter[] = [...numbers, channels, first, count, columns].map((i) => ({ i }));
  queue.runWgsl(windows, [taps + 1, Math.ceil(outWidth / ACROSS), Math.ceil(count / DOWN)], [x], [to], parameters);
}

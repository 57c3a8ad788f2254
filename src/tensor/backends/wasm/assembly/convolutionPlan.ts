/* What the kernels of convolutions, depthwise ones included, and of patches have in common. */

/** What a convolution reads and writes, and in what blocks; int32 numbers that the host prepares, in this order. */
@unmanaged
export class Plan {
  images: i32;
  height: i32;
  width: i32;
  channels: i32;
  groups: i32;
  /** Channels of a group, read and written. */
  perIn: i32;
  perOut: i32;
  kernelHeight: i32;
  kernelWidth: i32;
  strideHeight: i32;
  strideWidth: i32;
  dilationHeight: i32;
  dilationWidth: i32;
  /** Zeros before the first row and column; negative where rows are left out. */
  top: i32;
  left: i32;
  outHeight: i32;
  outWidth: i32;
  /** Distances of the output's images, rows and pixels in elements. */
  toImage: i32;
  toRow: i32;
  toPixel: i32;
  /** A block: so many images, or rows of one image, or columns of one row. */
  blockImages: i32;
  blockRows: i32;
  blockColumns: i32;
  /** Panels of output channels that an item computes. */
  panels: i32;
  /** 1 if no window leaves the image. */
  inside: i32;
  /** Of the weight's gradient: parts of the pixels, channels of an item, and 1 if a kernel row is one run of elements. */
  splits: i32;
  blockChannels: i32;
  merged: i32;
}

/** Products in one running sum. */
export const MOST: i32 = 320;

export function ceilDivide(a: i32, b: i32): i32 {
  return (a + b - 1) / b;
}

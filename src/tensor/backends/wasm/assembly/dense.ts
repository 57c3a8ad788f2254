/*
 * A convolution of images with fewer pixels than the kernel has positions, as one matrix product: with all pixels of an image as
 * one vector, Y[n, (u, out)] = X[n, (v, in)] Wᵀ, where W[(u, out)][(v, in)] is the weight at the kernel position that takes input
 * pixel v to output pixel u, and zero if there is none. Products with padding, most of a direct sum here, are left out.
 */

/** The index of the input row (or column) that kernel position `k` of output `u` reads is u · stride + k · dilation − padding. */
function positionOf(v: i32, u: i32, stride: i32, dilation: i32, padding: i32, extent: i32): i32 {
  const distance = v + padding - u * stride;
  if (distance < 0 || distance % dilation != 0) return -1;
  const k = distance / dilation;
  return k < extent ? k : -1;
}

/** Rows `[start, end)` of W: an item is one (u, out). Element sizes do not matter to a copy: `channelBytes` is that of an input pixel. */
export function denseExpand(
  start: i32,
  end: i32,
  weight: usize,
  dense: usize,
  channelBytes: usize,
  out: i32,
  height: i32,
  width: i32,
  outWidth: i32,
  kernelHeight: i32,
  kernelWidth: i32,
  strideHeight: i32,
  strideWidth: i32,
  dilationHeight: i32,
  dilationWidth: i32,
  top: i32,
  left: i32,
): void {
  for (let row = start; row < end; row++) {
    const u = row / out;
    const kernel = weight + <usize>((row % out) * kernelHeight * kernelWidth) * channelBytes;
    let to = dense + <usize>row * <usize>(height * width) * channelBytes;
    for (let i = 0; i < height; i++) {
      const kh = positionOf(i, u / outWidth, strideHeight, dilationHeight, top, kernelHeight);
      for (let j = 0; j < width; j++, to += channelBytes) {
        const kw = positionOf(j, u % outWidth, strideWidth, dilationWidth, left, kernelWidth);
        if (kh < 0 || kw < 0) memory.fill(to, 0, channelBytes);
        else memory.copy(to, kernel + <usize>(kh * kernelWidth + kw) * channelBytes, channelBytes);
      }
    }
  }
}

/** The transpose of `denseExpand`: an item is one output channel's kernel, the sum of all places that it was copied to. */
function denseFold<T>(
  start: i32,
  end: i32,
  weight: usize,
  dense: usize,
  channels: i32,
  out: i32,
  height: i32,
  width: i32,
  outHeight: i32,
  outWidth: i32,
  kernelHeight: i32,
  kernelWidth: i32,
  strideHeight: i32,
  strideWidth: i32,
  dilationHeight: i32,
  dilationWidth: i32,
  top: i32,
  left: i32,
): void {
  const channelBytes = <usize>channels * sizeof<T>();
  const kernelBytes = <usize>(kernelHeight * kernelWidth) * channelBytes;
  const rowBytes = <usize>(height * width) * channelBytes;
  for (let o = start; o < end; o++) {
    const kernel = weight + <usize>o * kernelBytes;
    memory.fill(kernel, 0, kernelBytes);
    for (let u = 0; u < outHeight * outWidth; u++) {
      let from = dense + <usize>(u * out + o) * rowBytes;
      for (let i = 0; i < height; i++) {
        const kh = positionOf(i, u / outWidth, strideHeight, dilationHeight, top, kernelHeight);
        for (let j = 0; j < width; j++, from += channelBytes) {
          const kw = positionOf(j, u % outWidth, strideWidth, dilationWidth, left, kernelWidth);
          if (kh < 0 || kw < 0) continue;
          const to = kernel + <usize>(kh * kernelWidth + kw) * channelBytes;
          let at: usize = 0;
          for (; at + 16 <= channelBytes; at += 16) v128.store(to + at, v128.add<T>(v128.load(to + at), v128.load(from + at)));
          for (; at < channelBytes; at += sizeof<T>()) store<T>(to + at, load<T>(to + at) + load<T>(from + at));
        }
      }
    }
  }
}

// export denseFold_T = denseFold<T> for T of f32, f64

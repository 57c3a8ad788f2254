import { clearBytes, copyBytes } from "./bytes";
import { ceilDivide, MOST, Plan } from "./convolutionPlan";
import { madd } from "./vector";
import { endInside, firstInside } from "./window";

/** Convolutions of as many groups as channels, each channel on its own: vectors go across channels, and no sum is shared. */

/**
 * Packs weights [channels, kernelHeight, kernelWidth] of as many groups as channels, a row an item: [1 + rows · width][channels],
 * first the bias, or zeros where `bias` is 0, then the kernel's elements from (`firstH`, `firstW`) on in steps of either sign.
 */
function packDepthwise<T>(
  start: i32,
  end: i32,
  weight: usize,
  bias: usize,
  to: usize,
  channels: i32,
  depth: i32,
  kernelWidth: i32,
  firstH: i32,
  stepH: i32,
  firstW: i32,
  stepW: i32,
  width: i32,
): void {
  for (let item = start; item < end; item++) {
    let at = to + <usize>(item * channels) * sizeof<T>();
    if (item == 0) {
      if (bias) copyBytes(at, bias, <usize>channels * sizeof<T>());
      else clearBytes(at, <usize>channels * sizeof<T>());
      continue;
    }
    const k = (firstH + ((item - 1) / width) * stepH) * kernelWidth + firstW + ((item - 1) % width) * stepW;
    for (let c = 0; c < channels; c++, at += sizeof<T>()) store<T>(at, load<T>(weight + <usize>(c * depth + k) * sizeof<T>()));
  }
}

/**
 * to[c] = from[c] + Σ a[i][j][c] · b[i][j][c] over `height` × `width` elements of a kernel, for all channels, `pixel` bytes. In
 * bytes, the elements of a are `rowStep` and `columnStep` apart; rows of b are `weightStep` apart, its columns follow each other.
 */
@inline
function sumWindow<T>(
  a: usize,
  rowStep: usize,
  columnStep: usize,
  b: usize,
  weightStep: usize,
  height: i32,
  width: i32,
  pixel: usize,
  from: usize,
  to: usize,
): void {
  const zero = v128.splat<T>(<T>0);
  let c: usize = 0;
  for (; c + 64 <= pixel; c += 64) {
    let s0 = zero;
    let s1 = zero;
    let s2 = zero;
    let s3 = zero;
    let aRow = a + c;
    let bRow = b + c;
    for (let i = 0; i < height; i++, aRow += rowStep, bRow += weightStep) {
      let p = aRow;
      let q = bRow;
      for (let j = 0; j < width; j++, p += columnStep, q += pixel) {
        s0 = madd<T>(v128.load(p), v128.load(q), s0);
        s1 = madd<T>(v128.load(p, 16), v128.load(q, 16), s1);
        s2 = madd<T>(v128.load(p, 32), v128.load(q, 32), s2);
        s3 = madd<T>(v128.load(p, 48), v128.load(q, 48), s3);
      }
    }
    v128.store(to + c, v128.add<T>(v128.load(from + c), s0));
    v128.store(to + c, v128.add<T>(v128.load(from + c, 16), s1), 16);
    v128.store(to + c, v128.add<T>(v128.load(from + c, 32), s2), 32);
    v128.store(to + c, v128.add<T>(v128.load(from + c, 48), s3), 48);
  }
  while (c < pixel) {
    // Vector by vector; the last channels, fewer than a vector, one by one.
    const whole = c + 16 <= pixel;
    let sum = zero;
    let aRow = a + c;
    let bRow = b + c;
    for (let i = 0; i < height; i++, aRow += rowStep, bRow += weightStep) {
      let p = aRow;
      let q = bRow;
      for (let j = 0; j < width; j++, p += columnStep, q += pixel) {
        if (whole) sum = madd<T>(v128.load(p), v128.load(q), sum);
        else sum = madd<T>(v128.load_splat<T>(p), v128.load_splat<T>(q), sum);
      }
    }
    if (whole) {
      v128.store(to + c, v128.add<T>(v128.load(from + c), sum));
      c += 16;
    } else {
      store<T>(to + c, load<T>(from + c) + v128.extract_lane<T>(sum, 0));
      c += sizeof<T>();
    }
  }
}

/** Convolution of every channel on its own; an item is a block of columns of an output row. */
function depthwise<T>(start: i32, end: i32, at: usize, x: usize, packed: usize, y: usize): void {
  const plan = changetype<Plan>(at);
  const pixel = <usize>plan.channels * sizeof<T>();
  const rowStep = <usize>(plan.dilationHeight * plan.width) * pixel;
  const columnStep = <usize>plan.dilationWidth * pixel;
  const weightStep = <usize>plan.kernelWidth * pixel;
  const toPixel = <usize>plan.toPixel * sizeof<T>();
  const blocks = ceilDivide(plan.outWidth, plan.blockColumns);
  // A running sum takes as many rows of the kernel as have at most MOST elements, or a part of a row.
  const most = max(1, MOST / max(1, plan.kernelWidth));
  for (let item = start; item < end; item++) {
    const image = item / blocks / plan.outHeight;
    const outRow = (item / blocks) % plan.outHeight;
    const firstColumn = (item % blocks) * plan.blockColumns;
    const endColumn = min(plan.outWidth, firstColumn + plan.blockColumns);
    const row0 = outRow * plan.strideHeight - plan.top;
    const i0 = firstInside(row0, plan.dilationHeight, plan.kernelHeight);
    const i1 = endInside(row0, plan.dilationHeight, plan.kernelHeight, plan.height);
    const source = x + <usize>(image * plan.height * plan.width) * pixel;
    const result = y + <usize>(image * plan.toImage + outRow * plan.toRow + firstColumn * plan.toPixel) * sizeof<T>();
    let isFirst = true;
    let i = i0;
    do {
      const height = min(most, i1 - i);
      let part = 0;
      do {
        let to = result;
        for (let column = firstColumn; column < endColumn; column++, to += toPixel) {
          const column0 = column * plan.strideWidth - plan.left;
          const j = max(part, firstInside(column0, plan.dilationWidth, plan.kernelWidth));
          const width = min(part + MOST, endInside(column0, plan.dilationWidth, plan.kernelWidth, plan.width)) - j;
          const a = source + <usize>((row0 + i * plan.dilationHeight) * plan.width + column0 + j * plan.dilationWidth) * pixel;
          const b = packed + <usize>(1 + i * plan.kernelWidth + j) * pixel;
          sumWindow<T>(a, rowStep, columnStep, b, weightStep, height, width, pixel, isFirst ? packed : to, to);
        }
        isFirst = false;
        part += MOST;
      } while (part < plan.kernelWidth);
      i += most;
    } while (i < i1);
  }
}

/**
 * Partial sums of its weight's gradient, [split][kernelHeight][kernelWidth][channels]; an item is a part of the blocks of columns
 * of all output rows. What a block has for a kernel element is one running sum.
 */
function depthwisePartials<T>(start: i32, end: i32, at: usize, x: usize, gradient: usize, partials: usize): void {
  const plan = changetype<Plan>(at);
  const pixel = <usize>plan.channels * sizeof<T>();
  const step = <usize>plan.strideWidth * pixel;
  const blocks = ceilDivide(plan.outWidth, plan.blockColumns);
  const all = <i64>(plan.images * plan.outHeight) * blocks;
  const bytes = <usize>(plan.kernelHeight * plan.kernelWidth) * pixel;
  for (let item = start; item < end; item++) {
    const sums = partials + <usize>item * bytes;
    memory.fill(sums, 0, bytes);
    const last = <i32>((all * (item + 1)) / plan.splits);
    for (let block = <i32>((all * item) / plan.splits); block < last; block++) {
      const line = block / blocks;
      const firstColumn = (block % blocks) * plan.blockColumns;
      const endColumn = min(plan.outWidth, firstColumn + plan.blockColumns);
      const image = line / plan.outHeight;
      const row0 = (line % plan.outHeight) * plan.strideHeight - plan.top;
      const i1 = endInside(row0, plan.dilationHeight, plan.kernelHeight, plan.height);
      for (let i = firstInside(row0, plan.dilationHeight, plan.kernelHeight); i < i1; i++) {
        const row = image * plan.height + row0 + i * plan.dilationHeight;
        for (let j = 0; j < plan.kernelWidth; j++) {
          // The windows of the block whose element j is inside.
          const place = j * plan.dilationWidth - plan.left;
          const first = max(firstColumn, firstInside(place, plan.strideWidth, plan.outWidth));
          const count = min(endColumn, endInside(place, plan.strideWidth, plan.outWidth, plan.width)) - first;
          const a0 = x + <usize>(row * plan.width + place + first * plan.strideWidth) * pixel;
          const b0 = gradient + <usize>(line * plan.outWidth + first) * pixel;
          const to = sums + <usize>(i * plan.kernelWidth + j) * pixel;
          let c: usize = 0;
          for (; c + 32 <= pixel; c += 32) {
            let s0 = v128.splat<T>(<T>0);
            let s1 = s0;
            let a = a0 + c;
            let b = b0 + c;
            for (let q = 0; q < count; q++, a += step, b += pixel) {
              s0 = madd<T>(v128.load(a), v128.load(b), s0);
              s1 = madd<T>(v128.load(a, 16), v128.load(b, 16), s1);
            }
            v128.store(to + c, v128.add<T>(v128.load(to + c), s0));
            v128.store(to + c, v128.add<T>(v128.load(to + c, 16), s1), 16);
          }
          for (; c < pixel; c += sizeof<T>()) {
            let sum = <T>0;
            let a = a0 + c;
            let b = b0 + c;
            for (let q = 0; q < count; q++, a += step, b += pixel) sum += load<T>(a) * load<T>(b);
            store<T>(to + c, load<T>(to + c) + sum);
          }
        }
      }
    }
  }
}

/** Adds up those; an item is a kernel element. */
function depthwiseSum<T>(start: i32, end: i32, at: usize, partials: usize, weight: usize): void {
  const plan = changetype<Plan>(at);
  const depth = plan.kernelHeight * plan.kernelWidth;
  for (let item = start; item < end; item++) {
    for (let c = 0; c < plan.channels; c++) {
      let sum: f64 = 0;
      for (let split = 0; split < plan.splits; split++) {
        sum += <f64>load<T>(partials + <usize>((split * depth + item) * plan.channels + c) * sizeof<T>());
      }
      store<T>(weight + <usize>(c * depth + item) * sizeof<T>(), <T>sum);
    }
  }
}

// export packDepthwise_T = packDepthwise<T> for T of f32, f64
// export depthwise_T = depthwise<T> for T of f32, f64
// export depthwisePartials_T = depthwisePartials<T> for T of f32, f64
// export depthwiseSum_T = depthwiseSum<T> for T of f32, f64

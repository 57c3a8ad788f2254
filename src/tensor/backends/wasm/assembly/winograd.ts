/**
 * Convolution with 3 × 3 kernels as F(4 × 4, 3 × 3) of Lavin & Gray, "Fast algorithms for convolutional neural networks" (CVPR
 * 2016): y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A for a tile of 4 × 4 outputs and its window d of 6 × 6 inputs. 36 products where direct
 * sums take 144; over many channels the products become 36 matrix products, one a frequency.
 *
 * The points of points.ts are not theirs. Each transform, there (Bᵀ d) and below, is one side of one of the matrices, on vectors of
 * channels:
 *
 *     G g    U(0) = g0 / a²b²    U(±a) = α (g0 ± a g1 + a² g2)    U(±b) = β (g0 ± b g1 + b² g2)    U(∞) = g2
 *     Aᵀ m   y_k = Σ_p p^k m(p) over the points p, and m(∞) added to y3
 *
 * Frequencies are numbered 6i + j, and "step" is the distance in bytes from one frequency to the next.
 */
import { A, A2, ALPHA, B, B2, BETA, transformInput, ZERO } from "./points";
import { scratch } from "./scratch";
import { packedTile, tile } from "./tile";
import { madd, transposeSquare } from "./vector";

/** Terms of the weight gradient that are summed in one go. */
const LONGEST: i32 = 256;
/** Channels that are transformed together: a cache line. */
const CHUNK: i32 = 16;
const LINE: usize = 64;
/** Scratch of the transforms: half-transformed lines, and a window with the zeros around its image. */
const HALF: usize = 0;
const WINDOW: usize = 36 * LINE;
const BLOCK: usize = 128 * LINE;

/** A g: four vectors to six. */
@inline
function transformGradient(from: usize, stride: usize, to: usize, step: usize): void {
  const a2 = f32x4.splat(A2);
  const b2 = f32x4.splat(B2);
  const g0 = v128.load(from);
  const g1 = v128.load(from + stride);
  const g2 = v128.load(from + 2 * stride);
  const g3 = v128.load(from + 3 * stride);
  v128.store(to, g0);
  let even = madd<f32>(a2, g2, g0);
  let odd = f32x4.mul(f32x4.splat(A), madd<f32>(a2, g3, g1));
  v128.store(to + step, f32x4.add(even, odd));
  v128.store(to + 2 * step, f32x4.sub(even, odd));
  even = madd<f32>(b2, g2, g0);
  odd = f32x4.mul(f32x4.splat(B), madd<f32>(b2, g3, g1));
  v128.store(to + 3 * step, f32x4.add(even, odd));
  v128.store(to + 4 * step, f32x4.sub(even, odd));
  v128.store(to + 5 * step, g3);
}

/** G g: three vectors to six. */
@inline
function transformKernel(from: usize, stride: usize, to: usize, step: usize): void {
  const g0 = v128.load(from);
  const g1 = v128.load(from + stride);
  const g2 = v128.load(from + 2 * stride);
  v128.store(to, f32x4.mul(f32x4.splat(ZERO), g0));
  let even = madd<f32>(f32x4.splat(ALPHA), g0, f32x4.mul(f32x4.splat(ALPHA * A2), g2));
  let odd = f32x4.mul(f32x4.splat(ALPHA * A), g1);
  v128.store(to + step, f32x4.add(even, odd));
  v128.store(to + 2 * step, f32x4.sub(even, odd));
  even = madd<f32>(f32x4.splat(BETA), g0, f32x4.mul(f32x4.splat(BETA * B2), g2));
  odd = f32x4.mul(f32x4.splat(BETA * B), g1);
  v128.store(to + 3 * step, f32x4.add(even, odd));
  v128.store(to + 4 * step, f32x4.sub(even, odd));
  v128.store(to + 5 * step, g2);
}

/** Aᵀ m: six vectors to four, of which the first `count` are wanted, and of them the first `width` lanes; `add` is added to each. */
@inline
function transformOutput(from: usize, stride: usize, to: usize, step: usize, add: v128, count: i32, width: i32): void {
  const m1 = v128.load(from + stride);
  const m2 = v128.load(from + 2 * stride);
  const m3 = v128.load(from + 3 * stride);
  const m4 = v128.load(from + 4 * stride);
  const evenA = f32x4.add(m1, m2);
  const evenB = f32x4.add(m3, m4);
  const oddA = f32x4.mul(f32x4.splat(A), f32x4.sub(m1, m2));
  const oddB = f32x4.mul(f32x4.splat(B), f32x4.sub(m3, m4));
  const a2 = f32x4.splat(A2);
  const b2 = f32x4.splat(B2);
  storeLanes(to, f32x4.add(f32x4.add(evenA, evenB), f32x4.add(v128.load(from), add)), width);
  if (count > 1) storeLanes(to + step, f32x4.add(f32x4.add(oddA, oddB), add), width);
  if (count > 2) storeLanes(to + 2 * step, madd<f32>(a2, evenA, madd<f32>(b2, evenB, add)), width);
  if (count > 3) {
    const last = f32x4.add(v128.load(from + 5 * stride), add);
    storeLanes(to + 3 * step, madd<f32>(a2, oddA, madd<f32>(b2, oddB, last)), width);
  }
}

/** Gᵀ u: six vectors to three. */
@inline
function transformKernelGradient(from: usize, stride: usize, to: usize, step: usize, width: i32): void {
  const u1 = v128.load(from + stride);
  const u2 = v128.load(from + 2 * stride);
  const u3 = v128.load(from + 3 * stride);
  const u4 = v128.load(from + 4 * stride);
  const evenA = f32x4.mul(f32x4.splat(ALPHA), f32x4.add(u1, u2));
  const evenB = f32x4.mul(f32x4.splat(BETA), f32x4.add(u3, u4));
  storeLanes(to, f32x4.add(f32x4.add(evenA, evenB), f32x4.mul(f32x4.splat(ZERO), v128.load(from))), width);
  const odd = f32x4.mul(f32x4.splat(ALPHA * A), f32x4.sub(u1, u2));
  storeLanes(to + step, madd<f32>(f32x4.splat(BETA * B), f32x4.sub(u3, u4), odd), width);
  const last = v128.load(from + 5 * stride);
  storeLanes(to + 2 * step, madd<f32>(f32x4.splat(A2), evenA, madd<f32>(f32x4.splat(B2), evenB, last)), width);
}

@inline
function storeLanes(to: usize, v: v128, width: i32): void {
  if (width >= 4) {
    v128.store(to, v);
  } else {
    v128.store32_lane(to, v, 0);
    if (width > 1) v128.store32_lane(to, v, 1, 4);
    if (width > 2) v128.store32_lane(to, v, 2, 8);
  }
}

/**
 * Copies `size` × `size` pixels at (`row`, `column`) of an image [height, width, channels], `count` channels from address `x` on,
 * to lines of the scratch memory; what lies outside the image, and channels up to a multiple of 4, are zeros.
 */
function readWindow(x: usize, height: i32, width: i32, channels: i32, row: i32, column: i32, size: i32, count: i32): void {
  let to = scratch + WINDOW;
  const zero = f32x4.splat(0);
  const end = <usize>((count + 3) >> 2) << 4;
  const whole = (count & 3) == 0;
  for (let i = row; i < row + size; i++) {
    for (let j = column; j < column + size; j++, to += LINE) {
      if (i < 0 || i >= height || j < 0 || j >= width) {
        for (let k: usize = 0; k < end; k += 16) v128.store(to + k, zero);
        continue;
      }
      const from = x + <usize>(i * width + j) * (<usize>channels << 2);
      if (whole) {
        for (let k: usize = 0; k < end; k += 16) v128.store(to + k, v128.load(from + k));
      } else {
        let k: usize = 0;
        for (; k < <usize>count << 2; k += 4) store<f32>(to + k, load<f32>(from + k));
        for (; k < end; k += 4) store<f32>(to + k, 0);
      }
    }
  }
}

/**
 * V of one tile: the window at (`row`, `column`) of the image at `x`, transformed. Eight channels lie together, the next eight
 * `pitch` bytes further; a last group is filled up with zeros.
 */
function inputTile(
  x: usize,
  height: i32,
  width: i32,
  channels: i32,
  row: i32,
  column: i32,
  to: usize,
  pitch: usize,
  step: usize,
): void {
  const inside = row >= 0 && column >= 0 && row + 6 <= height && column + 6 <= width;
  const half = scratch + HALF;
  for (let c = 0; c < channels; c += CHUNK) {
    const count = min(CHUNK, channels - c);
    let from = scratch + WINDOW;
    let pixel = LINE;
    let line: usize = 6 * LINE;
    if (inside && (count & 3) == 0) {
      pixel = <usize>channels << 2;
      line = pixel * <usize>width;
      from = x + <usize>(row * width + column) * pixel + (<usize>c << 2);
    } else {
      readWindow(x + (<usize>c << 2), height, width, channels, row, column, 6, count);
    }
    const end = <usize>((count + 3) >> 2) << 4;
    for (let j = 0; j < 6; j++) {
      const place = half + <usize>j * LINE;
      for (let k: usize = 0; k < end; k += 16) transformInput(from + k, line, place + k, 6 * LINE);
      from += pixel;
    }
    for (let i = 0; i < 6; i++) {
      const place = half + <usize>i * (6 * LINE);
      const at = to + <usize>(6 * i) * step;
      for (let k: usize = 0; k < end; k += 16) transformInput(place + k, LINE, at + (k >> 5) * pitch + (k & 16), step);
    }
    if ((end & 16) != 0) {
      const zero = f32x4.splat(0);
      for (let f: usize = 0; f < 36; f++) v128.store(to + (end >> 5) * pitch + f * step, zero, 16);
    }
    to += 2 * pitch;
  }
}

/** The same for the gradient of a tile of 4 × 4 outputs; four channels lie together. */
function gradientTile(
  x: usize,
  height: i32,
  width: i32,
  channels: i32,
  row: i32,
  column: i32,
  to: usize,
  pitch: usize,
  step: usize,
): void {
  const inside = row + 4 <= height && column + 4 <= width;
  const half = scratch + HALF;
  for (let c = 0; c < channels; c += CHUNK) {
    const count = min(CHUNK, channels - c);
    let from = scratch + WINDOW;
    let pixel = LINE;
    let line: usize = 4 * LINE;
    if (inside && (count & 3) == 0) {
      pixel = <usize>channels << 2;
      line = pixel * <usize>width;
      from = x + <usize>(row * width + column) * pixel + (<usize>c << 2);
    } else {
      readWindow(x + (<usize>c << 2), height, width, channels, row, column, 4, count);
    }
    const end = <usize>((count + 3) >> 2) << 4;
    for (let j = 0; j < 4; j++) {
      const place = half + <usize>j * LINE;
      for (let k: usize = 0; k < end; k += 16) transformGradient(from + k, line, place + k, 4 * LINE);
      from += pixel;
    }
    for (let i = 0; i < 6; i++) {
      const place = half + <usize>i * (4 * LINE);
      let at = to + <usize>(6 * i) * step;
      for (let k: usize = 0; k < end; k += 16) {
        transformGradient(place + k, LINE, at, step);
        at += pitch;
      }
    }
    to += 4 * pitch;
  }
}

/** y of one tile from its rows of M, where they lie inside the image at `y`; `bias` may be 0. */
function outputTile(m: usize, step: usize, y: usize, height: i32, width: i32, channels: i32, row: i32, column: i32, bias: usize): void {
  const half = scratch + HALF;
  const pixel = <usize>channels << 2;
  const rows = min(4, height - row);
  const columns = min(4, width - column);
  const none = f32x4.splat(0);
  y += <usize>(row * width + column) * pixel;
  for (let c = 0; c < channels; c += CHUNK) {
    const count = min(CHUNK, channels - c);
    const end = <usize>((count + 3) >> 2) << 4;
    for (let j = 0; j < 6; j++) {
      const from = m + <usize>j * step;
      const place = half + <usize>j * LINE;
      for (let k: usize = 0; k < end; k += 16) transformOutput(from + k, 6 * step, place + k, 6 * LINE, none, 4, 4);
    }
    for (let i = 0; i < rows; i++) {
      const place = half + <usize>i * (6 * LINE);
      const to = y + <usize>i * (<usize>width * pixel);
      for (let k: usize = 0; k < end; k += 16) {
        const add = bias == 0 ? none : v128.load(bias + (<usize>c << 2) + k);
        transformOutput(place + k, LINE, to + k, pixel, add, columns, count - <i32>(k >> 2));
      }
    }
    m += LINE;
    y += LINE;
  }
}

/** Rows of V, [tile][channels up to a multiple of 8], of tiles `[start, end)` of a batch of images; the first goes to `v`. */
function inputTiles(
  start: i32,
  end: i32,
  x: usize,
  height: i32,
  width: i32,
  channels: i32,
  top: i32,
  left: i32,
  down: i32,
  across: i32,
  v: usize,
  step: usize,
): void {
  const pitch = <usize>((channels + 7) >> 3) << 5;
  for (let t = start; t < end; t++, v += pitch) {
    const n = t / (down * across);
    const place = t - n * (down * across);
    const i = place / across;
    const image = x + <usize>n * (<usize>(height * width) * (<usize>channels << 2));
    inputTile(image, height, width, channels, 4 * i - top, 4 * (place - i * across) - left, v, 32, step);
  }
}

function outputTiles(
  start: i32,
  end: i32,
  m: usize,
  step: usize,
  y: usize,
  height: i32,
  width: i32,
  channels: i32,
  down: i32,
  across: i32,
  bias: usize,
): void {
  const pitch = <usize>((channels + 7) >> 3) << 5;
  for (let t = start; t < end; t++, m += pitch) {
    const n = t / (down * across);
    const place = t - n * (down * across);
    const i = place / across;
    const image = y + <usize>n * (<usize>(height * width) * (<usize>channels << 2));
    outputTile(m, step, image, height, width, channels, 4 * i, 4 * (place - i * across), bias);
  }
}

/** M[tile][8 columns of `panels` panels] = V U of one frequency, for `tiles` rows up to a multiple of 4. */
@inline
function multiply(v: usize, u: usize, m: usize, tiles: i32, depth: i32, panels: i32, pitch: usize): void {
  const row = <usize>((depth + 7) >> 3) << 5;
  for (let p = 0; p < panels; p++) {
    let a = v;
    let c = m;
    for (let t = 0; t < tiles; t += 4) {
      tile<f32>(a, a + row, a + 2 * row, a + 3 * row, u, depth, c, pitch, false);
      a += 4 * row;
      c += 4 * pitch;
    }
    u += <usize>depth << 5;
    m += 32;
  }
}

/**
 * U for pairs of panels of 8 columns: u[36][panel][k][8], missing columns as zeros, of kernels of which element (k, column,
 * position) is at `w + k · depthStride + column · columnStride + position · positionStride` bytes; one of the first two strides
 * is 4, and the last is negative for kernels that are turned by 180°.
 */
export function winogradKernels_f32(
  start: i32,
  end: i32,
  w: usize,
  depth: i32,
  n: i32,
  depthStride: usize,
  columnStride: usize,
  positionStride: usize,
  u: usize,
  step: usize,
): void {
  // [16 of k][9 positions][8 columns], then [3][6] half-transformed vectors.
  const block = scratch;
  const half = block + 16 * 9 * 32;
  const result = half + 18 * 16;
  const panels = (n + 7) >> 3;
  for (let pair = start; pair < end; pair++) {
    for (let k0 = 0; k0 < depth; k0 += 16) {
      const count = min(16, depth - k0);
      for (let p = 2 * pair; p < min(2 * pair + 2, panels); p++) {
        const valid = min(8, n - 8 * p);
        const from = w + <usize>(8 * p) * columnStride + <usize>k0 * depthStride;
        if (valid == 8 && columnStride == 4) {
          for (let k = 0; k < count; k++) {
            for (let q = 0; q < 9; q++) {
              const source = from + <usize>k * depthStride + <usize>q * positionStride;
              const to = block + <usize>(k * 9 + q) * 32;
              v128.store(to, v128.load(source));
              v128.store(to, v128.load(source, 16), 16);
            }
          }
        } else if (valid == 8 && depthStride == 4 && count == 16) {
          for (let q = 0; q < 9; q++) {
            const source = from + <usize>q * positionStride;
            const to = block + <usize>q * 32;
            for (let k = 0; k < 16; k += 4) {
              transposeSquare<f32>(source + <usize>k * 4, columnStride, to + <usize>k * 288, 288);
              transposeSquare<f32>(source + <usize>k * 4 + 4 * columnStride, columnStride, to + <usize>k * 288 + 16, 288);
            }
          }
        } else {
          for (let k = 0; k < count; k++) {
            for (let q = 0; q < 9; q++) {
              const source = from + <usize>k * depthStride + <usize>q * positionStride;
              const to = block + <usize>(k * 9 + q) * 32;
              for (let j = 0; j < 8; j++) store<f32>(to + <usize>j * 4, j < valid ? load<f32>(source + <usize>j * columnStride) : 0);
            }
          }
        }
        for (let k = 0; k < count; k++) {
          for (let lane: usize = 0; lane < 32; lane += 16) {
            const kernel = block + <usize>k * 288 + lane;
            const to = result + <usize>k * 32 + lane;
            for (let j = 0; j < 3; j++) transformKernel(kernel + <usize>j * 32, 96, half + <usize>j * 16, 48);
            for (let i = 0; i < 6; i++) transformKernel(half + <usize>i * 48, 16, to + <usize>i * (6 * 512), 512);
          }
        }
        // In runs of 512 bytes: memory takes them faster than 36 interleaved streams.
        let to = u + (<usize>p * <usize>depth + <usize>k0) * 32;
        for (let f: usize = 0; f < 36; f++, to += step) {
          const place = result + f * 512;
          for (let k: usize = 0; k < <usize>count * 32; k += 32) {
            v128.store(to + k, v128.load(place + k));
            v128.store(to + k, v128.load(place + k, 16), 16);
          }
        }
      }
    }
  }
}

/** Items are groups of 4 tiles of a segment of `tiles` that starts at tile `first`. */
export function winogradInput_f32(
  start: i32,
  end: i32,
  x: usize,
  height: i32,
  width: i32,
  channels: i32,
  top: i32,
  left: i32,
  down: i32,
  across: i32,
  first: i32,
  tiles: i32,
  v: usize,
  step: usize,
): void {
  const pitch = <usize>((channels + 7) >> 3) << 5;
  const to = v + <usize>(4 * start) * pitch;
  inputTiles(first + 4 * start, first + min(4 * end, tiles), x, height, width, channels, top, left, down, across, to, step);
}

/** M = V U: an item is one frequency and `group` panels. */
export function winogradProduct_f32(
  start: i32,
  end: i32,
  v: usize,
  vStep: usize,
  u: usize,
  uStep: usize,
  m: usize,
  mStep: usize,
  tiles: i32,
  depth: i32,
  n: i32,
  group: i32,
): void {
  const panels = (n + 7) >> 3;
  const groups = (panels + group - 1) / group;
  for (let item = start; item < end; item++) {
    const f = <usize>(item / groups);
    const p = (item % groups) * group;
    const at = <usize>p << 5;
    multiply(v + f * vStep, u + f * uStep + at * <usize>depth, m + f * mStep + at, tiles, depth, min(group, panels - p), <usize>panels << 5);
  }
}

/** Items are groups of 4 tiles of a segment of `tiles` that starts at tile `first`. */
export function winogradOutput_f32(
  start: i32,
  end: i32,
  m: usize,
  step: usize,
  y: usize,
  height: i32,
  width: i32,
  channels: i32,
  down: i32,
  across: i32,
  first: i32,
  tiles: i32,
  bias: usize,
): void {
  const pitch = <usize>((channels + 7) >> 3) << 5;
  const from = m + <usize>(4 * start) * pitch;
  outputTiles(first + 4 * start, first + min(4 * end, tiles), from, step, y, height, width, channels, down, across, bias);
}

/** All of it for blocks of tiles, in scratch memory: an item is `block` tiles of altogether `tiles`. */
export function winogradBlock_f32(
  start: i32,
  end: i32,
  x: usize,
  height: i32,
  width: i32,
  depth: i32,
  top: i32,
  left: i32,
  down: i32,
  across: i32,
  u: usize,
  uStep: usize,
  y: usize,
  outHeight: i32,
  outWidth: i32,
  n: i32,
  bias: usize,
  block: i32,
  tiles: i32,
  vStep: usize,
  mStep: usize,
): void {
  const panels = (n + 7) >> 3;
  const v = scratch + BLOCK;
  const m = v + 36 * vStep;
  for (let item = start; item < end; item++) {
    const first = item * block;
    const last = min(first + block, tiles);
    inputTiles(first, last, x, height, width, depth, top, left, down, across, v, vStep);
    for (let f: usize = 0; f < 36; f++) multiply(v + f * vStep, u + f * uStep, m + f * mStep, last - first, depth, panels, <usize>panels << 5);
    outputTiles(first, last, m, mStep, y, outHeight, outWidth, n, down, across, bias);
  }
}

/**
 * Both factors of the weight gradient, packed for `packedTile`: v[36][channels / 8][tile][8] of the images and
 * g[36][outChannels / 4][tile][4] of the output's gradients. An item is 4 tiles of a segment of `tiles` from tile `first` on.
 */
export function winogradFactors_f32(
  start: i32,
  end: i32,
  x: usize,
  height: i32,
  width: i32,
  channels: i32,
  top: i32,
  left: i32,
  gradient: usize,
  outHeight: i32,
  outWidth: i32,
  outChannels: i32,
  down: i32,
  across: i32,
  first: i32,
  tiles: i32,
  v: usize,
  vStep: usize,
  g: usize,
  gStep: usize,
): void {
  const image = <usize>(height * width) * (<usize>channels << 2);
  const outImage = <usize>(outHeight * outWidth) * (<usize>outChannels << 2);
  for (let t = 4 * start; t < min(4 * end, tiles); t++) {
    const n = (first + t) / (down * across);
    const place = first + t - n * (down * across);
    const row = 4 * (place / across);
    const column = 4 * (place % across);
    const at = <usize>t << 4;
    inputTile(x + <usize>n * image, height, width, channels, row - top, column - left, v + 2 * at, <usize>tiles << 5, vStep);
    gradientTile(gradient + <usize>n * outImage, outHeight, outWidth, outChannels, row, column, g + at, <usize>tiles << 4, gStep);
  }
}

/**
 * u[36][n][depth], rows and columns up to multiples of 4 and 8, = or += Σ over `tiles` of gᵀ v. An item is one frequency and
 * `group` blocks of 4 rows. Sums of at most `LONGEST` terms are added up, which keeps rounding errors small.
 */
export function winogradAccumulate_f32(
  start: i32,
  end: i32,
  v: usize,
  vStep: usize,
  g: usize,
  gStep: usize,
  u: usize,
  uStep: usize,
  tiles: i32,
  depth: i32,
  n: i32,
  group: i32,
  accumulate: bool,
): void {
  const panels = (depth + 7) >> 3;
  const pitch = <usize>panels << 5;
  const blocks = (n + 3) >> 2;
  const groups = (blocks + group - 1) / group;
  for (let item = start; item < end; item++) {
    const f = <usize>(item / groups);
    const from = (item % groups) * group;
    const to = min(from + group, blocks);
    for (let p = 0; p < panels; p++) {
      const b = v + f * vStep + <usize>p * (<usize>tiles << 5);
      for (let o = from; o < to; o++) {
        const a = g + f * gStep + <usize>o * (<usize>tiles << 4);
        const c = u + f * uStep + <usize>(4 * o) * pitch + (<usize>p << 5);
        for (let t = 0; t < tiles; t += LONGEST) {
          const count = min(LONGEST, tiles - t);
          packedTile<f32>(a + (<usize>t << 4), b + (<usize>t << 5), count, c, pitch, t > 0 || accumulate);
        }
      }
    }
  }
}

/**
 * Factors and products for a part of the tiles, block by block in scratch memory: an item is `part` tiles of altogether `tiles`,
 * summed in a matrix u of its own, `uPart` bytes from one to the next.
 */
export function winogradPart_f32(
  start: i32,
  end: i32,
  x: usize,
  height: i32,
  width: i32,
  depth: i32,
  top: i32,
  left: i32,
  gradient: usize,
  outHeight: i32,
  outWidth: i32,
  n: i32,
  down: i32,
  across: i32,
  part: i32,
  tiles: i32,
  block: i32,
  vStep: usize,
  gStep: usize,
  u: usize,
  uStep: usize,
  uPart: usize,
): void {
  const v = scratch + BLOCK;
  const g = v + 36 * vStep;
  const blocks = (n + 3) >> 2;
  for (let item = start; item < end; item++) {
    const begin = item * part;
    const stop = min(begin + part, tiles);
    const sum = u + <usize>item * uPart;
    for (let first = begin; first < stop; first += block) {
      const count = min(block, stop - first);
      // prettier-ignore
      winogradFactors_f32(0, (count + 3) >> 2, x, height, width, depth, top, left, gradient, outHeight, outWidth, n, down, across, first, count, v, vStep, g, gStep);
      winogradAccumulate_f32(0, 36, v, vStep, g, gStep, sum, uStep, count, depth, n, blocks, first > begin);
    }
  }
}

/** Adds the sums of all parts to the first one's, part after part; an item is 4 KiB of it. */
export function winogradAddParts_f32(start: i32, end: i32, u: usize, bytes: usize, uPart: usize, parts: i32): void {
  const to = u + min(<usize>end << 12, bytes);
  for (let at = u + (<usize>start << 12); at < to; at += 16) {
    let sum = v128.load(at);
    for (let p = 1; p < parts; p++) sum = f32x4.add(sum, v128.load(at + <usize>p * uPart));
    v128.store(at, sum);
  }
}

/** w[n][3][3][depth] = Gᵀ u G; an item is an output channel. */
export function winogradKernelGradient_f32(start: i32, end: i32, u: usize, step: usize, depth: i32, w: usize): void {
  const line: usize = 4 * LINE; // longer runs than of the images: here u comes from memory
  const row = <usize>depth << 2;
  const pitch = <usize>((depth + 7) >> 3) << 5;
  for (let o = start; o < end; o++) {
    const from = u + <usize>o * pitch;
    const to = w + <usize>(9 * o) * row;
    for (let at: usize = 0; at < row; at += line) {
      const size = min(line, row - at);
      for (let j: usize = 0; j < 6; j++) {
        const place = scratch + j * line;
        for (let k: usize = 0; k < size; k += 16) transformKernelGradient(from + at + k + j * step, 6 * step, place + k, 6 * line, 4);
      }
      for (let i: usize = 0; i < 3; i++) {
        const place = scratch + i * (6 * line);
        for (let k: usize = 0; k < size; k += 16) {
          transformKernelGradient(place + k, line, to + at + k + 3 * i * row, row, <i32>((size - k) >> 2));
        }
      }
    }
  }
}

import { splatIndex, storeIndices } from "./reduction";
import { scratch } from "./scratch";
import { lanes, madd } from "./vector";
import { endInside, firstInside } from "./window";

/**
 * Pooling of images [n, height, width, channels]: vectors along the channels. A maximum also leaves where it was found, as the
 * pixel's number row · width + column within its image; scatter and gather go by such numbers, so that the gradient of a maximum,
 * of any order, needs no window. Averages are linear, and their gradient goes by the windows again.
 */

/** Images and their pooled ones; int32 numbers that the host prepares, in this order. */
@unmanaged
class Images {
  images: i32;
  height: i32;
  width: i32;
  channels: i32;
  outHeight: i32;
  outWidth: i32;
}

/** And the windows that lead from one to the other; numbers that follow those. */
@unmanaged
class Windows extends Images {
  kernelHeight: i32;
  kernelWidth: i32;
  strideHeight: i32;
  strideWidth: i32;
  dilationHeight: i32;
  dilationWidth: i32;
  /** Padding before the first row and column. */
  top: i32;
  left: i32;
  /** Of averages: 1 to divide by the elements of a window, 0 by those inside of the image. */
  countPadding: i32;
}

// ── maximum ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Where a candidate takes the place of the largest element so far: it is larger, or NaN. */
@inline
function takesOver<T>(candidate: v128, value: v128): v128 {
  return v128.or(v128.gt<T>(candidate, value), v128.ne<T>(candidate, candidate));
}

/** The same of two numbers; without a branch, which nobody could predict. */
@inline
function takesPlace<T>(candidate: T, value: T): bool {
  return <bool>(i32(candidate > value) | i32(candidate != candidate));
}

/** Item: a row of the output. The signature sees to it that no window is empty: each has a first element to start from. */
function maxPool<T>(start: i32, end: i32, at: usize, x: usize, y: usize, indices: usize): void {
  const plan = changetype<Windows>(at);
  // What inner loops use is read once: after a store to y the compiler would have to read the plan again.
  const width = plan.width;
  const channels = plan.channels;
  const outWidth = plan.outWidth;
  const dilationHeight = plan.dilationHeight;
  const dilationWidth = plan.dilationWidth;
  const line = <usize>channels * sizeof<T>();
  for (let row = start; row < end; row++) {
    const image = row / plan.outHeight;
    const h0 = (row - image * plan.outHeight) * plan.strideHeight - plan.top;
    const a0 = firstInside(h0, dilationHeight, plan.kernelHeight);
    const a1 = endInside(h0, dilationHeight, plan.kernelHeight, plan.height);
    const from = x + <usize>image * <usize>plan.height * <usize>width * line;
    let to = y + <usize>row * <usize>outWidth * line;
    let place = indices + ((<usize>row * <usize>outWidth * <usize>channels) << 2);
    for (let ow = 0; ow < outWidth; ow++) {
      const w0 = ow * plan.strideWidth - plan.left;
      const b0 = firstInside(w0, dilationWidth, plan.kernelWidth);
      const b1 = endInside(w0, dilationWidth, plan.kernelWidth, width);
      const first = (h0 + a0 * dilationHeight) * width + w0 + b0 * dilationWidth;
      let c = 0;
      for (; c + lanes<T>() <= channels; c += lanes<T>(), to += 16, place += (<usize>lanes<T>()) << 2) {
        const column = from + <usize>c * sizeof<T>();
        let value = v128.load(column + <usize>first * line);
        let best = splatIndex<T>(first);
        for (let a = a0; a < a1; a++) {
          let pixel = (h0 + a * dilationHeight) * width + w0 + b0 * dilationWidth;
          for (let b = b0; b < b1; b++, pixel += dilationWidth) {
            const candidate = v128.load(column + <usize>pixel * line);
            const wins = takesOver<T>(candidate, value);
            value = v128.bitselect(candidate, value, wins);
            best = v128.bitselect(splatIndex<T>(pixel), best, wins);
          }
        }
        v128.store(to, value);
        storeIndices<T>(place, best);
      }
      for (; c < channels; c++, to += sizeof<T>(), place += 4) {
        const column = from + <usize>c * sizeof<T>();
        let value = load<T>(column + <usize>first * line);
        let best = first;
        for (let a = a0; a < a1; a++) {
          let pixel = (h0 + a * dilationHeight) * width + w0 + b0 * dilationWidth;
          for (let b = b0; b < b1; b++, pixel += dilationWidth) {
            const candidate = load<T>(column + <usize>pixel * line);
            const wins = takesPlace<T>(candidate, value);
            value = select(candidate, value, wins);
            best = select(pixel, best, wins);
          }
        }
        store<T>(to, value);
        store<i32>(place, best);
      }
    }
  }
}

/** The same for windows of 2 × 2 side by side, without padding. */
function maxPool2x2<T>(start: i32, end: i32, at: usize, x: usize, y: usize, indices: usize): void {
  const plan = changetype<Images>(at);
  const width = plan.width;
  const outWidth = plan.outWidth;
  const line = <usize>plan.channels * sizeof<T>();
  const below = <usize>width * line;
  const vectors = line & ~15;
  for (let row = start; row < end; row++) {
    const image = row / plan.outHeight;
    const h = (row - image * plan.outHeight) * 2;
    let from = x + (<usize>image * <usize>plan.height + <usize>h) * below;
    let to = y + <usize>row * <usize>outWidth * line;
    let place = indices + ((<usize>row * <usize>outWidth * <usize>plan.channels) << 2);
    for (let ow = 0; ow < outWidth; ow++, from += line) {
      const pixel = h * width + ow * 2;
      const i0 = splatIndex<T>(pixel);
      const i1 = splatIndex<T>(pixel + 1);
      const i2 = splatIndex<T>(pixel + width);
      const i3 = splatIndex<T>(pixel + width + 1);
      let c: usize = 0;
      for (; c < vectors; c += 16, from += 16, to += 16, place += (<usize>lanes<T>()) << 2) {
        let value = v128.load(from);
        let candidate = v128.load(from + line);
        let wins = takesOver<T>(candidate, value);
        value = v128.bitselect(candidate, value, wins);
        let best = v128.bitselect(i1, i0, wins);
        candidate = v128.load(from + below);
        wins = takesOver<T>(candidate, value);
        value = v128.bitselect(candidate, value, wins);
        best = v128.bitselect(i2, best, wins);
        candidate = v128.load(from + below + line);
        wins = takesOver<T>(candidate, value);
        v128.store(to, v128.bitselect(candidate, value, wins));
        storeIndices<T>(place, v128.bitselect(i3, best, wins));
      }
      for (; c < line; c += sizeof<T>(), from += sizeof<T>(), to += sizeof<T>(), place += 4) {
        let value = load<T>(from);
        let best = pixel;
        let candidate = load<T>(from + line);
        let wins = takesPlace<T>(candidate, value);
        value = select(candidate, value, wins);
        best = select(pixel + 1, best, wins);
        candidate = load<T>(from + below);
        wins = takesPlace<T>(candidate, value);
        value = select(candidate, value, wins);
        best = select(pixel + width, best, wins);
        candidate = load<T>(from + below + line);
        wins = takesPlace<T>(candidate, value);
        value = select(candidate, value, wins);
        best = select(pixel + width + 1, best, wins);
        store<T>(to, value);
        store<i32>(place, best);
      }
    }
  }
}

// ── by indices ────────────────────────────────────────────────────────────────────────────────────────────────────────────

// Indices come from anywhere: they are checked where they are read, and an item that meets a wrong one stops and leaves its
// position in `faults`, which holds −1 for the others.

/** Bytes that the scatter zeros at a time. */
const CLEARED: i32 = 16384;

/** Zeros `width` bytes of each of the pixels [start, end), which are `line` bytes apart. */
function clear(x: usize, start: i32, end: i32, line: usize, width: usize): void {
  x += <usize>start * line;
  if (width == line) {
    memory.fill(x, 0, <usize>(end - start) * line);
    return;
  }
  for (let p = start; p < end; p++, x += line) {
    let c: usize = 0;
    for (; c + 16 <= width; c += 16) v128.store(x + c, i32x4.splat(0));
    for (; c < width; c += 4) store<i32>(x + c, 0);
  }
}

/**
 * Item: (image, group of channels). Zeros, then sums in the order of y. Pixels are zeroed when the indices first come to them, so
 * that they are still in cache where indices rise as those of a pooling do.
 */
function maxPoolScatter<T>(start: i32, end: i32, at: usize, y: usize, indices: usize, x: usize, group: i32, faults: usize): void {
  const plan = changetype<Images>(at);
  const channels = plan.channels;
  const groups = (channels + group - 1) / group;
  const line = <usize>channels * sizeof<T>();
  const factor = i32x4.splat(channels);
  for (let item = start; item < end; item++) {
    // Read here, and not above, because V8 then finds better registers for the inner loop.
    const pixels = plan.height * plan.width;
    const outPixels = plan.outHeight * plan.outWidth;
    const image = item / groups;
    const c0 = (item - image * groups) * group;
    const width = min(channels - c0, group);
    const bytes = <usize>width * sizeof<T>();
    const step = max(1, CLEARED / <i32>bytes);
    const to = x + <usize>image * <usize>pixels * line + <usize>c0 * sizeof<T>();
    let cleared = 0;
    let fault = -1;
    for (let p = 0; p < outPixels && fault < 0; p++) {
      const position = (<usize>image * <usize>outPixels + <usize>p) * <usize>channels + <usize>c0;
      const from = y + position * sizeof<T>();
      const entries = indices + (position << 2);
      let lane = i32x4(0, 1, 2, 3);
      for (let c = 0; c < width;) {
        const v = <usize>c;
        const whole = c + 4 <= width;
        const index = whole ? v128.load(entries + (v << 2)) : v128.load32_splat(entries + (v << 2));
        if (v128.any_true(i32x4.ge_u(index, i32x4.splat(cleared)))) {
          let top: u32 = 0;
          for (let k: usize = 0; k < <usize>(whole ? 4 : 1); k++) {
            const pixel = load<u32>(entries + ((v + k) << 2));
            if (pixel >= <u32>pixels) {
              fault = <i32>(position + v + k);
              break;
            }
            top = max(top, pixel);
          }
          if (fault >= 0) break;
          const next = min(pixels, <i32>top + step);
          clear(to, cleared, next, line, bytes);
          cleared = next;
        }
        const places = i32x4.shl(i32x4.add(i32x4.mul(index, factor), lane), sizeof<T>() == 8 ? 3 : 2);
        const p0 = to + <usize>i32x4.extract_lane(places, 0);
        store<T>(p0, load<T>(p0) + load<T>(from + v * sizeof<T>()));
        if (!whole) {
          lane = i32x4.add(lane, i32x4.splat(1));
          c++;
          continue;
        }
        const p1 = to + <usize>i32x4.extract_lane(places, 1);
        const p2 = to + <usize>i32x4.extract_lane(places, 2);
        const p3 = to + <usize>i32x4.extract_lane(places, 3);
        store<T>(p1, load<T>(p1) + load<T>(from + v * sizeof<T>(), sizeof<T>()));
        store<T>(p2, load<T>(p2) + load<T>(from + v * sizeof<T>(), 2 * sizeof<T>()));
        store<T>(p3, load<T>(p3) + load<T>(from + v * sizeof<T>(), 3 * sizeof<T>()));
        lane = i32x4.add(lane, i32x4.splat(4));
        c += 4;
      }
    }
    if (cleared < pixels) clear(to, cleared, pixels, line, bytes);
    store<i32>(faults + ((<usize>item) << 2), fault);
  }
}

/** Item: `group` pixels of the output, those of all images in a row. */
function maxPoolGather<T>(start: i32, end: i32, at: usize, x: usize, indices: usize, y: usize, group: i32, faults: usize): void {
  const plan = changetype<Images>(at);
  const channels = <usize>plan.channels;
  const pixels = plan.height * plan.width;
  const outPixels = plan.outHeight * plan.outWidth;
  const count = plan.images * outPixels;
  const size = <usize>pixels * channels * sizeof<T>();
  for (let item = start; item < end; item++) {
    const last = min(count, (item + 1) * group);
    let fault = -1;
    for (let p = item * group; p < last && fault < 0; p++) {
      const from = x + <usize>(p / outPixels) * size;
      const base = <usize>p * channels;
      let entry = indices + (base << 2);
      let to = y + base * sizeof<T>();
      for (let c: usize = 0; c < channels; c++, entry += 4, to += sizeof<T>()) {
        const index = load<i32>(entry);
        if (<u32>index >= <u32>pixels) {
          fault = <i32>(base + c);
          break;
        }
        store<T>(to, load<T>(from + (<usize>index * channels + c) * sizeof<T>()));
      }
    }
    store<i32>(faults + ((<usize>item) << 2), fault);
  }
}

/** The first fault of all items, −1 if there is none. Within an item the first is the one that it met. */
export function firstFault_i32(faults: usize, items: i32): i32 {
  let first = <u32>-1;
  for (let i = 0; i < items; i++) first = min(first, <u32>load<i32>(faults + ((<usize>i) << 2)));
  return <i32>first;
}

// ── average ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Windows of more elements are summed in float64. */
const FEW: i32 = 16;
/** Elements of a row of a window that are summed in their own type. */
const RUN: i32 = 64;

/** What the elements of a window are multiplied by where all of them count; 0 where only those inside of the image do. */
@inline
function fixedShare(plan: Windows): f64 {
  return plan.countPadding ? 1 / (<f64>plan.kernelHeight * <f64>plan.kernelWidth) : 0;
}

/** Item: a row of the output. */
function averagePool<T>(start: i32, end: i32, at: usize, x: usize, y: usize): void {
  const plan = changetype<Windows>(at);
  const outWidth = plan.outWidth;
  const fixed = fixedShare(plan);
  const line = <usize>plan.channels * sizeof<T>();
  const rowPitch = <usize>plan.dilationHeight * <usize>plan.width * line;
  const pitch = <usize>plan.dilationWidth * line;
  const vectors = line & ~15;
  const zero = v128.splat<T>(<T>0);
  for (let row = start; row < end; row++) {
    const image = row / plan.outHeight;
    const h0 = (row - image * plan.outHeight) * plan.strideHeight - plan.top;
    const a0 = firstInside(h0, plan.dilationHeight, plan.kernelHeight);
    const rows = endInside(h0, plan.dilationHeight, plan.kernelHeight, plan.height) - a0;
    const from = x + (<usize>image * <usize>plan.height + <usize>(h0 + a0 * plan.dilationHeight)) * <usize>plan.width * line;
    let to = y + <usize>row * <usize>outWidth * line;
    for (let ow = 0; ow < outWidth; ow++) {
      const w0 = ow * plan.strideWidth - plan.left;
      const b0 = firstInside(w0, plan.dilationWidth, plan.kernelWidth);
      const columns = endInside(w0, plan.dilationWidth, plan.kernelWidth, plan.width) - b0;
      const share = fixed != 0 ? fixed : 1 / (<f64>rows * <f64>columns);
      let corner = from + <usize>(w0 + b0 * plan.dilationWidth) * line;
      let c: usize = 0;
      for (; c < vectors; c += 16, corner += 16, to += 16) {
        let rowAt = corner;
        if (sizeof<T>() == 8 || rows * columns <= FEW) {
          let sum = zero;
          if (rows == 2 && columns == 2) {
            const below = v128.add<T>(v128.load(rowAt + rowPitch), v128.load(rowAt + rowPitch + pitch));
            sum = v128.add<T>(v128.add<T>(v128.load(rowAt), v128.load(rowAt + pitch)), below);
          } else {
            for (let a = 0; a < rows; a++, rowAt += rowPitch) {
              let element = rowAt;
              for (let b = 0; b < columns; b++, element += pitch) sum = v128.add<T>(sum, v128.load(element));
            }
          }
          v128.store(to, v128.mul<T>(sum, v128.splat<T>(<T>share)));
        } else {
          let low = f64x2.splat(0);
          let high = low;
          for (let a = 0; a < rows; a++, rowAt += rowPitch) {
            let element = rowAt;
            for (let b = 0; b < columns;) {
              let sum = zero;
              for (const stop = min(columns, b + RUN); b < stop; b++, element += pitch) sum = v128.add<T>(sum, v128.load(element));
              low = f64x2.add(low, f64x2.promote_low_f32x4(sum));
              high = f64x2.add(high, f64x2.promote_low_f32x4(v128.shuffle<i64>(sum, sum, 1, 1)));
            }
          }
          low = f32x4.demote_f64x2_zero(f64x2.mul(low, f64x2.splat(share)));
          high = f32x4.demote_f64x2_zero(f64x2.mul(high, f64x2.splat(share)));
          v128.store(to, v128.shuffle<i64>(low, high, 0, 2));
        }
      }
      for (; c < line; c += sizeof<T>(), corner += sizeof<T>(), to += sizeof<T>()) {
        let rowAt = corner;
        let sum: f64 = 0;
        for (let a = 0; a < rows; a++, rowAt += rowPitch) {
          let element = rowAt;
          for (let b = 0; b < columns; b++, element += pitch) sum += <f64>load<T>(element);
        }
        store<T>(to, <T>(sum * share));
      }
    }
  }
}

/** Windows around a pixel of which addresses and shares are listed in scratch memory. */
const LISTED: i32 = 64;

/**
 * Item: a row of the image. Each pixel is the sum over the windows that it is in, of their gradients by their shares. The windows are
 * listed first; if there are too many of them, the list is worked off whenever it is full.
 */
function averagePoolGradient<T>(start: i32, end: i32, at: usize, g: usize, y: usize): void {
  const plan = changetype<Windows>(at);
  const width = plan.width;
  const outWidth = plan.outWidth;
  const left = plan.left;
  const kernelWidth = plan.kernelWidth;
  const strideHeight = plan.strideHeight;
  const strideWidth = plan.strideWidth;
  const dilationHeight = plan.dilationHeight;
  const dilationWidth = plan.dilationWidth;
  const fixed = fixedShare(plan);
  const line = <usize>plan.channels * sizeof<T>();
  for (let row = start; row < end; row++) {
    const image = row / plan.height;
    const h = row - image * plan.height + plan.top;
    // The window at `oh` has its row k at h = oh · stride + k · dilation.
    const oh1 = min(plan.outHeight - 1, h / strideHeight);
    const oh0 = max(0, (h - dilationHeight * (plan.kernelHeight - 1) + strideHeight - 1) / strideHeight);
    const images = g + <usize>image * <usize>plan.outHeight * <usize>outWidth * line;
    let to = y + <usize>row * <usize>width * line;
    for (let w = left; w < width + left; w++, to += line) {
      const ow1 = min(outWidth - 1, w / strideWidth);
      const ow0 = max(0, (w - dilationWidth * (kernelWidth - 1) + strideWidth - 1) / strideWidth);
      let count = 0;
      let added = false;
      for (let oh = oh0; oh <= oh1; oh++) {
        if ((h - oh * strideHeight) % dilationHeight != 0) continue;
        const h0 = oh * strideHeight - plan.top;
        const a0 = firstInside(h0, dilationHeight, plan.kernelHeight);
        const rows = endInside(h0, dilationHeight, plan.kernelHeight, plan.height) - a0;
        for (let ow = ow0; ow <= ow1; ow++) {
          if ((w - ow * strideWidth) % dilationWidth != 0) continue;
          let share = fixed;
          // Two divisions, as much as a window of few channels takes: only where they count.
          if (share == 0) {
            const w0 = ow * strideWidth - left;
            const columns = endInside(w0, dilationWidth, kernelWidth, width) - firstInside(w0, dilationWidth, kernelWidth);
            share = 1 / (<f64>rows * <f64>columns);
          }
          if (count == LISTED) {
            addListed<T>(count, line, to, added);
            added = true;
            count = 0;
          }
          const entry = scratch + ((<usize>count) << 4);
          store<usize>(entry, images + (<usize>oh * <usize>outWidth + <usize>ow) * line);
          store<T>(entry, <T>share, 8);
          count++;
        }
      }
      addListed<T>(count, line, to, added);
    }
  }
}

/** y = or += Σ share · pixel over the list. */
function addListed<T>(count: i32, line: usize, y: usize, accumulate: bool): void {
  const end = scratch + ((<usize>count) << 4);
  let c: usize = 0;
  for (; c + 16 <= line; c += 16) {
    let sum = v128.splat<T>(<T>0);
    for (let entry = scratch; entry < end; entry += 16) {
      sum = madd<T>(v128.load_splat<T>(entry, 8), v128.load(load<usize>(entry) + c), sum);
    }
    v128.store(y + c, accumulate ? v128.add<T>(v128.load(y + c), sum) : sum);
  }
  for (; c < line; c += sizeof<T>()) {
    let sum: T = 0;
    for (let entry = scratch; entry < end; entry += 16) sum += load<T>(entry, 8) * load<T>(load<usize>(entry) + c);
    store<T>(y + c, accumulate ? load<T>(y + c) + sum : sum);
  }
}

/** The same where windows lie side by side, without padding or dilation: each pixel is in one window at most. */
function averagePoolGradientTiled<T>(start: i32, end: i32, at: usize, g: usize, y: usize): void {
  const plan = changetype<Windows>(at);
  const width = plan.width;
  const outWidth = plan.outWidth;
  const kernelWidth = plan.kernelWidth;
  const line = <usize>plan.channels * sizeof<T>();
  const vectors = line & ~15;
  const share = <T>(1 / (<f64>plan.kernelHeight * <f64>kernelWidth));
  const factor = v128.splat<T>(share);
  for (let row = start; row < end; row++) {
    const image = row / plan.height;
    const oh = (row - image * plan.height) / plan.kernelHeight;
    let to = y + <usize>row * <usize>width * line;
    if (oh >= plan.outHeight) {
      memory.fill(to, 0, <usize>width * line);
      continue;
    }
    let from = g + (<usize>image * <usize>plan.outHeight + <usize>oh) * <usize>outWidth * line;
    for (let ow = 0; ow < outWidth; ow++, from += line) {
      for (let b = 0; b < kernelWidth; b++, to += line) {
        let c: usize = 0;
        for (; c < vectors; c += 16) v128.store(to + c, v128.mul<T>(v128.load(from + c), factor));
        for (; c < line; c += sizeof<T>()) store<T>(to + c, load<T>(from + c) * share);
      }
    }
    memory.fill(to, 0, <usize>(width - outWidth * kernelWidth) * line);
  }
}

// ── exports ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

// export maxPool2d_T = maxPool<T> for T of f32, f64
// export maxPool2x2_T = maxPool2x2<T> for T of f32, f64
// export maxPool2dScatter_T = maxPoolScatter<T> for T of f32, f64
// export maxPool2dGather_T = maxPoolGather<T> for T of f32, f64
// export averagePool2d_T = averagePool<T> for T of f32, f64
// export averagePool2dGradient_T = averagePoolGradient<T> for T of f32, f64
// export averagePool2dGradientTiled_T = averagePoolGradientTiled<T> for T of f32, f64

import { addSums, sumBlock } from "./reduction";
import { scratch } from "./scratch";
import { lanes, madd } from "./vector";

/**
 * Batch normalisation of x [rows, channels]. Memory decides its speed: the forward pass reads x twice, once for the statistics
 * and once to normalise, and the gradient pass reads its operands twice. Sums run in the type of x over blocks of rows and are
 * carried on in float64.
 *
 * Statistics are arrays of float64 by chunk of rows: [chunks][2][channels].
 */

/** Channels of which the statistics are taken together, so that a block of rows stays in cache. */
const WIDTH: i32 = 1024;

/** Rows of a block: 16 to 64, and at most 128 KiB of float32 otherwise. */
@inline
function blockOf(width: i32): i32 {
  return max(16, min(64, 32768 / width));
}

/**
 * Σ(x − k) and Σ(x − k)² over a block of rows, k being one estimate of the mean a channel. The block is in cache: it is walked
 * down columns, with the sums in registers.
 */
function deviations<T>(x: usize, rows: i32, pitch: usize, width: i32, k: usize, sums: usize, squares: usize): void {
  const step = lanes<T>();
  let c = 0;
  for (; c + 2 * step <= width; c += 2 * step, x += 32, k += 32, sums += 32, squares += 32) {
    const k0 = v128.load(k);
    const k1 = v128.load(k, 16);
    let s0 = v128.splat<T>(<T>0);
    let s1 = s0;
    let q0 = s0;
    let q1 = s0;
    let at = x;
    for (let r = 0; r < rows; r++, at += pitch) {
      const d0 = v128.sub<T>(v128.load(at), k0);
      const d1 = v128.sub<T>(v128.load(at, 16), k1);
      s0 = v128.add<T>(s0, d0);
      s1 = v128.add<T>(s1, d1);
      q0 = madd<T>(d0, d0, q0);
      q1 = madd<T>(d1, d1, q1);
    }
    v128.store(sums, s0);
    v128.store(sums, s1, 16);
    v128.store(squares, q0);
    v128.store(squares, q1, 16);
  }
  for (; c + step <= width; c += step, x += 16, k += 16, sums += 16, squares += 16) {
    const k0 = v128.load(k);
    let s = v128.splat<T>(<T>0);
    let q = s;
    let at = x;
    for (let r = 0; r < rows; r++, at += pitch) {
      const d = v128.sub<T>(v128.load(at), k0);
      s = v128.add<T>(s, d);
      q = madd<T>(d, d, q);
    }
    v128.store(sums, s);
    v128.store(squares, q);
  }
  for (; c < width; c++, x += sizeof<T>(), k += sizeof<T>(), sums += sizeof<T>(), squares += sizeof<T>()) {
    const k0 = load<T>(k);
    let s: T = 0;
    let q: T = 0;
    let at = x;
    for (let r = 0; r < rows; r++, at += pitch) {
      const d: T = load<T>(at) - k0;
      s += d;
      q += d * d;
    }
    store<T>(sums, s);
    store<T>(squares, q);
  }
}

/**
 * Mean and sum of squares about it, of each chunk of rows (an item). Two passes over each block of rows, which the first brings
 * into cache: first a mean k near enough for x − k to be nearly exact, then the sums about it. Blocks are put together by Chan,
 * Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
 */
function moments<T>(start: i32, end: i32, x: usize, rows: i32, channels: i32, chunk: i32, statistics: usize): void {
  const pitch = <usize>channels * sizeof<T>();
  const k = scratch;
  const sums = k + <usize>WIDTH * 8;
  const squares = sums + <usize>WIDTH * 8;
  for (let item = start; item < end; item++) {
    const first = item * chunk;
    const last = min(rows, first + chunk);
    for (let column = 0; column < channels; column += WIDTH) {
      const width = min(WIDTH, channels - column);
      const block = blockOf(width);
      const means = statistics + (<usize>item * 2 * <usize>channels + <usize>column) * 8;
      const totals = means + <usize>channels * 8;
      memory.fill(means, 0, <usize>width * 8);
      memory.fill(totals, 0, <usize>width * 8);
      for (let row = first; row < last; row += block) {
        const from = x + <usize>row * pitch + <usize>column * sizeof<T>();
        const count = min(block, last - row);
        const size = <f64>count;
        const before = <f64>(row - first);
        sumBlock<T>(from, count, pitch, width, k);
        for (let c: usize = 0; c < <usize>width; c++) store<T>(k + c * sizeof<T>(), <T>(load<T>(k + c * sizeof<T>()) / <T>count));
        deviations<T>(from, count, pitch, width, k, sums, squares);
        const share = size / (before + size);
        const weight = before * share;
        const inverse = 1 / size;
        for (let c: usize = 0; c < <usize>width; c++) {
          const s = <f64>load<T>(sums + c * sizeof<T>());
          const shift = s * inverse;
          const mean = <f64>load<T>(k + c * sizeof<T>()) + shift;
          const square = <f64>load<T>(squares + c * sizeof<T>()) - s * shift;
          const old = load<f64>(means + c * 8);
          const delta = mean - old;
          store<f64>(means + c * 8, old + delta * share);
          store<f64>(totals + c * 8, load<f64>(totals + c * 8) + square + delta * delta * weight);
        }
      }
    }
  }
}

/**
 * Item: a channel. Puts the chunks together and writes mean and rstd, and in `table` [3][channels] what `normalize` needs:
 * y = (x − high) · gain + offset, where high is the mean in the type of x and what that rounds away is in the offset.
 */
function finishMoments<T>(
  start: i32,
  end: i32,
  statistics: usize,
  rows: i32,
  channels: i32,
  chunk: i32,
  epsilon: f64,
  scale: usize,
  shift: usize,
  mean: usize,
  rstd: usize,
  table: usize,
): void {
  const pitch = <usize>channels * 8;
  for (let c: usize = start; c < <usize>end; c++) {
    let at = statistics + c * 8;
    let m = load<f64>(at);
    let total = load<f64>(at + pitch);
    for (let row = chunk; row < rows; row += chunk) {
      at += 2 * pitch;
      const size = <f64>min(chunk, rows - row);
      const before = <f64>row;
      const share = size / (before + size);
      const delta = load<f64>(at) - m;
      m += delta * share;
      total += load<f64>(at + pitch) + delta * delta * (before * share);
    }
    const r = 1 / Math.sqrt(total / <f64>rows + epsilon);
    const gain = <f64>load<T>(scale + c * sizeof<T>()) * r;
    const high = <T>m;
    const place = c * sizeof<T>();
    store<T>(mean + place, high);
    store<T>(rstd + place, <T>r);
    store<T>(table + place, high);
    store<T>(table + place + <usize>channels * sizeof<T>(), <T>gain);
    store<T>(table + place + <usize>channels * 2 * sizeof<T>(), <T>(<f64>load<T>(shift + place) - (m - <f64>high) * gain));
  }
}

/** Item: a row. Writes (x − high) · gain + offset, or its positive part; NaN goes through. */
@inline
function normalizeRows<T>(start: i32, end: i32, x: usize, channels: i32, table: usize, y: usize, relu: bool): void {
  const line = <usize>channels * sizeof<T>();
  const gain = table + line;
  const offset = gain + line;
  const zero = v128.splat<T>(<T>0);
  x += <usize>start * line;
  y += <usize>start * line;
  const vectors = line & ~15;
  for (let row = start; row < end; row++, x += line, y += line) {
    let c: usize = 0;
    for (; c < vectors; c += 16) {
      let v = madd<T>(v128.sub<T>(v128.load(x + c), v128.load(table + c)), v128.load(gain + c), v128.load(offset + c));
      // Not v < 0: so NaN stays.
      if (relu) v = v128.andnot(v, v128.lt<T>(v, zero));
      v128.store(y + c, v);
    }
    for (; c < line; c += sizeof<T>()) {
      let v: T = (load<T>(x + c) - load<T>(table + c)) * load<T>(gain + c) + load<T>(offset + c);
      if (relu && v < 0) v = 0;
      store<T>(y + c, v);
    }
  }
}

/**
 * Σ g and Σ g (x − mean) of each chunk of rows (an item), with g = 0 where `output`, that of a ReLU, is not positive; `output` 0
 * is none.
 */
@inline
function dots<T>(
  start: i32,
  end: i32,
  x: usize,
  g: usize,
  output: usize,
  mean: usize,
  rows: i32,
  channels: i32,
  chunk: i32,
  statistics: usize,
  relu: bool,
): void {
  const line = <usize>channels * sizeof<T>();
  const zero = v128.splat<T>(<T>0);
  const sums = scratch;
  const products = sums + <usize>WIDTH * 8;
  for (let item = start; item < end; item++) {
    const first = item * chunk;
    const last = min(rows, first + chunk);
    for (let column = 0; column < channels; column += WIDTH) {
      const width = min(WIDTH, channels - column);
      const block = blockOf(width);
      const bytes = <usize>width * sizeof<T>();
      const vectors = bytes & ~15;
      const m = mean + <usize>column * sizeof<T>();
      const total = statistics + (<usize>item * 2 * <usize>channels + <usize>column) * 8;
      const totalProducts = total + <usize>channels * 8;
      memory.fill(total, 0, <usize>width * 8);
      memory.fill(totalProducts, 0, <usize>width * 8);
      for (let row = first; row < last; row += block) {
        const stop = min(last, row + block);
        memory.fill(sums, 0, bytes);
        memory.fill(products, 0, bytes);
        let at = <usize>row * line + <usize>column * sizeof<T>();
        let r = row;
        for (; r + 2 <= stop; r += 2, at += 2 * line) {
          let p = x + at;
          let q = g + at;
          let o = output + at;
          let c: usize = 0;
          for (; c < vectors; c += 16, p += 16, q += 16) {
            const k = v128.load(m + c);
            let a = v128.load(q);
            let b = v128.load(q + line);
            if (relu) {
              a = v128.and(a, v128.gt<T>(v128.load(o), zero));
              b = v128.and(b, v128.gt<T>(v128.load(o + line), zero));
              o += 16;
            }
            v128.store(sums + c, v128.add<T>(v128.load(sums + c), v128.add<T>(a, b)));
            const d = madd<T>(a, v128.sub<T>(v128.load(p), k), v128.load(products + c));
            v128.store(products + c, madd<T>(b, v128.sub<T>(v128.load(p + line), k), d));
          }
          for (; c < bytes; c += sizeof<T>(), p += sizeof<T>(), q += sizeof<T>()) {
            const k = load<T>(m + c);
            let a = load<T>(q);
            let b = load<T>(q + line);
            if (relu) {
              if (!(load<T>(o) > 0)) a = 0;
              if (!(load<T>(o + line) > 0)) b = 0;
              o += sizeof<T>();
            }
            store<T>(sums + c, load<T>(sums + c) + <T>(a + b));
            store<T>(products + c, load<T>(products + c) + a * (load<T>(p) - k) + b * (load<T>(p + line) - k));
          }
        }
        if (r < stop) {
          for (let c: usize = 0; c < bytes; c += sizeof<T>()) {
            let a = load<T>(g + at + c);
            if (relu && !(load<T>(output + at + c) > 0)) a = 0;
            store<T>(sums + c, load<T>(sums + c) + a);
            store<T>(products + c, load<T>(products + c) + a * (load<T>(x + at + c) - load<T>(m + c)));
          }
        }
        addSums<T, f64>(sums, width, total);
        addSums<T, f64>(products, width, totalProducts);
      }
    }
  }
}

/**
 * Item: a channel. Adds the chunks and writes the gradients of scale and shift, and in `table` [4][channels] what
 * `gradientRows` needs: gx = gain · (g − average − (x − mean) · pull).
 */
function finishDots<T>(
  start: i32,
  end: i32,
  statistics: usize,
  chunks: i32,
  rows: i32,
  channels: i32,
  scale: usize,
  mean: usize,
  rstd: usize,
  gscale: usize,
  gshift: usize,
  table: usize,
): void {
  const line = <usize>channels * sizeof<T>();
  for (let c: usize = start; c < <usize>end; c++) {
    let at = statistics + c * 8;
    let sum: f64 = 0;
    let dot: f64 = 0;
    for (let i = 0; i < chunks; i++, at += <usize>channels * 16) {
      sum += load<f64>(at);
      dot += load<f64>(at + <usize>channels * 8);
    }
    const place = c * sizeof<T>();
    const r = <f64>load<T>(rstd + place);
    dot *= r;
    store<T>(gscale + place, <T>dot);
    store<T>(gshift + place, <T>sum);
    store<T>(table + place, load<T>(mean + place));
    store<T>(table + place + line, <T>(<f64>load<T>(scale + place) * r));
    store<T>(table + place + 2 * line, <T>(sum / <f64>rows));
    store<T>(table + place + 3 * line, <T>((r * dot) / <f64>rows));
  }
}

/** Item: a row. */
@inline
function gradientRows<T>(
  start: i32,
  end: i32,
  x: usize,
  g: usize,
  output: usize,
  channels: i32,
  table: usize,
  gx: usize,
  relu: bool,
): void {
  const line = <usize>channels * sizeof<T>();
  const gain = table + line;
  const average = gain + line;
  const pull = average + line;
  const zero = v128.splat<T>(<T>0);
  const skip = <usize>start * line;
  x += skip;
  g += skip;
  output += skip;
  gx += skip;
  const vectors = line & ~15;
  for (let row = start; row < end; row++, x += line, g += line, output += line, gx += line) {
    let c: usize = 0;
    for (; c < vectors; c += 16) {
      let a = v128.load(g + c);
      if (relu) a = v128.and(a, v128.gt<T>(v128.load(output + c), zero));
      const d = v128.mul<T>(v128.sub<T>(v128.load(x + c), v128.load(table + c)), v128.load(pull + c));
      v128.store(gx + c, v128.mul<T>(v128.load(gain + c), v128.sub<T>(v128.sub<T>(a, v128.load(average + c)), d)));
    }
    for (; c < line; c += sizeof<T>()) {
      let a = load<T>(g + c);
      if (relu && !(load<T>(output + c) > 0)) a = 0;
      const d: T = (load<T>(x + c) - load<T>(table + c)) * load<T>(pull + c);
      store<T>(gx + c, load<T>(gain + c) * (a - load<T>(average + c) - d));
    }
  }
}

/** `relu`: 1 to write the positive part. A kernel of its own for each, as everywhere here: nothing is asked within a loop. */
function normalizedRows<T>(start: i32, end: i32, x: usize, channels: i32, table: usize, y: usize, relu: i32): void {
  if (relu) normalizeRows<T>(start, end, x, channels, table, y, true);
  else normalizeRows<T>(start, end, x, channels, table, y, false);
}

/** `output`: that of the ReLU after the normalisation, or 0. */
function maskedDots<T>(
  start: i32,
  end: i32,
  x: usize,
  g: usize,
  output: usize,
  mean: usize,
  rows: i32,
  channels: i32,
  chunk: i32,
  statistics: usize,
): void {
  if (output) dots<T>(start, end, x, g, output, mean, rows, channels, chunk, statistics, true);
  else dots<T>(start, end, x, g, 0, mean, rows, channels, chunk, statistics, false);
}

function maskedGradientRows<T>(
  start: i32,
  end: i32,
  x: usize,
  g: usize,
  output: usize,
  channels: i32,
  table: usize,
  gx: usize,
): void {
  if (output) gradientRows<T>(start, end, x, g, output, channels, table, gx, true);
  else gradientRows<T>(start, end, x, g, 0, channels, table, gx, false);
}

// export batchNormMoments_T = moments<T> for T of f32, f64
// export batchNormFinish_T = finishMoments<T> for T of f32, f64
// export batchNormRows_T = normalizedRows<T> for T of f32, f64
// export batchNormDots_T = maskedDots<T> for T of f32, f64
// export batchNormFinishDots_T = finishDots<T> for T of f32, f64
// export batchNormGradientRows_T = maskedGradientRows<T> for T of f32, f64

import { scratch } from "./scratch";
import { lanes } from "./vector";

/**
 * Sums and maxima over rows (consecutive elements) and over columns. Float sums run in their own type over short stretches and
 * are carried on in float64, A below; int32 sums wrap. Large reductions are cut into chunks by the host, whose sums are reduced
 * once more.
 */

/** Elements of a row that are summed in their own type: 64 for each element of four float32 vectors. */
const RUN: i32 = 1024;
/** Rows that are summed in their own type. */
const BLOCK: i32 = 64;
/** Columns of an item; the host relies on it. */
const WIDTH: i32 = 1024;

@inline
function zeros<T>(): v128 {
  return v128.splat<T>(<T>0);
}

/** acc[lane] += v[lane] in memory, for elements of type T and accumulators of type A. */
@inline
function addTo<T, A>(acc: usize, v: v128): void {
  if (sizeof<T>() == sizeof<A>()) {
    v128.store(acc, v128.add<T>(v128.load(acc), v));
  } else {
    v128.store(acc, f64x2.add(v128.load(acc), f64x2.promote_low_f32x4(v)));
    v128.store(acc, f64x2.add(v128.load(acc, 16), f64x2.promote_low_f32x4(v128.shuffle<i32>(v, v, 2, 3, 2, 3))), 16);
  }
}

/** Sum of a vector's elements as an accumulator. */
@inline
export function addLanes<T, A>(v: v128): A {
  if (sizeof<T>() == 8) return <A>(v128.extract_lane<T>(v, 0) + v128.extract_lane<T>(v, 1));
  return <A>(
    (<A>v128.extract_lane<T>(v, 0) + <A>v128.extract_lane<T>(v, 1) + (<A>v128.extract_lane<T>(v, 2) + <A>v128.extract_lane<T>(v, 3)))
  );
}

function sumRun<T, A>(at: usize, length: i32): A {
  let s0 = zeros<T>();
  let s1 = s0;
  let s2 = s0;
  let s3 = s0;
  const end = at + <usize>length * sizeof<T>();
  const wide = at + ((<usize>length * sizeof<T>()) & ~63);
  for (; at < wide; at += 64) {
    s0 = v128.add<T>(s0, v128.load(at));
    s1 = v128.add<T>(s1, v128.load(at, 16));
    s2 = v128.add<T>(s2, v128.load(at, 32));
    s3 = v128.add<T>(s3, v128.load(at, 48));
  }
  let total = addLanes<T, A>(v128.add<T>(v128.add<T>(s0, s1), v128.add<T>(s2, s3)));
  for (; at < end; at += sizeof<T>()) total += <A>load<T>(at);
  return total;
}

/** Item: elements `[k · chunk, (k + 1) · chunk)` of a row of `length` elements; `chunks` items make a row. */
function sumRows<T, A, U>(start: i32, end: i32, x: usize, length: i32, chunk: i32, chunks: i32, y: usize): void {
  for (let item = start; item < end; item++) {
    const row = item / chunks;
    const first = (item - row * chunks) * chunk;
    const last = min(length, first + chunk);
    const from = x + <usize>row * <usize>length * sizeof<T>();
    let total: A = 0;
    for (let i = first; i < last; i += RUN) total += sumRun<T, A>(from + <usize>i * sizeof<T>(), min(RUN, last - i));
    store<U>(y + <usize>item * sizeof<U>(), <U>total);
  }
}

/**
 * Sums of few rows of `width` elements, in their own type, into `to`. `pitch` is the distance of rows in bytes. Rows wider than
 * four vectors are read along memory, four at a time, with the sums in memory: reading down columns halves the bandwidth.
 */
export function sumBlock<T>(x: usize, rows: i32, pitch: usize, width: i32, to: usize): void {
  const step = lanes<T>();
  if (width > 4 * step) {
    memory.fill(to, 0, <usize>width * sizeof<T>());
    let r = 0;
    for (; r + 4 <= rows; r += 4, x += 4 * pitch) {
      let p0 = x;
      let p1 = x + pitch;
      let p2 = p1 + pitch;
      let p3 = p2 + pitch;
      let s = to;
      const end = to + <usize>width * sizeof<T>();
      for (; s + 16 <= end; s += 16, p0 += 16, p1 += 16, p2 += 16, p3 += 16) {
        const a = v128.add<T>(v128.load(p0), v128.load(p1));
        const b = v128.add<T>(v128.load(p2), v128.load(p3));
        v128.store(s, v128.add<T>(v128.load(s), v128.add<T>(a, b)));
      }
      for (; s < end; s += sizeof<T>(), p0 += sizeof<T>(), p1 += sizeof<T>(), p2 += sizeof<T>(), p3 += sizeof<T>()) {
        store<T>(s, load<T>(s) + <T>(load<T>(p0) + load<T>(p1) + <T>(load<T>(p2) + load<T>(p3))));
      }
    }
    for (; r < rows; r++, x += pitch) {
      let c: usize = 0;
      const end = <usize>width * sizeof<T>();
      for (; c + 16 <= end; c += 16) v128.store(to + c, v128.add<T>(v128.load(to + c), v128.load(x + c)));
      for (; c < end; c += sizeof<T>()) store<T>(to + c, load<T>(to + c) + load<T>(x + c));
    }
    return;
  }
  if (width == 4 * step) {
    let s0 = zeros<T>();
    let s1 = s0;
    let s2 = s0;
    let s3 = s0;
    for (let r = 0; r < rows; r++, x += pitch) {
      s0 = v128.add<T>(s0, v128.load(x));
      s1 = v128.add<T>(s1, v128.load(x, 16));
      s2 = v128.add<T>(s2, v128.load(x, 32));
      s3 = v128.add<T>(s3, v128.load(x, 48));
    }
    v128.store(to, s0);
    v128.store(to, s1, 16);
    v128.store(to, s2, 32);
    v128.store(to, s3, 48);
    return;
  }
  let c = 0;
  for (; c + step <= width; c += step, x += 16, to += 16) {
    let s = zeros<T>();
    let at = x;
    for (let r = 0; r < rows; r++, at += pitch) s = v128.add<T>(s, v128.load(at));
    v128.store(to, s);
  }
  for (; c < width; c++, x += sizeof<T>(), to += sizeof<T>()) {
    let s: T = 0;
    let at = x;
    for (let r = 0; r < rows; r++, at += pitch) s += load<T>(at);
    store<T>(to, s);
  }
}

/** acc[c] += sums[c] */
export function addSums<T, A>(sums: usize, width: i32, acc: usize): void {
  let c = 0;
  for (; c + lanes<T>() <= width; c += lanes<T>(), sums += 16, acc += <usize>lanes<T>() * sizeof<A>()) addTo<T, A>(acc, v128.load(sums));
  for (; c < width; c++, sums += sizeof<T>(), acc += sizeof<A>()) store<A>(acc, load<A>(acc) + <A>load<T>(sums));
}

/** For x [outer, rows, columns]; item: (outer, chunk of rows, group of WIDTH columns); y is [outer, chunks, columns]. */
function sumColumns<T, A, U>(start: i32, end: i32, x: usize, rows: i32, columns: i32, chunk: i32, chunks: i32, y: usize): void {
  const groups = (columns + WIDTH - 1) / WIDTH;
  const pitch = <usize>columns * sizeof<T>();
  const acc = scratch;
  const sums = scratch + <usize>WIDTH * 8;
  for (let item = start; item < end; item++) {
    const part = item / groups; // outer · chunks + chunk
    const outer = part / chunks;
    const column = (item - part * groups) * WIDTH;
    const width = min(WIDTH, columns - column);
    const first = (part - outer * chunks) * chunk;
    const last = min(rows, first + chunk);
    const from = x + <usize>outer * <usize>rows * pitch + <usize>column * sizeof<T>();
    memory.fill(acc, 0, <usize>width * sizeof<A>());
    for (let r = first; r < last; r += BLOCK) {
      sumBlock<T>(from + <usize>r * pitch, min(BLOCK, last - r), pitch, width, sums);
      addSums<T, A>(sums, width, acc);
    }
    const to = y + (<usize>part * <usize>columns + <usize>column) * sizeof<U>();
    for (let c: usize = 0; c < <usize>width; c++) store<U>(to + c * sizeof<U>(), <U>load<A>(acc + c * sizeof<A>()));
  }
}

@inline
function lowest<T>(): T {
  return isFloat<T>() ? <T>-Infinity : <T>i32.MIN_VALUE;
}

// Two instructions on most machines, where the maximum that lets NaN through takes nine: so NaN is looked for apart.

/** The larger element; `a` where `b` is NaN. */
@inline
function larger<T>(a: v128, b: v128): v128 {
  return isFloat<T>() ? v128.pmax<T>(a, b) : v128.max<T>(a, b);
}

/** `seen`, and ones where an element is NaN. */
@inline
function orNaN<T>(seen: v128, v: v128): v128 {
  return isFloat<T>() ? v128.or(seen, v128.ne<T>(v, v)) : seen;
}

/** NaN if there is one. */
function maxRun<T>(at: usize, length: i32): T {
  let m0 = v128.splat<T>(lowest<T>());
  let m1 = m0;
  let m2 = m0;
  let m3 = m0;
  let nan = i32x4.splat(0);
  const end = at + <usize>length * sizeof<T>();
  const wide = at + ((<usize>length * sizeof<T>()) & ~63);
  for (; at < wide; at += 64) {
    const v0 = v128.load(at);
    const v1 = v128.load(at, 16);
    const v2 = v128.load(at, 32);
    const v3 = v128.load(at, 48);
    m0 = larger<T>(m0, v0);
    m1 = larger<T>(m1, v1);
    m2 = larger<T>(m2, v2);
    m3 = larger<T>(m3, v3);
    nan = orNaN<T>(orNaN<T>(orNaN<T>(orNaN<T>(nan, v0), v1), v2), v3);
  }
  if (isFloat<T>() && v128.any_true(nan)) return <T>NaN;
  m0 = larger<T>(larger<T>(m0, m1), larger<T>(m2, m3));
  m0 = larger<T>(m0, v128.shuffle<i64>(m0, m0, 1, 1));
  if (sizeof<T>() == 4) m0 = larger<T>(m0, v128.shuffle<i32>(m0, m0, 1, 1, 1, 1));
  let top = v128.extract_lane<T>(m0, 0);
  for (; at < end; at += sizeof<T>()) {
    const value = load<T>(at);
    if (isFloat<T>() && value != value) return <T>NaN;
    if (value > top) top = value;
  }
  return top;
}

/** Items as in `sumRows`. */
function maxRows<T>(start: i32, end: i32, x: usize, length: i32, chunk: i32, chunks: i32, y: usize): void {
  for (let item = start; item < end; item++) {
    const row = item / chunks;
    const first = (item - row * chunks) * chunk;
    const from = x + (<usize>row * <usize>length + <usize>first) * sizeof<T>();
    store<T>(y + <usize>item * sizeof<T>(), maxRun<T>(from, min(length - first, chunk)));
  }
}

/** Items as in `sumColumns`. */
function maxColumns<T>(start: i32, end: i32, x: usize, rows: i32, columns: i32, chunk: i32, chunks: i32, y: usize): void {
  const groups = (columns + WIDTH - 1) / WIDTH;
  const pitch = <usize>columns * sizeof<T>();
  for (let item = start; item < end; item++) {
    const part = item / groups;
    const outer = part / chunks;
    const column = (item - part * groups) * WIDTH;
    const width = min(WIDTH, columns - column);
    const first = (part - outer * chunks) * chunk;
    const count = min(rows - first, chunk);
    let from = x + (<usize>outer * <usize>rows + <usize>first) * pitch + <usize>column * sizeof<T>();
    let to = y + (<usize>part * <usize>columns + <usize>column) * sizeof<T>();
    let c = 0;
    for (; c + 4 * lanes<T>() <= width; c += 4 * lanes<T>(), from += 64, to += 64) {
      let m0 = v128.splat<T>(lowest<T>());
      let m1 = m0;
      let m2 = m0;
      let m3 = m0;
      let n0 = i32x4.splat(0);
      let n1 = n0;
      let n2 = n0;
      let n3 = n0;
      let at = from;
      for (let r = 0; r < count; r++, at += pitch) {
        const v0 = v128.load(at);
        const v1 = v128.load(at, 16);
        const v2 = v128.load(at, 32);
        const v3 = v128.load(at, 48);
        m0 = larger<T>(m0, v0);
        m1 = larger<T>(m1, v1);
        m2 = larger<T>(m2, v2);
        m3 = larger<T>(m3, v3);
        n0 = orNaN<T>(n0, v0);
        n1 = orNaN<T>(n1, v1);
        n2 = orNaN<T>(n2, v2);
        n3 = orNaN<T>(n3, v3);
      }
      v128.store(to, v128.or(m0, n0));
      v128.store(to, v128.or(m1, n1), 16);
      v128.store(to, v128.or(m2, n2), 32);
      v128.store(to, v128.or(m3, n3), 48);
    }
    for (; c + lanes<T>() <= width; c += lanes<T>(), from += 16, to += 16) {
      let m = v128.splat<T>(lowest<T>());
      let nan = i32x4.splat(0);
      let at = from;
      for (let r = 0; r < count; r++, at += pitch) {
        const v = v128.load(at);
        m = larger<T>(m, v);
        nan = orNaN<T>(nan, v);
      }
      v128.store(to, v128.or(m, nan));
    }
    for (; c < width; c++, from += sizeof<T>(), to += sizeof<T>()) {
      let top = lowest<T>();
      let at = from;
      for (let r = 0; r < count; r++, at += pitch) top = max<T>(top, load<T>(at));
      store<T>(to, top);
    }
  }
}

/** Item: a row. Its maximum first: then the place is that of the first element equal to it. */
function argmaxRows<T>(start: i32, end: i32, x: usize, length: i32, y: usize): void {
  for (let row = start; row < end; row++) {
    const from = x + <usize>row * <usize>length * sizeof<T>();
    const top = maxRun<T>(from, length);
    let i = 0;
    if (top == top) while (load<T>(from + <usize>i * sizeof<T>()) != top) i++;
    else {
      for (; ; i++) {
        const value = load<T>(from + <usize>i * sizeof<T>());
        if (value != value) break;
      }
    }
    store<i32>(y + ((<usize>row) << 2), i);
  }
}

// Indices beside values of type T: int32 lanes for 4-byte elements, int64 lanes for float64.

@inline
export function splatIndex<T>(index: i32): v128 {
  return sizeof<T>() == 8 ? i64x2.splat(<i64>index) : i32x4.splat(index);
}

/** Writes a vector of indices as int32. */
@inline
export function storeIndices<T>(to: usize, indices: v128): void {
  if (sizeof<T>() == 8) store<i64>(to, v128.extract_lane<i64>(v128.shuffle<i32>(indices, indices, 0, 2, 0, 2), 0));
  else v128.store(to, indices);
}

/** For x [outer, rows, columns]; item: (outer, group of WIDTH columns). */
function argmaxColumns<T>(start: i32, end: i32, x: usize, rows: i32, columns: i32, y: usize): void {
  const groups = (columns + WIDTH - 1) / WIDTH;
  const pitch = <usize>columns * sizeof<T>();
  for (let item = start; item < end; item++) {
    const outer = item / groups;
    const column = (item - outer * groups) * WIDTH;
    const width = min(WIDTH, columns - column);
    let from = x + <usize>outer * <usize>rows * pitch + <usize>column * sizeof<T>();
    let to = y + ((<usize>outer * <usize>columns + <usize>column) << 2);
    let c = 0;
    for (; c + lanes<T>() <= width; c += lanes<T>(), from += 16, to += (<usize>lanes<T>()) << 2) {
      let value = v128.load(from);
      let best = splatIndex<T>(0);
      let at = from + pitch;
      for (let r = 1; r < rows; r++, at += pitch) {
        const candidate = v128.load(at);
        let wins = v128.gt<T>(candidate, value);
        if (isFloat<T>()) wins = v128.or(wins, v128.and(v128.ne<T>(candidate, candidate), v128.eq<T>(value, value)));
        value = v128.bitselect(candidate, value, wins);
        best = v128.bitselect(splatIndex<T>(r), best, wins);
      }
      storeIndices<T>(to, best);
    }
    for (; c < width; c++, from += sizeof<T>(), to += 4) {
      let value = load<T>(from);
      let best = 0;
      let at = from + pitch;
      for (let r = 1; r < rows; r++, at += pitch) {
        const candidate = load<T>(at);
        if (candidate > value || (candidate != candidate && value == value)) {
          value = candidate;
          best = r;
        }
      }
      store<i32>(to, best);
    }
  }
}

// export sumRows_f32 = sumRows<f32, f64, f32>
// export sumRows_f32_f64 = sumRows<f32, f64, f64>
// export sumRows_f64_f32 = sumRows<f64, f64, f32>
// export sumRows_T = sumRows<T, T, T> for T of f64, i32
// export sumColumns_f32 = sumColumns<f32, f64, f32>
// export sumColumns_f32_f64 = sumColumns<f32, f64, f64>
// export sumColumns_f64_f32 = sumColumns<f64, f64, f32>
// export sumColumns_T = sumColumns<T, T, T> for T of f64, i32
// export maxRows_T = maxRows<T> for T of f32, f64, i32
// export maxColumns_T = maxColumns<T> for T of f32, f64, i32
// export argmaxRows_T = argmaxRows<T> for T of f32, f64, i32
// export argmaxColumns_T = argmaxColumns<T> for T of f32, f64, i32

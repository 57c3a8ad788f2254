import { addLanes } from "./reduction";
import { madd } from "./vector";

/**
 * Matrices times vectors in float64, for the parts of factorizations that are no products of matrices. All are bound by memory, so
 * each reads its matrix once. `pitch` is the distance of a matrix's rows in bytes.
 */

/** Rows of an item of `symmetricTimesVector`, and columns of one of `addPartials` and of `addRows`: the host relies on them. */
const ROWS: i32 = 64;
const COLUMNS: i32 = 64;

/** y[i] = A_i · x for the rows `[start, end)` of A [·, n]. */
export function timesVector_f64(start: i32, end: i32, a: usize, pitch: usize, n: i32, x: usize, y: usize): void {
  for (let i = start; i < end; i++) store<f64>(y + ((<usize>i) << 3), dot(a + <usize>i * pitch, x, n));
}

function dot(p: usize, q: usize, n: i32): f64 {
  let s0 = f64x2.splat(0);
  let s1 = s0;
  let s2 = s0;
  let s3 = s0;
  const end = p + ((<usize>n) << 3);
  for (; p + 64 <= end; p += 64, q += 64) {
    s0 = madd<f64>(v128.load(p), v128.load(q), s0);
    s1 = madd<f64>(v128.load(p, 16), v128.load(q, 16), s1);
    s2 = madd<f64>(v128.load(p, 32), v128.load(q, 32), s2);
    s3 = madd<f64>(v128.load(p, 48), v128.load(q, 48), s3);
  }
  let sum = addLanes<f64, f64>(f64x2.add(f64x2.add(s0, s1), f64x2.add(s2, s3)));
  for (; p < end; p += 8, q += 8) sum += load<f64>(p) * load<f64>(q);
  return sum;
}

/** y += scale · xᵀ A for A [m, n], for blocks `[start, end)` of columns. */
export function addRows_f64(start: i32, end: i32, a: usize, pitch: usize, m: i32, n: i32, x: usize, scale: f64, y: usize): void {
  for (let block = start; block < end; block++) {
    const first = block * COLUMNS;
    addRowsTo(a + ((<usize>first) << 3), pitch, m, min(COLUMNS, n - first), x, scale, y + ((<usize>first) << 3));
  }
}

/** y[0 : n] += scale · Σ_i x[i] A_i. */
function addRowsTo(a: usize, pitch: usize, m: i32, n: i32, x: usize, scale: f64, y: usize): void {
  const bytes = (<usize>n) << 3;
  const vectors = bytes & ~15;
  let i = 0;
  for (; i + 4 <= m; i += 4, a += 4 * pitch, x += 32) {
    const x0 = scale * load<f64>(x);
    const x1 = scale * load<f64>(x, 8);
    const x2 = scale * load<f64>(x, 16);
    const x3 = scale * load<f64>(x, 24);
    const a1 = a + pitch;
    const a2 = a1 + pitch;
    const a3 = a2 + pitch;
    const v0 = f64x2.splat(x0);
    const v1 = f64x2.splat(x1);
    const v2 = f64x2.splat(x2);
    const v3 = f64x2.splat(x3);
    let c: usize = 0;
    for (; c < vectors; c += 16) {
      const lower = madd<f64>(v0, v128.load(a + c), f64x2.mul(v1, v128.load(a1 + c)));
      const upper = madd<f64>(v2, v128.load(a2 + c), f64x2.mul(v3, v128.load(a3 + c)));
      v128.store(y + c, f64x2.add(v128.load(y + c), f64x2.add(lower, upper)));
    }
    for (; c < bytes; c += 8) {
      const lower = x0 * load<f64>(a + c) + x1 * load<f64>(a1 + c);
      const upper = x2 * load<f64>(a2 + c) + x3 * load<f64>(a3 + c);
      store<f64>(y + c, load<f64>(y + c) + (lower + upper));
    }
  }
  for (; i < m; i++, a += pitch, x += 8) {
    const factor = scale * load<f64>(x);
    const v = f64x2.splat(factor);
    let c: usize = 0;
    for (; c < vectors; c += 16) v128.store(y + c, madd<f64>(v, v128.load(a + c), v128.load(y + c)));
    for (; c < bytes; c += 8) store<f64>(y + c, load<f64>(y + c) + factor * load<f64>(a + c));
  }
}

/**
 * What blocks `[start, end)` of ROWS rows of the lower triangle add to A x for a symmetric A [n, n]: each entry serves its own row
 * and its mirror image. Block b writes the elements up to its last row of partials[b].
 */
export function symmetricTimesVector_f64(start: i32, end: i32, a: usize, pitch: usize, n: i32, x: usize, partials: usize): void {
  const blocks = (n + ROWS - 1) / ROWS;
  for (let item = start; item < end; item++) {
    const block = blocks - 1 - item; // the longest rows first: short ones fill what is left of the threads' time
    const first = block * ROWS;
    const last = min(n, first + ROWS);
    const y = partials + (<usize>block * <usize>n) * 8;
    memory.fill(y, 0, (<usize>last) << 3);
    let i = first;
    for (; i + 4 <= last; i += 4) fourRows(a + <usize>i * pitch, pitch, i, x, y);
    for (; i < last; i++) oneRow(a + <usize>i * pitch, i, 0, x, y);
  }
}

/** Rows i to i + 3 up to column i together, so that x and y are read and written once for four rows; then their triangle. */
function fourRows(a: usize, pitch: usize, i: i32, x: usize, y: usize): void {
  const own = (<usize>i) << 3;
  const vectors = own & ~15; // i is a multiple of 4 here, as blocks are
  const v0 = v128.load64_splat(x + own);
  const v1 = v128.load64_splat(x + own, 8);
  const v2 = v128.load64_splat(x + own, 16);
  const v3 = v128.load64_splat(x + own, 24);
  const a1 = a + pitch;
  const a2 = a1 + pitch;
  const a3 = a2 + pitch;
  let s0 = f64x2.splat(0);
  let s1 = s0;
  let s2 = s0;
  let s3 = s0;
  for (let c: usize = 0; c < vectors; c += 16) {
    const along = v128.load(x + c);
    const b0 = v128.load(a + c);
    const b1 = v128.load(a1 + c);
    s0 = madd<f64>(b0, along, s0);
    s1 = madd<f64>(b1, along, s1);
    const lower = madd<f64>(v0, b0, f64x2.mul(v1, b1));
    const b2 = v128.load(a2 + c);
    const b3 = v128.load(a3 + c);
    s2 = madd<f64>(b2, along, s2);
    s3 = madd<f64>(b3, along, s3);
    const upper = madd<f64>(v2, b2, f64x2.mul(v3, b3));
    v128.store(y + c, f64x2.add(v128.load(y + c), f64x2.add(lower, upper)));
  }
  add(y + own, addLanes<f64, f64>(s0));
  add(y + own + 8, addLanes<f64, f64>(s1));
  add(y + own + 16, addLanes<f64, f64>(s2));
  add(y + own + 24, addLanes<f64, f64>(s3));
  for (let r = 0; r < 4; r++) oneRow(a + <usize>r * pitch, i + r, i, x, y);
}

/** Row i from column `from` to the diagonal. */
function oneRow(a: usize, i: i32, from: i32, x: usize, y: usize): void {
  const xi = load<f64>(x + ((<usize>i) << 3));
  let sum: f64 = 0;
  for (let j = from; j < i; j++) {
    const at = (<usize>j) << 3;
    const value = load<f64>(a + at);
    sum += value * load<f64>(x + at);
    add(y + at, value * xi);
  }
  const own = (<usize>i) << 3;
  add(y + own, sum + load<f64>(a + own) * xi);
}

@inline
function add(at: usize, value: f64): void {
  store<f64>(at, load<f64>(at) + value);
}

/** y[j] = Σ of the partials of all blocks that reach column j, for blocks `[start, end)` of COLUMNS columns. */
export function addPartials_f64(start: i32, end: i32, partials: usize, n: i32, y: usize): void {
  const blocks = (n + ROWS - 1) / ROWS;
  const line = (<usize>n) << 3;
  for (let item = start; item < end; item++) {
    const first = item * COLUMNS;
    const last = min(n, first + COLUMNS);
    const from = first / ROWS;
    for (let j = first; j < last; j++) {
      const at = (<usize>j) << 3;
      let sum: f64 = 0;
      for (let block = max(from, j / ROWS); block < blocks; block++) sum += load<f64>(partials + <usize>block * line + at);
      store<f64>(y + at, sum);
    }
  }
}

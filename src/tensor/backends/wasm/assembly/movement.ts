import { copyBytes } from "./bytes";
import { lanes, transposeSquare } from "./vector";
import { BLOCK, blocksOf, elementsOf, planeOf, rowsOf, stepAlong, stepOfRows } from "./walk";

/*
 * Copies move elements of 4 or 8 bytes, whatever they are: T is i32 or i64.
 */

@inline
function fillRun<T>(to: usize, value: T, count: i32): void {
  const vector = v128.splat<T>(value);
  for (; count >= 16 / <i32>sizeof<T>(); count -= 16 / <i32>sizeof<T>()) {
    v128.store(to, vector);
    to += 16;
  }
  for (; count > 0; count--) {
    store<T>(to, value);
    to += sizeof<T>();
  }
}

/** Copies x (operand 0) to y (operand 1), which move in any strides: see walk.ts. */
function copy<T>(start: i32, end: i32, x: usize, y: usize, n: i32, form: usize): void {
  const blocks = blocksOf(n);
  const rows = rowsOf(form);
  const alongX = stepAlong(form, 0, sizeof<T>());
  const alongY = stepAlong(form, 1, sizeof<T>());
  const rowsX = stepOfRows(form, 0, sizeof<T>(), n);
  const rowsY = stepOfRows(form, 1, sizeof<T>(), n);
  let row = start / blocks;
  let first = (start - row * blocks) * BLOCK;
  let left = end - start;
  let plane = row / rows;
  row -= plane * rows;
  while (left > 0) {
    let p = x + planeOf(form, 0, plane) + <usize>row * rowsX;
    let q = y + planeOf(form, 1, plane) + <usize>row * rowsY;
    for (; left > 0 && row < rows; row++) {
      const count = elementsOf(n - first, left);
      left -= blocksOf(count);
      let from = p + <usize>first * alongX;
      let to = q + <usize>first * alongY;
      if (alongY == sizeof<T>() && alongX == sizeof<T>()) {
        copyBytes(to, from, <usize>count * sizeof<T>());
      } else if (alongY == sizeof<T>() && alongX == 0) {
        fillRun<T>(to, load<T>(from), count);
      } else {
        for (let i = 0; i < count; i++) {
          store<T>(to, load<T>(from));
          from += alongX;
          to += alongY;
        }
      }
      first = 0;
      p += rowsX;
      q += rowsY;
    }
    row = 0;
    plane++;
  }
}

/** Side of the tiles of a transposition along x's rows, a cache line, and along y's: the host relies on both. */
const TILE_COLUMNS: i32 = 16;
const TILE_ROWS: i32 = 256;

/**
 * Transposes matrices: y[j, i] = x[i, j] for i < m, j < n. Rows of x are `pitchX` bytes apart, those of y `pitchY`; both have
 * consecutive elements. An item is a tile; the outer axes of `form` lead from matrix to matrix.
 */
function transpose<T>(start: i32, end: i32, x: usize, y: usize, m: i32, n: i32, pitchX: usize, pitchY: usize, form: usize): void {
  const side = lanes<T>();
  const across = (n + (TILE_COLUMNS - 1)) / TILE_COLUMNS;
  const tiles = across * ((m + (TILE_ROWS - 1)) / TILE_ROWS);
  for (let item = start; item < end; item++) {
    const plane = item / tiles;
    const tile = item - plane * tiles;
    const i0 = (tile / across) * TILE_ROWS;
    const j0 = (tile % across) * TILE_COLUMNS;
    const i1 = min(m, i0 + TILE_ROWS);
    const j1 = min(n, j0 + TILE_COLUMNS);
    const from = x + planeOf(form, 0, plane);
    const to = y + planeOf(form, 1, plane);
    let i = i0;
    for (; i + side <= i1; i += side) {
      let j = j0;
      for (; j + side <= j1; j += side) {
        const a = from + <usize>i * pitchX + <usize>j * sizeof<T>();
        transposeSquare<T>(a, pitchX, to + <usize>j * pitchY + <usize>i * sizeof<T>(), pitchY);
      }
      for (; j < j1; j++) copyColumn<T>(from, pitchX, to, pitchY, i, i + side, j);
    }
    for (let j = j0; j < j1; j++) copyColumn<T>(from, pitchX, to, pitchY, i, i1, j);
  }
}

@inline
function copyColumn<T>(x: usize, pitchX: usize, y: usize, pitchY: usize, i: i32, end: i32, j: i32): void {
  for (; i < end; i++) {
    store<T>(y + <usize>j * pitchY + <usize>i * sizeof<T>(), load<T>(x + <usize>i * pitchX + <usize>j * sizeof<T>()));
  }
}

// export stridedCopy_32 = copy<i32>
// export stridedCopy_64 = copy<i64>
// export transpose_32 = transpose<i32>
// export transpose_64 = transpose<i64>

// ── rows by index ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Position of the first of n indices that is not in [0, rows), or −1. */
export function firstIndexOutside_i32(indices: usize, n: i32, rows: i32): i32 {
  const limit = v128.splat<i32>(rows);
  let i = 0;
  // As unsigned numbers, negative ones are large.
  while (i + 4 <= n && v128.all_true<i32>(v128.lt<u32>(v128.load(indices + ((<usize>i) << 2)), limit))) i += 4;
  for (; i < n; i++) if (load<u32>(indices + ((<usize>i) << 2)) >= <u32>rows) return i;
  return -1;
}

/** Row i of y = row indices[i] of x; rows of `bytes` bytes. */
export function gather(start: i32, end: i32, x: usize, indices: usize, y: usize, bytes: usize): void {
  for (let i = start; i < end; i++) {
    copyBytes(y + <usize>i * bytes, x + <usize>load<i32>(indices + ((<usize>i) << 2)) * bytes, bytes);
  }
}

/** Columns of a row that are an item of `scatterAdd`: the host relies on it. */
const COLUMNS: i32 = 16;

/**
 * Row indices[i] of y += row i of x, i < n, after y [rows, columns] is set to zero. An item is COLUMNS columns of all rows, so
 * each element is summed by one thread, in the order of the indices.
 */
function scatterAdd<T>(start: i32, end: i32, x: usize, indices: usize, y: usize, n: i32, rows: i32, columns: i32): void {
  const first = start * COLUMNS;
  const count = min(columns, end * COLUMNS) - first;
  const pitch = <usize>columns * sizeof<T>();
  x += <usize>first * sizeof<T>();
  y += <usize>first * sizeof<T>();
  if (count == columns) {
    memory.fill(y, 0, <usize>rows * pitch);
  } else {
    for (let i = 0; i < rows; i++) fillRun<T>(y + <usize>i * pitch, <T>0, count);
  }
  for (let i = 0; i < n; i++) {
    let from = x + <usize>i * pitch;
    let to = y + <usize>load<i32>(indices + ((<usize>i) << 2)) * pitch;
    let left = count;
    for (; left >= lanes<T>(); left -= lanes<T>()) {
      v128.store(to, v128.add<T>(v128.load(to), v128.load(from)));
      from += 16;
      to += 16;
    }
    for (; left > 0; left--) {
      store<T>(to, load<T>(to) + load<T>(from));
      from += sizeof<T>();
      to += sizeof<T>();
    }
  }
}

// export scatterAdd_T = scatterAdd<T> for T of f32, f64, i32

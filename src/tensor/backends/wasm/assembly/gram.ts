import { columns, ROWS } from "./tile";
import { madd } from "./vector";

/*
 * XᵀX of a long and narrow X [rows, d], d a multiple of a tile's columns. `gemm` would pack X twice, and have no more blocks to share
 * among threads than the small result has; here blocks of rows are shared, and X is read where it lies.
 */

/** Rows of a block: `gemm`'s depth, so that sums are rounded as there. */
const DEPTH: i32 = 256;

/** The tile [4][2 vectors] at (a, b) of the sum over `depth` rows: `a` and `b` point to elements of the first of them. */
function gramTile<T>(a: usize, b: usize, stride: usize, depth: i32, c: usize, pitch: usize): void {
  let c00 = v128.splat<T>(<T>0);
  let c01 = c00;
  let c10 = c00;
  let c11 = c00;
  let c20 = c00;
  let c21 = c00;
  let c30 = c00;
  let c31 = c00;
  const end = b + <usize>depth * stride;
  while (b < end) {
    const stop = min(end, b + 64 * stride); // V8 unrolls only loops that stand in another one
    while (b < stop) {
      const b0 = v128.load(b);
      const b1 = v128.load(b, 16);
      let x = v128.load_splat<T>(a);
      c00 = madd<T>(x, b0, c00);
      c01 = madd<T>(x, b1, c01);
      x = v128.load_splat<T>(a, sizeof<T>());
      c10 = madd<T>(x, b0, c10);
      c11 = madd<T>(x, b1, c11);
      x = v128.load_splat<T>(a, 2 * sizeof<T>());
      c20 = madd<T>(x, b0, c20);
      c21 = madd<T>(x, b1, c21);
      x = v128.load_splat<T>(a, 3 * sizeof<T>());
      c30 = madd<T>(x, b0, c30);
      c31 = madd<T>(x, b1, c31);
      a += stride;
      b += stride;
    }
  }
  v128.store(c, c00);
  v128.store(c, c01, 16);
  c += pitch;
  v128.store(c, c10);
  v128.store(c, c11, 16);
  c += pitch;
  v128.store(c, c20);
  v128.store(c, c21, 16);
  c += pitch;
  v128.store(c, c30);
  v128.store(c, c31, 16);
}

/** The tiles that touch the lower triangle of the Gram matrices [d, d] of blocks `[start, end)` of rows, one matrix after another. */
function gramOfBlocks<T>(start: i32, end: i32, x: usize, rows: i32, d: i32, to: usize): void {
  const pitch = <usize>d * sizeof<T>();
  for (let block = start; block < end; block++) {
    const own = x + <usize>block * <usize>DEPTH * pitch;
    const depth = min(DEPTH, rows - block * DEPTH);
    const gram = to + <usize>block * <usize>d * pitch;
    for (let i = 0; i < d; i += ROWS) {
      for (let j = 0; j < i + ROWS; j += columns<T>()) {
        const at = <usize>j * sizeof<T>();
        gramTile<T>(own + <usize>i * sizeof<T>(), own + at, pitch, depth, gram + <usize>i * pitch + at, pitch);
      }
    }
  }
}

/** Rows `[start, end)` of the sum of `count` matrices [d, d], from the first to the last; of each, the tiles that `gramOfBlocks` wrote. */
function sumOfGrams<T>(start: i32, end: i32, from: usize, count: i32, d: i32, c: usize): void {
  const pitch = <usize>d * sizeof<T>();
  const matrix = <usize>d * pitch;
  for (let i = start; i < end; i++) {
    const row = <usize>i * pitch;
    const width = <usize>(((i & ~(ROWS - 1)) + ROWS + columns<T>() - 1) / columns<T>()) * 32;
    for (let byte = row; byte < row + width; byte += 16) {
      let sum = v128.load(from + byte);
      let at = from + byte;
      for (let block = 1; block < count; block++) {
        at += matrix;
        sum = v128.add<T>(sum, v128.load(at));
      }
      v128.store(c + byte, sum);
    }
  }
}

// export gramOfBlocks_T = gramOfBlocks<T> for T of f32, f64
// export sumOfGrams_T = sumOfGrams<T> for T of f32, f64

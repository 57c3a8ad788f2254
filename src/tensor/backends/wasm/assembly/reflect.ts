import { gemm } from "./gemm";
import { scratch } from "./scratch";
import { columns } from "./tile";

/**
 * X ← X + ((X Yᵀ) T) Y for blocks `[start, end)` of `rows` rows of X [m, n], with a Y of `count` rows.
 *
 * @param yColumns, t, yRows Yᵀ, T and Y as panels by `packColumns`
 * @param rows so many that two matrices [rows, count] fit into the scratch memory
 * @param table three zeros, as u32
 */
export function reflectRows_f64(
  start: i32,
  end: i32,
  x: usize,
  pitch: usize,
  m: i32,
  n: i32,
  count: i32,
  yColumns: usize,
  t: usize,
  yRows: usize,
  rows: i32,
  table: usize,
): void {
  const line = (<usize>count) << 3;
  const p = scratch + 256; // the first bytes are for the edges of products
  const q = p + <usize>rows * line;
  for (let item = start; item < end; item++) {
    const own = x + <usize>(item * rows) * pitch;
    const height = min(rows, m - item * rows);
    gemm<f64>(0, 1, own, pitch, 8, yColumns, p, line, height, count, n, rows, panels(count), 0, false, false, table);
    gemm<f64>(0, 1, p, line, 8, t, q, line, height, count, count, rows, panels(count), 0, false, false, table);
    gemm<f64>(0, 1, q, line, 8, yRows, own, pitch, height, n, count, rows, panels(n), 0, true, false, table);
  }
}

function panels(n: i32): i32 {
  return (n + columns<f64>() - 1) / columns<f64>();
}

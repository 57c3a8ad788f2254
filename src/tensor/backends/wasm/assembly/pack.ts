import { columns } from "./tile";

/**
 * Packs columns `[start, end)` — counted in panels of two vectors — of a matrix B [depth, n] for `tile`:
 * panel[panel][k][2 vectors], missing columns as zeros. Element (k, j) of B is at `b + k · rowStride + j · columnStride` bytes.
 */
export function packColumns<T>(start: i32, end: i32, b: usize, rowStride: usize, columnStride: usize, depth: i32, n: i32, to: usize): void {
  const width = columns<T>();
  for (let p = start; p < end; p++) {
    let at = to + <usize>p * <usize>depth * 32;
    const first = p * width;
    const valid = min(width, n - first);
    const from = b + <usize>first * columnStride;
    if (valid == width && columnStride == sizeof<T>()) {
      for (let k = 0; k < depth; k++, at += 32) {
        const row = from + <usize>k * rowStride;
        v128.store(at, v128.load(row));
        v128.store(at, v128.load(row, 16), 16);
      }
    } else {
      if (valid < width) memory.fill(at, 0, <usize>depth * 32);
      // Column by column in blocks of rows: reads run along memory where columns are what is contiguous.
      for (let k0 = 0; k0 < depth; k0 += 16) {
        const k1 = min(k0 + 16, depth);
        for (let j = 0; j < valid; j++) {
          let source = from + <usize>j * columnStride + <usize>k0 * rowStride;
          let place = at + <usize>j * sizeof<T>() + <usize>k0 * 32;
          for (let k = k0; k < k1; k++) {
            store<T>(place, load<T>(source));
            source += rowStride;
            place += 32;
          }
        }
      }
    }
  }
}

/** Packs rows of A for `packedTile`: panel[tile][k][4], missing rows as zeros. Element (i, k) is at `a + i · rowStride + k · columnStride`. */
export function packRows<T>(start: i32, end: i32, a: usize, rowStride: usize, columnStride: usize, depth: i32, m: i32, to: usize): void {
  const line: usize = 4 * sizeof<T>();
  for (let p = start; p < end; p++) {
    let at = to + <usize>p * <usize>depth * line;
    const valid = min(4, m - p * 4);
    const from = a + <usize>(p * 4) * rowStride;
    if (valid == 4 && rowStride == sizeof<T>()) {
      for (let k = 0; k < depth; k++, at += line) {
        const source = from + <usize>k * columnStride;
        v128.store(at, v128.load(source));
        if (sizeof<T>() == 8) v128.store(at, v128.load(source, 16), 16);
      }
    } else {
      if (valid < 4) memory.fill(at, 0, <usize>depth * line);
      for (let i = 0; i < valid; i++) {
        let source = from + <usize>i * rowStride;
        let place = at + <usize>i * sizeof<T>();
        for (let k = 0; k < depth; k++) {
          store<T>(place, load<T>(source));
          source += columnStride;
          place += line;
        }
      }
    }
  }
}

export function packColumns_f32(
  start: i32,
  end: i32,
  b: usize,
  rowStride: usize,
  columnStride: usize,
  depth: i32,
  n: i32,
  to: usize,
): void {
  packColumns<f32>(start, end, b, rowStride, columnStride, depth, n, to);
}
export function packColumns_f64(
  start: i32,
  end: i32,
  b: usize,
  rowStride: usize,
  columnStride: usize,
  depth: i32,
  n: i32,
  to: usize,
): void {
  packColumns<f64>(start, end, b, rowStride, columnStride, depth, n, to);
}

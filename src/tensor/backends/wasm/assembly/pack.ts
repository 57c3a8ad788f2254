import { columns } from "./tile";
import { lanes } from "./vector";

/** Four columns, each contiguous, as 4 rows of a panel: `k` from 0 to 3 in the half at `to`. */
function transpose4(from: usize, stride: usize, to: usize): void {
  const c0 = v128.load(from);
  const c1 = v128.load(from + stride);
  const c2 = v128.load(from + 2 * stride);
  const c3 = v128.load(from + 3 * stride);
  const low01 = v128.shuffle<f32>(c0, c1, 0, 4, 1, 5);
  const high01 = v128.shuffle<f32>(c0, c1, 2, 6, 3, 7);
  const low23 = v128.shuffle<f32>(c2, c3, 0, 4, 1, 5);
  const high23 = v128.shuffle<f32>(c2, c3, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<f64>(low01, low23, 0, 2));
  v128.store(to, v128.shuffle<f64>(low01, low23, 1, 3), 32);
  v128.store(to, v128.shuffle<f64>(high01, high23, 0, 2), 64);
  v128.store(to, v128.shuffle<f64>(high01, high23, 1, 3), 96);
}

/** A whole panel of columns that are contiguous each, by small transposes in registers. */
function packTransposed<T>(from: usize, columnStride: usize, depth: i32, to: usize): void {
  const step = lanes<T>();
  let k = 0;
  for (; k + step <= depth; k += step) {
    const source = from + <usize>k * sizeof<T>();
    const at = to + <usize>k * 32;
    if (sizeof<T>() == 4) {
      transpose4(source, columnStride, at);
      transpose4(source + 4 * columnStride, columnStride, at + 16);
    } else {
      for (let half: usize = 0; half < 32; half += 16) {
        const c0 = v128.load(source + (half >> 3) * columnStride);
        const c1 = v128.load(source + ((half >> 3) + 1) * columnStride);
        v128.store(at + half, v128.shuffle<f64>(c0, c1, 0, 2));
        v128.store(at + half, v128.shuffle<f64>(c0, c1, 1, 3), 32);
      }
    }
  }
  for (; k < depth; k++) {
    for (let j = 0; j < 2 * step; j++) {
      store<T>(to + <usize>k * 32 + <usize>j * sizeof<T>(), load<T>(from + <usize>j * columnStride + <usize>k * sizeof<T>()));
    }
  }
}

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
    } else if (valid == width && rowStride == sizeof<T>()) {
      packTransposed<T>(from, columnStride, depth, at);
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

/**
 * Packs rows of A for `packedTile`: panel[tile][k][4], missing rows as zeros. Element (i, k) is at
 * `a + i · rowStride + k · columnStride` bytes.
 */
export function packRows<T>(a: usize, rowStride: usize, columnStride: usize, depth: i32, m: i32, to: usize): void {
  const line: usize = 4 * sizeof<T>();
  const panel = <usize>depth * line;
  const whole = rowStride == sizeof<T>() ? m / 4 : 0;
  // Where A's columns are contiguous, all panels are filled at once: each cache line is read once.
  for (let k = 0; whole > 0 && k < depth; k++) {
    let from = a + <usize>k * columnStride;
    let at = to + <usize>k * line;
    for (let p = 0; p < whole; p++) {
      v128.store(at, v128.load(from));
      if (sizeof<T>() == 8) v128.store(at, v128.load(from, 16), 16);
      from += line;
      at += panel;
    }
  }
  for (let p = whole; p * 4 < m; p++) {
    const start = to + <usize>p * panel;
    const valid = min(4, m - p * 4);
    if (valid < 4) memory.fill(start, 0, panel);
    for (let i = 0; i < valid; i++) {
      let from = a + <usize>(p * 4 + i) * rowStride;
      let at = start + <usize>i * sizeof<T>();
      for (let k = 0; k < depth; k++) {
        store<T>(at, load<T>(from));
        from += columnStride;
        at += line;
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

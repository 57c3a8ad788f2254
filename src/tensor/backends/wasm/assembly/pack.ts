import { columns } from "./tile";
import { lanes } from "./vector";

/** `transposeSquare` to a panel, apart because constant distances cost nothing: it takes 0.8 of the time. */
@inline
function transposeToPanel<T>(from: usize, pitch: usize, to: usize): void {
  const a = v128.load(from);
  const b = v128.load(from + pitch);
  if (sizeof<T>() == 8) {
    v128.store(to, v128.shuffle<f64>(a, b, 0, 2));
    v128.store(to, v128.shuffle<f64>(a, b, 1, 3), 32);
    return;
  }
  const c = v128.load(from + 2 * pitch);
  const d = v128.load(from + 3 * pitch);
  const ab01 = v128.shuffle<f32>(a, b, 0, 4, 1, 5);
  const ab23 = v128.shuffle<f32>(a, b, 2, 6, 3, 7);
  const cd01 = v128.shuffle<f32>(c, d, 0, 4, 1, 5);
  const cd23 = v128.shuffle<f32>(c, d, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<f64>(ab01, cd01, 0, 2));
  v128.store(to, v128.shuffle<f64>(ab01, cd01, 1, 3), 32);
  v128.store(to, v128.shuffle<f64>(ab23, cd23, 0, 2), 64);
  v128.store(to, v128.shuffle<f64>(ab23, cd23, 1, 3), 96);
}

/**
 * Transposes `rows` ≤ `columns<T>()` rows of `depth` consecutive elements, `pitch` bytes apart, to a panel [depth][2 vectors];
 * missing rows are zeros.
 */
export function packTransposed<T>(from: usize, pitch: usize, rows: i32, depth: i32, to: usize): void {
  let k = 0;
  if (rows == columns<T>()) {
    for (; k + lanes<T>() <= depth; k += lanes<T>()) {
      transposeToPanel<T>(from, pitch, to);
      transposeToPanel<T>(from + <usize>lanes<T>() * pitch, pitch, to + 16);
      from += 16;
      to += <usize>lanes<T>() * 32;
    }
  } else {
    memory.fill(to, 0, <usize>depth * 32);
  }
  for (; k < depth; k++) {
    for (let j = 0; j < rows; j++) store<T>(to + <usize>j * sizeof<T>(), load<T>(from + <usize>j * pitch));
    from += sizeof<T>();
    to += 32;
  }
}

/**
 * Packs columns `[start, end)` — counted in panels of two vectors — of scale · B for a B [depth, n], for `tile`:
 * panel[panel][k][2 vectors], missing columns as zeros. Element (k, j) of B is at `b + k · rowStride + j · columnStride` bytes.
 */
// prettier-ignore
export function packColumns<T>(
  start: i32, end: i32, b: usize, rowStride: usize, columnStride: usize, depth: i32, n: i32, scale: T, to: usize,
): void {
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
      packTransposed<T>(from, columnStride, width, depth, at);
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
    if (scale == <T>1) continue;
    const factor = v128.splat<T>(scale);
    const panel = to + <usize>p * <usize>depth * 32;
    for (let byte: usize = 0; byte < <usize>depth * 32; byte += 16) v128.store(panel + byte, v128.mul<T>(factor, v128.load(panel + byte)));
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

// export packColumns_T = packColumns<T> for T of f32, f64

import { scratch } from "./scratch";
import { columns, copyTile, packedTile, ROWS, tile } from "./tile";
import { packRows } from "./pack";

/** Depth of a block: a panel of B of this depth stays in the first-level cache while the rows of A pass by. */
const DEPTH: i32 = 256;

/** C[i][j] = or += the valid part of a tile that was computed aside. */
function addEdge<T>(from: usize, c: usize, pitch: usize, rows: i32, width: i32, accumulate: bool): void {
  if (!accumulate) {
    copyTile<T>(from, c, pitch, rows, width);
    return;
  }
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < width; j++) {
      const at = c + <usize>i * pitch + <usize>j * sizeof<T>();
      store<T>(at, load<T>(at) + load<T>(from + <usize>i * 32 + <usize>j * sizeof<T>()));
    }
  }
}

/**
 * Blocks `[start, end)` of C = A B (+ bias), for each of a batch of products. A block is `rowBlock` rows × `panelBlock` panels.
 *
 * @param a element (i, k) of A is at `a + i · aRow + k · aColumn` bytes; either of them is an element's size
 * @param b B as panels by `packColumns`
 * @param bias a vector [n] added to every row, or 0
 * @param cRow bytes from a row of C to the next
 * @param add add to what C holds
 * @param lower compute only tiles that touch the lower triangle
 * @param table for each product the byte offsets of A, B and C, as u32
 */
export function gemm<T>(
  start: i32,
  end: i32,
  a: usize,
  aRow: usize,
  aColumn: usize,
  b: usize,
  c: usize,
  cRow: usize,
  m: i32,
  n: i32,
  k: i32,
  rowBlock: i32,
  panelBlock: i32,
  bias: usize,
  add: bool,
  lower: bool,
  table: usize,
): void {
  const width = columns<T>();
  const panels = (n + width - 1) / width;
  const blocksDown = (m + rowBlock - 1) / rowBlock;
  const blocksAcross = (panels + panelBlock - 1) / panelBlock;
  const packed = aColumn != sizeof<T>();
  const edge = scratch;
  const ownRows = scratch + 256;
  for (let item = start; item < end; item++) {
    const product = item / (blocksDown * blocksAcross);
    const block = item % (blocksDown * blocksAcross);
    const i0 = (block / blocksAcross) * rowBlock;
    const i1 = min(m, i0 + rowBlock);
    const p0 = (block % blocksAcross) * panelBlock;
    const p1 = min(panels, p0 + panelBlock);
    if (lower && p0 * width >= i1) continue;
    const entry = table + <usize>product * 12;
    const left = a + load<u32>(entry);
    const right = b + load<u32>(entry, 4);
    const result = c + load<u32>(entry, 8);
    if (bias != 0 || (k == 0 && !add)) {
      const from = bias + <usize>(p0 * width) * sizeof<T>();
      const bytes = <usize>(min(n, p1 * width) - p0 * width) * sizeof<T>();
      for (let i = i0; i < i1; i++) {
        const to = result + <usize>i * cRow + <usize>(p0 * width) * sizeof<T>();
        if (bias != 0) memory.copy(to, from, bytes);
        else memory.fill(to, 0, bytes);
      }
    }
    for (let k0 = 0; k0 < k; k0 += DEPTH) {
      const depth = min(DEPTH, k - k0);
      const accumulate = k0 > 0 || bias != 0 || add;
      if (packed) {
        const source = left + <usize>i0 * aRow + <usize>k0 * aColumn;
        packRows<T>(source, aRow, aColumn, depth, i1 - i0, ownRows);
      }
      for (let p = p0; p < p1; p++) {
        const panel = right + (<usize>p * <usize>k + <usize>k0) * 32;
        const j = p * width;
        for (let i = i0; i < i1; i += ROWS) {
          if (lower && j > i + ROWS - 1) continue;
          const to = result + <usize>i * cRow + <usize>j * sizeof<T>();
          const whole = i + ROWS <= i1 && j + width <= n;
          const target = whole ? to : edge;
          const step: usize = whole ? cRow : 32;
          if (packed) {
            packedTile<T>(ownRows + <usize>(i - i0) * <usize>depth * sizeof<T>(), panel, depth, target, step, whole && accumulate);
          } else {
            const row = left + <usize>i * aRow + <usize>k0 * sizeof<T>();
            const last = i1 - 1 - i; // a missing row repeats the last one
            const a1 = row + <usize>min(1, last) * aRow;
            const a2 = row + <usize>min(2, last) * aRow;
            const a3 = row + <usize>min(3, last) * aRow;
            tile<T>(row, a1, a2, a3, panel, depth, target, step, whole && accumulate);
          }
          if (!whole) addEdge<T>(edge, to, cRow, min(ROWS, i1 - i), min(width, n - j), accumulate);
        }
      }
    }
  }
}

/** Rows of a block of `mirrorLower`: a cache line of float32. */
const BLOCK: i32 = 16;

/** Scales the lower triangle of a square matrix and copies it over the upper one, for blocks `[start, end)` of 16 rows. */
function mirrorLower<T>(start: i32, end: i32, c: usize, d: i32, scale: T): void {
  const pitch = <usize>d * sizeof<T>();
  // A block owns its rows of the lower triangle and those columns of the upper one.
  for (let block = start; block < end; block++) {
    const i0 = block * BLOCK;
    const i1 = min(d, i0 + BLOCK);
    if (scale != <T>1) {
      for (let i = i0; i < i1; i++) {
        const row = c + <usize>i * pitch;
        for (let j = 0; j <= i; j++) store<T>(row + <usize>j * sizeof<T>(), load<T>(row + <usize>j * sizeof<T>()) * scale);
      }
    }
    for (let j = 0; j < i1 - 1; j++) {
      let from = c + <usize>max(i0, j + 1) * pitch + <usize>j * sizeof<T>();
      let to = c + <usize>j * pitch + <usize>max(i0, j + 1) * sizeof<T>();
      for (let i = max(i0, j + 1); i < i1; i++) {
        store<T>(to, load<T>(from));
        from += pitch;
        to += sizeof<T>();
      }
    }
  }
}

// export gemm_T = gemm<T> for T of f32, f64
// export mirrorLower_T = mirrorLower<T> for T of f32, f64

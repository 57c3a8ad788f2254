/** A matrix inside an array: element (i, j) is `data[offset + i · rowStride + j · columnStride]`. Transposing swaps strides. */
export interface Matrix {
  readonly data: Float64Array;
  readonly offset: number;
  readonly rowStride: number;
  readonly columnStride: number;
}

/** The row-major matrix [·, columns] that starts at `offset`. */
export function rowMajor(data: Float64Array, columns: number, offset = 0): Matrix {
  return { data, offset, rowStride: columns, columnStride: 1 };
}

export function transposed(matrix: Matrix): Matrix {
  return { ...matrix, rowStride: matrix.columnStride, columnStride: matrix.rowStride };
}

export interface GemmOptions {
  /** Add to C instead of replacing it. */
  readonly accumulate?: boolean;
  /** Factor on the product. */
  readonly scale?: number;
  /** Compute only tiles that touch the lower triangle: for products known to be symmetric (half the work). */
  readonly lowerOnly?: boolean;
}

/** Side of a register tile: 16 sums stay in registers while 8 numbers are loaded, so that arithmetic outweighs loads. */
const TILE = 4;
/** Depth of a block: a strip of B of this depth and a panel of A stay in the caches. */
const DEPTH = 256;

let panelA = new Float64Array(0);
let panelB = new Float64Array(0);
const tile = new Float64Array(TILE * TILE);

/**
 * C ← scale · A B (+ C) for A [m, k], B [k, n], in float64 whatever the tensors' type: callers convert. Operands are first
 * packed, block by block, into panels in the order in which the innermost loop reads them, so transposes cost nothing.
 */
export function gemm(m: number, n: number, k: number, a: Matrix, b: Matrix, c: Matrix, options: GemmOptions = {}): void {
  const { accumulate = false, scale = 1, lowerOnly = false } = options;
  if (k === 0 && !accumulate) clear(m, n, c);
  const [tilesM, tilesN] = [Math.ceil(m / TILE), Math.ceil(n / TILE)];
  for (let k0 = 0; k0 < k; k0 += DEPTH) {
    const depth = Math.min(DEPTH, k - k0);
    const replace = k0 === 0 && !accumulate;
    panelB = pack(panelB, tilesN, n, depth, b.data, b.offset + k0 * b.rowStride, b.columnStride, b.rowStride);
    for (let i = 0; i < tilesM; i++) {
      const rows = Math.min(TILE, m - i * TILE);
      panelA = pack(panelA, 1, rows, depth, a.data, a.offset + i * TILE * a.rowStride + k0 * a.columnStride, a.rowStride, a.columnStride);
      const last = lowerOnly ? Math.min(tilesN, i + 1) : tilesN;
      for (let j = 0; j < last; j++) {
        multiplyTile(depth, panelA, panelB, j * depth * TILE, tile);
        const columns = Math.min(TILE, n - j * TILE);
        for (let p = 0; p < rows; p++) {
          let at = c.offset + (i * TILE + p) * c.rowStride + j * TILE * c.columnStride;
          for (let q = 0; q < columns; q++, at += c.columnStride) {
            const value = scale * tile[p * TILE + q]!;
            c.data[at] = replace ? value : c.data[at]! + value;
          }
        }
      }
    }
  }
}

/** An empty sum is 0. */
function clear(m: number, n: number, c: Matrix): void {
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) c.data[c.offset + i * c.rowStride + j * c.columnStride] = 0;
  }
}

/**
 * Packs `count` lines (rows of A or columns of B) of `depth` elements into `tiles` groups of four: panel[tile][depth][4],
 * missing lines as zeros. Returns the panel, enlarged if need be.
 */
function pack(
  panel: Float64Array<ArrayBuffer>,
  tiles: number,
  count: number,
  depth: number,
  data: Float64Array,
  offset: number,
  lineStride: number,
  depthStride: number,
): Float64Array<ArrayBuffer> {
  const needed = tiles * depth * TILE;
  const to = panel.length < needed ? new Float64Array(needed) : panel;
  for (let t = 0; t < tiles; t++) {
    const base = t * depth * TILE;
    const lines = Math.min(TILE, count - t * TILE);
    if (lines < TILE) to.fill(0, base, base + depth * TILE);
    for (let line = 0; line < lines; line++) {
      let from = offset + (t * TILE + line) * lineStride;
      const end = base + depth * TILE;
      for (let at = base + line; at < end; at += TILE, from += depthStride) to[at] = data[from]!;
    }
  }
  return to;
}

/** out[4][4] = Σ_p a[p][4] ⊗ b[p][4]. */
// prettier-ignore
function multiplyTile(depth: number, a: Float64Array, b: Float64Array, offsetB: number, out: Float64Array): void {
  let c00 = 0, c01 = 0, c02 = 0, c03 = 0;
  let c10 = 0, c11 = 0, c12 = 0, c13 = 0;
  let c20 = 0, c21 = 0, c22 = 0, c23 = 0;
  let c30 = 0, c31 = 0, c32 = 0, c33 = 0;
  for (let p = 0, i = 0, j = offsetB; p < depth; p++, i += 4, j += 4) {
    const a0 = a[i]!, a1 = a[i + 1]!, a2 = a[i + 2]!, a3 = a[i + 3]!;
    const b0 = b[j]!, b1 = b[j + 1]!, b2 = b[j + 2]!, b3 = b[j + 3]!;
    c00 += a0 * b0; c01 += a0 * b1; c02 += a0 * b2; c03 += a0 * b3;
    c10 += a1 * b0; c11 += a1 * b1; c12 += a1 * b2; c13 += a1 * b3;
    c20 += a2 * b0; c21 += a2 * b1; c22 += a2 * b2; c23 += a2 * b3;
    c30 += a3 * b0; c31 += a3 * b1; c32 += a3 * b2; c33 += a3 * b3;
  }
  out[0] = c00; out[1] = c01; out[2] = c02; out[3] = c03;
  out[4] = c10; out[5] = c11; out[6] = c12; out[7] = c13;
  out[8] = c20; out[9] = c21; out[10] = c22; out[11] = c23;
  out[12] = c30; out[13] = c31; out[14] = c32; out[15] = c33;
}

import { bytesPerElement } from "../../dtype.ts";
import { broadcastStrides, sizeOf, type Shape } from "../../shape.ts";
import type { Engine } from "./engine.ts";
import type { Kernels, Operand } from "./kernel.ts";

/** A matrix in the engine's memory; one of the strides (in bytes) is an element's size. */
export interface Matrix {
  readonly pointer: number;
  readonly rowStride: number;
  readonly columnStride: number;
}

type FloatType = "float32" | "float64";

export interface GemmOptions {
  /** Pointer to a vector [n] that is added to every row. */
  readonly bias?: number;
  /** Only tiles that touch the lower triangle: the rest of C is left as it was. */
  readonly lower?: boolean;
  /** Add to what C holds. */
  readonly add?: boolean;
  /** A factor of the product. Default 1. */
  readonly scale?: number;
  /** Bytes from a row of C to the next. Default: its columns. */
  readonly pitch?: number;
  /** For a batch of products: byte offsets of their A, B and C. Default: one product at offset 0. */
  readonly offsets?: readonly (readonly [a: number, b: number, c: number])[];
}

const GEMM = { float32: "gemm_f32", float64: "gemm_f64" } as const;
const PACK = { float32: "packColumns_f32", float64: "packColumns_f64" } as const;

/** Blocks to have for the threads to share, where the matrix is large enough. */
const BLOCKS = 32;
/** Multiply-adds of a register tile in a nanosecond. */
const RATE = { float32: 20, float64: 10 } as const;

/** C = scale · A B, or that added to C, for A [m, k], B [k, n] and a row-major C, on all threads. */
export function gemm(
  engine: Engine,
  dtype: FloatType,
  [m, n, k]: readonly [number, number, number],
  a: Matrix,
  b: Matrix,
  c: number,
  { bias = 0, lower = false, offsets, add = false, scale = 1, pitch = n * bytesPerElement[dtype] }: GemmOptions = {},
): void {
  if (m === 0 || n === 0) return;
  const width = dtype === "float32" ? 8 : 4;
  const panels = panelsOf(dtype, n);
  const panelBytes = packedBytes(dtype, [k, n]);
  // The distinct B of a batch are packed one after another; a broadcast one is packed once.
  const rights = offsets ? [...new Set(offsets.map(([, right]) => right))] : [0];
  const products = offsets?.length ?? 1;
  const tableBytes = 12 * products;
  engine.temporary(panelBytes * rights.length + tableBytes, "matmul", (packedB) => {
    const table = packedB + panelBytes * rights.length;
    const words = new Uint32Array(engine.view("int32", table, 3 * products).buffer, table, 3 * products);
    if (offsets) {
      const place = new Map(rights.map((right, i) => [right, i * panelBytes]));
      offsets.forEach(([left, right, result], i) => {
        words[3 * i] = left;
        words[3 * i + 1] = place.get(right) as number;
        words[3 * i + 2] = result;
      });
    } else words.fill(0);
    rights.forEach((right, i) => {
      const to = packedB + i * panelBytes;
      pack(engine, dtype, { ...b, pointer: b.pointer + right }, [k, n], to, scale);
    });
    // Many rows a block: then panels of B come seldom from the outer caches, which others share. Rows of A that are read transposed
    // are packed once a block, so there blocks are low and wide instead.
    const packed = a.columnStride !== bytesPerElement[dtype];
    const rowBlock = Math.min(packed ? 64 : 128, Math.max(16, 4 * Math.ceil(m / 4 / (packed ? BLOCKS : BLOCKS / 4))));
    const down = Math.ceil(m / rowBlock);
    const wanted = packed ? BLOCKS / 2 : BLOCKS;
    const panelBlock = Math.max(4, Math.ceil((panels * Math.min(down * products, wanted)) / wanted));
    const blocks = products * down * Math.ceil(panels / panelBlock);
    const cost = (Math.min(m, rowBlock) * Math.min(panels, panelBlock) * width * k) / RATE[dtype];
    // prettier-ignore
    engine.run(
      GEMM[dtype], blocks, cost,
      a.pointer, a.rowStride, a.columnStride, packedB, c, pitch, m, n, k, rowBlock, panelBlock, bias, add ? 1 : 0, lower ? 1 : 0, table,
    );
  });
}

/** Bytes of scale · B [k, n] in panels as `gemm` reads them. */
export function packedBytes(dtype: FloatType, [k, n]: readonly [number, number]): number {
  return 32 * k * panelsOf(dtype, n);
}

/** Packs scale · B [k, n] into panels. */
// prettier-ignore
export function pack(
  engine: Engine, dtype: FloatType, b: Matrix, [k, n]: readonly [number, number], to: number, scale = 1,
): void {
  engine.run(PACK[dtype], panelsOf(dtype, n), k * 4, b.pointer, b.rowStride, b.columnStride, k, n, scale, to);
}

/** Columns are packed by two vectors of 16 bytes. */
function panelsOf(dtype: FloatType, n: number): number {
  return Math.ceil((n * bytesPerElement[dtype]) / 32);
}

/** The row-major matrix [·, columns] at `pointer`. */
export function rowMajor(pointer: number, columns: number, dtype: FloatType): Matrix {
  const size = bytesPerElement[dtype];
  return { pointer, rowStride: columns * size, columnStride: size };
}

export function transposed({ pointer, rowStride, columnStride }: Matrix): Matrix {
  return { pointer, rowStride: columnStride, columnStride: rowStride };
}

/** C = scale · Aᵀ A for a row-major A [rows, d]: the lower triangle, then its mirror image. */
function syrk(engine: Engine, dtype: FloatType, rows: number, d: number, a: number, c: number, scale: number): void {
  const matrix = rowMajor(a, d, dtype);
  if (isNarrow(dtype, rows, d)) narrowSyrk(engine, dtype, rows, d, a, c);
  else gemm(engine, dtype, [d, d, rows], transposed(matrix), matrix, c, { lower: true });
  mirror(engine, dtype, d, c, scale);
}

/** Rows that `gemm` and `narrowSyrk` sum apart from the others: the same number, so that both give the same bits. */
const DEPTH = 256;
/** The widest A whose Gram matrix has too few blocks for `gemm`, and whose rows are few cache lines. */
const NARROW = 64;

function isNarrow(dtype: FloatType, rows: number, d: number): boolean {
  return d > 0 && d <= NARROW && (d * bytesPerElement[dtype]) % 32 === 0 && rows >= 4 * DEPTH;
}

const BLOCKS_OF_ROWS = { float32: "gramOfBlocks_f32", float64: "gramOfBlocks_f64" } as const;
const SUM = { float32: "sumOfGrams_f32", float64: "sumOfGrams_f64" } as const;

/** The lower triangle of Aᵀ A for a long A, from those of blocks of rows. */
function narrowSyrk(engine: Engine, dtype: FloatType, rows: number, d: number, a: number, c: number): void {
  const blocks = Math.ceil(rows / DEPTH);
  engine.temporary(blocks * d * d * bytesPerElement[dtype], "gram", (partial) => {
    engine.run(BLOCKS_OF_ROWS[dtype], blocks, (DEPTH * d * d) / 2 / RATE[dtype], a, rows, d, partial);
    engine.run(SUM[dtype], d, (blocks * d) / 4, partial, blocks, d, c);
  });
}

/** Scales the lower triangle of a square matrix and copies it over the upper one. */
function mirror(engine: Engine, dtype: FloatType, d: number, c: number, scale: number): void {
  engine.run(dtype === "float32" ? "mirrorLower_f32" : "mirrorLower_f64", Math.ceil(d / 16), d * 16, c, d, scale);
}

/** Byte offsets of the matrices of a batch with leading axes `from`, one for each product of the broadcast batch `to`. */
function batchOffsets(from: Shape, to: Shape, matrixBytes: number): number[] {
  const strides = broadcastStrides(from, to);
  let places = [0];
  to.forEach((extent, axis) => {
    const step = (strides[axis] as number) * matrixBytes;
    places = places.flatMap((place) => Array.from({ length: extent }, (_, i) => place + i * step));
  });
  return places;
}

const floatType = ({ dtype }: Operand): FloatType => dtype as FloatType;

export const product: Kernels<"matmul" | "gram" | "linear"> = {
  matmul: (engine, [a, b], { transposeA, transposeB }, [y]) => {
    const dtype = floatType(y);
    const [m, n] = [y.shape.at(-2)!, y.shape.at(-1)!];
    const k = a.shape.at(transposeA ? -2 : -1)!;
    const left = rowMajor(a.pointer, transposeA ? m : k, dtype);
    const right = rowMajor(b.pointer, transposeB ? k : n, dtype);
    const [p, q] = [transposeA ? transposed(left) : left, transposeB ? transposed(right) : right];
    if (y.shape.length === 2) {
      gemm(engine, dtype, [m, n, k], p, q, y.pointer);
      return;
    }
    if (y.size === 0) return;
    const size = bytesPerElement[dtype];
    const batch = y.shape.slice(0, -2);
    const inA = batchOffsets(a.shape.slice(0, -2), batch, m * k * size);
    const inB = batchOffsets(b.shape.slice(0, -2), batch, k * n * size);
    const offsets = inA.map((place, i) => [place, inB[i]!, i * m * n * size] as const);
    gemm(engine, dtype, [m, n, k], p, q, y.pointer, { offsets });
  },
  gram: (engine, [x], { scale }, [y]) => {
    const [rows, d] = x.shape as [number, number];
    syrk(engine, floatType(x), rows, d, x.pointer, y.pointer, scale);
  },
  linear: (engine, [x, weight, bias], _, [y]) => {
    const dtype = floatType(x);
    const [out, width] = weight.shape as [number, number];
    const rows = sizeOf(x.shape.slice(0, -1));
    const matrix = transposed(rowMajor(weight.pointer, width, dtype));
    gemm(engine, dtype, [rows, out, width], rowMajor(x.pointer, width, dtype), matrix, y.pointer, { bias: bias?.pointer ?? 0 });
  },
};

import type { FloatArray } from "../../dtype.ts";
import { broadcastStrides, sizeOf } from "../../shape.ts";
import { gemm, type Matrix } from "./gemm.ts";
import { offsets, type Kernels, type Operand } from "./kernel.ts";

/** The numbers of a floating tensor; signatures have made sure that it is one. */
export function floatsOf(x: Operand): FloatArray {
  return x.data as FloatArray;
}

/** The row-major matrix [·, columns] that starts at `offset`. */
export function rowMajor(data: FloatArray, columns: number, offset = 0): Matrix {
  return { data, offset, rowStride: columns, columnStride: 1 };
}

export function transposed(matrix: Matrix): Matrix {
  return { ...matrix, rowStride: matrix.columnStride, columnStride: matrix.rowStride };
}

/** Copies the lower triangle of a square matrix over the upper one. */
export function mirrorLower(data: FloatArray, d: number): void {
  for (let i = 0; i < d; i++) {
    for (let j = 0; j < i; j++) data[j * d + i] = data[i * d + j]!;
  }
}

/** Adds a bias [out] to every row. */
export function addBias(y: FloatArray, bias: FloatArray): void {
  for (let i = 0, j = 0; i < y.length; i++) {
    y[i] = y[i]! + bias[j]!;
    if (++j === bias.length) j = 0;
  }
}

export const product: Kernels<"matmul" | "gram" | "linear"> = {
  matmul: ([a, b], { transposeA, transposeB }, [y]) => {
    const [m, n] = [y.shape.at(-2) as number, y.shape.at(-1) as number];
    const k = a.shape.at(transposeA ? -2 : -1) as number;
    const batch = y.shape.slice(0, -2);
    const startA = offsets(batch, broadcastStrides(a.shape.slice(0, -2), batch));
    const startB = offsets(batch, broadcastStrides(b.shape.slice(0, -2), batch));
    for (let i = 0; i < startA.length; i++) {
      const matrixA = rowMajor(floatsOf(a), transposeA ? m : k, startA[i]! * m * k);
      const matrixB = rowMajor(floatsOf(b), transposeB ? k : n, startB[i]! * k * n);
      const left = transposeA ? transposed(matrixA) : matrixA;
      const right = transposeB ? transposed(matrixB) : matrixB;
      gemm(m, n, k, left, right, rowMajor(floatsOf(y), n, i * m * n));
    }
  },
  gram: ([x], { scale }, [y]) => {
    const [rows, d] = x.shape as [number, number];
    const matrix = rowMajor(floatsOf(x), d);
    gemm(d, d, rows, transposed(matrix), matrix, rowMajor(floatsOf(y), d), { scale, lowerOnly: true });
    mirrorLower(floatsOf(y), d);
  },
  linear: ([x, weight, bias], _, [y]) => {
    const [out, width] = weight.shape as [number, number];
    const rows = sizeOf(x.shape.slice(0, -1));
    gemm(rows, out, width, rowMajor(floatsOf(x), width), transposed(rowMajor(floatsOf(weight), width)), rowMajor(floatsOf(y), out));
    if (bias) addBias(floatsOf(y), floatsOf(bias));
  },
};

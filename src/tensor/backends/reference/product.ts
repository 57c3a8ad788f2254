import { broadcastStrides, sizeOf } from "../../shape.ts";
import { gemm, rowMajor, transposed } from "./gemm.ts";
import { offsets, type Kernels, type Operand } from "./kernel.ts";

/** The numbers of a tensor in float64: its own array if it is float64, else a copy. */
export function toFloat64({ data }: Operand): Float64Array {
  return data instanceof Float64Array ? data : Float64Array.from(data);
}

/** Lets `compute` write a result in float64 (not zeroed), then rounds it to the tensor's type. */
export function inFloat64({ data }: Operand, compute: (result: Float64Array) => void): void {
  const result = data instanceof Float64Array ? data : new Float64Array(data.length);
  compute(result);
  if (result !== data) data.set(result);
}

/** Copies the lower triangle of a square matrix over the upper one. */
export function mirrorLower(data: Float64Array, d: number): void {
  for (let i = 0; i < d; i++) {
    for (let j = 0; j < i; j++) data[j * d + i] = data[i * d + j]!;
  }
}

/** Adds a bias [out] to every row. */
export function addBias(y: Operand, bias: Operand): void {
  for (let i = 0, j = 0; i < y.data.length; i++) {
    y.data[i] = y.data[i]! + bias.data[j]!;
    if (++j === bias.data.length) j = 0;
  }
}

export const product: Kernels<"matmul" | "gram" | "linear"> = {
  matmul: ([a, b], { transposeA, transposeB }, [y]) => {
    const [m, n] = [y.shape.at(-2) as number, y.shape.at(-1) as number];
    const k = a.shape.at(transposeA ? -2 : -1) as number;
    const batch = y.shape.slice(0, -2);
    const startA = offsets(batch, broadcastStrides(a.shape.slice(0, -2), batch));
    const startB = offsets(batch, broadcastStrides(b.shape.slice(0, -2), batch));
    const [left, right] = [toFloat64(a), toFloat64(b)];
    inFloat64(y, (result) => {
      for (let i = 0; i < startA.length; i++) {
        const matrixA = rowMajor(left, transposeA ? m : k, startA[i]! * m * k);
        const matrixB = rowMajor(right, transposeB ? k : n, startB[i]! * k * n);
        const [p, q] = [transposeA ? transposed(matrixA) : matrixA, transposeB ? transposed(matrixB) : matrixB];
        gemm(m, n, k, p, q, rowMajor(result, n, i * m * n));
      }
    });
  },
  gram: ([x], { scale }, [y]) => {
    const [rows, d] = x.shape as [number, number];
    const matrix = rowMajor(toFloat64(x), d);
    inFloat64(y, (result) => {
      gemm(d, d, rows, transposed(matrix), matrix, rowMajor(result, d), { scale, lowerOnly: true });
      mirrorLower(result, d);
    });
  },
  linear: ([x, weight, bias], _, [y]) => {
    const [out, width] = weight.shape as [number, number];
    const rows = sizeOf(x.shape.slice(0, -1));
    inFloat64(y, (result) => {
      gemm(rows, out, width, rowMajor(toFloat64(x), width), transposed(rowMajor(toFloat64(weight), width)), rowMajor(result, out));
    });
    if (bias) addBias(y, bias);
  },
};

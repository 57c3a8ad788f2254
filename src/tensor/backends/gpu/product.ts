import { broadcastStrides, sizeOf, type Shape } from "../../shape.ts";
import { portable, type DeviceArray, type Kernels } from "./kernel.ts";
import type { Queue } from "./queue.ts";
import { sums } from "./reduction.ts";
import { inBlocks } from "./sums.ts";
import { walk } from "./walk.ts";
import { batchedGemm, type Batch } from "./wgsl/batched.ts";
import { gemm, type MatrixLayout } from "./wgsl/gemm.ts";
import { gram } from "./wgsl/gram.ts";

const layout = { k: "integer", aRow: "integer", aColumn: "integer", bRow: "integer", bColumn: "integer" } as const;
/** `a` and `b` are where the matrices begin. */
const dot = ([a, b]: readonly [a: string, b: string]): string => `
  let total = 0;
  ${inBlocks("k", (i) => `part += a[${a}this.thread.y * aRow + ${i} * aColumn] * b[${b}${i} * bRow + this.thread.x * bColumn];`)}`;

const plain = portable("matmul", { a: "array", b: "array", ...layout, scale: "float" }, `${dot(["", ""])} return scale * total;`);
const biased = portable(
  "linear",
  { a: "array", b: "array", bias: "array", ...layout, scale: "float" },
  `${dot(["", ""])} return scale * total + bias[this.thread.x];`,
);

const inBatch = (name: string): string => `placeOf(this.thread.z, 0, 0, e1, e2, ${name}0, ${name}1, ${name}2, 0, 0) + `;
const batched = portable(
  "matmul of a batch",
  {
    a: "array",
    b: "array",
    ...layout,
    e1: "integer",
    e2: "integer",
    a0: "integer",
    a1: "integer",
    a2: "integer",
    b0: "integer",
    b1: "integer",
    b2: "integer",
  },
  `${dot([inBatch("a"), inBatch("b")])} return total;`,
);

const layoutNumbers = (k: number, a: MatrixLayout, b: MatrixLayout): Record<keyof typeof layout, number> => ({
  k,
  aRow: a.rowStride,
  aColumn: a.columnStride,
  bRow: b.rowStride,
  bColumn: b.columnStride,
});

/** C = scale · A B + bias for A [m, k] and B [k, n]. */
function multiply(
  queue: Queue,
  [m, n, k]: readonly [number, number, number],
  a: MatrixLayout,
  b: MatrixLayout,
  c: DeviceArray,
  { scale = 1, bias }: { readonly scale?: number; readonly bias?: DeviceArray | undefined } = {},
): void {
  if (queue.wgsl && gemm(queue.wgsl, [m, n, k], a, b, c, scale, bias)) return;
  const given = { a: a.array, b: b.array, ...layoutNumbers(k, a, b), scale };
  if (bias) queue.run(biased, [n, m], c, { ...given, bias });
  else queue.run(plain, [n, m], c, given);
}

/** The same for a batch of products. */
function multiplyBatch(
  queue: Queue,
  [m, n, k]: readonly [number, number, number],
  a: MatrixLayout,
  b: MatrixLayout,
  c: DeviceArray,
  batch: Batch,
): void {
  if (queue.wgsl && batchedGemm(queue.wgsl, [m, n, k], a, b, c, batch)) return;
  const { count, e1, e2, a: [a0, a1, a2], b: [b0, b1, b2] } = batch; // prettier-ignore
  const given = { a: a.array, b: b.array, ...layoutNumbers(k, a, b) };
  queue.run(batched, [n, m, count], c, { ...given, e1, e2, a0, a1, a2, b0, b1, b2 });
}

const rowMajor = (array: DeviceArray, columns: number): MatrixLayout => ({ array, rowStride: columns, columnStride: 1 });
const transposed = ({ array, rowStride, columnStride }: MatrixLayout): MatrixLayout => ({
  array,
  rowStride: columnStride,
  columnStride: rowStride,
});

/** How operands with leading axes `a` and `b` are walked along the result's. */
function batchOf(to: Shape, a: Shape, b: Shape, sizes: readonly [number, number]): Batch {
  const strides = [a, b].map((from, i) => broadcastStrides(from, to).map((stride) => stride * (sizes[i] as number)));
  // The last two of the five axes that can be walked are the matrix's own; a stride that is no number joins no other axis to them.
  const { threads, e1, e2, strides: [ofA, ofB] } = walk("matmul", [...to, 2, 2], strides.map((own) => [...own, NaN, NaN])); // prettier-ignore
  const first = (own: readonly number[] | undefined): [number, number, number] =>
    (own ?? [0, 0, 0]).slice(0, 3) as [number, number, number];
  return { count: threads[2], e1, e2, a: first(ofA), b: first(ofB) };
}

export const product: Kernels<"matmul" | "gram" | "linear"> = {
  matmul: (queue, [a, b], { transposeA, transposeB }, [y]) => {
    const [m, n] = y.shape.slice(-2) as [number, number];
    const k = a.shape.at(transposeA ? -2 : -1) as number;
    const [left, right] = [rowMajor(a.array, transposeA ? m : k), rowMajor(b.array, transposeB ? k : n)];
    const operands = [transposeA ? transposed(left) : left, transposeB ? transposed(right) : right] as const;
    const to = y.shape.slice(0, -2);
    if (sizeOf(to) === 1) multiply(queue, [m, n, k], ...operands, y.array);
    else multiplyBatch(queue, [m, n, k], ...operands, y.array, batchOf(to, a.shape.slice(0, -2), b.shape.slice(0, -2), [m * k, k * n]));
  },
  gram: (queue, [x], { scale }, [y]) => {
    const [rows, d] = x.shape as [number, number];
    const sum = (parts: DeviceArray, count: number, to: DeviceArray): void => sums.plain(queue, [1, count, d * d], { x: parts }, to);
    if (queue.wgsl && gram(queue.wgsl, x.array, [rows, d], scale, y.array, sum)) return;
    multiply(queue, [d, d, rows], transposed(rowMajor(x.array, d)), rowMajor(x.array, d), y.array, { scale });
  },
  linear: (queue, [x, weight, bias], _, [y]) => {
    const [out, width] = weight.shape as [number, number];
    const rows = sizeOf(x.shape.slice(0, -1));
    multiply(queue, [rows, out, width], rowMajor(x.array, width), transposed(rowMajor(weight.array, width)), y.array, {
      bias: bias?.array,
    });
  },
};

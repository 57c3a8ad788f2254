import { DataError } from "../../errors.ts";
import { broadcastStrides, sizeOf, stridesOf } from "../../shape.ts";
import { offsets, type Operand, type Kernels } from "./kernel.ts";

function copyFrom(x: Operand, places: Int32Array, y: Operand): void {
  for (let i = 0; i < y.data.length; i++) y.data[i] = x.data[places[i] as number] as number;
}

function rowIndex(operation: string, indices: Operand, i: number, rows: number): number {
  const row = indices.data[i] as number;
  if (row < 0 || row >= rows) throw new DataError(`${operation}: index ${row} at position ${i} is outside of ${rows} rows`);
  return row;
}

export const movement: Kernels<"permute" | "broadcastTo" | "slice" | "pad" | "concat" | "gather" | "scatterAdd"> = {
  permute: ([x], { axes }, [y]) => {
    const strides = stridesOf(x.shape);
    copyFrom(
      x,
      offsets(
        y.shape,
        axes.map((axis) => strides[axis] as number),
      ),
      y,
    );
  },
  broadcastTo: ([x], _, [y]) => {
    copyFrom(x, offsets(y.shape, broadcastStrides(x.shape, y.shape)), y);
  },
  slice: ([x], { start, step }, [y]) => {
    const strides = stridesOf(x.shape);
    const first = strides.reduce((place, stride, axis) => place + stride * (start[axis] as number), 0);
    const steps = strides.map((stride, axis) => stride * (step[axis] as number));
    copyFrom(x, offsets(y.shape, steps, first), y);
  },
  pad: ([x], { before, between }, [y]) => {
    const strides = stridesOf(y.shape);
    const first = strides.reduce((place, stride, axis) => place + stride * (before[axis] as number), 0);
    const steps = strides.map((stride, axis) => stride * ((between[axis] as number) + 1));
    const places = offsets(x.shape, steps, first);
    y.data.fill(0);
    for (let i = 0; i < x.data.length; i++) y.data[places[i] as number] = x.data[i] as number;
  },
  concat: (inputs, { axis }, [y]) => {
    const outer = sizeOf(y.shape.slice(0, axis));
    const row = sizeOf(y.shape.slice(axis));
    let column = 0;
    for (const x of inputs) {
      const length = sizeOf(x.shape.slice(axis));
      for (let i = 0; i < outer; i++) y.data.set(x.data.subarray(i * length, (i + 1) * length), i * row + column);
      column += length;
    }
  },
  gather: ([x, indices], _, [y]) => {
    const row = sizeOf(x.shape.slice(1));
    for (let i = 0; i < indices.data.length; i++) {
      const at = rowIndex("gather", indices, i, x.shape[0] as number) * row;
      y.data.set(x.data.subarray(at, at + row), i * row);
    }
  },
  scatterAdd: ([x, indices], { rows }, [y]) => {
    const row = sizeOf(x.shape.slice(1));
    y.data.fill(0);
    for (let i = 0; i < indices.data.length; i++) {
      const at = rowIndex("scatterAdd", indices, i, rows) * row;
      for (let j = 0; j < row; j++) y.data[at + j] = (y.data[at + j] as number) + (x.data[i * row + j] as number);
    }
  },
};

import { bytesPerElement } from "../../dtype.ts";
import { DataError } from "../../errors.ts";
import { broadcastStrides, sizeOf, stridesOf, type Shape } from "../../shape.ts";
import { suffixOf, type Engine } from "./engine.ts";
import type { Kernels, Operand } from "./kernel.ts";
import { axesOf, BLOCK, formOf, runRows, type Axis } from "./walk.ts";

// assembly/movement.ts has the same numbers.
const TILE_COLUMNS = 16;
const TILE_ROWS = 256;
const SCATTER_COLUMNS = 16;

const scatterNames = { float32: "scatterAdd_f32", float64: "scatterAdd_f64", int32: "scatterAdd_i32" } as const;

/**
 * Copies the elements that an index over `shape` reaches in x with strides `from`, beginning at element `firstX`, to those that it
 * reaches in y with strides `to`, beginning at `firstY`.
 */
function copy(
  engine: Engine,
  shape: Shape,
  x: Operand,
  from: readonly number[],
  firstX: number,
  y: Operand,
  to: readonly number[],
  firstY: number,
): void {
  if (sizeOf(shape) === 0) return;
  const size = bytesPerElement[y.dtype];
  const [source, target] = [x.pointer + firstX * size, y.pointer + firstY * size];
  const axes = axesOf(shape, [from, to]);
  const across = transposedAxis(axes);
  if (across > 0) {
    transpose(engine, axes, across, size, source, target);
  } else {
    const cost = (axes[0]?.strides[0] ?? 1) > 1 ? 1 : size / 12;
    runRows(engine, size === 8 ? "stridedCopy_64" : "stridedCopy_32", axes, [size, size], cost, source, target);
  }
}

/** If y is written along its innermost axis but x lies along another: the position of that other axis, else 0. */
function transposedAxis(axes: readonly Axis[]): number {
  const [inner] = axes;
  if (!inner || inner.strides[1] !== 1 || inner.strides[0] === 1 || inner.strides[0] === 0 || inner.extent < 4) return 0;
  return Math.max(
    0,
    axes.findIndex(({ extent, strides }) => strides[0] === 1 && extent >= 4),
  );
}

function transpose(engine: Engine, axes: readonly Axis[], across: number, size: number, source: number, target: number): void {
  const [inner, other] = [axes[0]!, axes[across]!];
  const outer = axes.filter((_, i) => i !== 0 && i !== across);
  const tiles = Math.ceil(inner.extent / TILE_ROWS) * Math.ceil(other.extent / TILE_COLUMNS);
  const items = outer.reduce((count, { extent }) => count * extent, tiles);
  const cost = Math.min(inner.extent, TILE_ROWS) * Math.min(other.extent, TILE_COLUMNS) * (size / 8);
  formOf(engine, "transpose", [inner, other, ...outer], [size, size], (form) => {
    engine.run(
      size === 8 ? "transpose_64" : "transpose_32",
      items,
      cost,
      ...[source, target, inner.extent, other.extent, inner.strides[0]! * size, other.strides[1]! * size, form],
    );
  });
}

function zero(engine: Engine, y: Operand): void {
  const size = bytesPerElement[y.dtype];
  engine.run(`fill_${suffixOf(y.dtype)}`, Math.ceil(y.size / BLOCK), Math.min(y.size, BLOCK) * (size / 16), y.pointer, y.size, 0);
}

/** Σ start·strides: the place of an element. */
function placeOf(index: readonly number[], strides: readonly number[]): number {
  let place = 0;
  for (const [axis, stride] of strides.entries()) place += stride * index[axis]!;
  return place;
}

function checkIndices(engine: Engine, operation: string, indices: Operand, rows: number): void {
  const i = engine.call("firstIndexOutside_i32", indices.pointer, indices.size, rows);
  if (i < 0) return;
  const row = engine.view("int32", indices.pointer, indices.size)[i]!;
  throw new DataError(`${operation}: index ${row} at position ${i} is outside of ${rows} rows`);
}

export const movement: Kernels<"permute" | "broadcastTo" | "slice" | "pad" | "concat" | "gather" | "scatterAdd"> = {
  permute: (engine, [x], { axes }, [y]) => {
    const strides = stridesOf(x.shape);
    const from = axes.map((axis) => strides[axis]!);
    copy(engine, y.shape, x, from, 0, y, stridesOf(y.shape), 0);
  },
  broadcastTo: (engine, [x], _, [y]) => {
    copy(engine, y.shape, x, broadcastStrides(x.shape, y.shape), 0, y, stridesOf(y.shape), 0);
  },
  slice: (engine, [x], { start, step }, [y]) => {
    const strides = stridesOf(x.shape);
    const from = strides.map((stride, axis) => stride * step[axis]!);
    copy(engine, y.shape, x, from, placeOf(start, strides), y, stridesOf(y.shape), 0);
  },
  pad: (engine, [x], { before, between }, [y]) => {
    const strides = stridesOf(y.shape);
    const to = strides.map((stride, axis) => stride * (between[axis]! + 1));
    if (x.size < y.size) zero(engine, y);
    copy(engine, x.shape, x, stridesOf(x.shape), 0, y, to, placeOf(before, strides));
  },
  concat: (engine, inputs, { axis }, [y]) => {
    const strides = stridesOf(y.shape);
    let first = 0;
    for (const x of inputs) {
      copy(engine, x.shape, x, stridesOf(x.shape), 0, y, strides, first);
      first += x.shape[axis]! * strides[axis]!;
    }
  },
  gather: (engine, [x, indices], _, [y]) => {
    checkIndices(engine, "gather", indices, x.shape[0]!);
    if (y.size === 0) return;
    const bytes = (y.size / indices.size) * bytesPerElement[y.dtype];
    engine.run("gather", indices.size, 5 + bytes / 8, x.pointer, indices.pointer, y.pointer, bytes);
  },
  scatterAdd: (engine, [x, indices], { rows }, [y]) => {
    checkIndices(engine, "scatterAdd", indices, rows);
    if (y.size === 0) return;
    const columns = y.size / rows;
    const cost = (indices.size + rows) * 6;
    const items = Math.ceil(columns / SCATTER_COLUMNS);
    engine.run(scatterNames[y.dtype], items, cost, x.pointer, indices.pointer, y.pointer, indices.size, rows, columns);
  },
};

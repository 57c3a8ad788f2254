import { DataError } from "../../errors.ts";
import { broadcastStrides, sizeOf, stridesOf } from "../../shape.ts";
import { requireHeld } from "./creation.ts";
import { copyArray } from "./elementwise.ts";
import { portable, type DeviceArray, type Kernels, type Operand } from "./kernel.ts";
import type { Queue } from "./queue.ts";
import { strideArguments, walk, walking } from "./walk.ts";

const strided = walking((place) =>
  portable(
    "strided copy",
    { x: "array", start: "integer", e1: "integer", e2: "integer", ...strideArguments("s") },
    `return x[start + ${place("s")}];`,
  ),
);

/** y's elements from those of x at `start` and by `strides`. */
function copyStrided(queue: Queue, name: string, x: DeviceArray, strides: readonly number[], y: Operand, start = 0): void {
  const { axes, threads, e1, e2, strides: [[s0, s1, s2, s3, s4]] } = walk(name, y.shape, [strides]); // prettier-ignore
  queue.run(strided[axes], threads, y.array, { x, start, e1, e2, s0, s1, s2, s3, s4 });
}

/** Of [outer, extent, inner] to [outer, length, inner]: `step` is from one element to the next. */
const padAxis = portable(
  "pad",
  { x: "array", extent: "integer", inner: "integer", before: "integer", end: "integer", step: "integer" },
  `if (this.thread.y < before) { return 0; }
  if (this.thread.y >= end) { return 0; }
  if (remainder(this.thread.y - before, step) != 0) { return 0; }
  return x[(this.thread.z * extent + quotient(this.thread.y - before, step)) * inner + this.thread.x];`,
);

interface Padded {
  readonly axis: number;
  readonly before: number;
  readonly between: number;
  readonly length: number;
}

/** Pads one axis after the other, the first of the list first. */
function padAxes(queue: Queue, x: DeviceArray, shape: readonly number[], [first, ...others]: readonly Padded[], y: DeviceArray): void {
  if (!first) {
    copyArray(queue, x, y);
    return;
  }
  const { axis, before, between, length } = first;
  const [outer, extent, inner] = [sizeOf(shape.slice(0, axis)), shape[axis] as number, sizeOf(shape.slice(axis + 1))];
  const step = between + 1;
  const end = before + Math.max(0, (extent - 1) * step + 1);
  const pass = (to: DeviceArray): void => queue.run(padAxis, [inner, length, outer], to, { x, extent, inner, before, end, step });
  if (others.length === 0) {
    pass(y);
    return;
  }
  queue.temporary(outer * length * inner, "pad", (padded) => {
    pass(padded);
    padAxes(queue, padded, shape.with(axis, length), others, y);
  });
}

const joinTwo = portable(
  "concat",
  { p: "array", q: "array", a: "integer", b: "integer" },
  `if (this.thread.x < a) { return p[this.thread.y * a + this.thread.x]; }
  return q[this.thread.y * b + this.thread.x - a];`,
);

/** Rows of one length. */
interface Part {
  readonly array: DeviceArray;
  readonly row: number;
}

/** Joins rows by halves, since a kernel writes every element of its result: k parts are copied log₂ k times. */
function join(queue: Queue, rows: number, parts: readonly Part[], to: DeviceArray): void {
  if (parts.length < 2) {
    for (const { array } of parts) copyArray(queue, array, to);
    return;
  }
  const middle = Math.ceil(parts.length / 2);
  joined(queue, rows, parts.slice(0, middle), ({ array: p, row: a }) => {
    joined(queue, rows, parts.slice(middle), ({ array: q, row: b }) => {
      queue.run(joinTwo, [a + b, rows], to, { p, q, a, b });
    });
  });
}

/** The parts as one, in an array that is there while `f` runs. */
function joined(queue: Queue, rows: number, parts: readonly Part[], f: (part: Part) => void): void {
  if (parts.length === 1) {
    f(parts[0] as Part);
    return;
  }
  const row = parts.reduce((sum, part) => sum + part.row, 0);
  queue.temporary(rows * row, "concat", (array) => {
    join(queue, rows, parts, array);
    f({ array, row });
  });
}

/*
 * The device cannot throw, and what an index is would only be known by waiting for it: here an index that is out of range counts as the
 * nearest one that is in range when rows are gathered, so that nothing outside is read, and adds to no row when they are scattered.
 */

/** Where there is nothing at all, no index is in range. */
export function requireAny(operation: string, what: string, count: number, indices: number): void {
  if (count === 0 && indices > 0) throw new DataError(`${operation}: ${indices} indices into 0 ${what}; every one is out of range`);
}

const gatherRows = portable(
  "gather",
  { x: "array", indices: "array", last: "float", row: "integer" },
  `const index = Math.max(0, Math.min(last, indices[this.thread.y]));
  return x[whole(index) * row + this.thread.x];`,
);

/** Each element looks for the rows that are added to it. A block is summed by itself, since a long sum would lose digits. */
const addRows = portable(
  "scatterAdd",
  { x: "array", indices: "array", count: "integer", row: "integer" },
  `let total = 0;
  for (let block = 0; block * 64 < count; block++) {
    let sum = 0;
    for (let i = 0; i < 64; i++) {
      if (block * 64 + i < count) {
        if (indices[block * 64 + i] == this.thread.y) { sum += x[(block * 64 + i) * row + this.thread.x]; }
      }
    }
    total += sum;
  }
  return total;`,
);

export const movement: Kernels<"permute" | "broadcastTo" | "slice" | "pad" | "concat" | "gather" | "scatterAdd"> = {
  permute: (queue, [x], { axes }, [y]) => {
    const strides = stridesOf(x.shape);
    const permuted = axes.map((axis) => strides[axis] as number);
    copyStrided(queue, "permute", x.array, permuted, y);
  },
  broadcastTo: (queue, [x], _, [y]) => copyStrided(queue, "broadcastTo", x.array, broadcastStrides(x.shape, y.shape), y),
  slice: (queue, [x], { start, step }, [y]) => {
    const strides = stridesOf(x.shape);
    const first = strides.reduce((sum, stride, axis) => sum + stride * (start[axis] as number), 0);
    const steps = strides.map((stride, axis) => stride * (step[axis] as number));
    copyStrided(queue, "slice", x.array, steps, y, first);
  },
  pad: (queue, [x], params, [y]) => {
    const [before, between] = [params.before as number[], params.between as number[]];
    const axes = y.shape.map((length, axis) => ({ axis, length, before: before[axis] as number, between: between[axis] as number }));
    const padded = axes.filter(({ axis, length }) => length !== x.shape[axis]);
    // The outer axes last: what they add is copied once then.
    padAxes(queue, x.array, x.shape, padded.reverse(), y.array);
  },
  concat: (queue, inputs, { axis }, [y]) => {
    const parts = inputs.map(({ array, shape }) => ({ array, row: sizeOf(shape.slice(axis)) }));
    join(
      queue,
      sizeOf(y.shape.slice(0, axis)),
      parts.filter(({ row }) => row > 0),
      y.array,
    );
  },
  gather: (queue, [{ array: x, shape }, { array: indices }], _, [{ array: y }]) => {
    const [rows, row] = [shape[0] as number, sizeOf(shape.slice(1))];
    requireAny("gather", "rows", rows, indices.size);
    queue.run(gatherRows, [row, indices.size], y, { x, indices, last: rows - 1, row });
  },
  scatterAdd: (queue, [{ array: x, shape }, { array: indices }], { rows }, [{ array: y }]) => {
    const row = sizeOf(shape.slice(1));
    requireHeld("scatterAdd", rows);
    queue.run(addRows, [row, rows], y, { x, indices, count: indices.size, row });
  },
};

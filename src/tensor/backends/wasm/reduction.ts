import type { ReductionParams } from "../../primitives.ts";
import type { Shape } from "../../shape.ts";
import { suffixOf, type Engine, type Suffix } from "./engine.ts";
import type { Kernels, Operand } from "./kernel.ts";

/** Elements of a chunk: long enough that a thread is worth waking, short enough that a few of them fit a second-level cache. */
const CHUNK = 65536;
/** Rows longer than a chunk are left whole if there are this many of them. */
const MANY_ROWS = 32;
/** Columns of an item, and rows whose sums are carried on in float64; see assembly/reduction.ts. */
const [WIDTH, BLOCK] = [1024, 64];
/** Nanoseconds that an item takes besides its elements. */
const ITEM_COST = 10;

const bytesOf = { f32: 4, f64: 8, i32: 4 } as const;

type Reduction = "sum" | "max";

/** What a chain of reductions is carried on in: sums of floats in float64. */
function carrier(operation: Reduction, type: Suffix): Suffix {
  return operation === "sum" && type !== "i32" ? "f64" : type;
}

/**
 * The extents of a tensor's runs of kept and of reduced axes, by turns from a kept one on, outermost first: [rows] × columns is
 * [1, rows, columns] where the rows are reduced. Axes of extent 1 do not matter.
 */
function runsOf(shape: Shape, axes: readonly number[]): number[] {
  const runs = [1];
  for (let axis = 0; axis < shape.length; axis++) {
    const extent = shape[axis]!;
    if (extent === 1) continue;
    const last = runs.length - 1;
    if ((last % 2 === 1) === axes.includes(axis)) runs[last] = runs[last]! * extent;
    else runs.push(extent);
  }
  return runs;
}

/** Reduces the middle axis of x [outer, length, inner] in memory. */
function reduceMiddle(
  engine: Engine,
  operation: Reduction,
  [from, x]: readonly [Suffix, number],
  [outer, length, inner]: readonly [number, number, number],
  [to, y]: readonly [Suffix, number],
): void {
  const width = Math.min(inner, WIDTH);
  const rows = inner === 1;
  let chunk = Math.max(1, length);
  if (rows && outer < MANY_ROWS) chunk = Math.min(chunk, CHUNK);
  if (!rows) chunk = Math.min(chunk, BLOCK * Math.ceil(CHUNK / (BLOCK * width)));
  const chunks = Math.max(1, Math.ceil(length / chunk));
  const cost = ITEM_COST + chunk * width * bytesOf[from] * 0.06;
  const run = (type: Suffix, pointer: number): void => {
    const suffix = from === type ? from : (`${from}_${type}` as "f32_f64" | "f64_f32");
    const items = outer * chunks * Math.ceil(inner / WIDTH);
    if (operation === "sum") {
      if (rows) engine.run(`sumRows_${suffix}`, items, cost, x, length, chunk, chunks, pointer);
      else engine.run(`sumColumns_${suffix}`, items, cost, x, length, inner, chunk, chunks, pointer);
    } else if (rows) engine.run(`maxRows_${from}`, items, cost, x, length, chunk, chunks, pointer);
    else engine.run(`maxColumns_${from}`, items, cost, x, length, inner, chunk, chunks, pointer);
  };
  if (chunks === 1) {
    run(to, y);
    return;
  }
  const between = carrier(operation, from);
  engine.temporary(outer * chunks * inner * bytesOf[between], operation, (partial) => {
    run(between, partial);
    reduceMiddle(engine, operation, [between, partial], [outer, chunks, inner], [to, y]);
  });
}

/** Reduces all reduced runs, the innermost first. `runs` has two elements or more. */
function reduceRuns(
  engine: Engine,
  operation: Reduction,
  x: readonly [Suffix, number],
  runs: readonly number[],
  y: readonly [Suffix, number],
): void {
  const last = runs.length - (runs.length % 2 === 0 ? 1 : 2);
  let outer = 1;
  for (let i = 0; i < last; i++) outer *= runs[i]!;
  const inner = runs[last + 1] ?? 1;
  const extents = [outer, runs[last]!, inner] as const;
  if (last === 1) {
    reduceMiddle(engine, operation, x, extents, y);
    return;
  }
  const between = carrier(operation, x[0]);
  engine.temporary(outer * inner * bytesOf[between], operation, (partial) => {
    reduceMiddle(engine, operation, x, extents, [between, partial]);
    reduceRuns(engine, operation, [between, partial], [...runs.slice(0, last - 1), runs[last - 1]! * inner], y);
  });
}

const reduced =
  (operation: Reduction) =>
  (engine: Engine, [x]: [Operand], { axes }: ReductionParams, [y]: [Operand]): void => {
    if (y.size === 0) return;
    const runs = runsOf(x.shape, axes);
    const type = suffixOf(x.dtype);
    if (runs.length > 1) reduceRuns(engine, operation, [type, x.pointer], runs, [type, y.pointer]);
    else engine.view(y.dtype, y.pointer, y.size).set(engine.view(x.dtype, x.pointer, x.size));
  };

export const reduction: Kernels<"sum" | "max" | "argmax"> = {
  sum: reduced("sum"),
  max: reduced("max"),
  argmax: (engine, [x], { axis }, [y]) => {
    if (y.size === 0) return;
    const length = x.shape[axis]!;
    let inner = 1;
    for (let i = axis + 1; i < x.shape.length; i++) inner *= x.shape[i]!;
    const type = suffixOf(x.dtype);
    if (inner === 1) {
      engine.run(`argmaxRows_${type}`, y.size, ITEM_COST + length, x.pointer, length, y.pointer);
    } else {
      const items = (y.size / inner) * Math.ceil(inner / WIDTH);
      engine.run(`argmaxColumns_${type}`, items, ITEM_COST + length * Math.min(inner, WIDTH) * 0.4, x.pointer, length, inner, y.pointer);
    }
  },
};

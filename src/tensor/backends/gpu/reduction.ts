import { sizeOf, stridesOf, type Shape } from "../../shape.ts";
import { nanTest } from "./compiler.ts";
import { requireHeld } from "./creation.ts";
import { copyArray } from "./elementwise.ts";
import { portable, type ArgumentsOf, type DeviceArray, type Kernel, type Kernels, type Takes } from "./kernel.ts";
import type { Queue } from "./queue.ts";
import { foldByGroups, wgslFold } from "./wgsl/reduce.ts";

/** An array seen with the middle one of three axes to be reduced. */
export type Extents = readonly [outer: number, n: number, inner: number];

/** Reduces what comes of arrays of these extents to [outer, inner]. */
export type Fold<T extends Takes> = (queue: Queue, extents: Extents, values: ArgumentsOf<T>, to: DeviceArray) => void;

/** Elements that one thread reduces: more of them would lose digits of a sum, and few threads would do all the work. */
const BLOCK = 64;

interface Folding {
  /** What remains of an array's elements. */
  readonly plain: Fold<{ readonly x: "array" }>;
  /**
   * What remains of numbers that are made of elements.
   * @param term declares such a number, `v`, given the place of its element in an array and the one in its row of n · inner elements.
   * @param wgslTerm sets `v` in WGSL: see `wgslFold`. Without it the fold is portable only.
   */
  readonly of: <const T extends Takes>(name: string, takes: T, term: (at: string, inRow: string) => string, wgslTerm?: string) => Fold<T>;
}

/**
 * Reductions by passes, each of which leaves one number of up to 64 that lie at equal distances: neighbouring threads read neighbours, a
 * long row is shared by many threads, and float32 is enough for its sum.
 * @param combine puts `v` into `total`, which is the first number at first; 0 remains of none.
 * @param wgsl the same in WGSL, where `total` is `identity` at first.
 */
function folding(name: string, combine: string, wgsl: { readonly combine: string; readonly identity: number }): Folding {
  const of: Folding["of"] = <const T extends Takes>(
    ofName: string,
    takes: T,
    term: (at: string, inRow: string) => string,
    wgslTerm?: string,
  ): Fold<T> => {
    const byGroups = wgslTerm === undefined ? null : wgslFold(ofName, takes, wgsl.combine, wgsl.identity, wgslTerm);
    const inRow = "i * stride + this.thread.x";
    const kernel = portable(
      ofName,
      { ...takes, rounds: "integer", stride: "integer", row: "integer" },
      `let total = 0;
      for (let i = 0; i < rounds; i++) {
        if (${inRow} < row) {
          ${term(`this.thread.y * row + ${inRow}`, inRow)}
          if (i == 0) { total = v; } else { ${combine} }
        }
      }
      return total;`,
    );
    return (queue, [outer, n, inner], values, to) => {
      const inParts = (parts: number, issue: (result: DeviceArray) => void): void => {
        if (parts === 1) {
          issue(to);
          return;
        }
        queue.temporary(outer * parts * inner, ofName, (partial) => {
          issue(partial);
          plain(queue, [outer, parts, inner], { x: partial }, to);
        });
      };
      if (queue.wgsl && byGroups && foldByGroups<T>(queue.wgsl, byGroups, [outer, n, inner], values, inParts)) return;
      const blocks = Math.max(1, Math.ceil(n / BLOCK));
      inParts(blocks, (result) => {
        const numbers = { rounds: Math.ceil(n / blocks), stride: blocks * inner, row: n * inner };
        queue.run(kernel, [blocks * inner, outer], result, { ...values, ...numbers });
      });
    };
  };
  const plain = of(name, { x: "array" }, (at) => `const v = x[${at}];`, "v = x[at];");
  return { plain, of };
}

export const sums = folding("sum", "total += v;", { combine: "total += v;", identity: 0 });
/** NaN is kept. */
export const maxima = folding("max", "if (isNan(v) == 1) { total = v; } if (isNan(total) == 0) { if (v > total) { total = v; } }", {
  combine: `if (v > total || ${nanTest("v")}) { total = v; }`,
  identity: -Infinity,
});
const minima = folding("min", "if (v < total) { total = v; }", { combine: "total = min(v, total);", identity: Infinity });

/** Adjacent axes that are all reduced, or all kept, as one. */
interface Run {
  readonly extent: number;
  readonly reduced: boolean;
}

function runsOf(shape: Shape, axes: readonly number[]): Run[] {
  const runs: Run[] = [];
  shape.forEach((extent, axis) => {
    if (extent === 1) return;
    const reduced = axes.includes(axis);
    const last = runs.at(-1);
    if (last?.reduced === reduced) runs[runs.length - 1] = { extent: last.extent * extent, reduced };
    else runs.push({ extent, reduced });
  });
  return runs;
}

/** One run after the other, the longest first, so that little is left for the others. */
function reduceRuns(queue: Queue, name: string, fold: Folding["plain"], runs: readonly Run[], x: DeviceArray, to: DeviceArray): void {
  const candidates = runs.filter(({ reduced }) => reduced).sort((a, b) => b.extent - a.extent);
  const [longest] = candidates;
  if (!longest) {
    copyArray(queue, x, to);
    return;
  }
  const at = runs.indexOf(longest);
  const before = runs.slice(0, at);
  const after = runs.slice(at + 1);
  const [outer, inner] = [before, after].map((list) => sizeOf(list.map(({ extent }) => extent))) as [number, number];
  const extents = [outer, longest.extent, inner] as const;
  if (candidates.length === 1) {
    fold(queue, extents, { x }, to);
    return;
  }
  queue.temporary(outer * inner, name, (rest) => {
    fold(queue, extents, { x }, rest);
    reduceRuns(queue, name, fold, [...before, ...after], rest, to);
  });
}

function overAxes(name: string, fold: Folding["plain"]): Kernel<"sum" | "max"> {
  return (queue, [x], { axes }, [y]) => reduceRuns(queue, name, fold, runsOf(x.shape, axes), x.array, y.array);
}

/** The first position of the largest element, or of NaN, which is the largest then. */
const firstOf = minima.of(
  "argmax",
  { x: "array", top: "array", n: "float", inner: "integer" },
  (at, inRow) => `let v = n;
    const element = x[${at}];
    const largest = top[this.thread.y * inner + remainder(this.thread.x, inner)];
    if (element == largest) { v = quotient(${inRow}, inner); }
    if (isNan(element) == 1) { v = quotient(${inRow}, inner); }`,
  `let element = x[at];
    v = n;
    if (element == top[output] || ${nanTest("element")}) { v = f32(i); }`,
);

export const reduction: Kernels<"sum" | "max" | "argmax"> = {
  sum: overAxes("sum", sums.plain),
  max: overAxes("max", maxima.plain),
  argmax: (queue, [{ array: x, shape }], { axis }, [{ array: y }]) => {
    const [n, inner] = [shape[axis] as number, stridesOf(shape)[axis] as number];
    requireHeld("argmax", n);
    const extents = [sizeOf(shape.slice(0, axis)), n, inner] as const;
    queue.temporary(y.size, "argmax", (top) => {
      maxima.plain(queue, extents, { x }, top);
      firstOf(queue, extents, { x, top, n, inner }, y);
    });
  },
};

import { nanTest } from "../compiler.ts";
import type { DeviceArray } from "../kernel.ts";
import { MOST_GROUPS, type Parameter, type WgslKernel, type WgslQueue } from "../queue.ts";

/*
 * Rows' logarithms of softmax, or their probabilities and cross-entropy, in one pass over rows that stay in the caches: a row is shared by a
 * power of two of a workgroup's threads, so that short rows leave none idle. Sums are made by blocks and in a tree, as in reduce.ts.
 */

/** Threads of a workgroup, branches of a node of the tree, and numbers that are summed apart from the others. */
const [GROUP, FAN, BLOCK] = [64, 8, 64];

/** Folds `total` of a row's threads into `folded` at the first of them. */
const tree = (combine: string): string => `
  workgroupBarrier();
  folded[local] = total;
  for (var left = p.lines; left > 1u; left /= ${FAN}u) {
    let next = max(1u, left / ${FAN}u);
    workgroupBarrier();
    if (line < next) {
      for (var other = line + next; other < left; other += next) {
        let v = folded[first + other];
        ${combine}
      }
      folded[local] = total;
    }
  }
  workgroupBarrier();`;

/** Statements that put into `total` the sum of what `term` makes of a row's elements, at `at` and of class `i`. */
const sumOf = (term: string): string => `
  total = 0.0;
  for (var block = line; block < end; block += ${BLOCK}u * p.lines) {
    var part = 0.0;
    for (var i = block; i < min(end, block + ${BLOCK}u * p.lines); i += p.lines) {
      let at = begin + i;
      ${term}
    }
    total += part;
  }
  ${tree("total += v;")}`;

/** @param loss whether probabilities and loss are wanted, or the logarithms. */
const code = (loss: boolean): string => `
struct Params { rows : u32, classes : u32, lines : u32, lowest : f32, own : f32, other : f32 }
@group(1) @binding(0) var<uniform> p : Params;
@group(0) @binding(0) var<storage, read> x : array<f32>;
${loss ? "@group(0) @binding(1) var<storage, read> labels : array<f32>;" : ""}
@group(0) @binding(${loss ? 2 : 1}) var<storage, read_write> y : array<f32>;
${loss ? "@group(0) @binding(3) var<storage, read_write> losses : array<f32>;" : ""}
var<workgroup> folded : array<f32, ${GROUP}>;
@compute @workgroup_size(${GROUP}) fn main(@builtin(local_invocation_index) local : u32, @builtin(workgroup_id) group : vec3<u32>) {
  let line = local % p.lines;
  let first = local - line;
  let row = group.x * (${GROUP}u / p.lines) + local / p.lines;
  let end = select(0u, p.classes, row < p.rows);
  let begin = row * p.classes;
  var total = p.lowest;
  for (var i = line; i < end; i += p.lines) {
    let v = x[begin + i];
    if (v > total || ${nanTest("v")}) { total = v; }
  }
  ${tree(`if (v > total || ${nanTest("v")}) { total = v; }`)}
  let top = folded[first];
  ${sumOf("part += exp(x[at] - top);")}
  // top + log total would round away the logarithm's digits when x is large.
  let logTotal = log(folded[first]);
  ${
    loss
      ? `var label = 0.0;
  if (row < p.rows) { label = labels[row]; }
  ${sumOf(`let logp = x[at] - top - logTotal;
      y[at] = exp(logp);
      let q = select(p.other, p.own, f32(i) == label);
      if (q != 0.0) { part -= q * logp; }`)}
  if (line == 0u && row < p.rows) { losses[row] = folded[local]; }`
      : "for (var i = line; i < end; i += p.lines) { y[begin + i] = x[begin + i] - top - logTotal; }"
  }
}
`;
const logarithms: WgslKernel = { name: "logSoftmax", code: code(false), reads: 1, writes: 1 };
const crossEntropy: WgslKernel = { name: "softmaxCrossEntropy", code: code(true), reads: 2, writes: 2 };

function issue(
  queue: WgslQueue,
  kernel: WgslKernel,
  [rows, classes]: readonly [number, number],
  reads: readonly DeviceArray[],
  writes: readonly DeviceArray[],
  { own, other }: Target,
): boolean {
  if (rows * classes === 0) return false;
  const lines = Math.min(GROUP, 2 ** Math.ceil(Math.log2(Math.ceil(classes / 16))));
  const groups = Math.ceil(rows / (GROUP / lines));
  if (groups > MOST_GROUPS) return false;
  const parameters: Parameter[] = [{ u: rows }, { u: classes }, { u: lines }, { f: -Infinity }, { f: own }, { f: other }];
  queue.runWgsl(kernel, [groups, 1, 1], reads, writes, parameters);
  return true;
}

/** Probabilities of the target distribution: that of the true class, and that of each other one. */
interface Target {
  readonly own: number;
  readonly other: number;
}

type Extents = readonly [rows: number, classes: number];

/** Issues `logSoftmax`, unless there are no elements, or more rows than workgroups for them. @returns whether it did. */
export function logSoftmax(queue: WgslQueue, extents: Extents, x: DeviceArray, y: DeviceArray): boolean {
  return issue(queue, logarithms, extents, [x], [y], { own: 0, other: 0 });
}

/** The same for `softmaxCrossEntropy`. */
export function softmaxCrossEntropy(
  queue: WgslQueue,
  extents: Extents,
  x: DeviceArray,
  labels: DeviceArray,
  losses: DeviceArray,
  probabilities: DeviceArray,
  target: Target,
): boolean {
  return issue(queue, crossEntropy, extents, [x, labels], [probabilities, losses], target);
}

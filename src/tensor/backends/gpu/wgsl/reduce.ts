import type { ArgumentsOf, DeviceArray, Takes } from "../kernel.ts";
import { MOST_GROUPS, type Parameter, type WgslKernel, type WgslQueue } from "../queue.ts";

/*
 * Reductions by workgroups: a thread folds up to 64 numbers at equal distances, and the threads of an output fold theirs in a tree, so that
 * a sum of n numbers has rounding errors like those of 64 + log n additions. What is longer than a workgroup's share is left in parts. The
 * order is always the same, and so is the result.
 *
 * Against the portable passes that is one dispatch in place of two or three. A software driver takes some microseconds for a workgroup with a
 * barrier, which costs it up to 40 % on matrices of millions of numbers. On a real device short dispatches should cost more than barriers do;
 * none was at hand to tell.
 */

/** Threads of a workgroup. */
const GROUP = 64;
/** Branches of a node of the tree. */
const FAN = 8;
/** Numbers that one thread folds. */
const SHARE = 64;
/** So many outputs occupy a device by themselves. */
const MANY = 4096;
/** Outputs side by side of which a workgroup reads whole lines of memory. */
const ABREAST = 16;

export interface WgslFold {
  readonly kernel: WgslKernel;
  readonly takes: Takes;
  /** Folds any number to itself. */
  readonly identity: number;
}

/**
 * A fold of [outer, n, inner] to [outer, inner].
 * @param combine puts `v` into `total`.
 * @param term sets `v`, given the arguments by their names; the element's place is `at` in an array, `inRow` in its row of n · inner, and
 * `i` along the axis; `row` and `column` are its place in the others.
 */
export function wgslFold(name: string, takes: Takes, combine: string, identity: number, term: string): WgslFold {
  const names = Object.entries(takes);
  const arrays = names.flatMap(([key, kind]) => (kind === "array" ? [key] : []));
  const numbers = names.flatMap(([key, kind]) => (kind === "array" ? [] : [[key, kind === "integer" ? "i32" : "f32"] as const]));
  const code = `
struct Params {
  n : u32, inner : u32, outputs : u32, abreast : u32, lines : u32, alongOutputs : u32, alongLines : u32, chunk : u32,
  identity : f32, ${numbers.map(([number, type]) => `user_${number} : ${type}, `).join("")}
}
@group(1) @binding(0) var<uniform> p : Params;
${arrays.map((array, i) => `@group(0) @binding(${i}) var<storage, read> ${array} : array<f32>;`).join("\n")}
@group(0) @binding(${arrays.length}) var<storage, read_write> result : array<f32>;
var<workgroup> folded : array<f32, ${GROUP}>;
@compute @workgroup_size(${GROUP}) fn main(
  @builtin(local_invocation_index) local : u32, @builtin(workgroup_id) group : vec3<u32>, @builtin(num_workgroups) groups : vec3<u32>,
) {
  ${numbers.map(([number]) => `let ${number} = p.user_${number};`).join(" ")}
  let output = group.x * p.abreast + (local / p.alongOutputs) % p.abreast;
  let line = (local / p.alongLines) % p.lines;
  let row = output / p.inner;
  let column = output % p.inner;
  let begin = group.y * p.chunk;
  let end = select(begin, min(p.n, begin + p.chunk), output < p.outputs);
  var total = p.identity;
  for (var i = begin + line; i < end; i += p.lines) {
    let inRow = i * p.inner + column;
    let at = row * p.n * p.inner + inRow;
    var v = 0.0; // said, since a driver kept what it was a round ago
    ${term}
    ${combine}
  }
  folded[local] = total;
  for (var left = p.lines; left > 1u; left /= ${FAN}u) {
    let next = max(1u, left / ${FAN}u);
    workgroupBarrier();
    if (line < next) {
      for (var other = line + next; other < left; other += next) {
        let v = folded[local + (other - line) * p.alongLines];
        ${combine}
      }
      folded[local] = total;
    }
  }
  if (line == 0u && output < p.outputs) { result[(row * groups.y + group.y) * p.inner + column] = folded[local]; }
}
`;
  return { kernel: { name, code, reads: arrays.length, writes: 1 }, takes, identity };
}

const ceilPowerOf2 = (x: number): number => 2 ** Math.ceil(Math.log2(x));

/**
 * Issues one pass, unless the portable kernel does as well, or there are more outputs than workgroups for them.
 * @param place is told how many parts are left of each output, and issues the pass to an array [outer, parts, inner].
 * @returns whether it did.
 */
export function foldByGroups<T extends Takes>(
  queue: WgslQueue,
  { kernel, takes, identity }: WgslFold,
  [outer, n, inner]: readonly [outer: number, n: number, inner: number],
  values: ArgumentsOf<T>,
  place: (parts: number, issue: (result: DeviceArray) => void) => void,
): boolean {
  const outputs = outer * inner;
  if (n <= SHARE || outputs === 0 || (outputs > MANY && n < 8 * SHARE)) return false;
  // Neighbouring threads read neighbours: along the axis if it is the last one, and else along the outputs.
  const wanted = inner === 1 ? GROUP / Math.min(GROUP, Math.max(4, ceilPowerOf2(n / SHARE))) : ABREAST;
  const abreast = Math.min(wanted, ceilPowerOf2(outputs));
  const lines = GROUP / abreast;
  const parts = Math.ceil(n / (SHARE * lines));
  const chunk = Math.ceil(n / parts / lines) * lines;
  const blocks = Math.ceil(outputs / abreast);
  if (Math.max(parts, blocks) > MOST_GROUPS) return false;
  const [alongOutputs, alongLines] = inner === 1 ? [lines, 1] : [1, abreast];
  const given = values as Readonly<Record<string, DeviceArray | number>>;
  const reads: DeviceArray[] = [];
  const parameters: Parameter[] = [n, inner, outputs, abreast, lines, alongOutputs, alongLines, chunk].map((u) => ({ u }));
  parameters.push({ f: identity });
  for (const [name, kind] of Object.entries(takes)) {
    const value = given[name];
    if (kind === "array") reads.push(value as DeviceArray);
    else parameters.push(kind === "integer" ? { i: value as number } : { f: value as number });
  }
  place(parts, (result) => {
    queue.runWgsl(kernel, [blocks, parts, 1], reads, [result], parameters);
  });
  return true;
}

import { portable, type DeviceArray } from "../kernel.ts";
import { MOST_GROUPS, type WgslKernel, type WgslQueue } from "../queue.ts";

/*
 * C = scale · A B + bias, a tile of 4 × 4 a thread in registers: of each four columns of A and rows of B, read as vectors, come 64 multiply-adds.
 * Operands that are transposed, or whose rows are no multiple of a vector, are copied first, with zeros at their ends.
 *
 * The eight threads of a workgroup's row want the same numbers of A. Where they are a subgroup, each reads an eighth of them and hands it
 * around, which takes .8 of the time on a CPU. WGSL does not say which threads are a subgroup: the kernel finds out, and does without otherwise.
 */

/** Where element (row, column) of a matrix is: `offset + row · rowStride + column · columnStride`. */
export interface MatrixLayout {
  readonly array: DeviceArray;
  readonly rowStride: number;
  readonly columnStride: number;
}

/** Threads of a workgroup along C's columns and rows. */
const [ACROSS, DOWN] = [8, 8];
/** Vectors of A's row that are summed apart from the others, so that rounding errors stay small. */
const BLOCK = 32;

const rows = [0, 1, 2, 3];

/** Adds the products of columns 4k to 4k + 3 of A, of which `vector(i)` are those in row i, to the sums. */
const step = (k: string, vector: (i: number) => string): string => `
      ${rows.map((i) => `let b${i} = b[(4u * (${k}) + ${i}u) * p.n4 + column];`).join("\n      ")}
      ${rows.map((i) => `let x${i} = ${vector(i)};`).join("\n      ")}
      ${rows.map((i) => `sum${i} += x${i}.x * b0 + x${i}.y * b1 + x${i}.z * b2 + x${i}.w * b3;`).join("\n      ")}`;

/** The tile, from `block`, which adds to the sums what vectors k0 to end − 1 of A's rows give. */
const tile = (block: string): string => `
  ${rows.map((i) => `var total${i} = vec4<f32>();`).join("\n  ")}
  for (var k0 = 0u; k0 < p.k4; k0 += ${BLOCK}u) {
    ${rows.map((i) => `var sum${i} = vec4<f32>();`).join("\n    ")}
    let end = min(p.k4, k0 + ${BLOCK}u);
    ${block}
    ${rows.map((i) => `total${i} += sum${i};`).join("\n    ")}
  }
  if (x < p.n4) { ${rows.map((i) => `put(row + ${i}u, 4u * x, total${i});`).join(" ")} }`;

/** Whether the threads of a subgroup are eight, and have the same rows. */
export const EIGHT_IN_A_ROW = "lanes == 8u && countOneBits(subgroupBallot(true).x) == 8u && subgroupAll(y == subgroupBroadcastFirst(y))";

/** Each thread reads all that it multiplies. */
const apart = `
  if (row >= p.m || x >= p.n4) { return; }
  ${rows.map((i) => `let a${i} = min(row + ${i}u, p.m - 1u) * p.k4;`).join("\n  ")}
  ${tile(`for (var k = k0; k < end; k++) {${step("k", (i) => `a[a${i} + k]`)}
    }`)}`;

/** Of eight threads in a row, thread j reads the vector k + j / 4 in row j mod 4 of A. */
const together = `
  if (row >= p.m) { return; }
  let own = min(row + (lane & 3u), p.m - 1u) * p.k4;
  let ahead = lane >> 2u;
  ${tile(`var k = k0;
    for (; k + 1u < end; k += 2u) {
      let v = a[own + k + ahead];
      {${step("k", (i) => `subgroupBroadcast(v, ${i}u)`)}
      }
      {${step("k + 1u", (i) => `subgroupBroadcast(v, ${4 + i}u)`)}
      }
    }
    if (k < end) {
      let v = a[own + k];${step("k", (i) => `subgroupBroadcast(v, ${i}u)`)}
    }`)}`;

interface GemmForm {
  readonly bias: boolean;
  /** Whether subgroups are of eight threads. */
  readonly eights: boolean;
  /** Threads of a workgroup along C's columns. Default 8; with others, which tests try, subgroups lie otherwise. */
  readonly across?: number;
}

export function gemmKernel({ bias, eights, across = ACROSS }: GemmForm): WgslKernel {
  const code = `
${eights ? "enable subgroups; diagnostic(off, subgroup_uniformity); // its branch depends on what is the same in a whole subgroup" : ""}
struct Params { m : u32, n : u32, k4 : u32, n4 : u32, scale : f32 }
@group(1) @binding(0) var<uniform> p : Params;
@group(0) @binding(0) var<storage, read> a : array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b : array<vec4<f32>>;
${bias ? "@group(0) @binding(2) var<storage, read> bias : array<f32>;" : ""}
@group(0) @binding(${bias ? 3 : 2}) var<storage, read_write> c : array<f32>;
fn put(row : u32, column : u32, values : vec4<f32>) {
  if (row >= p.m) { return; }
  for (var j = 0u; j < 4u; j++) {
    if (column + j < p.n) { c[row * p.n + column + j] = p.scale * values[j]${bias ? " + bias[column + j]" : ""}; }
  }
}
@compute @workgroup_size(${across * DOWN}) fn main(
  @builtin(workgroup_id) group : vec3<u32>,
  @builtin(local_invocation_index) i : u32,
  ${eights ? "@builtin(subgroup_invocation_id) lane : u32, @builtin(subgroup_size) lanes : u32," : ""}
) {
  let x = ${across}u * group.x + i % ${across}u;
  let y = ${DOWN}u * group.y + i / ${across}u;
  let row = 4u * y;
  let column = min(x, p.n4 - 1u);
  ${eights ? `if (${EIGHT_IN_A_ROW}) {${together}\n  return;\n  }` : ""}
  ${apart}
}
`;
  const name = `gemm${bias ? " with bias" : ""}${eights ? ", by eights" : ""}`;
  return { name, code, reads: bias ? 3 : 2, writes: 1 };
}

const kernelsOf = (eights: boolean): Readonly<Record<"plain" | "biased", WgslKernel>> => ({
  plain: gemmKernel({ bias: false, eights }),
  biased: gemmKernel({ bias: true, eights }),
});
const [anywhere, byEights] = [kernelsOf(false), kernelsOf(true)];

/** A matrix in row-major order, with zeros beyond its `rows` and `columns`. */
export const packRows = portable(
  "gemm: rows in vectors",
  { x: "array", rows: "integer", columns: "integer", rowStride: "integer", columnStride: "integer" },
  `if (this.thread.x >= columns) { return 0; }
  if (this.thread.y >= rows) { return 0; }
  return x[this.thread.y * rowStride + this.thread.x * columnStride];`,
);

/** Fewer multiply-adds than this are not worth the copies. */
const WORTH = 4096;

/**
 * Issues the product, unless the portable kernel does as well, C has more tiles than a device has workgroups, or a copy would be more than
 * kernels see.
 * @returns whether it did.
 */
export function gemm(
  queue: WgslQueue,
  [m, n, k]: readonly [number, number, number],
  a: MatrixLayout,
  b: MatrixLayout,
  c: DeviceArray,
  scale: number,
  bias: DeviceArray | undefined,
): boolean {
  if (m * n * k < WORTH || m > 4 * DOWN * MOST_GROUPS || n > 4 * ACROSS * MOST_GROUPS) return false;
  const [k4, n4] = [Math.ceil(k / 4), Math.ceil(n / 4)];
  if (!queue.holds(m * 4 * k4, 4 * k4 * 4 * n4)) return false;
  inVectors(queue, a, [m, k], [m, 4 * k4], (left) => {
    inVectors(queue, b, [k, n], [4 * k4, 4 * n4], (right) => {
      const groups = [Math.ceil(n4 / ACROSS), Math.ceil(Math.ceil(m / 4) / DOWN), 1] as const;
      const parameters = [{ u: m }, { u: n }, { u: k4 }, { u: n4 }, { f: scale }];
      const { plain, biased } = queue.subgroupsOfEight ? byEights : anywhere;
      queue.runWgsl(bias ? biased : plain, groups, [left, right, ...(bias ? [bias] : [])], [c], parameters);
    });
  });
  return true;
}

/** A matrix [rows, columns] in row-major order with the extents `padded`: itself if it is that, or else a copy. */
function inVectors(
  queue: WgslQueue,
  { array, rowStride, columnStride }: MatrixLayout,
  [rows, columns]: readonly [number, number],
  padded: readonly [number, number],
  f: (array: DeviceArray) => void,
): void {
  if (columnStride === 1 && rowStride === columns && rows === padded[0] && columns === padded[1]) {
    f(array);
    return;
  }
  queue.temporary(padded[0] * padded[1], "matmul", (copy) => {
    queue.run(packRows, [padded[1], padded[0]], copy, { x: array, rows, columns, rowStride, columnStride });
    f(copy);
  });
}

import type { DeviceArray } from "../kernel.ts";
import { MOST_GROUPS, type Parameter, type WgslKernel, type WgslQueue } from "../queue.ts";
import type { MatrixLayout } from "./gemm.ts";

/*
 * Products of a batch of matrices, which are mostly small: a tile of 4 × 4 a thread in registers as in gemm.ts, but read number by number
 * where the operands lie, since copies would cost as much as they save.
 */

/** Threads of a workgroup along C's columns and rows. */
const [ACROSS, DOWN] = [8, 8];
/** Of a matrix of fewer elements a workgroup has little to do. */
const WORTH = 32;
/** Products that are summed apart from the others, so that rounding errors stay small. */
const BLOCK = 64;

const tile = [0, 1, 2, 3];

const batched: WgslKernel = {
  name: "matmul of a batch",
  reads: 2,
  writes: 1,
  code: `
struct Params {
  m : u32, n : u32, k : u32, aRow : u32, aColumn : u32, bRow : u32, bColumn : u32, count : u32, e1 : u32, e2 : u32,
  a0 : u32, a1 : u32, a2 : u32, b0 : u32, b1 : u32, b2 : u32,
}
@group(1) @binding(0) var<uniform> p : Params;
@group(0) @binding(0) var<storage, read> a : array<f32>;
@group(0) @binding(1) var<storage, read> b : array<f32>;
@group(0) @binding(2) var<storage, read_write> c : array<f32>;
@compute @workgroup_size(${ACROSS}, ${DOWN}) fn main(@builtin(global_invocation_id) id : vec3<u32>) {
  let column = 4u * id.x;
  let row = 4u * id.y;
  let matrix = id.z;
  if (row >= p.m || column >= p.n || matrix >= p.count) { return; }
  let z2 = matrix % p.e2;
  let z1 = matrix / p.e2 % p.e1;
  let z0 = matrix / p.e2 / p.e1;
  let inA = z0 * p.a0 + z1 * p.a1 + z2 * p.a2;
  let inB = z0 * p.b0 + z1 * p.b1 + z2 * p.b2;
  ${tile.map((i) => `let a${i} = inA + min(row + ${i}u, p.m - 1u) * p.aRow;`).join("\n  ")}
  ${tile.map((i) => `let b${i} = inB + min(column + ${i}u, p.n - 1u) * p.bColumn;`).join("\n  ")}
  ${tile.map((i) => `var total${i} = vec4<f32>();`).join("\n  ")}
  for (var block = 0u; block < p.k; block += ${BLOCK}u) {
    ${tile.map((i) => `var sum${i} = vec4<f32>();`).join("\n    ")}
    for (var k = block; k < min(p.k, block + ${BLOCK}u); k++) {
      let fromB = vec4<f32>(${tile.map((i) => `b[b${i} + k * p.bRow]`).join(", ")});
      ${tile.map((i) => `sum${i} += a[a${i} + k * p.aColumn] * fromB;`).join("\n      ")}
    }
    ${tile.map((i) => `total${i} += sum${i};`).join("\n    ")}
  }
  let to = matrix * p.m * p.n;
  for (var j = 0u; j < 4u; j++) {
    if (column + j < p.n) {
      ${tile.map((i) => `if (row + ${i}u < p.m) { c[to + (row + ${i}u) * p.n + column + j] = total${i}[j]; }`).join("\n      ")}
    }
  }
}
`,
};

/** Matrices of a batch: how many, and their distances in A and B along three axes, of which e1 and e2 are the inner extents. */
export interface Batch {
  readonly count: number;
  readonly e1: number;
  readonly e2: number;
  readonly a: readonly [number, number, number];
  readonly b: readonly [number, number, number];
}

/**
 * Issues the products, unless the portable kernel does as well, or there are more matrices or tiles than a device has workgroups.
 * @returns whether it did.
 */
export function batchedGemm(
  queue: WgslQueue,
  [m, n, k]: readonly [number, number, number],
  a: MatrixLayout,
  b: MatrixLayout,
  c: DeviceArray,
  { count, e1, e2, a: ofA, b: ofB }: Batch,
): boolean {
  const groups = [Math.ceil(n / (4 * ACROSS)), Math.ceil(m / (4 * DOWN)), count] as const;
  if (m * n < WORTH || Math.max(...groups) > MOST_GROUPS) return false;
  const strides = [a.rowStride, a.columnStride, b.rowStride, b.columnStride];
  const parameters: Parameter[] = [m, n, k, ...strides, count, e1, e2, ...ofA, ...ofB].map((u) => ({ u }));
  queue.runWgsl(batched, groups, [a.array, b.array], [c], parameters);
  return true;
}

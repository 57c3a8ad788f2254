import type { DeviceArray } from "../kernel.ts";
import { MOST_GROUPS, type WgslKernel, type WgslQueue } from "../queue.ts";
import type { RandomParams } from "../../../primitives.ts";

/*
 * Philox 4×32-10 as in philox.ts, a block of four words a thread. Its words are whole numbers, and a uniform number is 24 bits of one, so that
 * these are the host's to the last bit. Normal numbers are not made here: their quantile function is in float64 everywhere, and its float32
 * would be another stream.
 */

/** Threads of a workgroup. */
const GROUP = 64;

const uniforms: WgslKernel = {
  name: "uniform",
  reads: 0,
  writes: 1,
  code: `
struct Params { low : u32, high : u32, key0 : u32, key1 : u32, size : u32, across : u32 }
@group(1) @binding(0) var<uniform> p : Params;
@group(0) @binding(0) var<storage, read_write> y : array<f32>;
// High 32 bits of a product, by halves: WGSL has the low ones.
fn multiplyHigh(a : u32, b : u32) -> u32 {
  let a0 = a & 0xffffu;
  let a1 = a >> 16u;
  let b0 = b & 0xffffu;
  let b1 = b >> 16u;
  let middle = a1 * b0 + ((a0 * b0) >> 16u);
  return a1 * b1 + (middle >> 16u) + (((middle & 0xffffu) + a0 * b1) >> 16u);
}
@compute @workgroup_size(${GROUP}) fn main(@builtin(global_invocation_id) id : vec3<u32>) {
  let block = id.x + id.y * p.across;
  let at = 4u * block;
  if (at >= p.size) { return; }
  // The counter has 64 bits.
  let low = p.low + block;
  var c = vec4<u32>(low, p.high + select(0u, 1u, low < block), 0u, 0u);
  var k0 = p.key0;
  var k1 = p.key1;
  for (var round = 0u; round < 10u; round++) {
    c = vec4<u32>(
      multiplyHigh(0xcd9e8d57u, c.z) ^ c.y ^ k0, 0xcd9e8d57u * c.z,
      multiplyHigh(0xd2511f53u, c.x) ^ c.w ^ k1, 0xd2511f53u * c.x,
    );
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  let numbers = vec4<f32>(c >> vec4<u32>(8u)) * ${2 ** -24};
  for (var i = 0u; i < min(4u, p.size - at); i++) { y[at + i] = numbers[i]; }
}
`,
};

/** Issues `uniform`. */
export function uniform(queue: WgslQueue, { key, offset }: Pick<RandomParams, "key" | "offset">, y: DeviceArray): void {
  const blocks = Math.ceil(y.size / (4 * GROUP));
  if (blocks === 0) return;
  const rows = Math.ceil(blocks / MOST_GROUPS);
  const across = Math.ceil(blocks / rows);
  const parameters = [offset % 2 ** 32, Math.floor(offset / 2 ** 32), key[0] >>> 0, key[1] >>> 0, y.size, across * GROUP];
  queue.runWgsl(
    uniforms,
    [across, rows, 1],
    [],
    [y],
    parameters.map((u) => ({ u })),
  );
}

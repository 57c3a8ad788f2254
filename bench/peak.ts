/**
 * The machine's multiply-add rate as WebAssembly can reach it: loops over vectors in registers that touch no memory. No product of
 * matrices can be faster on one thread, so a share of this rate says how good a kernel is whatever the machine.
 */
import { median } from "./measure.ts";

interface Lanes {
  readonly lanes: number;
  readonly splat: readonly number[];
  readonly multiply: readonly number[];
  readonly add: readonly number[];
  readonly fused: readonly number[];
  readonly extractLane0: readonly number[];
  readonly type: number;
  /** Opcode of `number.const` and the bytes of 0. */
  readonly zero: readonly number[];
}

// Opcodes of the SIMD and relaxed-SIMD proposals, after the prefix 0xfd; LEB128.
const float32: Lanes = {
  lanes: 4,
  splat: [0xfd, 0x13],
  multiply: [0xfd, 0xe6, 0x01],
  add: [0xfd, 0xe4, 0x01],
  fused: [0xfd, 0x85, 0x02],
  extractLane0: [0xfd, 0x1f, 0x00],
  type: 0x7d,
  zero: [0x43, 0, 0, 0, 0],
};
const float64: Lanes = {
  lanes: 2,
  splat: [0xfd, 0x14],
  multiply: [0xfd, 0xf2, 0x01],
  add: [0xfd, 0xf0, 0x01],
  fused: [0xfd, 0x87, 0x02],
  extractLane0: [0xfd, 0x21, 0x00],
  type: 0x7c,
  zero: [0x44, 0, 0, 0, 0, 0, 0, 0, 0],
};

const I32 = 0x7f;
const V128 = 0x7b;

type Kind = "multiply, add" | "fused";

/** (rounds, x, y) → number: in each round, c ← c · x + y for every one of `accumulators` vectors c. */
function loop({ splat, multiply, add, fused, extractLane0, type, zero }: Lanes, accumulators: number, kind: Kind): Uint8Array<ArrayBuffer> {
  const [x, y, first] = [3, 4, 5]; // locals after the three arguments
  const get = (local: number): number[] => [0x20, local];
  const set = (local: number): number[] => [0x21, local];
  const each = (f: (local: number) => number[]): number[] => Array.from({ length: accumulators }, (_, i) => f(first + i)).flat();
  const body = [
    ...[...get(1), ...splat, ...set(x)],
    ...[...get(2), ...splat, ...set(y)],
    ...each((c) => [...get(2), ...splat, ...set(c)]),
    ...[0x03, 0x40], // loop
    ...(kind === "fused"
      ? each((c) => [...get(c), ...get(x), ...get(y), ...fused, ...set(c)])
      : each((c) => [...get(c), ...get(x), ...multiply, ...get(y), ...add, ...set(c)])),
    ...[...get(0), 0x41, 1, 0x6b, 0x22, 0, 0x0d, 0, 0x0b], // rounds ← rounds − 1; again unless 0
    ...zero,
    ...each((c) => [...get(c), ...extractLane0, type === 0x7d ? 0x92 : 0xa0]),
    0x0b,
  ];
  const code = [1, accumulators + 2, V128, ...body];
  return new Uint8Array([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, 0x60, 3, I32, type, type, 1, type]),
    ...section(3, [1, 0]),
    ...section(7, [1, 1, 0x66, 0, 0]), // exported as "f"
    ...section(10, [1, ...leb(code.length), ...code]),
  ]);
}

function section(id: number, content: readonly number[]): number[] {
  return [id, ...leb(content.length), ...content];
}

function leb(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...leb(value >>> 7)];
}

export interface Peak {
  /** Which loop was the fastest. */
  readonly name: string;
  /** Does a number of floating-point operations. */
  readonly run: (flop: number) => void;
}

/** The fastest of several such loops: how many accumulators a compiler keeps in registers, and whether it fuses, differ. */
export function registerPeak(dtype: "float32" | "float64"): Peak {
  const lanes = { float32, float64 }[dtype];
  const candidates: Peak[] = [];
  for (const kind of ["multiply, add", "fused"] as const) {
    for (const accumulators of [8, 10, 12, 13]) {
      const binary = loop(lanes, accumulators, kind);
      if (!WebAssembly.validate(binary)) continue; // no relaxed SIMD here
      const f = new WebAssembly.Instance(new WebAssembly.Module(binary), {}).exports["f"] as (
        rounds: number,
        x: number,
        y: number,
      ) => number;
      const run = (flop: number): void => void f(Math.ceil(flop / (2 * lanes.lanes * accumulators)), 0.5, 1);
      candidates.push({ name: `${accumulators} × ${dtype === "float32" ? "f32x4" : "f64x2"} ${kind}`, run });
    }
  }
  const times = candidates.map(({ run }) => {
    const sample = (): number => {
      const start = performance.now();
      run(2e8);
      return performance.now() - start;
    };
    for (let i = 0; i < 5; i++) sample();
    return median(Array.from({ length: 5 }, sample));
  });
  return candidates[times.indexOf(Math.min(...times))] as Peak;
}

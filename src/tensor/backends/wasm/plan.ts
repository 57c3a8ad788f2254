import { BackendError, UsageError } from "../../errors.ts";
import { features, type Features } from "./features.ts";
import { binaries } from "./generated.ts";
import { runtime } from "../../runtime.ts";

export interface WasmOptions {
  /** Threads that compute, the calling one included. Default: the environment variable `KFACET_THREADS`, or one a core. */
  readonly threads?: number;
  /** Bytes that the engine's memory may grow to: at least 8 MiB, and 4 MiB a thread; at most, and by default, 4 GiB. */
  readonly memoryLimit?: number;
  /** Use fused multiply-add where there is relaxed SIMD. Results then differ in the last digits. Default true. */
  readonly relaxedSimd?: boolean;
  /**
   * `fast` (default): Winograd convolutions where they are faster. In float32 their error is about 1e-5 where that of direct sums is
   * 1e-6, relative to the largest number of a tile of 4 × 4 results rather than to each result. A number that is not finite spreads
   * to all of the tiles that read it or, where an image has fewer pixels than a kernel, to all of its image. And patch covariances of windows
   * of three rows from tiles of two rows, likewise: nearly as accurate as direct sums, relative to the largest number of the result. One that
   * is not finite spreads to blocks of window positions that never meet it, and an infinity may become NaN.
   * `exact`: direct sums everywhere, as float64 always has them.
   */
  readonly precision?: "fast" | "exact";
}

/** What an engine will be, decided before anything is made. */
export interface EnginePlan {
  readonly features: Features;
  readonly fusedMultiplyAdd: boolean;
  readonly threads: number;
  readonly precision: "fast" | "exact";
  /** Pages that the memory may grow to. */
  readonly pages: number;
  readonly binary: Uint8Array<ArrayBuffer>;
}

/** Bytes of a page of WebAssembly's memory. */
export const PAGE = 65536;
/** Pages that a memory starts with: the control page, and the kernels' own data. */
export const FIRST_PAGES = 16;
/** Scratch memory of each thread; assembly/scratch.ts relies on it. */
export const SCRATCH_BYTES = 4 * 2 ** 20;
const LEAST_BYTES = 2 ** 23;
const MOST_BYTES = 2 ** 32;
/** One page less than 32 bits address: a block's end is an address too, and must not wrap around to 0. */
const MOST_PAGES = MOST_BYTES / PAGE - 1;

/** @throws BackendError if WebAssembly or its SIMD is missing. UsageError for impossible options. */
export function planEngine({ threads, memoryLimit = MOST_BYTES, relaxedSimd = true, precision = "fast" }: WasmOptions): EnginePlan {
  if (!(memoryLimit >= LEAST_BYTES && memoryLimit <= MOST_BYTES)) {
    throw new UsageError(`wasm: memoryLimit must be from 2²³ to 2³² bytes but is ${memoryLimit}`);
  }
  if (!["fast", "exact"].includes(precision)) throw new UsageError(`wasm: precision must be "fast" or "exact" but is "${precision}"`);
  const wanted = threadCount(threads);
  const remedy = `use the "reference" backend`;
  if (typeof WebAssembly === "undefined") throw new BackendError(`wasm: this JavaScript engine has no WebAssembly; ${remedy}`);
  const found = features();
  if (!found.simd) {
    throw new BackendError(`wasm: this JavaScript engine has no 128-bit SIMD for WebAssembly; update it, or ${remedy}`);
  }
  const count = found.sharedMemory ? wanted : 1;
  const least = FIRST_PAGES * PAGE + count * SCRATCH_BYTES;
  if (memoryLimit < least) {
    throw new UsageError(`wasm: ${count} threads need ${least} bytes but memoryLimit is ${memoryLimit}; use fewer threads, or raise it`);
  }
  const fusedMultiplyAdd = relaxedSimd && found.relaxedSimd;
  const binary = decode(fusedMultiplyAdd ? binaries.relaxedSimd : binaries.simd);
  return {
    features: found,
    fusedMultiplyAdd,
    threads: count,
    precision,
    pages: Math.min(MOST_PAGES, Math.floor(memoryLimit / PAGE)),
    binary: found.sharedMemory ? binary : withoutSharing(binary),
  };
}

function decode(base64: string): Uint8Array<ArrayBuffer> {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/**
 * The same module for a memory that is not shared: the kernels use no atomic instruction, so only the import's declaration
 * differs. Clears the flag in the limits of the memory that the import section names.
 */
function withoutSharing(binary: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const text = (string: string): number[] => [string.length, ...Array.from(string, (_, i) => string.charCodeAt(i))];
  const name = [...text("env"), ...text("memory"), 2, 3]; // a memory, with maximum | shared
  const at = binary.findIndex((_, i) => name.every((byte, j) => binary[i + j] === byte));
  if (at < 0) throw new BackendError("wasm: the kernels do not import a shared memory as expected");
  const copy = binary.slice();
  copy[at + name.length - 1] = 1; // with maximum
  return copy;
}

/** @throws UsageError unless it is a whole number of at least 1. */
function threadCount(wanted: number | undefined): number {
  const fromEnvironment = runtime().env?.["KFACET_THREADS"];
  const [value, source] =
    wanted !== undefined
      ? [wanted, "threads"]
      : fromEnvironment !== undefined && fromEnvironment !== ""
        ? [Number(fromEnvironment), "KFACET_THREADS"]
        : [available(), "the number of cores"];
  if (!Number.isInteger(value) || value < 1 || value > 256) {
    throw new UsageError(`wasm: ${source} must be a whole number from 1 to 256 but is ${wanted ?? fromEnvironment}`);
  }
  return value;
}

function available(): number {
  const node = runtime().getBuiltinModule?.("node:os");
  const browser = (globalThis as { navigator?: { hardwareConcurrency?: number } }).navigator;
  return Math.min(256, node ? node.availableParallelism() : (browser?.hardwareConcurrency ?? 1));
}

import type { DType, TypedArray } from "../../dtype.ts";
import { BackendError, UsageError } from "../../errors.ts";
import { Arena, type Block } from "./arena.ts";
import { features, type Features } from "./features.ts";
import { binaries, type ExportName } from "./generated.ts";
import { controlBytes, mostArguments, Threads, type TaskFunction } from "./threads.ts";

export interface WasmOptions {
  /** Threads that compute, the calling one included. Default: the environment variable `KFACET_THREADS`, or one a core. */
  readonly threads?: number;
  /** Bytes that the engine's memory may grow to: at least 8 MiB; at most, and by default, 4 GiB. */
  readonly memoryLimit?: number;
  /** Use fused multiply-add where there is relaxed SIMD. Results then differ in the last digits. Default true. */
  readonly relaxedSimd?: boolean;
  /**
   * `fast` (default): Winograd convolutions, with a relative error of about 1e-5 in float32 where direct sums have 1e-6.
   * `exact`: direct sums everywhere.
   */
  readonly precision?: "fast" | "exact";
}

/** Work below this many nanoseconds stays on one thread: waking others costs as much. */
const WORTH_SHARING = 20_000;
/** Chunks aim at this many nanoseconds: long enough to forget the cost of taking one, short enough to balance. */
const CHUNK = 100_000;
/** At least so many, so that a thread that starts late, or is slower, has less to do. */
const CHUNKS_A_THREAD = 4;
/** Scratch memory of each thread; assembly/scratch.ts relies on it. */
const SCRATCH_BYTES = 4 * 2 ** 20;
const PAGE = 65536;
const MOST_BYTES = 2 ** 32;
/** What one thread needs to start, and some room. */
const LEAST_BYTES = 2 ** 23;
/** The kernels' own data and the control page fit in these. */
const FIRST_PAGES = 16;

const suffixes = { float32: "f32", float64: "f64", int32: "i32" } as const;
export type Suffix = (typeof suffixes)[DType];

/** What an engine will be, decided before anything is made. */
export interface EnginePlan {
  readonly features: Features;
  readonly fusedMultiplyAdd: boolean;
  readonly threads: number;
  readonly precision: "fast" | "exact";
  readonly pages: number;
  readonly binary: Uint8Array<ArrayBuffer>;
}

/** @throws BackendError if WebAssembly or its SIMD is missing. UsageError for impossible options. */
export function planEngine({ threads, memoryLimit = MOST_BYTES, relaxedSimd = true, precision = "fast" }: WasmOptions): EnginePlan {
  if (!(memoryLimit >= LEAST_BYTES && memoryLimit <= MOST_BYTES)) {
    throw new UsageError(`wasm: memoryLimit must be from 2²³ to 2³² bytes but is ${memoryLimit}`);
  }
  const count = threadCount(threads);
  const remedy = `use the "reference" backend`;
  if (typeof WebAssembly === "undefined") throw new BackendError(`wasm: this JavaScript engine has no WebAssembly; ${remedy}`);
  const found = features();
  if (!found.simd) {
    throw new BackendError(`wasm: this JavaScript engine has no 128-bit SIMD for WebAssembly; update it, or ${remedy}`);
  }
  const fusedMultiplyAdd = relaxedSimd && found.relaxedSimd;
  const binary = decode(fusedMultiplyAdd ? binaries.relaxedSimd : binaries.simd);
  return {
    features: found,
    fusedMultiplyAdd,
    threads: found.sharedMemory ? count : 1,
    precision,
    pages: Math.floor(memoryLimit / PAGE),
    binary: found.sharedMemory ? binary : withoutSharing(binary),
  };
}

/** One WebAssembly memory, its allocator, and the threads that work on it. */
export class Engine {
  readonly features: Features;
  readonly fusedMultiplyAdd: boolean;
  readonly threads: number;
  readonly precision: "fast" | "exact";
  readonly arena: Arena;
  readonly #memory: WebAssembly.Memory;
  readonly #exports: Readonly<Record<ExportName, TaskFunction>>;
  readonly #pool: Threads | null;
  #heap: Heap;

  /** @throws BackendError if there is no memory. */
  constructor({ features, fusedMultiplyAdd, threads, precision, pages }: EnginePlan, module: WebAssembly.Module) {
    this.features = features;
    this.fusedMultiplyAdd = fusedMultiplyAdd;
    this.threads = threads;
    this.precision = precision;
    try {
      this.#memory = new WebAssembly.Memory({ initial: FIRST_PAGES, maximum: MOST_BYTES / PAGE, shared: features.sharedMemory });
    } catch (cause) {
      const remedy = `close other programs, or use the "reference" backend`;
      throw new BackendError(`wasm: there is no address space for the engine's memory; ${remedy}`, { cause });
    }
    const { exports } = new WebAssembly.Instance(module, { env: { memory: this.#memory } });
    this.#exports = exports as unknown as Readonly<Record<ExportName, TaskFunction>>;
    this.#heap = viewsOf(this.#memory);
    this.arena = new Arena(this.#memory, Math.max(controlBytes, (exports["heapBase"] as () => number)() >>> 0), pages * PAGE);
    const scratch = Array.from({ length: this.threads }, () => this.arena.alloc(SCRATCH_BYTES, "scratch").start);
    (exports["scratch"] as WebAssembly.Global).value = scratch[0] as number;
    const functions = WebAssembly.Module.exports(module).flatMap(({ kind, name }) => (kind === "function" ? [name] : []));
    this.#pool = this.threads > 1 ? Threads.start(module, this.#memory, functions, scratch.slice(1)) : null;
  }

  /**
   * Runs a kernel over `items`, split among the threads. `cost` is about how many nanoseconds an item takes on one thread.
   * The kernel's export takes `(start, end, ...rest)`.
   */
  run(name: ExportName, items: number, cost: number, ...rest: number[]): void {
    const f = this.#exports[name];
    const pool = this.#pool;
    pool?.check();
    if (items <= 0) return;
    if (!pool || items === 1 || items * cost < WORTH_SHARING) {
      f(0, items, ...rest);
      return;
    }
    if (rest.length > mostArguments) throw new BackendError(`wasm: ${name} takes more than ${mostArguments} numbers`);
    const chunks = Math.min(items, Math.max(CHUNKS_A_THREAD * this.threads, Math.ceil((items * cost) / CHUNK)));
    pool.run(name, f, items, Math.ceil(items / chunks), rest);
  }

  /** Calls an export that is no task, on this thread, for its result. */
  call(name: ExportName, ...rest: number[]): number {
    this.#pool?.check();
    return (this.#exports[name] as (...rest: number[]) => number)(...rest);
  }

  /** Memory for the duration of `f`. */
  temporary<T>(bytes: number, origin: string, f: (pointer: number) => T): T {
    const block = this.arena.alloc(bytes, origin);
    try {
      return f(block.start);
    } finally {
      this.arena.free(block);
    }
  }

  /** `size` elements of the memory from byte `pointer` on. */
  view(dtype: DType, pointer: number, size: number): TypedArray {
    if (this.#heap.buffer !== this.#memory.buffer) this.#heap = viewsOf(this.#memory);
    const heap = this.#heap[dtype];
    const start = pointer / heap.BYTES_PER_ELEMENT;
    return heap.subarray(start, start + size);
  }

  /** Ends the worker threads; the engine cannot be used afterwards. */
  close(): void {
    this.#pool?.close();
  }
}

export type { Block };

export function suffixOf(dtype: DType): Suffix {
  return suffixes[dtype];
}

interface Heap extends Readonly<Record<DType, TypedArray>> {
  readonly buffer: ArrayBufferLike;
}

function viewsOf({ buffer }: WebAssembly.Memory): Heap {
  return { buffer, float32: new Float32Array(buffer), float64: new Float64Array(buffer), int32: new Int32Array(buffer) };
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
  const process = (globalThis as { process?: NodeJS.Process }).process;
  const fromEnvironment = process?.env["KFACET_THREADS"];
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
  const process = (globalThis as { process?: NodeJS.Process }).process;
  const node = process?.getBuiltinModule("node:os");
  const browser = (globalThis as { navigator?: { hardwareConcurrency?: number } }).navigator;
  return Math.min(256, node ? node.availableParallelism() : (browser?.hardwareConcurrency ?? 1));
}

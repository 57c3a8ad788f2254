import type { DType, TypedArray } from "../../dtype.ts";
import { BackendError } from "../../errors.ts";
import { Arena } from "./arena.ts";
import type { Features } from "./features.ts";
import type { ExportName } from "./generated.ts";
import { FIRST_PAGES, PAGE, SCRATCH_BYTES, type EnginePlan } from "./plan.ts";
import { controlBytes, mostArguments, Threads, type TaskFunction } from "./threads.ts";

/** Work below this many nanoseconds stays on one thread: waking others costs as much. */
const WORTH_SHARING = 20_000;
/** Chunks aim at this many nanoseconds: long enough to forget the cost of taking one, short enough to balance. */
const CHUNK = 100_000;
/** At least so many, so that a thread that starts late, or is slower, has less to do. */
const CHUNKS_A_THREAD = 4;

const suffixes = { float32: "f32", float64: "f64", int32: "i32" } as const;
export type Suffix = (typeof suffixes)[DType];

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
  #closed = false;

  /** @throws BackendError if there is no memory, or a thread cannot start. */
  constructor({ features, fusedMultiplyAdd, threads, precision, pages }: EnginePlan, module: WebAssembly.Module) {
    this.features = features;
    this.fusedMultiplyAdd = fusedMultiplyAdd;
    this.threads = threads;
    this.precision = precision;
    try {
      this.#memory = new WebAssembly.Memory({ initial: FIRST_PAGES, maximum: pages, shared: features.sharedMemory });
    } catch (cause) {
      const remedy = `open the engine with a smaller memoryLimit, or use the "reference" backend`;
      throw new BackendError(`wasm: there is no address space for ${pages} pages of memory; ${remedy}`, { cause });
    }
    const { exports } = new WebAssembly.Instance(module, { env: { memory: this.#memory } });
    this.#exports = exports as unknown as Readonly<Record<ExportName, TaskFunction>>;
    this.#heap = viewsOf(this.#memory);
    this.arena = new Arena(this.#memory, Math.max(controlBytes, (exports["heapBase"] as () => number)() >>> 0), pages * PAGE);
    const scratch = Array.from({ length: this.threads }, () => this.arena.alloc(SCRATCH_BYTES, "scratch").start);
    (exports["scratch"] as WebAssembly.Global).value = scratch[0] as number;
    const functions = WebAssembly.Module.exports(module).flatMap(({ kind, name }) => (kind === "function" ? [name] : []));
    this.#pool = this.threads > 1 ? new Threads(module, this.#memory, functions, scratch.slice(1)) : null;
  }

  /**
   * Runs a kernel over `items`, split among the threads. `cost` is about how many nanoseconds an item takes on one thread.
   * The kernel's export takes `(start, end, ...rest)`.
   */
  run(name: ExportName, items: number, cost: number, ...rest: number[]): void {
    const f = this.#exports[name];
    const pool = this.#pool;
    this.#check();
    if (!(items >= 0)) throw new BackendError(`wasm: ${name} was asked for ${items} items`);
    if (items === 0) return;
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
    this.#check();
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

  /** Ends the worker threads; the engine cannot compute afterwards. */
  close(): void {
    this.#closed = true;
    this.#pool?.close();
  }

  /** Whether it can compute no more: it was closed, or one of its threads died. */
  get closed(): boolean {
    return this.#closed || (this.#pool?.dead ?? false);
  }

  #check(): void {
    if (this.#closed) throw new BackendError(`wasm: the engine was closed; open another with openBackend("wasm")`);
    this.#pool?.check();
  }
}

export function suffixOf(dtype: DType): Suffix {
  return suffixes[dtype];
}

interface Heap extends Readonly<Record<DType, TypedArray>> {
  readonly buffer: ArrayBufferLike;
}

function viewsOf({ buffer }: WebAssembly.Memory): Heap {
  return { buffer, float32: new Float32Array(buffer), float64: new Float64Array(buffer), int32: new Int32Array(buffer) };
}

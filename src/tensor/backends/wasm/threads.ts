import { BackendError } from "../../errors.ts";
import { workerProgram, type ExportName } from "./generated.ts";
import { runtime } from "../../runtime.ts";

/** Computes items `[start, end)` of a task. How the items are split never changes a result. */
export type TaskFunction = (start: number, end: number, ...rest: number[]) => void;

/**
 * The first page of the memory is how threads talk. Int32 words, those that are waited for each on a cache line of its own:
 *
 *     0 generation   odd while a job is open; a worker sleeps until it changes
 *    16 entered      workers that are looking at the job, or working on it
 *    32 next         number of the next chunk that nobody has taken
 *    48 sleepers     workers to be woken
 *    64 waiting      1 while the main thread sleeps until `entered` changes
 *    80 failed       1 after a kernel threw in a worker; the message is at byte 2048
 *    96 task, items, chunk, count    the job: function, its items, items a chunk, how many numbers it takes (at byte 1024)
 *
 * A job is closed before `entered` is read, and a worker enters before it reads whether the job is open: so once `entered` is
 * zero nobody is left in the job, and nobody can come late to it and mix its chunks with those of the next.
 */
const WORD = { generation: 0, entered: 16, next: 32, sleepers: 48, waiting: 64, failed: 80, job: 96 } as const;
const NUMBERS_AT = 1024;
const TEXT_AT = 2048;
/** The bytes of the memory that belong to the threads. */
export const controlBytes = 65536;
export const mostArguments = 32;

/** Longest that a worker may take for a chunk; chunks take milliseconds. */
const PATIENCE_MS = 60_000;
/** What counts at most of the time between two looks, a tenth of a second apart: more is a pause of the whole process. */
const LONGEST_WAIT_MS = 5000;
const REMEDY = `open another engine with openBackend("wasm"), or one with { threads: 1 }`;
const SPINS_MAIN = 20_000;
const SPINS_WORKER = 20_000;

/** The worker threads of an engine. The thread that calls `run` works too, so there is one worker less than threads. */
export class Threads {
  readonly #control: Int32Array;
  readonly #numbers: Float64Array;
  readonly #text: Uint8Array;
  readonly #numberOf: ReadonlyMap<string, number>;
  readonly #workers: { terminate(): unknown }[] = [];
  readonly #mayWait: boolean;
  #death: BackendError | null = null;
  #closed = false;

  /**
   * @param scratch where each worker's scratch memory starts; there are as many workers.
   * @throws BackendError if one cannot start.
   */
  constructor(module: WebAssembly.Module, memory: WebAssembly.Memory, functions: readonly string[], scratch: readonly number[]) {
    this.#control = new Int32Array(memory.buffer, 0, 256);
    this.#numbers = new Float64Array(memory.buffer, NUMBERS_AT, mostArguments);
    this.#text = new Uint8Array(memory.buffer, TEXT_AT, 1024);
    this.#numberOf = new Map(functions.map((name, i) => [name, i]));
    this.#mayWait = canWait();
    const onDeath = (why: string): void => {
      if (!this.#closed) this.#death ??= new BackendError(`wasm: a worker thread died (${why}); ${REMEDY}`);
    };
    try {
      for (const place of scratch) {
        this.#workers.push(startWorker({ module, memory, functions, scratch: place, spins: SPINS_WORKER }, onDeath));
      }
    } catch (cause) {
      this.close();
      throw new BackendError(`wasm: a worker thread cannot start (${String(cause)}); open the engine with { threads: 1 }`, { cause });
    }
  }

  /** Whether a worker has died. */
  get dead(): boolean {
    return this.#death !== null;
  }

  /** @throws BackendError if a worker has died. */
  check(): void {
    if (this.#death) throw this.#death;
  }

  /** Runs a task over all `items`, in chunks of `chunk` that go to whichever thread is free. */
  run(name: ExportName, own: TaskFunction, items: number, chunk: number, rest: readonly number[]): void {
    const control = this.#control;
    control[WORD.job] = this.#numberOf.get(name) as number;
    control[WORD.job + 1] = items;
    control[WORD.job + 2] = chunk;
    control[WORD.job + 3] = rest.length;
    for (let i = 0; i < rest.length; i++) this.#numbers[i] = rest[i] as number;
    Atomics.store(control, WORD.next, 0);
    Atomics.add(control, WORD.generation, 1);
    if (Atomics.load(control, WORD.sleepers) > 0) Atomics.notify(control, WORD.generation);
    try {
      for (;;) {
        const start = Atomics.add(control, WORD.next, 1) * chunk;
        if (start >= items) break;
        own(start, Math.min(items, start + chunk), ...rest);
      }
    } finally {
      Atomics.add(control, WORD.generation, 1);
      this.#untilAllLeft(name);
      // Even if this thread failed too: the next job is not to blame.
      if (Atomics.load(control, WORD.failed) === 1) {
        this.#death = new BackendError(`wasm: ${name} failed in a worker thread: ${this.#message()}`);
      }
    }
    this.check();
  }

  #untilAllLeft(name: string): void {
    const control = this.#control;
    for (let i = 0; i < SPINS_MAIN; i++) if (Atomics.load(control, WORD.entered) === 0) return;
    let [patience, before, last] = [PATIENCE_MS, 0, performance.now()];
    Atomics.store(control, WORD.waiting, 1);
    for (let left; (left = Atomics.load(control, WORD.entered)) > 0;) {
      const now = performance.now();
      // One that leaves shows that the others are at work; and a process that was halted has not waited all that time.
      patience = left === before ? patience - Math.min(now - last, LONGEST_WAIT_MS) : PATIENCE_MS;
      [before, last] = [left, now];
      if (patience > 0) {
        if (this.#mayWait) Atomics.wait(control, WORD.entered, left, 100);
      } else {
        this.#death = new BackendError(`wasm: a worker thread has not finished its part of ${name} for ${PATIENCE_MS / 1000} s`);
        throw this.#death;
      }
    }
    Atomics.store(control, WORD.waiting, 0);
  }

  #message(): string {
    return new TextDecoder().decode(this.#text.slice(0, this.#text.indexOf(0)));
  }

  close(): void {
    this.#closed = true;
    for (const worker of this.#workers) worker.terminate();
  }
}

/** A browser's main thread may look at shared memory but not sleep on it. */
function canWait(): boolean {
  try {
    Atomics.wait(new Int32Array(new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer), 0, 1, 0);
    return true;
  } catch (error) {
    if (error instanceof TypeError) return false;
    throw error;
  }
}

/** What of a browser's globals is used here; this project is compiled without the types of the DOM. */
interface Browser {
  readonly Worker: new (url: string) => {
    postMessage(data: unknown): void;
    terminate(): void;
    addEventListener(type: string, listener: (event: { readonly message?: string }) => void): void;
  };
  readonly Blob: new (parts: readonly string[], options: { readonly type: string }) => object;
  readonly URL: { createObjectURL(blob: object): string; revokeObjectURL(url: string): void };
}

function startWorker(data: object, onDeath: (why: string) => void): { terminate(): unknown } {
  const node = runtime().getBuiltinModule?.("node:worker_threads");
  if (node) {
    // Without the modules that this process preloads: if one of them computes with kfacet, it would start workers without end.
    const worker = new node.Worker(workerProgram, { eval: true, workerData: data, execArgv: [], env: {} });
    worker.unref(); // a script that is done exits
    worker.on("error", (error) => onDeath(String(error)));
    worker.on("exit", (code) => onDeath(`exit code ${code}`));
    return worker;
  }
  const browser = globalThis as unknown as Browser;
  const url = browser.URL.createObjectURL(new browser.Blob([workerProgram], { type: "text/javascript" }));
  const worker = new browser.Worker(url);
  worker.addEventListener("error", ({ message }) => onDeath(message ?? "error"));
  // Its first and only message is that it has started.
  worker.addEventListener("message", () => browser.URL.revokeObjectURL(url));
  worker.postMessage(data);
  return worker;
}

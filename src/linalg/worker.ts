import { BackendError, UsageError, type Tensor } from "../tensor/index.ts";
import { runtime } from "../tensor/runtime.ts"; // no part of the interface: its type is Node's
import { routines, type Reply, type Request, type RoutineName, type Routines } from "./routines.ts";
import { buffersOf, pack, tensorsIn, unpack, unpackError } from "./wire.ts";

export interface LinalgWorkerOptions {
  /** Threads that its engine computes with. Default 1. */
  readonly threads?: number;
}

/** A call that has not been answered. */
interface Call {
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: Error) => void;
}

/**
 * A thread beside this one that computes linear algebra, with an engine and memory of its own, started when it is first called. Its
 * results are those of the routines called here, bit for bit, for operands that were copied when the call was made; they arrive on the
 * operands' backend. Calls are computed one after the other.
 */
export class LinalgWorker {
  /**
   * The routines of the same names, computed over there. A generator is copied, too: it does not move here. Errors have the class and the
   * message that they have here. Besides, all throw BackendError if the thread cannot start or dies: a call after that starts another;
   * and UsageError after `close`.
   */
  readonly routines: Routines;
  readonly #options: object;
  readonly #calls = new Map<number, Call>();
  #thread: Thread | null = null;
  #lastCall = 0;
  #closed = false;

  constructor({ threads = 1 }: LinalgWorkerOptions = {}) {
    this.#options = { threads };
    const names = Object.keys(routines) as RoutineName[];
    const call =
      (name: RoutineName) =>
      (...operands: unknown[]) =>
        this.#call(name, operands);
    this.routines = Object.fromEntries(names.map((name) => [name, call(name)])) as unknown as Routines;
  }

  async #call(routine: RoutineName, operands: readonly unknown[]): Promise<unknown> {
    const { backend } = operands.flatMap(tensorsIn)[0] as Tensor; // each routine takes one
    const packed = await Promise.all(operands.map(pack));
    if (this.#closed) throw closed(routine);
    const { name, options } = backend;
    const request: Request = {
      call: ++this.#lastCall,
      routine,
      operands: packed,
      backend: { name, options: { ...options, ...this.#options } },
    };
    const reply = await new Promise<Reply>((resolve, reject) => {
      this.#thread ??= this.#start();
      try {
        this.#thread.postMessage(request, packed.flatMap(buffersOf));
      } catch (cause) {
        if (this.#calls.size === 0) this.#thread.unref();
        throw new UsageError(`linalg: an option of ${routine} cannot go to another thread: ${String(cause)}`, { cause });
      }
      this.#thread.ref(); // somebody waits
      this.#calls.set(request.call, { resolve, reject });
    });
    if ("error" in reply) throw unpackError(reply.error);
    return unpack(reply.result, backend);
  }

  #start(): Thread {
    const thread: Thread = startThread(
      (reply) => {
        const call = this.#calls.get(reply.call);
        this.#calls.delete(reply.call);
        if (this.#calls.size === 0) thread.unref(); // a script that is done exits
        call?.resolve(reply);
      },
      (why) => {
        if (thread !== this.#thread) return;
        this.#thread = null;
        void thread.terminate(); // a browser only tells of an error
        const remedy = "another call starts another; if that dies, too, compute without a worker";
        this.#abandon(new BackendError(`linalg: the worker thread died (${why}); ${remedy}`));
      },
    );
    return thread;
  }

  #abandon(error: Error): void {
    for (const { reject } of this.#calls.values()) reject(error);
    this.#calls.clear();
  }

  /**
   * Lets answers that have come meanwhile arrive. They do when this thread returns to the event loop, and one that waits for nothing but
   * what it computes itself never does.
   */
  arrivals(): Promise<void> {
    return new Promise((resolve) => {
      if (typeof setImmediate === "function") setImmediate(resolve);
      else setTimeout(resolve, 0);
    });
  }

  /** Ends the thread: at once, or, if it computes on a GPU, as soon as that has let go. Calls that have not been answered fail. */
  close(): void {
    this.#closed = true;
    const thread = this.#thread;
    this.#thread = null;
    void thread?.terminate();
    this.#abandon(closed("a call that had not been answered"));
  }
}

function closed(what: string): UsageError {
  return new UsageError(`linalg: ${what} met a worker that was closed; make another one`);
}

/** Asks the thread to end what it computes on a device, and then itself. */
export interface End {
  /** Becomes 1 where it may be ended by others. */
  readonly ended: Int32Array<SharedArrayBuffer>;
}

/** How long a process that exits waits for that, in milliseconds. */
const PATIENCE = 5000;

interface Thread {
  postMessage(request: Request, transfer: ArrayBuffer[]): void;
  /** Ends it: at once, or soon. */
  terminate(): unknown;
  /** Keeps the process alive, as long as there is something to wait for. */
  ref(): void;
  unref(): void;
}

/** What of a browser's workers is used here. Bundlers look for `new Worker(new URL(…, import.meta.url))` by these very names. */
declare const Worker: new (
  url: URL,
  options: { readonly type: "module" },
) => {
  postMessage(request: Request, transfer: ArrayBuffer[]): void;
  terminate(): void;
  addEventListener(type: string, listener: (event: { readonly data?: Reply; readonly message?: string }) => void): void;
};

function startThread(onReply: (reply: Reply) => void, onDeath: (why: string) => void): Thread {
  const { execArgv = [] } = runtime();
  const node = runtime().getBuiltinModule?.("node:worker_threads");
  if (node) {
    // From the sources, a thread must be told how to read TypeScript, as this process was. Otherwise nothing is preloaded: a module that
    // computes with kfacet would start threads without end.
    const fromSources = import.meta.url.endsWith(".ts");
    const program = new URL(fromSources ? "./workerProgram.ts" : "./workerProgram.js", import.meta.url);
    const preloads = execArgv.filter((argument, i) => argument.startsWith("--import") || execArgv[i - 1] === "--import");
    const worker = new node.Worker(program, { execArgv: fromSources ? preloads : [], env: {} });
    // Dawn ends the whole process if a thread is ended while its device has an answer to come: such a thread ends by itself.
    let hasDevice = false;
    const ended = new Int32Array(new SharedArrayBuffer(4));
    const end = (): void => {
      worker.postMessage({ ended } satisfies End);
    };
    const atExit = (): void => {
      end();
      Atomics.wait(ended, 0, 0, PATIENCE);
    };
    worker.on("message", onReply);
    worker.on("error", (error) => {
      onDeath(String(error));
    });
    worker.on("exit", (code) => {
      process.off("exit", atExit);
      onDeath(`exit code ${code}`);
    });
    return {
      postMessage: (request, transfer) => {
        if (request.backend.name === "gpu" && !hasDevice) {
          hasDevice = true;
          process.once("exit", atExit);
        }
        worker.postMessage(request, transfer);
      },
      terminate: () => (hasDevice ? end() : worker.terminate()),
      ref: () => worker.ref(),
      unref: () => worker.unref(),
    };
  }
  const worker = new Worker(new URL("./workerProgram.js", import.meta.url), { type: "module" });
  worker.addEventListener("message", ({ data }) => {
    if (data) onReply(data);
  });
  worker.addEventListener("error", ({ message = "error" }) => {
    onDeath(message);
  });
  const nothing = (): void => undefined;
  return {
    postMessage: (request, transfer) => {
      worker.postMessage(request, transfer);
    },
    terminate: () => {
      worker.terminate();
    },
    ref: nothing,
    unref: nothing,
  };
}

/**
 * The program of a worker thread. It imports nothing: scripts/kernels.js turns it into text, so that it starts alike in Node,
 * in a browser and from a bundle. The other side, and the protocol, are in threads.ts.
 */

interface WorkerStart {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  /** Exported functions by number. */
  readonly functions: readonly string[];
  /** Where this thread's scratch memory starts. */
  readonly scratch: number;
  /** How often to look for work before sleeping. */
  readonly spins: number;
}

type TaskFunction = (start: number, end: number, ...rest: number[]) => void;

function begin({ module, memory, functions, scratch, spins }: WorkerStart): void {
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  (exports["scratch"] as WebAssembly.Global).value = scratch;
  const tasks = functions.map((name) => exports[name] as TaskFunction);
  const control = new Int32Array(memory.buffer, 0, 256);
  const numbers = new Float64Array(memory.buffer, 1024, 32);
  const text = new Uint8Array(memory.buffer, 2048, 1024);

  // The layout of the control words is that of threads.ts.
  const [generation, entered, next, sleepers, waiting, failed] = [0, 16, 32, 48, 64, 80] as const;
  const [task, items, chunk, count] = [96, 97, 98, 99] as const;

  for (let seen = 0; ;) {
    for (let i = 0; i < spins && Atomics.load(control, generation) === seen; i++);
    if (Atomics.load(control, generation) === seen) {
      Atomics.add(control, sleepers, 1);
      Atomics.wait(control, generation, seen);
      Atomics.sub(control, sleepers, 1);
    }
    Atomics.add(control, entered, 1);
    seen = Atomics.load(control, generation);
    // Odd: a job is open, and stays open until every thread that entered has left.
    if ((seen & 1) === 1) {
      try {
        const f = tasks[control[task] as number] as TaskFunction;
        const [total, step] = [control[items] as number, control[chunk] as number];
        const rest = Array.from(numbers.subarray(0, control[count]));
        for (;;) {
          const start = Atomics.add(control, next, 1) * step;
          if (start >= total) break;
          f(start, Math.min(total, start + step), ...rest);
        }
      } catch (error) {
        text.fill(0);
        text.set(new TextEncoder().encode(String(error)).subarray(0, text.length - 1));
        Atomics.store(control, failed, 1);
      }
    }
    Atomics.sub(control, entered, 1);
    if (Atomics.load(control, waiting) === 1) Atomics.notify(control, entered);
  }
}

// A dynamic import by name would have to be resolved; this is there in every Node ≥ 20.16.
const node = (globalThis as { process?: Partial<NodeJS.Process> }).process?.getBuiltinModule?.("node:worker_threads");
if (node) {
  begin(node.workerData as WorkerStart);
} else {
  const scope = globalThis as unknown as {
    onmessage: ((event: { readonly data: WorkerStart }) => void) | null;
    postMessage(message: string): void;
  };
  scope.onmessage = ({ data }) => {
    scope.postMessage("started");
    begin(data);
  };
}

/**
 * The program of the thread behind a `LinalgWorker`: answers one request after the other, with backends of its own.
 */
import { openBackend, type Backend, type BackendName } from "../tensor/index.ts";
import { runtime } from "../tensor/runtime.ts";
import { answer, type Reply, type Request } from "./routines.ts";
import { buffersOf, packError } from "./wire.ts";
import type { End } from "./worker.ts";

const backends = new Map<string, Promise<Backend>>();
let ending = false;

/** Opened anew if it could not be opened, or can compute no more: the call that met that has failed, and another one may succeed. */
async function backendOf({ name, options }: Request["backend"]): Promise<Backend> {
  const key = JSON.stringify([name, options]);
  const before = await backends.get(key)?.catch(() => undefined);
  if (before && !before.closed) return before;
  before?.close?.(); // of one that died, something may be running still
  const backend = openBackend(name as BackendName, options);
  backends.set(key, backend);
  return backend;
}

async function reply(request: Request): Promise<Reply> {
  try {
    return await answer(request, await backendOf(request.backend));
  } catch (error) {
    return { call: request.call, error: packError(error) };
  }
}

let previous: Promise<void> = Promise.resolve();

function listen(post: (reply: Reply, transfer: ArrayBuffer[]) => void): (request: Request) => void {
  return (request) => {
    // One at a time: two at once would take the memory of both and be no faster.
    previous = previous.then(async () => {
      if (ending) return; // nobody waits for it any more
      const result = await reply(request);
      post(result, "result" in result ? buffersOf(result.result) : []);
    });
  };
}

/**
 * Ends what is computed on a device by closing it, and then says that the thread may be ended: Dawn ends the whole process if a thread ends
 * while it has an answer of the device's to come.
 */
async function end({ ended }: End): Promise<void> {
  ending = true;
  for (const backend of backends.values()) (await backend.catch(() => undefined))?.close?.();
  await previous;
  // What was not waited for, such as the outcome of a validation, has failed with the device, and comes within a round.
  for (let round = 0; round < 2; round++) await new Promise((resolve) => setTimeout(resolve, 0));
  Atomics.store(ended, 0, 1);
  Atomics.notify(ended, 0);
}

interface WorkerScope {
  onmessage: ((event: { readonly data: Request }) => void) | null;
  postMessage(message: Reply, transfer: ArrayBuffer[]): void;
}

const port = runtime().getBuiltinModule?.("node:worker_threads").parentPort;
if (port) {
  const handle = listen((result, transfer) => {
    port.postMessage(result, transfer);
  });
  port.on("message", (message: Request | End) => {
    if ("ended" in message) {
      void end(message).then(() => {
        port.close();
      });
    } else handle(message);
  });
} else {
  const scope = globalThis as unknown as WorkerScope;
  const handle = listen((result, transfer) => {
    scope.postMessage(result, transfer);
  });
  scope.onmessage = ({ data }) => {
    handle(data);
  };
}

/**
 * The program of the thread behind a `LinalgWorker`: answers one request after the other, with backends of its own.
 */
import { openBackend, type Backend, type BackendName } from "../tensor/index.ts";
import { runtime } from "../tensor/runtime.ts";
import { answer, type Reply, type Request } from "./routines.ts";
import { buffersOf, packError } from "./wire.ts";

const backends = new Map<string, Promise<Backend>>();

function backendOf({ name, options }: Request["backend"]): Promise<Backend> {
  const key = JSON.stringify([name, options]);
  const backend = backends.get(key) ?? openBackend(name as BackendName, options);
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
      const result = await reply(request);
      post(result, "result" in result ? buffersOf(result.result) : []);
    });
  };
}

interface WorkerScope {
  onmessage: ((event: { readonly data: Request }) => void) | null;
  postMessage(message: Reply, transfer: ArrayBuffer[]): void;
}

const port = runtime().getBuiltinModule?.("node:worker_threads").parentPort;
if (port) {
  port.on(
    "message",
    listen((result, transfer) => {
      port.postMessage(result, transfer);
    }),
  );
} else {
  const scope = globalThis as unknown as WorkerScope;
  const handle = listen((result, transfer) => {
    scope.postMessage(result, transfer);
  });
  scope.onmessage = ({ data }) => {
    handle(data);
  };
}

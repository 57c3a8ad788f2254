import type { Backend, View } from "./backend.ts";
import { bytesPerElement, type DType } from "./dtype.ts";
import { DTypeError } from "./errors.ts";
import type { Shape } from "./shape.ts";

/**
 * A backend's buffer with a count of the handles on it. Tensors that share it (after `reshape` or `keep`) each count once;
 * at zero the buffer goes back to its backend. WASM and GPU memory is not garbage collected: this is what frees it.
 */
export class Storage {
  readonly backend: Backend;
  readonly buffer: unknown;
  readonly dtype: DType;
  references = 0;

  /** @param origin the operation that needs it, for reports on who holds memory. */
  constructor(backend: Backend, dtype: DType, size: number, origin: string) {
    if (!Object.hasOwn(bytesPerElement, dtype)) {
      throw new DTypeError(`there is no dtype "${dtype}"; known: ${Object.keys(bytesPerElement).join(", ")}`);
    }
    this.backend = backend;
    this.dtype = dtype;
    this.buffer = backend.alloc(dtype, size, origin);
  }

  retain(): this {
    this.references++;
    return this;
  }

  release(): void {
    if (--this.references === 0) this.backend.free(this.buffer);
  }

  view(shape: Shape): View<unknown> {
    return { buffer: this.buffer, shape, dtype: this.dtype };
  }
}

/**
 * The safety net for handles that nobody disposed: when one is garbage collected, its storage is released. Handles that were
 * handed to the user and then dropped hold memory until the collector runs, so in development the first one is reported.
 */
const forgotten = new FinalizationRegistry<{ storage: Storage; report: boolean }>(({ storage, report }) => {
  if (report) warnOnce();
  storage.release();
});

let warned = false;
function warnOnce(): void {
  const environment = (globalThis as { process?: { env?: Record<string, string | undefined> } }).process?.env?.["NODE_ENV"];
  if (warned || environment !== "development") return;
  warned = true;
  console.warn("kfacet: a tensor was garbage collected without dispose(); use tidy(…), `using` or dispose() to free memory at once");
}

export function releaseWhenForgotten(handle: object, storage: Storage, report: boolean): void {
  forgotten.register(handle, { storage, report }, handle);
}

export function rememberNoMore(handle: object): void {
  forgotten.unregister(handle);
}

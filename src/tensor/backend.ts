import type { DType, TypedArray } from "./dtype.ts";
import { BackendError, UsageError } from "./errors.ts";
import type { Inputs, Outputs, Params, PrimitiveName } from "./primitives.ts";
import type { Shape } from "./shape.ts";
import { openReference } from "./backends/reference/index.ts";

/**
 * A backend is a set of kernels over buffers of its own. It computes one primitive at a time into outputs that were allocated
 * for it. It never sees a tape, a layer, a reference count or a scope, and it never hands work to another backend.
 */
export interface Backend<Buffer = unknown> {
  readonly name: string;
  alloc(dtype: DType, size: number): Buffer;
  free(buffer: Buffer): void;
  upload(buffer: Buffer, data: TypedArray): void;
  /** A copy of the buffer's contents on the host. */
  download(buffer: Buffer): Promise<TypedArray>;
  /** The same without waiting, where the device shares the host's memory. */
  downloadSync?(buffer: Buffer): TypedArray;
  /** Runs the kernel of one primitive. @throws BackendError naming primitive and dtype where there is none. */
  run<K extends KernelName>(name: K, inputs: Inputs<K, View<Buffer>>, params: Params<K>, outputs: Outputs<K, View<Buffer>>): void;
  memory(): MemoryStatistics;
  /** Starts the peak figures of `memory()` anew from what is in use now. */
  resetPeak(): void;
}

/** Every primitive but `reshape`, which only renames a buffer's shape. */
export type KernelName = Exclude<PrimitiveName, "reshape">;

/** What a kernel gets to see of a tensor. */
export interface View<Buffer> {
  readonly buffer: Buffer;
  readonly shape: Shape;
  readonly dtype: DType;
}

export interface MemoryStatistics {
  /** Buffers handed out and not yet freed. */
  readonly buffers: number;
  readonly bytes: number;
  readonly peakBuffers: number;
  readonly peakBytes: number;
  /** Bytes kept for reuse. */
  readonly pooledBytes: number;
}

const openers: Readonly<Record<string, () => Promise<Backend>>> = {
  reference: () => Promise.resolve(openReference()),
};

const open = new Map<string, Backend>();
let current: Backend | undefined;

/**
 * Opens a backend by name, once: later calls give the same one. Names: `reference` (plain loops on the CPU).
 * @throws BackendError for a name that does not exist, listing those that do.
 */
export async function openBackend(name: string): Promise<Backend> {
  const opened = open.get(name);
  if (opened) return opened;
  const opener = Object.hasOwn(openers, name) ? openers[name] : undefined;
  if (!opener) throw new BackendError(`openBackend: there is no backend "${name}"; known: ${backendNames().join(", ")}`);
  const backend = await opener();
  open.set(name, backend);
  return backend;
}

export function backendNames(): string[] {
  return Object.keys(openers);
}

/** The backend of tensors made without naming one. Opens the reference backend on first use. */
export function defaultBackend(): Backend {
  current ??= open.get("reference");
  if (!current) {
    current = openReference();
    open.set("reference", current);
  }
  return current;
}

/** Makes an opened backend the default. Tensors that exist stay where they are. */
export function setDefaultBackend(backend: Backend): void {
  if (![...open.values()].includes(backend)) {
    throw new UsageError(`setDefaultBackend: "${backend.name}" was not opened by openBackend(…)`);
  }
  current = backend;
}

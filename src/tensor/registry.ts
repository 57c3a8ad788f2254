import type { Backend } from "./backend.ts";
import type { GpuOptions } from "./backends/gpu/index.ts";
import { openReference } from "./backends/reference/index.ts";
import { openWasm, openWasmAsync, type WasmOptions } from "./backends/wasm/index.ts";
import { BackendError, UsageError } from "./errors.ts";

/** Options by backend. */
export interface BackendOptions {
  readonly reference: Record<never, never>;
  readonly wasm: WasmOptions;
  /** `threads`: of the engine at its side, its own then, for linear algebra in float64. Default: what `openBackend("wasm")` gives. */
  readonly gpu: GpuOptions & Pick<WasmOptions, "threads">;
}
export type BackendName = keyof BackendOptions;

const openers: { readonly [Name in BackendName]: (options?: BackendOptions[Name]) => Promise<Backend> } = {
  wasm: openWasmAsync,
  reference: () => Promise.resolve(openReference()),
  gpu: openGpuWithHost,
};

async function openGpuWithHost({ threads, ...options }: BackendOptions["gpu"] = {}): Promise<Backend> {
  // Loaded only where it is asked for: it brings gpu.js with it, and in Node Dawn.
  const { openGpu } = await import("./backends/gpu/index.ts");
  if (threads === undefined) return openGpu(options, await openBackend("wasm"));
  const host = await openWasmAsync({ threads });
  try {
    const gpu = await openGpu(options, host);
    const close = gpu.close?.bind(gpu);
    gpu.close = () => {
      close?.();
      host.close?.();
    };
    return gpu;
  } catch (error) {
    host.close?.();
    throw error;
  }
}

/** Backends by name, as opened without options. */
const open = new Map<string, Backend>();
const opening = new Map<string, Promise<Backend>>();
const known = new WeakSet<Backend>();
let current: Backend | undefined;

/**
 * Opens a backend by name: `wasm` (SIMD and threads; the default), `reference` (plain loops on one thread) or `gpu` (WebGPU). Without options
 * it is opened once, and later calls give the same one until it is closed; with options, a new one that `close()` ends. A default that can
 * compute no more is none from a call without options on: the next use opens the engine.
 *
 * @throws BackendError for a name that does not exist, listing those that do, or if it cannot run here, saying why.
 */
export async function openBackend<Name extends BackendName>(name: Name, options: BackendOptions[Name]): Promise<Backend>;
export async function openBackend(name: string): Promise<Backend>;
export async function openBackend(name: string, options?: BackendOptions[BackendName]): Promise<Backend> {
  if (!isName(name)) throw new BackendError(`openBackend: there is no backend "${name}"; known: ${backendNames().join(", ")}`);
  if (options) {
    const own = await (openers[name] as (options: object) => Promise<Backend>)(options);
    known.add(own);
    return own;
  }
  // A default that can compute no more makes room: tensors are made on the engine again, until another one is chosen.
  if (current?.closed) current = undefined;
  const opened = openedBefore(name);
  if (opened) return opened;
  const pending = opening.get(name) ?? openers[name]();
  opening.set(name, pending);
  try {
    const backend = await pending;
    // `defaultBackend` may have opened it meanwhile.
    const first = openedBefore(name);
    if (first && first !== backend) backend.close?.();
    return first ?? remember(name, backend);
  } finally {
    opening.delete(name);
  }
}

function isName(name: string): name is BackendName {
  return Object.hasOwn(openers, name);
}

/** The shared backend, unless it can compute no more: then the next one is opened anew. */
function openedBefore(name: string): Backend | undefined {
  const backend = open.get(name);
  if (!backend?.closed) return backend;
  backend.close?.(); // of a backend that died, something may be running still
  open.delete(name);
  return undefined;
}

function remember(name: string, backend: Backend): Backend {
  open.set(name, backend);
  known.add(backend);
  return backend;
}

export function backendNames(): readonly string[] {
  return Object.keys(openers);
}

/**
 * The backend of tensors made without naming one. Opens the WebAssembly engine on first use.
 * @throws UsageError on a browser's main thread, where that takes `await openBackend("wasm")`; BackendError if it cannot run here.
 */
export function defaultBackend(): Backend {
  current ??= openedBefore("wasm");
  if (!current) {
    if ("document" in globalThis) {
      throw new UsageError(
        `a browser's main thread cannot open a backend while it computes; call setDefaultBackend(await openBackend("wasm")) first`,
      );
    }
    current = remember("wasm", openWasm());
  }
  return current;
}

/**
 * Makes an opened backend the default, or none (null): then the next use opens the WebAssembly engine. Tensors that exist stay where they are.
 * Returns what was the default until then, null if nothing was.
 */
export function setDefaultBackend(backend: Backend | null): Backend | null {
  if (backend && !known.has(backend)) throw new UsageError(`setDefaultBackend: "${backend.name}" was not opened by openBackend(…)`);
  const before = current ?? null;
  current = backend ?? undefined;
  return before;
}

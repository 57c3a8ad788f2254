import type { Backend } from "./backend.ts";
import { openReference } from "./backends/reference/index.ts";
import { openWasm } from "./backends/wasm/index.ts";
import { BackendError, UsageError } from "./errors.ts";

const openers: Readonly<Record<string, () => Promise<Backend>>> = {
  reference: () => Promise.resolve(openReference()),
  wasm: () => Promise.resolve(openWasm()),
};

const open = new Map<string, Backend>();
const opening = new Map<string, Promise<Backend>>();
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
  const pending = opening.get(name) ?? opener();
  opening.set(name, pending);
  try {
    const backend = await pending;
    // `defaultBackend` may have opened it meanwhile.
    const first = open.get(name) ?? backend;
    open.set(name, first);
    return first;
  } finally {
    opening.delete(name);
  }
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

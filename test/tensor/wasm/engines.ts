import { afterAll, vi } from "vitest";
import type { WasmBackend, WasmOptions } from "../../../src/tensor/backends/wasm/index.ts";
import { openBackend } from "../../../src/tensor/index.ts";

/** Opens an engine that may be the default one, and ends it after the tests of the file. */
export async function openEngine(options: WasmOptions = {}): Promise<WasmBackend> {
  const backend = (await openBackend("wasm", options)) as WasmBackend;
  afterAll(() => backend.engine.close());
  return backend;
}

/** The same where memory cannot be shared, as in a browser's page that is not isolated. */
export async function openUnshared(options: WasmOptions = {}): Promise<WasmBackend> {
  vi.stubGlobal("SharedArrayBuffer", undefined);
  try {
    return await openEngine(options);
  } finally {
    vi.unstubAllGlobals();
  }
}

/** From now on the engine cuts every job that can be cut into about this many chunks, however small it is. */
export function cut(backend: WasmBackend, chunks: number): WasmBackend {
  const { engine } = backend;
  const run = engine.run.bind(engine);
  // A chunk is as many items as take 100 μs.
  engine.run = (name, items, _, ...rest) => run(name, items, (chunks * 100_000) / items, ...rest);
  return backend;
}

import { availableParallelism } from "node:os";
import { openBackend, type Backend } from "../src/index.ts";
import { openWasm, type WasmOptions } from "../src/tensor/backends/wasm/index.ts";
import type { BenchOptions } from "./report.ts";

/** A backend to be timed. */
export interface Engine {
  readonly threads: number;
  /** `1 thread`, `2 threads`. */
  readonly label: string;
  readonly backend: Backend;
  close(): void;
}

/** One engine for one thread and, where the machine and the backend have them, one for two. */
export async function openEngines(options: BenchOptions): Promise<readonly [Engine, ...Engine[]]> {
  const single = await openEngine(options, { threads: 1 });
  const several = options.backend === "wasm" && availableParallelism() > 1;
  return several ? [single, await openEngine(options, { threads: 2 })] : [single];
}

export async function openEngine({ backend }: BenchOptions, options: WasmOptions & { readonly threads: number }): Promise<Engine> {
  const { threads } = options;
  const label = `${threads} thread${threads > 1 ? "s" : ""}`;
  if (backend === "reference") return { threads, label, backend: await openBackend(backend), close: () => undefined };
  const opened = openWasm(options);
  return { threads, label, backend: opened, close: () => opened.engine.close() };
}

import { afterAll } from "vitest";
import type { GpuOptions } from "../../../src/tensor/backends/gpu/index.ts";
import { openBackend } from "../../../src/tensor/index.ts";
import { whileDefault } from "../../backends.ts";
import { describeOnGpu } from "./gpu.ts";

/** Tests with a device of their own as the default backend, opened as users do: with the CPU's engine for linear algebra at its side. */
export function describeByDefaultOnGpu(name: string, statements: () => void, options: GpuOptions = {}): void {
  describeOnGpu(name, () => {
    whileDefault(async () => {
      const backend = await openBackend("gpu", options);
      afterAll(() => backend.close?.());
      return backend;
    });
    statements();
  });
}

import { afterAll, describe, test } from "vitest";
import { BackendError } from "../../../src/tensor/index.ts";
import { openWebGpu as openGpu, type WebGpuBackend as GpuBackend, type GpuOptions } from "../../../src/tensor/backends/gpu/index.ts";

/** Whether this machine has a device; why not, otherwise. */
const missing = await openGpu().then(
  (backend) => {
    backend.close?.();
    return null;
  },
  (error: unknown) => {
    if (!(error instanceof BackendError)) throw error;
    return error.message;
  },
);

/** What KFACET_REQUIRE names must be there: then its absence is a failure, not a reason to skip. */
const required = (process.env["KFACET_REQUIRE"] ?? "").split(",").includes("gpu");

/** Tests that need a device: skipped by name where there is none, unless one is required. */
export function describeOnGpu(name: string, statements: (open: (options?: GpuOptions) => Promise<GpuBackend>) => void): void {
  if (missing !== null && required) {
    test(`${name}: KFACET_REQUIRE names a gpu`, () => {
      throw new Error(missing);
    });
    return;
  }
  describe.skipIf(missing !== null)(missing === null ? name : `${name} (skipped: ${missing})`, () => {
    const opened: GpuBackend[] = [];
    afterAll(() => {
      for (const backend of opened) backend.close?.();
    });
    statements(async (options) => {
      const backend = await openGpu(options);
      opened.push(backend);
      return backend;
    });
  });
}

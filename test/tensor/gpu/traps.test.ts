import { beforeAll, test } from "vitest";
import type { WebGpuBackend } from "../../../src/tensor/backends/gpu/index.ts";
import { describeOnGpu } from "./gpu.ts";
import { avoids, traps } from "./traps.ts";

describeOnGpu("on a GPU", (open) => {
  let backend: WebGpuBackend;
  beforeAll(async () => {
    backend = await open({ overrides: false });
  });

  test.each(traps)("%s", async (trap) => {
    await avoids(trap, backend);
  });

  test("with kernels in WGSL, randomness is the reference's, bit for bit", async () => {
    await avoids("randomness is the reference's, bit for bit", await open());
  });
});

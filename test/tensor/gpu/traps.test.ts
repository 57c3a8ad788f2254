import { beforeAll, describe, test } from "vitest";
import type { WebGpuBackend } from "../../../src/tensor/backends/gpu/index.ts";
import { kernelNames } from "../../larger.ts";
import { describeOnGpu } from "./gpu.ts";
import { avoids, onPoisonedBlocks, traps } from "./traps.ts";

describeOnGpu("on a GPU", (open) => {
  describe.each([true, false])("with kernels in WGSL: %s,", (overrides) => {
    let backend: WebGpuBackend;
    beforeAll(async () => {
      backend = await open({ overrides });
    });

    test.each(traps)("%s", async (trap) => {
      await avoids(trap, backend);
    });

    test.each(kernelNames)("what lies behind an operand in its block is not read by %s", async (name) => {
      await onPoisonedBlocks(name, backend, 6);
    });
  });
});

import { describe, expect, test } from "vitest";
import { kernelNames } from "../larger.ts";
import { traps } from "../tensor/gpu/traps.ts";
import { describeInBrowser } from "./chromium.ts";

/* In a browser the primitives mean what they mean in Node. Its software driver is slow: small samples, and few of them. */

describeInBrowser("Chromium", (call) => {
  describe.each([
    ["webgpu", /WebGPU, float32, tensors of up to \d+ MiB$/],
    ["webgl2", /WebGL2, float32, tensors of up to \d+ MiB$/],
  ] as const)("with %s", (api, description) => {
    test("says what computes", async () => {
      expect(await call("describe", api)).toMatch(description);
    });

    test.each(kernelNames)("%s equals its definition", async (name) => {
      await call("equalsDefinition", api, name, 6);
    });

    test.each(traps)("%s", async (trap) => {
      await call("avoids", api, trap);
    });

    test("says what to do once the device is lost", async () => {
      const { message, closed } = await call("loses", api);
      expect(message).toMatch(/gpu: the device is lost .* openBackend\("gpu"\).*"wasm"/);
      expect(closed).toBe(true);
    });
  });

  test("a kernel in WGSL that WebGPU does not compile is told of with its name and text", async () => {
    expect(await call("refusesWgsl")).toMatch(/gpu: the kernel "half a kernel" does not compile: .*let x = ; }/s);
  });

  describe("a worker beside the page has a device of the same kind, and computes the same bits", () => {
    test.each([
      ["webgpu", true],
      ["webgpu", false],
      ["webgl2", false],
    ] as const)("%s, with kernels in WGSL: %s", async (api, overrides) => {
      const { beside, here } = await call("besideAndHere", api, overrides);
      expect(here).toHaveLength(12 + 90 * 12);
      expect(beside).toEqual(here);
    });
  });

  test("a kernel that WebGL2 does not compile is told of with its name and text", async () => {
    expect(await call("refusesKernel")).toMatch(/gpu: the kernel "bits" does not compile: .*#version 300 es/s);
  });
});

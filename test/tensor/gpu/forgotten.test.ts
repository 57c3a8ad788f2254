import { afterEach, expect, test, vi } from "vitest";
import type { Backend } from "../../../src/tensor/index.ts";
import { collectGarbage } from "../../train/living.ts";
import { describeOnGpu } from "./gpu.ts";

/* Tensors that are dropped without dispose() and outside of tidy: the collector gives their memory back, and the first is reported. */

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
});

/** A backend in modules of their own: the report comes once in a process. */
async function freshly(name: "wasm" | "gpu") {
  vi.resetModules();
  const { openBackend, Tensor } = await import("../../../src/tensor/index.ts");
  return { backend: await openBackend(name, {}), Tensor };
}

async function collected(backend: Backend, buffers: number): Promise<void> {
  await vi.waitFor(
    () => {
      collectGarbage();
      expect(backend.memory().buffers).toBe(buffers);
    },
    { timeout: 10_000 },
  );
}

/** What is printed when ten results of `exp` are dropped on a backend, and all of them come back. */
async function reportsOf(name: "wasm" | "gpu", environment: string): Promise<unknown[][]> {
  vi.stubEnv("NODE_ENV", environment);
  const warn = vi.spyOn(console, "warn").mockImplementation(() => undefined);
  const { backend, Tensor } = await freshly(name);
  const { buffers, bytes } = backend.memory();
  const drop = (): void => {
    using x = Tensor.from([1, 2, 3], { backend });
    for (let i = 0; i < 10; i++) x.exp();
  };
  drop();
  expect(backend.memory().buffers).toBe(buffers + 10);
  await collected(backend, buffers);
  expect(backend.memory().bytes).toBe(bytes);
  backend.close?.();
  return warn.mock.calls;
}

describeOnGpu("tensors on a GPU that are dropped without dispose", () => {
  test("come back, and are reported once, as on the CPU, by what made them", async () => {
    const reports = await reportsOf("gpu", "development");
    expect(reports).toEqual([
      [expect.stringMatching(/^kfacet: a float32 tensor made by exp was garbage collected without dispose\(\); use tidy/)],
    ]);
    expect(await reportsOf("wasm", "development")).toEqual(reports);
  });

  test("come back without a word where it is not developed", async () => {
    expect(await reportsOf("gpu", "production")).toEqual([]);
  });

  test("are read to the end by commands that were issued before, whatever takes their place", async () => {
    const { backend, Tensor } = await freshly("gpu");
    const size = 5000;
    const results = Array.from({ length: 10 }, (_, i) => Tensor.full([size], i, { backend }).add(1));
    await collected(backend, 10);
    const others = results.map(() => Tensor.from(new Float32Array(size).fill(-1), { backend }));
    for (const [i, result] of results.entries()) expect(new Set(await result.data())).toEqual(new Set([i + 1]));
    for (const tensor of [...results, ...others]) tensor.dispose();
    backend.close?.();
  });
});

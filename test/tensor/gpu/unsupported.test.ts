import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { WebGpuBackend } from "../../../src/tensor/backends/gpu/index.ts";
import { apply, BackendError, DataError, formatShape, Tensor, tidy } from "../../../src/tensor/index.ts";
import { describeOnGpu } from "./gpu.ts";

/* What a GPU cannot do is refused by name, with what to do. (test/tensor/gpu/queue.test.ts has what a device refuses.) */

describeOnGpu("a GPU", (open) => {
  let backend: WebGpuBackend;
  beforeAll(async () => {
    backend = await open();
  });
  const ones = (...shape: number[]): Tensor => Tensor.ones(shape, { backend });

  test.each([
    ["permute", () => ones(2, 3, 2, 3, 2, 3).permute([5, 4, 3, 2, 1, 0]), [3, 2, 3, 2, 3, 2], 6],
    ["add", () => ones(2, 1, 2, 1, 2, 1).add(ones(1, 3, 1, 3, 1, 3)), [2, 3, 2, 3, 2, 3], 6],
    ["broadcastTo", () => ones(2, 1, 2, 1, 2, 1, 2).broadcastTo([2, 3, 2, 3, 2, 3, 2]), [2, 3, 2, 3, 2, 3, 2], 7],
    ["slice", () => ones(3, 3, 3, 3, 3, 3).slice([0, 0, 0, 0, 0, 0], [2, 2, 2, 2, 2, 2]), [2, 2, 2, 2, 2, 2], 6],
    // Of a batch, the matrix's own axes are two of them.
    ["matmul", () => ones(2, 1, 2, 1, 2, 2).matmul(ones(1, 3, 1, 3, 2, 2)), [2, 3, 2, 3, 2, 2], 6],
  ] as const)("walks no more than five axes that are not contiguous: %s", (name, f, shape, axes) => {
    const { buffers } = backend.memory();
    let error: unknown;
    try {
      tidy(f);
    } catch (reason) {
      error = reason;
    }
    expect(error).toBeInstanceOf(BackendError);
    expect((error as Error).message).toBe(
      `gpu: ${name} of shape ${formatShape(shape)} walks ${axes} axes that are not contiguous, and can do 5; permute or reshape it in two steps`,
    );
    expect(backend.memory().buffers).toBe(buffers);
  });

  test("picks no rows and no pixels where there are none", () => {
    const indices = tidy(() => Tensor.zeros([2], { dtype: "int32", backend }).keep());
    expect(() => tidy(() => ones(0, 3).gather(indices))).toThrow(new DataError("gather: 2 indices into 0 rows; every one is out of range"));
    expect(tidy(() => ones(0, 3).gather(Tensor.zeros([0], { dtype: "int32", backend })).shape)).toEqual([0, 3]);
    indices.dispose();
    const places = (): Tensor => Tensor.zeros([1, 1, 1, 3], { dtype: "int32", backend });
    expect(() => tidy(() => apply("maxPool2dGather", [ones(1, 0, 2, 3), places()], {}))).toThrow(
      new DataError("maxPool2dGather: 3 indices into 0 pixels; every one is out of range"),
    );
  });

  test("walks as many axes as there are where they are contiguous, or of one", async () => {
    const size = 2 ** 8;
    using x = tidy(() => Tensor.arange(size, { backend }).reshape(Array.from({ length: 8 }, () => 2)));
    using y = tidy(() => x.add(x).permute([4, 5, 6, 7, 0, 1, 2, 3]));
    expect([...(await y.data())]).toEqual(Array.from({ length: size }, (_, i) => 2 * ((i % 16) * 16 + Math.floor(i / 16))));
    using z = tidy(() => ones(1, 2, 1, 1, 3, 1, 1, 2).permute([7, 6, 5, 4, 3, 2, 1, 0]));
    expect(z.shape).toEqual([2, 1, 1, 3, 1, 1, 2, 1]);
    expect(new Set(await z.data())).toEqual(new Set([1]));
  });
});

describe("without the npm package webgpu", () => {
  afterEach(() => {
    vi.doUnmock("webgpu");
    vi.resetModules();
  });

  test("the device gpu says so, and why, and the others work", async () => {
    vi.resetModules();
    vi.doMock("webgpu", () => {
      throw new Error("/lib/libc.so.6: version `GLIBC_2.38' not found");
    });
    const { BackendError: Fault, openBackend } = await import("../../../src/tensor/index.ts");
    const error: unknown = await openBackend("gpu").catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(Fault);
    // Between the brackets, the test runner says in its own words that it threw for us.
    expect((error as Error).message).toMatch(/^gpu: the npm package webgpu cannot be loaded \(.+\); compute on the device "wasm"$/s);
    expect(((error as Error).cause as Error).cause).toMatchObject({ message: "/lib/libc.so.6: version `GLIBC_2.38' not found" });
    expect((await openBackend("wasm")).name).toBe("wasm");
  });
});

import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { WebGpuBackend } from "../../../src/tensor/backends/gpu/index.ts";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import { apply, BackendError, Tensor, tidy, type Backend, type TypedArray } from "../../../src/tensor/index.ts";
import { describeOnGpu } from "./gpu.ts";
import { thrown } from "./refusals.ts";

/* A fast way that needs more than a device has, of workgroups or of memory beside the operands, is split or left to the portable kernel. */

const window = { stride: [1, 1], padding: { top: 0, bottom: 0, left: 0, right: 0 }, dilation: [1, 1] } as const;
const conv = { ...window, groups: 1 };

/** Small whole numbers, so that sums are exact in float32. */
const numbers = (seed: number, ...shape: number[]) => {
  const size = shape.reduce((product, extent) => product * extent, 1);
  return { shape, data: Float32Array.from({ length: size }, (_, i) => ((i * 7 + seed * 3) % 11) - 5) };
};

type Operation = (first: Tensor, second: Tensor) => Tensor;

/** What an operation makes of operands on a backend. */
async function on(backend: Backend, f: Operation, operands: readonly ReturnType<typeof numbers>[]): Promise<TypedArray> {
  using y = tidy(() => f(...(operands.map(({ shape, data }) => Tensor.from(data, { shape, backend })) as [Tensor, Tensor])));
  return await y.data();
}

const conv2d: Operation = (x, weight) => apply("conv2d", [x, weight], conv)[0];
const inputGradientOf =
  (height: number, width: number): Operation =>
  (gradient, weight) =>
    apply("conv2dInputGradient", [gradient, weight], { ...conv, inputSize: [height, width] })[0];
const weightGradientOf =
  (...kernel: [number, number]): Operation =>
  (x, gradient) =>
    apply("conv2dWeightGradient", [x, gradient], { ...conv, kernel })[0];

describeOnGpu("kernels in WGSL", (open) => {
  let backend: WebGpuBackend;
  beforeAll(async () => {
    backend = await open();
  });
  afterEach(() => {
    vi.restoreAllMocks();
  });
  const reference = openReference();

  /** More than workgroups there are of sixteen or four elements each, along an axis. */
  const [channels, taps] = [16 * 65535 + 1, [512, 513]] as const;
  const wide: [what: string, f: Operation, operands: ReturnType<typeof numbers>[]][] = [
    ["a convolution to a million channels", conv2d, [numbers(1, 1, 1, 1, 1), numbers(2, channels, 1, 1, 1)]],
    ["an input gradient of a million channels", inputGradientOf(1, 1), [numbers(1, 1, 1, 1, 1), numbers(2, 1, 1, 1, channels)]],
    ["a weight gradient of a million channels", weightGradientOf(1, 1), [numbers(1, 1, 1, 1, channels), numbers(2, 1, 1, 1, 1)]],
    ["a weight gradient to a million channels", weightGradientOf(1, 1), [numbers(1, 1, 1, 1, 1), numbers(2, 1, 1, 1, channels)]],
    ["the weight gradient of a kernel of 512 by 513", weightGradientOf(...taps), [numbers(1, 1, ...taps, 1), numbers(2, 1, 1, 1, 1)]],
  ]; // prettier-ignore

  test.each(wide)("more workgroups than a device has: %s", async (_, f, operands) => {
    const { buffers } = backend.memory();
    expect(await on(backend, f, operands)).toBeAllclose(await on(reference, f, operands), { relative: 0 });
    expect(backend.memory().buffers).toBe(buffers);
  });

  test("more workgroups than a device has: a weight gradient whose sums over rows are made in fewer parts then", async () => {
    const fast = vi.spyOn(backend.queue, "runWgsl");
    const [f, operands] = [weightGradientOf(363, 362), [numbers(1, 1, 366, 362, 1), numbers(2, 1, 4, 1, 1)]] as const;
    expect(await on(backend, f, operands)).toBeAllclose(await on(reference, f, operands), { relative: 0 });
    expect(fast.mock.calls.map(([{ name }]) => name)).toContain("conv2dWeightGradient");
  });

  test("more workgroups than a device has: the covariance of patches of an image that is 524,300 wide", async () => {
    const covariance: Operation = (x) => apply("patchCovariance", [x], { ...window, kernel: [1, 1], bias: true, scale: 1 / 524_300 })[0];
    const x = numbers(1, 1, 1, 524_300, 1);
    expect(await on(backend, covariance, [x])).toBeAllclose(await on(reference, covariance, [x]), { relative: 1e-6 });
  });

  describe("copies that are larger than a kernel sees", () => {
    const limited: [what: string, limit: number, f: Operation, operands: ReturnType<typeof numbers>[]][] = [
      ["of the left matrix", 135_000, (a, b) => a.matmul(b), [numbers(1, 1001, 33), numbers(2, 33, 16)]],
      ["of the right matrix", 135_000, (a, b) => a.matmul(b), [numbers(1, 16, 33), numbers(2, 33, 1001)]],
      ["of an image", 29_000, conv2d, [numbers(1, 2, 32, 32, 3), numbers(2, 4, 3, 3, 3)]],
      ["of a kernel", 29_000, conv2d, [numbers(1, 2, 5, 5, 5), numbers(2, 145, 3, 3, 5)]],
      ["of a gradient, on the way to the input's", 26_000, inputGradientOf(32, 32), [numbers(1, 2, 30, 30, 3), numbers(2, 3, 3, 3, 3)]],
      ["of an image, on the way to a weight's gradient", 29_000, weightGradientOf(3, 3), [numbers(1, 2, 32, 32, 3), numbers(2, 2, 30, 30, 4)]],
      ["of a gradient, on the way to a weight's", 40_000, weightGradientOf(3, 3), [numbers(1, 2, 32, 32, 4), numbers(2, 2, 30, 30, 5)]],
    ]; // prettier-ignore

    test.each(limited)("are not made: %s", async (_, limit, f, operands) => {
      const fast = vi.spyOn(backend.queue, "runWgsl");
      const expected = await on(backend, f, operands);
      const wgsl = fast.mock.calls.length;
      expect(wgsl).toBeGreaterThan(0);
      vi.spyOn(backend.queue.memory, "limit", "get").mockReturnValue(limit);
      const { buffers } = backend.memory();
      expect(await on(backend, f, operands)).toEqual(expected);
      expect(fast.mock.calls.length).toBe(wgsl);
      expect(backend.memory().buffers).toBe(buffers);
      expect(expected).toEqual(await on(reference, f, operands));
    });
  });
});

describeOnGpu("a GPU", (open) => {
  test("refuses to scatter to places that float32 cannot hold", async () => {
    const backend = await open();
    using y = Tensor.ones([1, 1, 1, 1], { backend });
    using indices = Tensor.from([0], { shape: [1, 1, 1, 1], dtype: "int32", backend });
    const scatter = (height: number): Promise<Error> =>
      thrown(() => apply("maxPool2dScatter", [y, indices], { inputSize: [height, 4096] })[0].dispose());
    const error = await scatter(4097);
    expect(error).toBeInstanceOf(BackendError);
    expect(error.message).toMatch(/^gpu: maxPool2dScatter has the int32 16781312.*16777216/);
    await expect(scatter(4096)).rejects.toThrow("nothing was thrown");
  });
});

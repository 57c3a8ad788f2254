import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import type { WebGpuBackend as GpuBackend } from "../../../src/tensor/backends/gpu/index.ts";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import { apply, isFloat, Tensor, unscoped, type KernelName, type PrimitiveName } from "../../../src/tensor/index.ts";
import { kernelNames, larger, writtenOut, type LargerSample } from "../../larger.ts";
import { samples, type HostTensor, type Sample } from "../../samples.ts";
import { emptySamples } from "../empty.ts";
import { equalsDefinition, ERROR, requireNear, resultsOf } from "./checks.ts";
import { describeOnGpu } from "./gpu.ts";

/*
 * The device computes what the primitives mean, with and without kernels in WGSL: on small samples what their definitions say, on larger
 * ones what the reference backend says in float64.
 */

/** They draw other numbers in float32 than in float64. */
const drawing: readonly PrimitiveName[] = ["uniform", "normal"];

describeOnGpu("a GPU", (open) => {
  const oracle = openReference();

  describe.each([true, false])("with kernels in WGSL: %s", (overrides) => {
    let backend: GpuBackend;
    beforeAll(async () => {
      backend = await open({ overrides });
    });

    test.each(kernelNames)("%s equals its definition", async (name) => {
      const before = backend.memory().buffers;
      await fc.assert(
        fc.asyncProperty(samples[name], (sample: Sample<typeof name>) => equalsDefinition(name, sample, backend)),
        { numRuns: 20 },
      );
      expect(backend.memory().buffers).toBe(before);
    });

    test("batches whose matrices lie as far apart as axes of a matrix could", async () => {
      const numbers = (...shape: number[]): HostTensor => {
        const size = shape.reduce((product, extent) => product * extent, 1);
        return { kind: "float", shape, values: Array.from({ length: size }, (_, i) => ((i * 7) % 11) - 5) };
      };
      for (const [m, k, n] of [
        [3, 2, 5],
        [1, 1, 1],
        [2, 1, 2],
        [1, 2, 1],
        [2, 2, 2],
      ] as const) {
        // prettier-ignore
        const inputs: [HostTensor, HostTensor] = [numbers(4, 2, m, k), numbers(4, 2, k, n)];
        await equalsDefinition("matmul", { inputs, params: { transposeA: false, transposeB: false } }, backend);
      }
    });

    test("more rows than a device has workgroups for", async () => {
      const window = { kernel: [1, 1], stride: [1, 1], padding: { top: 0, bottom: 0, left: 0, right: 0 }, dilation: [1, 1] } as const;
      const [tall, images] = [2_097_200, 530_000];
      const x = Tensor.from(
        new Float32Array(tall).map((_, i) => i % 5),
        { shape: [tall, 1], backend },
      );
      const w = Tensor.from([[2]], { backend });
      const product = unscoped(() => x.matmul(w));
      const data = await product.data();
      expect(data.every((value, i) => value === 2 * (i % 5))).toBe(true);
      const ones = unscoped(() => Tensor.ones([images, 1, 1, 1], { backend }));
      const [covariance] = unscoped(() => apply("patchCovariance", [ones], { ...window, bias: true, scale: 1 / images }));
      expect(await covariance.data()).toBeAllclose([1, 1, 1, 1], { relative: ERROR });
      for (const tensor of [x, w, product, ones, covariance]) tensor.dispose();
    });

    test.each(emptySamples)("$name of $what", async ({ name, sample }) => {
      await equalsDefinition(name, sample, backend);
    });

    test.each(kernelNames)("%s of larger operands equals the reference", async (name) => {
      const equalsOracle = async <K extends KernelName>(of: K, sample: LargerSample<K>): Promise<void> => {
        const written = writtenOut(sample);
        const expected = await resultsOf(of, written, oracle, drawing.includes(of) ? "float32" : "float64");
        for (const [i, { dtype, data, shape }] of (await resultsOf(of, written, backend)).entries()) {
          expect(shape).toEqual(expected[i]?.shape);
          requireNear(data, expected[i]?.data ?? [], isFloat(dtype) ? ERROR : 0);
        }
      };
      await fc.assert(
        fc.asyncProperty(larger[name], (sample: LargerSample<typeof name>) => equalsOracle(name, sample)),
        { numRuns: 6 },
      );
    });
  });
});

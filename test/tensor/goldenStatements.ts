import { describe, expect, test } from "vitest";
import { z } from "zod";
import { vjp } from "../../src/autograd/index.ts";
import { averagePool2d, batchNorm, conv2d, linear, maxPool2d, sizeOf, softmaxCrossEntropy, Tensor, tidy } from "../../src/tensor/index.ts";
import {
  goldenArray,
  goldenTensor,
  nchwToNhwc,
  oihwToOhwi,
  linearCrossEntropy,
  read,
  readGolden,
  type GoldenArray,
  type Precision,
} from "../golden.ts";

/* Forward results and gradients against PyTorch's, on whichever backend is the default one while the tests run. */

const pairOf = z.tuple([z.number(), z.number()]);

interface Comparison {
  readonly actual: Tensor | undefined;
  readonly expected: GoldenArray;
}

/** The results are disposed. */
async function expectEqual(relative: number, comparisons: Readonly<Record<string, Comparison>>): Promise<void> {
  for (const [name, { actual, expected }] of Object.entries(comparisons)) {
    expect(actual?.shape, name).toEqual(expected.shape);
    expect(await read(actual), name).toBeAllclose(expected.data, { relative });
  }
}

/** Forward results and gradients of primitives. */
export function primitivesEqualPyTorch(precisions: readonly Precision[]): void {
  describe.each(precisions)("%s equals PyTorch:", (dtype, relative) => {
    const tensor = (array: GoldenArray): Tensor => goldenTensor(array, dtype);

    const convolutions = readGolden(
      "conv2d",
      z.object({
        cases: z.array(
          z.object({
            name: z.string(),
            stride: pairOf,
            padding: pairOf,
            dilation: pairOf,
            groups: z.number(),
            x: goldenArray,
            weight: goldenArray,
            bias: goldenArray.nullable(),
            y: goldenArray,
            grad_y: goldenArray,
            grad_x: goldenArray,
            grad_weight: goldenArray,
            grad_bias: goldenArray.nullable(),
          }),
        ),
      }),
    ).cases;

    test.each(convolutions)(
      "conv2d $name",
      async ({ x, weight, bias, y, grad_y, grad_x, grad_weight, grad_bias, stride, padding, dilation, groups }) => {
        const { outputs, gradients } = tidy(() => {
          const inputs = [tensor(nchwToNhwc(x)), tensor(oihwToOhwi(weight)), ...(bias ? [tensor(bias)] : [])];
          const f = (...[image, kernel, offset]: Tensor[]): Tensor =>
            conv2d(image as Tensor, kernel as Tensor, offset ?? null, { stride, padding, dilation, groups });
          return vjp(f, inputs, [tensor(nchwToNhwc(grad_y))]);
        });
        await expectEqual(relative, {
          y: { actual: outputs[0], expected: nchwToNhwc(y) },
          gradX: { actual: gradients[0], expected: nchwToNhwc(grad_x) },
          gradWeight: { actual: gradients[1], expected: oihwToOhwi(grad_weight) },
          ...(grad_bias && { gradBias: { actual: gradients[2], expected: grad_bias } }),
        });
      },
    );

    test("there are ten convolutions", () => {
      expect(convolutions).toHaveLength(10);
    });

    const normalisation = readGolden(
      "batchnorm2d",
      z.object({
        eps: z.number(),
        momentum: z.number(),
        weight: goldenArray,
        bias: goldenArray,
        train: z.array(
          z.object({
            x: goldenArray,
            y: goldenArray,
            grad_y: goldenArray,
            grad_x: goldenArray,
            grad_weight: goldenArray,
            grad_bias: goldenArray,
            running_mean: goldenArray,
            running_var: goldenArray,
          }),
        ),
      }),
    );

    test.each(normalisation.train)("batchNorm, training step", async ({ x, y, grad_y, grad_x, grad_weight, grad_bias }) => {
      const { outputs, gradients } = tidy(() => {
        const inputs = [tensor(nchwToNhwc(x)), tensor(normalisation.weight), tensor(normalisation.bias)];
        const f = (...[image, scale, shift]: Tensor[]): Tensor =>
          batchNorm(image as Tensor, scale as Tensor, shift as Tensor, normalisation.eps).y;
        return vjp(f, inputs, [tensor(nchwToNhwc(grad_y))]);
      });
      await expectEqual(relative, {
        y: { actual: outputs[0], expected: nchwToNhwc(y) },
        gradX: { actual: gradients[0], expected: nchwToNhwc(grad_x) },
        gradScale: { actual: gradients[1], expected: grad_weight },
        gradShift: { actual: gradients[2], expected: grad_bias },
      });
    });

    test("batchNorm's mean and rstd give PyTorch's running statistics", async () => {
      const { eps, momentum, train, weight, bias } = normalisation;
      let [runningMean, runningVariance] = [new Array<number>(3).fill(0), new Array<number>(3).fill(1)];
      for (const step of train) {
        const { mean, rstd } = tidy(() => {
          const statistics = batchNorm(tensor(nchwToNhwc(step.x)), tensor(weight), tensor(bias), eps);
          return { mean: statistics.mean, rstd: statistics.rstd };
        });
        const count = sizeOf(step.x.shape) / 3;
        // rstd = (var + ε)^(−1/2) with the biased variance; running_var holds the unbiased one.
        const batchVariances = Array.from(await read(rstd), (r) => ((r ** -2 - eps) * count) / (count - 1));
        const batchMeans = [...(await read(mean))];
        const decay = (old: number[], next: number[]): number[] => old.map((v, c) => (1 - momentum) * v + momentum * (next[c] as number));
        [runningMean, runningVariance] = [decay(runningMean, batchMeans), decay(runningVariance, batchVariances)];
        expect(runningMean).toBeAllclose(step.running_mean.data, { relative });
        expect(runningVariance).toBeAllclose(step.running_var.data, { relative });
      }
    });

    const poolings = readGolden(
      "pool",
      z.object({
        cases: z.array(
          z.object({
            name: z.string(),
            op: z.enum(["max", "avg", "adaptive_avg"]),
            kernel: z.number().default(0),
            stride: z.number().default(0),
            padding: z.number().default(0),
            count_include_pad: z.boolean().default(true),
            x: goldenArray,
            y: goldenArray,
            grad_y: goldenArray,
            grad_x: goldenArray,
          }),
        ),
      }),
    ).cases;

    test.each(poolings.filter(({ op }) => op !== "adaptive_avg"))(
      "pooling $name",
      async ({ op, kernel, stride, padding, count_include_pad, x, y, grad_y, grad_x }) => {
        const { outputs, gradients } = tidy(() => {
          const f = (image: Tensor): Tensor =>
            op === "max"
              ? maxPool2d(image, kernel, { stride, padding })
              : averagePool2d(image, kernel, { stride, padding, countPadding: count_include_pad });
          return vjp((image) => f(image), [tensor(nchwToNhwc(x))], [tensor(nchwToNhwc(grad_y))]);
        });
        await expectEqual(relative, {
          y: { actual: outputs[0], expected: nchwToNhwc(y) },
          gradX: { actual: gradients[0], expected: nchwToNhwc(grad_x) },
        });
      },
    );

    const dense = readGolden("linear_ce", linearCrossEntropy);

    test("linear", async () => {
      const { x, weight, bias, y, grad_y, grad_x, grad_weight, grad_bias } = dense.linear;
      const { outputs, gradients } = tidy(() => {
        const f = (...[input, w, b]: Tensor[]): Tensor => linear(input as Tensor, w as Tensor, b);
        return vjp(f, [tensor(x), tensor(weight), tensor(bias)], [tensor(grad_y)]);
      });
      await expectEqual(relative, {
        y: { actual: outputs[0], expected: y },
        gradX: { actual: gradients[0], expected: grad_x },
        gradWeight: { actual: gradients[1], expected: grad_weight },
        gradBias: { actual: gradients[2], expected: grad_bias },
      });
    });

    test.each(dense.cross_entropy)(
      "cross-entropy $name",
      async ({ smoothing, convention, logits, target, loss, log_softmax, grad_logits }) => {
        const { outputs, gradients, logSoftmax } = tidy(() => {
          const labels = goldenTensor(target);
          const options = { smoothing, smoothingKind: convention === "torch" ? "uniform" : "off-target" } as const;
          const x = tensor(logits);
          const f = (at: Tensor): Tensor => softmaxCrossEntropy(at, labels, options).mean();
          return { ...vjp((at) => f(at), [x], [Tensor.from(1, { dtype })]), logSoftmax: x.logSoftmax() };
        });
        await expectEqual(relative, {
          loss: { actual: outputs[0], expected: { shape: [], data: [loss] } },
          gradLogits: { actual: gradients[0], expected: grad_logits },
          logSoftmax: { actual: logSoftmax, expected: log_softmax },
        });
      },
    );
  });
}

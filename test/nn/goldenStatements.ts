import { describe, expect, test } from "vitest";
import { z } from "zod";
import { valueAndGrad, vjp } from "../../src/autograd/index.ts";
import { AdaptiveAveragePool2d, AveragePool2d, BatchNorm2d, crossEntropy, Linear, MaxPool2d, type Module } from "../../src/nn/index.ts";
import { tidy, type FloatDType, type Tensor } from "../../src/tensor/index.ts";
import {
  goldenArray,
  goldenTensor,
  nchwToNhwc,
  linearCrossEntropy,
  read,
  readGolden,
  type GoldenArray,
  type Precision,
} from "../golden.ts";

/* Layers against PyTorch's, on whichever backend is the default one while the tests run. */

const images = (array: GoldenArray, dtype: FloatDType): Tensor => goldenTensor(nchwToNhwc(array), dtype);
const pixels = (array: GoldenArray): readonly number[] => nchwToNhwc(array).data;

const passes = { x: goldenArray, y: goldenArray, grad_y: goldenArray, grad_x: goldenArray };

/** Forward results and gradients of layers. */
export function layersEqualPyTorch(precisions: readonly Precision[]): void {
  describe.each(precisions)("PyTorch's numbers in %s", (dtype, relative) => {
    const pool = readGolden(
      "pool",
      z.object({
        cases: z.array(
          z.object({
            ...passes,
            name: z.string(),
            op: z.enum(["max", "avg", "adaptive_avg"]),
            kernel: z.int().default(0),
            stride: z.int().default(0),
            padding: z.int().default(0),
            count_include_pad: z.boolean().default(true),
            output: z.tuple([z.int(), z.int()]).default([0, 0]),
          }),
        ),
      }),
    );

    test.each(pool.cases)(
      "pooling: $name",
      async ({ op, kernel, stride, padding, count_include_pad: countPadding, output, x, y, grad_y, grad_x }) => {
        const layers: Record<typeof op, () => Module> = {
          max: () => new MaxPool2d(kernel, { stride, padding }),
          avg: () => new AveragePool2d(kernel, { stride, padding, countPadding }),
          adaptive_avg: () => new AdaptiveAveragePool2d(output),
        };
        const layer = layers[op]();
        const { outputs, gradients } = tidy(() => vjp((input) => layer.forward(input), [images(x, dtype)], [images(grad_y, dtype)]));
        expect(await read(outputs[0])).toBeAllclose(pixels(y), { relative });
        expect(await read(gradients[0])).toBeAllclose(pixels(grad_x), { relative });
      },
    );

    test("batch normalisation: two steps of training, then evaluation with the running statistics", async () => {
      const backward = { ...passes, grad_weight: goldenArray, grad_bias: goldenArray };
      const golden = readGolden(
        "batchnorm2d",
        z.object({
          eps: z.number(),
          momentum: z.number(),
          weight: goldenArray,
          bias: goldenArray,
          train: z.array(z.object({ ...backward, running_mean: goldenArray, running_var: goldenArray })),
          eval: z.object(backward),
        }),
      );
      const layer = new BatchNorm2d(3, { dtype, epsilon: golden.eps, momentum: golden.momentum });
      tidy(() => {
        layer.weight.assign(goldenTensor(golden.weight, dtype));
        layer.bias.assign(goldenTensor(golden.bias, dtype));
      });
      const check = async (step: { [key in keyof typeof backward]: GoldenArray }): Promise<void> => {
        let y: Tensor | undefined;
        const { gradients } = tidy(() => {
          const [x, g] = [images(step.x, dtype), images(step.grad_y, dtype)];
          return valueAndGrad(() => {
            const output = layer.forward(x);
            y = output.hold();
            return output.multiply(g).sum();
          }, [x, layer.weight, layer.bias]);
        });
        expect(await read(y)).toBeAllclose(pixels(step.y), { relative });
        expect(await read(gradients[0])).toBeAllclose(pixels(step.grad_x), { relative });
        expect(await read(gradients[1])).toBeAllclose(step.grad_weight.data, { relative });
        expect(await read(gradients[2])).toBeAllclose(step.grad_bias.data, { relative });
      };
      const checkRunning = async (mean: GoldenArray, variance: GoldenArray): Promise<void> => {
        expect(await layer.runningMean.value.data()).toBeAllclose(mean.data, { relative });
        expect(await layer.runningVariance.value.data()).toBeAllclose(variance.data, { relative });
      };
      for (const step of golden.train) {
        await check(step);
        await checkRunning(step.running_mean, step.running_var);
      }
      layer.eval();
      await check(golden.eval);
      const last = golden.train.at(-1) as (typeof golden.train)[number];
      await checkRunning(last.running_mean, last.running_var);
    });

    const dense = readGolden("linear_ce", linearCrossEntropy);

    test("a linear layer", async () => {
      const { x, weight, bias, y, grad_y, grad_x, grad_weight, grad_bias } = dense.linear;
      const layer = new Linear(7, 4, { dtype });
      tidy(() => {
        layer.loadStateDict(
          new Map([
            ["weight", goldenTensor(weight, dtype)],
            ["bias", goldenTensor(bias, dtype)],
          ]),
        );
      });
      const { output, gradients } = tidy(() => {
        const input = goldenTensor(x, dtype);
        const loss = (): Tensor => layer.forward(input).multiply(goldenTensor(grad_y, dtype)).sum();
        return {
          output: layer.forward(input),
          gradients: valueAndGrad(loss, [input, layer.weight, layer.bias as typeof layer.weight]).gradients,
        };
      });
      expect(await read(output)).toBeAllclose(y.data, { relative });
      for (const [i, expected] of [grad_x, grad_weight, grad_bias].entries()) {
        expect(await read(gradients[i])).toBeAllclose(expected.data, { relative });
      }
    });

    test.each(dense.cross_entropy)("cross-entropy: $name", async ({ smoothing, convention, logits, target, loss, grad_logits }) => {
      const smoothingKind = convention === "torch" ? "uniform" : "off-target";
      const { value, gradients } = tidy(() => {
        const [input, labels] = [goldenTensor(logits, dtype), goldenTensor(target)];
        return valueAndGrad(() => crossEntropy(input, labels, { smoothing, smoothingKind }), [input]);
      });
      expect(await read(value)).toBeAllclose([loss], { relative });
      expect(await read(gradients[0])).toBeAllclose(grad_logits.data, { relative });
    });
  });
}

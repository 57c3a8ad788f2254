import { describe, expect, test } from "vitest";
import { z } from "zod";
import { valueAndGrad, vjp } from "../../src/autograd/index.ts";
import { AdaptiveAveragePool2d, AveragePool2d, BatchNorm2d, crossEntropy, Linear, MaxPool2d, type Module } from "../../src/nn/index.ts";
import { tidy, type FloatDType, type Tensor } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";
import { goldenArray, goldenTensor, nchwToNhwc, linearCrossEntropy, readGolden, type GoldenArray } from "../golden.ts";

const dtypes: [dtype: FloatDType, relative: number][] = [
  ["float64", 1e-9],
  ["float32", 1e-4],
];

const images = (array: GoldenArray, dtype: FloatDType): Tensor => goldenTensor(nchwToNhwc(array), dtype);
const pixels = (array: GoldenArray): readonly number[] => nchwToNhwc(array).data;

const passes = { x: goldenArray, y: goldenArray, grad_y: goldenArray, grad_x: goldenArray };

eachBackend(() => {
  describe.each(dtypes)("PyTorch's numbers in %s", (dtype, relative) => {
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
      ({ op, kernel, stride, padding, count_include_pad: countPadding, output, x, y, grad_y, grad_x }) => {
        const layers: Record<typeof op, () => Module> = {
          max: () => new MaxPool2d(kernel, { stride, padding }),
          avg: () => new AveragePool2d(kernel, { stride, padding, countPadding }),
          adaptive_avg: () => new AdaptiveAveragePool2d(output),
        };
        const layer = layers[op]();
        tidy(() => {
          const { outputs, gradients } = vjp((input) => layer.forward(input), [images(x, dtype)], [images(grad_y, dtype)]);
          expect(outputs[0]?.dataSync()).toBeAllclose(pixels(y), { relative });
          expect(gradients[0]?.dataSync()).toBeAllclose(pixels(grad_x), { relative });
        });
      },
    );

    test("batch normalisation: two steps of training, then evaluation with the running statistics", () => {
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
      const check = (step: { [key in keyof typeof backward]: GoldenArray }): void => {
        tidy(() => {
          const [x, g] = [images(step.x, dtype), images(step.grad_y, dtype)];
          let y: Tensor | undefined;
          const { gradients } = valueAndGrad(() => {
            y = layer.forward(x).keep();
            expect(y.dataSync()).toBeAllclose(pixels(step.y), { relative });
            return y.multiply(g).sum();
          }, [x, layer.weight, layer.bias]);
          expect(gradients[0]?.dataSync()).toBeAllclose(pixels(step.grad_x), { relative });
          expect(gradients[1]?.dataSync()).toBeAllclose(step.grad_weight.data, { relative });
          expect(gradients[2]?.dataSync()).toBeAllclose(step.grad_bias.data, { relative });
        });
      };
      for (const step of golden.train) {
        check(step);
        expect(layer.runningMean.value.dataSync()).toBeAllclose(step.running_mean.data, { relative });
        expect(layer.runningVariance.value.dataSync()).toBeAllclose(step.running_var.data, { relative });
      }
      layer.eval();
      check(golden.eval);
      const last = golden.train.at(-1);
      expect(layer.runningMean.value.dataSync()).toBeAllclose(last?.running_mean.data ?? [], { relative });
      expect(layer.runningVariance.value.dataSync()).toBeAllclose(last?.running_var.data ?? [], { relative });
    });

    const dense = readGolden("linear_ce", linearCrossEntropy);

    test("a linear layer", () => {
      const { x, weight, bias, y, grad_y, grad_x, grad_weight, grad_bias } = dense.linear;
      const layer = new Linear(7, 4, { dtype });
      tidy(() => {
        layer.loadStateDict(
          new Map([
            ["weight", goldenTensor(weight, dtype)],
            ["bias", goldenTensor(bias, dtype)],
          ]),
        );
        const input = goldenTensor(x, dtype);
        expect(layer.forward(input).dataSync()).toBeAllclose(y.data, { relative });
        const loss = (): Tensor => layer.forward(input).multiply(goldenTensor(grad_y, dtype)).sum();
        const { gradients } = valueAndGrad(loss, [input, layer.weight, layer.bias as typeof layer.weight]);
        for (const [i, expected] of [grad_x, grad_weight, grad_bias].entries()) {
          expect(gradients[i]?.dataSync()).toBeAllclose(expected.data, { relative });
        }
      });
    });

    test.each(dense.cross_entropy)("cross-entropy: $name", ({ smoothing, convention, logits, target, loss, grad_logits }) => {
      const smoothingKind = convention === "torch" ? "uniform" : "off-target";
      tidy(() => {
        const [input, labels] = [goldenTensor(logits, dtype), goldenTensor(target)];
        const { value, gradients } = valueAndGrad(() => crossEntropy(input, labels, { smoothing, smoothingKind }), [input]);
        expect(value.dataSync()).toBeAllclose([loss], { relative });
        expect(gradients[0]?.dataSync()).toBeAllclose(grad_logits.data, { relative });
      });
    });
  });
});

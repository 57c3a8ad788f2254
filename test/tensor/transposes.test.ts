import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  apply,
  concat,
  Generator,
  im2col,
  patchCovariance,
  Tensor,
  tidy,
  type Inputs,
  type Params,
  type PrimitiveName,
} from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";
import { realize, samples, type Sample } from "../samples.ts";

/* Identities between primitives: those that are linear in an operand come in pairs, ⟨A x, y⟩ = ⟨x, Aᵀ y⟩. */

const inner = (a: Tensor, b: Tensor): number => a.multiply(b).sum().dataSync()[0] as number;
const size2d = ({ shape }: Tensor): readonly [number, number] => [shape[1] as number, shape[2] as number];

/** ⟨A x, y⟩ = ⟨x, Aᵀ y⟩ for the primitive as a function of one operand, over its samples and random y. */
function adjoint<K extends PrimitiveName>(
  name: K,
  operand: number,
  transpose: (y: Tensor, operands: readonly Tensor[], params: Params<K>) => Tensor,
  without: (operands: Inputs<K, Tensor>) => Inputs<K, Tensor> = (operands) => operands,
): void {
  fc.assert(
    fc.property(samples[name], fc.nat(1000), (sample: Sample<K>, seed) =>
      tidy(() => {
        const { inputs, params } = realize(sample, "float64");
        const operands: readonly Tensor[] = without(inputs);
        const x = operands[operand] as Tensor;
        fc.pre(x.dtype === "float64");
        const outputs: readonly Tensor[] = apply(name, without(inputs), params);
        const ax = outputs[0] as Tensor;
        const y = new Generator(seed).normal(ax.shape, { dtype: "float64" });
        const [left, right] = [inner(ax, y), inner(x, transpose(y, operands, params))];
        expect([left, 1]).toBeAllclose([right, 1], { relative: 1e-12 });
      }),
    ),
  );
}

/** conv2d is linear only without its bias. */
const withoutBias = ([x, weight]: Inputs<"conv2d", Tensor>): Inputs<"conv2d", Tensor> => [x, weight];

eachBackend(() => {
  describe("⟨A x, y⟩ = ⟨x, Aᵀ y⟩:", () => {
    test("slice and pad", () => {
      adjoint("slice", 0, (y, [x], { start, size, step }) => {
        const end = start.map((a, axis) =>
          (size[axis] as number) === 0 ? a : a + ((size[axis] as number) - 1) * (step[axis] as number) + 1,
        );
        const after = end.map((e, axis) => (x?.shape[axis] as number) - e);
        return y.pad(
          start,
          after,
          step.map((s) => s - 1),
        );
      });
    });
    test("pad and slice", () => {
      adjoint("pad", 0, (y, [x], { before, between }) =>
        y.slice(
          before,
          x?.shape ?? [],
          between.map((b) => b + 1),
        ),
      );
    });
    test("permute and the inverse permutation", () => {
      adjoint("permute", 0, (y, _, { axes }) => y.permute(axes.map((__, axis) => axes.indexOf(axis))));
    });
    test("gather and scatterAdd", () => {
      adjoint("gather", 0, (y, [x, indices]) => y.scatterAdd(indices as Tensor, x?.shape[0] as number));
    });
    test("scatterAdd and gather", () => {
      adjoint("scatterAdd", 0, (y, [, indices]) => y.gather(indices as Tensor));
    });
    test("sum and broadcastTo", () => {
      adjoint("sum", 0, (y, [x], { axes }) => {
        const shape = x?.shape ?? [];
        return y.reshape(shape.map((extent, axis) => (axes.includes(axis) ? 1 : extent))).broadcastTo(shape);
      });
    });
    test("im2col and col2im", () => {
      adjoint("im2col", 0, (y, [x], params) => apply("col2im", [y], { ...params, inputSize: size2d(x as Tensor) })[0]);
    });
    test("col2im and im2col", () => {
      adjoint("col2im", 0, (y, _, params) => apply("im2col", [y], params)[0]);
    });
    test("conv2d in its input and conv2dInputGradient", () => {
      const transpose = (y: Tensor, [x, weight]: readonly Tensor[], params: Params<"conv2d">): Tensor =>
        apply("conv2dInputGradient", [y, weight as Tensor], { ...params, inputSize: size2d(x as Tensor) })[0];
      adjoint("conv2d", 0, transpose, withoutBias);
    });
    test("conv2d in its weight and conv2dWeightGradient", () => {
      const transpose = (y: Tensor, [x, weight]: readonly Tensor[], params: Params<"conv2d">): Tensor =>
        apply("conv2dWeightGradient", [x as Tensor, y], { ...params, kernel: size2d(weight as Tensor) })[0];
      adjoint("conv2d", 1, transpose, withoutBias);
    });
    test("maxPool2dGather and maxPool2dScatter", () => {
      adjoint(
        "maxPool2dGather",
        0,
        (y, [x, indices]) => apply("maxPool2dScatter", [y, indices as Tensor], { inputSize: size2d(x as Tensor) })[0],
      );
    });
    test("maxPool2dScatter and maxPool2dGather", () => {
      adjoint("maxPool2dScatter", 0, (y, [, indices]) => apply("maxPool2dGather", [y, indices as Tensor], {})[0]);
    });
    test("averagePool2d and averagePool2dGradient", () => {
      adjoint(
        "averagePool2d",
        0,
        (y, [x], params) => apply("averagePool2dGradient", [y], { ...params, inputSize: size2d(x as Tensor) })[0],
      );
    });
  });

  describe("one primitive in terms of others:", () => {
    test("patchCovariance is the Gram matrix of im2col's rows with a column of ones", () => {
      fc.assert(
        fc.property(samples.patchCovariance, (sample) =>
          tidy(() => {
            const {
              inputs: [x],
              params: { bias, scale, kernel, ...window },
            } = realize(sample, "float64");
            const columns = im2col(x, kernel, window);
            const rows = columns.reshape([-1, columns.shape[3] as number]);
            const homogeneous = bias ? concat([rows, Tensor.ones([rows.shape[0] as number, 1], { dtype: "float64" })], 1) : rows;
            const actual = patchCovariance(x, kernel, { ...window, bias, scale });
            expect(actual.dataSync()).toBeAllclose(homogeneous.gram(scale).dataSync(), { relative: 1e-13 });
          }),
        ),
      );
    });

    test("conv2d is im2col times the weight as a matrix", () => {
      fc.assert(
        fc.property(samples.conv2d, (sample) =>
          tidy(() => {
            const {
              inputs: [x, weight],
              params: { groups, ...window },
            } = realize(sample, "float64");
            fc.pre(groups === 1);
            const matrix = weight.reshape([weight.shape[0] as number, -1]);
            const product = im2col(x, size2d(weight), window).matmul(matrix, { transposeB: true });
            const [y] = apply("conv2d", [x, weight], { ...window, groups });
            expect(y.shape).toEqual(product.shape);
            expect(y.dataSync()).toBeAllclose(product.dataSync(), { relative: 1e-13 });
          }),
        ),
      );
    });

    test("conv2d with groups is the concatenation of convolutions over slices of the channels", () => {
      fc.assert(
        fc.property(samples.conv2d, (sample) =>
          tidy(() => {
            const {
              inputs: [x, weight],
              params: { groups, ...window },
            } = realize(sample, "float64");
            const part = (tensor: Tensor, axis: number, g: number): Tensor => {
              const size = tensor.shape.map((extent, a) => (a === axis ? extent / groups : extent));
              return tensor.slice(
                size.map((n, a) => (a === axis ? g * n : 0)),
                size,
              );
            };
            const parts = Array.from(
              { length: groups },
              (_, g) => apply("conv2d", [part(x, 3, g), part(weight, 0, g)], { ...window, groups: 1 })[0],
            );
            const [y] = apply("conv2d", [x, weight], { ...window, groups });
            expect(y.dataSync()).toEqual(concat(parts, 3).dataSync());
          }),
        ),
      );
    });

    test("maxPool2d reads the places that its indices name, and none of the window is larger", () => {
      fc.assert(
        fc.property(samples.maxPool2d, (sample) =>
          tidy(() => {
            const {
              inputs: [x],
              params,
            } = realize(sample, "float64");
            const [y, indices] = apply("maxPool2d", [x], params);
            expect(apply("maxPool2dGather", [x, indices], {})[0].dataSync()).toEqual(y.dataSync());
            const channels = x.shape[3] as number;
            const area = params.kernel[0] * params.kernel[1];
            // Shifting everything up by a constant makes zero padding lose, as padding does.
            const windows = im2col(x.add(100), params.kernel, params).reshape([...y.shape.slice(0, 3), area, channels]);
            expect(windows.max(3).subtract(100).dataSync()).toBeAllclose(y.dataSync(), { relative: 1e-12 });
          }),
        ),
      );
    });

    test("batchNorm's result has mean β and, for a small ε, standard deviation |γ|", () => {
      fc.assert(
        fc.property(samples.batchNorm, (sample) =>
          tidy(() => {
            const {
              inputs: [x, scale, shift],
            } = realize(sample, "float64");
            const rows = x.reshape([-1, scale.size]);
            fc.pre((rows.shape[0] as number) > 1);
            const [y] = apply("batchNorm", [rows, scale, shift], { epsilon: 1e-14 });
            const mean = y.mean(0);
            expect([...mean.dataSync(), 1]).toBeAllclose([...shift.dataSync(), 1], { relative: 1e-10 });
            const deviation = y.subtract(mean).square().mean(0).sqrt();
            expect([...deviation.dataSync(), 1]).toBeAllclose([...scale.abs().dataSync(), 1], { relative: 1e-10 });
          }),
        ),
      );
    });

    test("softmaxCrossEntropy is −Σ q log softmax", () => {
      fc.assert(
        fc.property(samples.softmaxCrossEntropy, (sample) =>
          tidy(() => {
            const {
              inputs: [logits, labels],
              params,
            } = realize(sample, "float64");
            const classes = logits.shape[1] as number;
            const hard = labels
              .reshape([-1, 1])
              .equal(Tensor.arange(classes, { dtype: "int32" }))
              .cast("float64");
            const off = params.smoothingKind === "uniform" ? params.smoothing / classes : params.smoothing / (classes - 1);
            const on = params.smoothingKind === "uniform" ? 1 - params.smoothing + off : 1 - params.smoothing;
            const q = hard.multiply(on - off).add(off);
            const [loss, probabilities] = apply("softmaxCrossEntropy", [logits, labels], params);
            expect(loss.dataSync()).toBeAllclose(q.multiply(logits.logSoftmax()).sum(1).negative().dataSync(), { relative: 1e-12 });
            expect(probabilities.dataSync()).toBeAllclose(logits.softmax().dataSync(), { relative: 1e-13 });
          }),
        ),
      );
    });
  });
});

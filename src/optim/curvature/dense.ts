import { frozen, hvp, onesLike, record, valueAndGrad, type AnyCall } from "../../autograd/index.ts";
import type { Module, Parameter } from "../../nn/index.ts";
import { formatShape, Tensor, tidy, unscoped, UsageError, type Generator, type Shape } from "../../tensor/index.ts";
import type { LossReduction } from "./capture.ts";
import { fisherPasses, lossCall, releaseLoss, type Fisher, type LossCall } from "./fisher.ts";

/*
 * Dense curvature from its definition, for networks small enough. Shares nothing with the capture but, for `mc`, the labels that are drawn:
 * a model's Jacobian J by one reverse pass for each number of its prediction, and between Jᵀ and J what the loss says of the prediction.
 */

/** A call of the model's tape, without its values. */
export interface CallShape {
  readonly name: AnyCall["name"];
  readonly inputs: readonly { readonly id: number; readonly shape: Shape }[];
  readonly outputs: readonly { readonly id: number; readonly shape: Shape }[];
}

/** How a model's prediction on one batch depends on its parameters. */
export interface Jacobian {
  /** [n, …]; of the caller, to be disposed. */
  readonly prediction: Tensor;
  /** By parameter, [size of the prediction, size of the parameter]. */
  readonly rows: ReadonlyMap<Parameter, Float64Array>;
  /** From the parameters to the prediction, in order. */
  readonly calls: readonly CallShape[];
}

/** Changes no running statistics and no random stream. @throws ShapeError or UsageError of the model's own. */
export async function jacobianOf(model: Module, inputs: Tensor, parameters: readonly Parameter[]): Promise<Jacobian> {
  using recording = unscoped(() => frozen(() => record(() => model.forward(inputs), parameters)));
  const prediction = recording.value;
  const { size, shape, dtype, backend } = prediction;
  const rows = new Map(parameters.map((parameter) => [parameter, new Float64Array(size * parameter.value.size)]));
  try {
    const slim = ({ id, shape }: { readonly id: number; readonly shape: Shape }): { id: number; shape: Shape } => ({ id, shape });
    const calls = recording.calls.map(({ name, inputs, outputs }) => ({ name, inputs: inputs.map(slim), outputs: outputs.map(slim) }));
    for (let row = 0; row < size; row++) {
      const gradients = unscoped(() =>
        tidy(() => {
          const unit = Tensor.arange(size, { dtype: "int32", backend }).equal(row).cast(dtype).reshape(shape);
          return recording.reverse([[prediction, unit]], { again: true });
        }),
      );
      for (const [i, parameter] of parameters.entries()) {
        const gradient = gradients[i];
        if (!gradient) continue;
        rows.get(parameter)?.set(await gradient.data(), row * gradient.size);
        gradient.dispose();
      }
    }
    return { prediction, rows, calls };
  } catch (error) {
    prediction.dispose();
    throw error;
  }
}

/**
 * What stands between Jᵀ and J [size of the prediction, the same]: with m the factor from the batch's gradient to a sample's, and s the
 * gradient of the batch's loss with respect to the prediction,
 *
 * - `type-2`: the second derivative of the batch's loss, over n if it is a sum: JᵀMJ is the generalised Gauss–Newton matrix;
 * - `empirical`: (m²/n) sᵢsᵢᵀ for each sample i;
 * - `mc`: the same with the gradients of the labels that `generator` draws.
 */
export async function lossCurvature(
  prediction: Tensor,
  loss: (prediction: Tensor) => Tensor,
  { fisher, reduction, generator }: { readonly fisher: Fisher; readonly reduction: LossReduction; readonly generator: Generator },
): Promise<Float64Array> {
  const n = prediction.shape[0] as number;
  if (fisher === "type-2") return hessian(prediction, loss, reduction === "mean" ? 1 : 1 / n);
  using slope = unscoped(() =>
    tidy(() =>
      fisher === "empirical"
        ? (valueAndGrad(() => loss(prediction), [prediction]).gradients[0] as Tensor)
        : sampledSlope(prediction, loss, reduction, generator),
    ),
  );
  const scale = (reduction === "mean" ? n : 1) ** 2 / n;
  return outerProducts(await slope.data(), n, scale);
}

/** Column by column, by Hessian-vector products. */
async function hessian(prediction: Tensor, loss: (prediction: Tensor) => Tensor, scale: number): Promise<Float64Array> {
  const { size, shape, dtype, backend } = prediction;
  const matrix = new Float64Array(size * size);
  for (let column = 0; column < size; column++) {
    using product = unscoped(() =>
      tidy(() => {
        const unit = Tensor.arange(size, { dtype: "int32", backend }).equal(column).cast(dtype).reshape(shape);
        return hvp(() => loss(prediction), [prediction], [unit])[0] as Tensor;
      }),
    );
    (await product.data()).forEach((value, row) => (matrix[row * size + column] = scale * value));
  }
  return matrix;
}

/** The gradient of the loss with respect to the prediction for labels drawn from the model's own distribution. */
function sampledSlope(prediction: Tensor, loss: (prediction: Tensor) => Tensor, reduction: LossReduction, generator: Generator): Tensor {
  using recording = record(() => loss(prediction), [prediction]);
  const losses: LossCall[] = [];
  try {
    const observe = (call: AnyCall, gradients: readonly (Tensor | null)[]): void => {
      const found = lossCall(call, gradients);
      if (found) losses.push(found);
    };
    recording.reverse([[recording.value, onesLike(recording.value)]], { observe, again: true });
    const [seeds] = fisherPasses("mc", losses, reduction, generator);
    return recording.reverse(seeds?.() ?? [])[0] as Tensor;
  } finally {
    losses.forEach(releaseLoss);
  }
}

function outerProducts(slope: ArrayLike<number>, n: number, scale: number): Float64Array {
  const [size, width] = [slope.length, slope.length / n];
  const matrix = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    const first = Math.floor(i / width) * width;
    for (let j = first; j < first + width; j++) matrix[i * size + j] = scale * (slope[i] as number) * (slope[j] as number);
  }
  return matrix;
}

/** JᵀMJ for a layer's matrix [dOut, dA], row-major, the bias in the last column. */
export function denseBlock({ rows, prediction }: Jacobian, middle: Float64Array, weight: Parameter, bias: Parameter | null): Float64Array {
  const { size } = prediction;
  const dOut = weight.shape[0] as number;
  const dIn = weight.value.size / dOut;
  const dA = dIn + (bias ? 1 : 0);
  const d = dOut * dA;
  const j = new Float64Array(size * d);
  const [w, b] = [rows.get(weight), bias && rows.get(bias)];
  if (!w) throw new UsageError(`the Jacobian ${formatShape([size, d])} of "${weight.name}" was not computed`);
  for (let row = 0; row < size; row++) {
    for (let o = 0; o < dOut; o++) {
      j.set(w.subarray((row * dOut + o) * dIn, (row * dOut + o + 1) * dIn), row * d + o * dA);
      if (b) j[row * d + o * dA + dIn] = b[row * dOut + o] as number;
    }
  }
  const block = new Float64Array(d * d);
  const mj = new Float64Array(d);
  for (let row = 0; row < size; row++) {
    mj.fill(0);
    for (let k = 0; k < size; k++) {
      const m = middle[row * size + k] as number;
      if (m === 0) continue;
      for (let q = 0; q < d; q++) mj[q] = (mj[q] as number) + m * (j[k * d + q] as number);
    }
    for (let p = 0; p < d; p++) {
      const factor = j[row * d + p] as number;
      if (factor === 0) continue;
      for (let q = 0; q < d; q++) block[p * d + q] = (block[p * d + q] as number) + factor * (mj[q] as number);
    }
  }
  return block;
}

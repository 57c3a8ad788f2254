import { Parameter } from "../../src/nn/index.ts";
import type { Optimizer } from "../../src/optim/index.ts";
import { conv2d, linear, type FloatDType, type Tensor } from "../../src/tensor/index.ts";
import { tensorOf, type GoldenArray } from "../golden.ts";

/** A single layer of the golden files: its input, its parameters, and the gradient of the loss by its output. */
export interface GoldenLayer {
  name: string;
  kind: "linear" | "conv";
  stride: [number, number] | null;
  padding: [number, number] | null;
  x: GoldenArray;
  weight: GoldenArray;
  bias: GoldenArray | null;
  grad_y: GoldenArray;
}

/** The layer's parameters, and a loss whose gradient by the output is the given one: ⟨y, g⟩. */
export function goldenLayer(
  layer: GoldenLayer,
  dtype: FloatDType,
): { readonly weight: Parameter; readonly parameters: Parameter[]; readonly loss: () => Tensor } {
  const weight = new Parameter("weight", tensorOf(layer.weight, dtype));
  const bias = layer.bias && new Parameter("bias", tensorOf(layer.bias, dtype));
  const [x, gradient] = [tensorOf(layer.x, dtype), tensorOf(layer.grad_y, dtype)];
  const loss = (): Tensor => {
    const y =
      layer.kind === "linear"
        ? linear(x, weight.value, bias?.value ?? null)
        : conv2d(x, weight.value, bias?.value ?? null, { stride: layer.stride ?? 1, padding: layer.padding ?? 0 });
    return y.multiply(gradient).sum();
  };
  return { weight, parameters: bias ? [weight, bias] : [weight], loss };
}

/** The numbers of all of them, one after the other. */
export async function valuesOf(parameters: Iterable<Parameter>): Promise<number[]> {
  return (await Promise.all(Array.from(parameters, ({ value }) => value.data()))).flatMap((data) => [...data]);
}

/** The direction of the first step, [dOut, dA]: what a rate of 1 subtracts. */
export async function direction(
  layer: GoldenLayer,
  dtype: FloatDType,
  make: (parameters: Parameter[]) => Optimizer,
  rate = 1,
): Promise<number[]> {
  const { weight, parameters, loss } = goldenLayer(layer, dtype);
  const before = await valuesOf(parameters);
  const optimizer = make(parameters);
  await optimizer.minimize(loss);
  optimizer.dispose();
  const after = await valuesOf(parameters);
  const step = before.map((value, i) => (value - (after[i] as number)) / rate);
  const { size } = weight.value;
  const dOut = weight.shape[0] as number;
  // Rows of the weight, each with its bias at the end.
  return Array.from({ length: dOut }, (_, o) => [
    ...step.slice((o * size) / dOut, ((o + 1) * size) / dOut),
    ...(layer.bias ? [step[size + o] as number] : []),
  ]).flat();
}

import { BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential, type Module } from "../../src/nn/index.ts";
import { Generator, type FloatDType } from "../../src/tensor/index.ts";
import { permuted, tensorOf, type GoldenArray } from "../golden.ts";

/** `small_vgg_bn.json`. */
export interface SmallVgg {
  params0: Record<string, GoldenArray>;
  x: GoldenArray;
  target: GoldenArray;
  loss: number;
  logits: GoldenArray;
  grads: Record<string, GoldenArray>;
  running_after_1_train_forward: Record<string, GoldenArray>;
  logits_eval_after: GoldenArray;
  layers: Record<
    string,
    {
      A: GoldenArray;
      A_is_diag_only: boolean;
      A_trace: number;
      A_fro: number;
      G: GoldenArray;
      pre_maxeig: GoldenArray;
      pre_rs_fullrank: GoldenArray;
      seng_damping2: GoldenArray;
    }
  >;
}

/** The network of `small_vgg_bn.json`, for images of 8 × 8 × 3 in five classes. */
export function smallVgg(dtype: FloatDType): Sequential {
  const generator = new Generator(0);
  const options = { dtype, generator };
  const conv = (from: number, to: number): Module[] => [
    new Conv2d(from, to, 3, { padding: 1, ...options }),
    new BatchNorm2d(to, options),
    new ReLU(),
  ];
  return new Sequential(
    ...conv(3, 4),
    ...conv(4, 4),
    new MaxPool2d(2),
    ...conv(4, 6),
    ...conv(6, 6),
    new MaxPool2d(2),
    new Flatten(),
    new Linear(24, 8, options),
    new ReLU(),
    new Linear(8, 5, options),
  );
}

/** PyTorch flattens [channels, height, width], kfacet [height, width, channels]: the first dense layer's columns differ. */
export function imported(name: string, array: GoldenArray): GoldenArray {
  if (name !== "15.weight") return array;
  const [out = 0] = array.shape;
  return { shape: array.shape, data: permuted({ shape: [out, 6, 2, 2], data: array.data }, [0, 2, 3, 1]).data };
}

/** Sets parameters by the names that PyTorch gives them. */
export function loadParameters(model: Sequential, params: Record<string, GoldenArray>, dtype: FloatDType): void {
  for (const [name, parameter] of model.namedParameters()) parameter.assign(tensorOf(imported(name, params[name] as GoldenArray), dtype));
}

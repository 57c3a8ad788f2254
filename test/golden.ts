import { readFileSync } from "node:fs";
import { z } from "zod";
import { sizeOf, Tensor, type DType, type FloatDType, type Shape, type TypedArray } from "../src/tensor/index.ts";

/**
 * Reads the reference vectors of `test/golden/`, which are in PyTorch's layouts, and converts them to kfacet's:
 * images NCHW → NHWC, convolution weights OIHW → OHWI. See the README there for what each file holds.
 */

/** A number type, and the error that a result may have in it, relative to the largest element. */
export type Precision = readonly [dtype: FloatDType, relative: number];

/** What the CPU's backends keep to. */
export const precisions: readonly Precision[] = [
  ["float64", 1e-9],
  ["float32", 1e-4],
];

/** An array of the files: row-major elements and their shape. */
export interface GoldenArray {
  readonly shape: Shape;
  readonly data: readonly number[];
  readonly dtype?: "int" | undefined;
}

export const goldenArray: z.ZodType<GoldenArray> = z
  .object({ shape: z.array(z.int().nonnegative()), data: z.array(z.number()), dtype: z.literal("int").optional() })
  .refine(({ shape, data }) => sizeOf(shape) === data.length, "the number of elements does not fit the shape");

/** A file of `test/golden/`, unchecked. `name` without `.json`. */
export function golden(name: string): unknown {
  return JSON.parse(readFileSync(new URL(`golden/${name}.json`, import.meta.url), "utf8"));
}

/** The same, checked against a schema. */
export function readGolden<T>(name: string, schema: z.ZodType<T>): T {
  return schema.parse(golden(name));
}

/** Axis `i` of the result is axis `axes[i]` of the array. */
export function permuted({ shape, data }: GoldenArray, axes: readonly number[]): GoldenArray {
  const strides = shape.map((_, axis) => sizeOf(shape.slice(axis + 1)));
  const to = axes.map((axis) => shape[axis] as number);
  const visit = (depth: number, at: number): number[] => {
    if (depth === axes.length) return [data[at] as number];
    const stride = strides[axes[depth] as number] as number;
    return Array.from({ length: to[depth] as number }, (_, i) => visit(depth + 1, at + i * stride)).flat();
  };
  return { shape: to, data: visit(0, 0) };
}

/** [n, channels, height, width] → [n, height, width, channels]. */
export function nchwToNhwc(images: GoldenArray): GoldenArray {
  return permuted(images, [0, 2, 3, 1]);
}

/** [out, in / groups, kernelHeight, kernelWidth] → [out, kernelHeight, kernelWidth, in / groups]. */
export function oihwToOhwi(weight: GoldenArray): GoldenArray {
  return permuted(weight, [0, 2, 3, 1]);
}

/** The array as a tensor; integer arrays stay integers whatever `dtype` says. */
export function goldenTensor({ shape, data, dtype: kind }: GoldenArray, dtype: DType = "float64"): Tensor {
  return Tensor.from([...data], { shape, dtype: kind === "int" ? "int32" : dtype });
}

/** The array in kfacet's layout: those of rank 4 become channels-last. */
export function channelsLast(array: GoldenArray): GoldenArray {
  return array.shape.length === 4 ? nchwToNhwc(array) : array;
}

/** The same as a float tensor. */
export function tensorOf(array: GoldenArray, dtype: DType = "float64"): Tensor {
  return goldenTensor(channelsLast(array), dtype);
}

/** The numbers of a result, which is disposed. */
export async function read(result: Tensor | undefined): Promise<TypedArray> {
  if (!result) throw new Error("there is no such result");
  using tensor = result;
  return await tensor.data();
}

/**
 * Where column j of a patch matrix in kfacet's order (kernelHeight, kernelWidth, in) stands in PyTorch's (in, kernelHeight,
 * kernelWidth); the bias column stays last. `weight` is the PyTorch shape [out, in, kernelHeight, kernelWidth] or [out, in].
 */
export function patchOrder(weight: Shape, bias: boolean): number[] {
  const [, channels = 0, kernelHeight = 1, kernelWidth = 1] = weight;
  const order: number[] = [];
  for (let k = 0; k < kernelHeight * kernelWidth; k++) {
    for (let c = 0; c < channels; c++) order.push(c * kernelHeight * kernelWidth + k);
  }
  if (bias) order.push(order.length);
  return order;
}

/** The matrix with its columns (and rows, if `both`) in the given order. */
export function reordered({ shape, data }: GoldenArray, order: readonly number[], both = false): number[] {
  const [rows = 0, columns = 0] = shape;
  const rowOrder = both ? order : Array.from({ length: rows }, (_, i) => i);
  return rowOrder.flatMap((row) => order.map((column) => data[row * columns + column] as number));
}

/** `linear_ce.json`: one dense layer, and cross-entropies in both smoothing conventions. */
export const linearCrossEntropy = z.object({
  linear: z.object({
    x: goldenArray,
    weight: goldenArray,
    bias: goldenArray,
    y: goldenArray,
    grad_y: goldenArray,
    grad_x: goldenArray,
    grad_weight: goldenArray,
    grad_bias: goldenArray,
  }),
  cross_entropy: z.array(
    z.object({
      name: z.string(),
      smoothing: z.number(),
      convention: z.enum(["torch", "offtarget"]),
      logits: goldenArray,
      target: goldenArray,
      loss: z.number(),
      log_softmax: goldenArray,
      grad_logits: goldenArray,
    }),
  ),
});

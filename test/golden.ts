import { readFileSync } from "node:fs";
import { z } from "zod";
import { sizeOf, Tensor, type DType, type Shape } from "../src/tensor/index.ts";

/**
 * Reads the reference vectors of `test/golden/`, which are in PyTorch's layouts, and converts them to kfacet's:
 * images NCHW → NHWC, convolution weights OIHW → OHWI. See the README there for what each file holds.
 */

/** An array of the files: row-major elements and their shape. */
export interface GoldenArray {
  readonly shape: Shape;
  readonly data: readonly number[];
  readonly dtype?: "int" | undefined;
}

export const goldenArray: z.ZodType<GoldenArray> = z
  .object({ shape: z.array(z.int().nonnegative()), data: z.array(z.number()), dtype: z.literal("int").optional() })
  .refine(({ shape, data }) => sizeOf(shape) === data.length, "the number of elements does not fit the shape");

/** A file of `test/golden/`, checked against a schema. `name` without `.json`. */
export function readGolden<T>(name: string, schema: z.ZodType<T>): T {
  const text = readFileSync(new URL(`golden/${name}.json`, import.meta.url), "utf8");
  return schema.parse(JSON.parse(text));
}

/** Axis `i` of the result is axis `axes[i]` of the array. */
function permuted({ shape, data }: GoldenArray, axes: readonly number[]): GoldenArray {
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

import type { DType } from "../../dtype.ts";
import type { Inputs, Outputs, Params, PrimitiveName } from "../../primitives.ts";
import type { Shape } from "../../shape.ts";
import type { Engine } from "./engine.ts";

/** What a kernel sees of a tensor: where its elements start in the engine's memory. */
export interface Operand {
  /** Byte address, a multiple of 64. */
  readonly pointer: number;
  readonly shape: Shape;
  readonly dtype: DType;
  readonly size: number;
}

/** Computes one primitive. Outputs are allocated and hold old numbers: a kernel writes every element. */
export type Kernel<K extends PrimitiveName> = (
  engine: Engine,
  inputs: Inputs<K, Operand>,
  params: Params<K>,
  outputs: Outputs<K, Operand>,
) => void;

/** A total table over some primitives; the families together cover all. */
export type Kernels<K extends PrimitiveName> = { readonly [Name in K]: Kernel<Name> };

/** Images are stored with the channels of a pixel next to each other. */
export type ImageShape = readonly [n: number, height: number, width: number, channels: number];

/** For an operand that the signature wants to have rank 4. */
export function imageShape(shape: Shape): ImageShape {
  return shape as unknown as ImageShape;
}

/** In a kernel's name, for an operand that the signature wants to be of either float type. */
export function floatSuffix(dtype: DType): "f32" | "f64" {
  return dtype === "float64" ? "f64" : "f32";
}

export function roundUp(x: number, multiple: number): number {
  return Math.ceil(x / multiple) * multiple;
}

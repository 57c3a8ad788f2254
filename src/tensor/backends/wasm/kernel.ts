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

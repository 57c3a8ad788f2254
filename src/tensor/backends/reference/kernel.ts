import type { NdArray } from "ndarray";
import type { TypedArray } from "../../dtype.ts";
import type { Inputs, Outputs, Params, PrimitiveName } from "../../primitives.ts";
import type { Shape } from "../../shape.ts";

/** What a reference kernel sees of a tensor: a contiguous ndarray. Loops index its `.data`; `get` is ten times slower. */
export type Operand = NdArray<TypedArray>;

/** Computes one primitive. Outputs are allocated and hold old numbers: a kernel writes every element. */
export type Kernel<K extends PrimitiveName> = (inputs: Inputs<K, Operand>, params: Params<K>, outputs: Outputs<K, Operand>) => void;

/** A total table over some primitives; the families together cover all. */
export type Kernels<K extends PrimitiveName> = { readonly [Name in K]: Kernel<Name> };

/**
 * For each element of a row-major array of shape `shape`, the place `start + Σ index·strides` in another array. Clearer than
 * nested loops of unknown depth, and the price is one array of indices.
 */
export function offsets(shape: Shape, strides: readonly number[], start = 0): Int32Array {
  let size = 1;
  for (const extent of shape) size *= extent;
  const places = new Int32Array(size);
  // Fill by doubling the known part: after axis a, the last `inner` places hold the pattern of axes a … end.
  places[0] = start;
  let inner = 1;
  for (let axis = shape.length - 1; axis >= 0 && size > 0; axis--) {
    const extent = shape[axis] as number;
    const stride = strides[axis] as number;
    for (let i = 1; i < extent; i++) {
      for (let j = 0; j < inner; j++) places[i * inner + j] = (places[j] as number) + i * stride;
    }
    inner *= extent;
  }
  return places;
}

import type { NdArray } from "ndarray";
import { dtypeOf, typedArray, type DType, type TypedArray } from "./dtype.ts";
import { DTypeError, ShapeError } from "./errors.ts";
import { formatShape, sizeOf, type Shape } from "./shape.ts";

export type NestedArray = number | readonly NestedArray[];

/** Every array of plain numbers that the language has; those that are no tensor's type become float32 unless told otherwise. */
export type NumberArray = TypedArray | Uint8Array | Uint8ClampedArray | Int8Array | Uint16Array | Int16Array | Uint32Array;

/** Numbers on the host in row-major order, with the shape and type that they suggest. */
export interface HostData {
  readonly values: ArrayLike<number>;
  readonly shape: Shape;
  readonly dtype: DType;
}

/** Reads a number, nested arrays, a typed array or an ndarray of any strides. @throws ShapeError for ragged nesting. */
export function readHost(data: NestedArray | NumberArray | NdArray): HostData {
  if (typeof data === "number") return { values: [data], shape: [], dtype: "float32" };
  if (ArrayBuffer.isView(data)) return { values: data, shape: [data.length], dtype: isTensorArray(data) ? dtypeOf(data) : "float32" };
  if (isNdarray(data)) return readNdarray(data);
  const shape: number[] = [];
  let level: NestedArray | undefined = data;
  while (Array.isArray(level)) {
    shape.push(level.length);
    level = (level as readonly NestedArray[])[0];
  }
  const values: number[] = [];
  flatten(data, shape, 0, values);
  return { values, shape, dtype: "float32" };
}

/**
 * An array of the type: the same one if it is of that type already. @throws DTypeError for a number that is no int32, where that is the
 * type.
 */
export function convert(values: ArrayLike<number>, dtype: DType): TypedArray {
  if (ArrayBuffer.isView(values) && isTensorArray(values as NumberArray) && dtypeOf(values as TypedArray) === dtype)
    return values as TypedArray;
  const host = typedArray(dtype, values.length);
  host.set(values);
  if (dtype === "int32") {
    for (let i = 0; i < values.length; i++) {
      if (host[i] !== values[i]) requireInt32("Tensor.from", values[i] as number, `at position ${i}`);
    }
  }
  return host;
}

/** @throws DTypeError unless `value` is a whole number from −2³¹ to 2³¹ − 1. */
export function requireInt32(operation: string, value: number, place = ""): void {
  if (!Number.isInteger(value) || value < -(2 ** 31) || value >= 2 ** 31) {
    throw new DTypeError(
      `${operation}: ${value} ${place}`.trimEnd() + " is not an int32, a whole number from -2³¹ to 2³¹ - 1; use a floating dtype",
    );
  }
}

function isTensorArray(data: NumberArray): data is TypedArray {
  return data instanceof Float32Array || data instanceof Float64Array || data instanceof Int32Array;
}

function isNdarray(data: object): data is NdArray {
  return "stride" in data && "offset" in data && "shape" in data;
}

/** Copies a view of any strides and offset into row-major order. */
function readNdarray(view: NdArray): HostData {
  const { shape, stride, offset, dtype } = view;
  const source = view.data as ArrayLike<number>;
  const values = new Array<number>(sizeOf(shape));
  const index = new Array<number>(shape.length).fill(0);
  for (let i = 0, at = offset; i < values.length; i++) {
    values[i] = source[at] as number;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += stride[axis] as number;
      if (++(index[axis] as number) < (shape[axis] as number)) break;
      at -= (stride[axis] as number) * (shape[axis] as number);
      index[axis] = 0;
    }
  }
  return { values, shape: [...shape], dtype: dtype === "float64" || dtype === "int32" ? dtype : "float32" };
}

function flatten(data: NestedArray, shape: Shape, depth: number, into: number[]): void {
  const expected = shape[depth];
  if (typeof data === "number" ? expected !== undefined : data.length !== expected) {
    throw new ShapeError(
      `Tensor.from: the nested arrays are ragged: at depth ${depth} an entry does not match shape ${formatShape(shape)}`,
    );
  }
  if (typeof data === "number") into.push(data);
  else for (const item of data) flatten(item, shape, depth + 1, into);
}

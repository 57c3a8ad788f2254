import { DTypeError } from "./errors.ts";

/** The number types of a tensor. `float32` is the default; `int32` holds labels, indices and the results of comparisons. */
export type DType = "float32" | "float64" | "int32";
export type FloatDType = "float32" | "float64";

export type TypedArray = Float32Array | Float64Array | Int32Array;
export type FloatArray = Float32Array | Float64Array;

export const bytesPerElement: Readonly<Record<DType, number>> = { float32: 4, float64: 8, int32: 4 };

/** A new zero-filled host array of the given type. */
export function typedArray(dtype: DType, length: number): TypedArray {
  switch (dtype) {
    case "float32":
      return new Float32Array(length);
    case "float64":
      return new Float64Array(length);
    case "int32":
      return new Int32Array(length);
    default:
      throw new DTypeError(`there is no dtype "${String(dtype satisfies never)}"; known: ${Object.keys(bytesPerElement).join(", ")}`);
  }
}

export function dtypeOf(array: TypedArray): DType {
  if (array instanceof Float32Array) return "float32";
  if (array instanceof Float64Array) return "float64";
  return "int32";
}

export function isFloat(dtype: DType): dtype is FloatDType {
  return dtype !== "int32";
}

/** Distance from 1 to the next larger number: the unit in which rounding is measured. */
export const machineEpsilon: Readonly<Record<FloatDType, number>> = { float32: 2 ** -23, float64: 2 ** -52 };

/** @throws DTypeError unless `dtype` is a floating type. */
export function requireFloat(operation: string, dtype: DType): FloatDType {
  if (!isFloat(dtype)) {
    throw new DTypeError(`${operation}: needs float32 or float64 but got ${dtype}; convert with cast("float32") first`);
  }
  return dtype;
}

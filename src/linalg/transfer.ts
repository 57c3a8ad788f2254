import {
  NumericalError,
  requireFloat,
  Tensor,
  unscoped,
  type Backend,
  type FloatArray,
  type FloatDType,
  type Shape,
} from "../tensor/index.ts";
import { findNonFinite, requireFinite, requireSquare, requireSymmetric } from "./checks.ts";

/** Type and device of an operand, where the result goes too. Taken before the first `await`: the caller may dispose meanwhile. */
export interface Destination {
  readonly dtype: FloatDType;
  readonly backend: Backend;
}

/** @throws DTypeError for a tensor that is not floating. */
export function destinationOf(operation: string, a: Tensor): Destination {
  return { dtype: requireFloat(operation, a.dtype), backend: a.backend };
}

/** A copy of a tensor's entries in float64, row-major. @throws DTypeError for int32, NumericalError for an entry that is not finite. */
export async function readFloats(operation: string, a: Tensor): Promise<Float64Array> {
  requireFloat(operation, a.dtype);
  const data = await a.data();
  requireFinite(operation, data, a.shape);
  return data instanceof Float64Array ? data : Float64Array.from(data);
}

/** The same for a matrix that must be symmetric. @throws ShapeError | DTypeError | NumericalError if it is not. */
export async function readSymmetric(operation: string, a: Tensor): Promise<Float64Array> {
  const n = requireSquare(operation, a);
  const dtype = requireFloat(operation, a.dtype);
  return requireSymmetric(operation, await readFloats(operation, a), n, dtype);
}

/** The same for one triangle of a square matrix, with zeros in place of whatever the other one holds. */
export async function readTriangle(operation: string, a: Tensor, n: number, lower: boolean): Promise<Float64Array> {
  requireFloat(operation, a.dtype);
  const data = Float64Array.from(await a.data());
  for (let i = 0; i < n; i++) data.fill(0, i * n + (lower ? i + 1 : 0), i * n + (lower ? n : i));
  requireFinite(operation, data, a.shape);
  return data;
}

/** Rounds a result of the host to the type of its destination. @throws NumericalError for a number beyond that type's range. */
export function roundTo(operation: string, data: Float64Array, shape: Shape, dtype: FloatDType): FloatArray {
  const rounded = dtype === "float64" ? data : Float32Array.from(data);
  const found = findNonFinite(rounded, shape);
  if (found) {
    throw new NumericalError(
      `${operation}: ${found.description} result is ${data[found.at]!}, beyond the range of ${dtype}; ` +
        `scale the input, or add damping if it is nearly singular`,
    );
  }
  return rounded;
}

/** A result of the host as a tensor. */
export function toTensor(operation: string, data: Float64Array, shape: Shape, { dtype, backend }: Destination): Tensor {
  return Tensor.from(roundTo(operation, data, shape, dtype), { dtype, backend, shape });
}

/** A tensor in float64, owned by the caller: on its own device, or on the CPU if that device has no float64. */
export async function widened(a: Tensor): Promise<Tensor> {
  const { backend, shape } = a;
  const { host } = backend;
  if (!host) return unscoped(() => a.cast("float64"));
  const data = Float64Array.from(await a.data());
  return unscoped(() => Tensor.from(data, { shape, backend: host }));
}

/** A tensor that `widened` gave, or what was computed with it, rounded and back on the device where it came from; owned by the caller. */
export async function narrowed(a: Tensor, { dtype, backend }: Destination): Promise<Tensor> {
  if (a.backend === backend) return unscoped(() => a.cast(dtype));
  const { shape } = a;
  const data = await a.data();
  return unscoped(() => Tensor.from(dtype === "float64" ? data : Float32Array.from(data), { shape, backend }));
}

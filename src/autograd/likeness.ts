import { BackendError, DTypeError, formatShape, sameShape, ShapeError, type Backend, type DType, type Shape } from "../tensor/index.ts";

interface Like {
  readonly shape: Shape;
  readonly dtype: DType;
  readonly backend: Backend;
}

/** A vector has the shape, type and backend of the value that it stands beside. @throws ShapeError, DTypeError or BackendError. */
export function requireLike(role: string, vector: Like, of: string, value: Like): void {
  if (!sameShape(vector.shape, value.shape)) {
    throw new ShapeError(`${role} is ${formatShape(vector.shape)} but ${of} is ${formatShape(value.shape)}`);
  }
  if (vector.dtype !== value.dtype) {
    throw new DTypeError(`${role} is ${vector.dtype} but ${of} is ${value.dtype}; use cast("${value.dtype}")`);
  }
  if (vector.backend !== value.backend) {
    throw new BackendError(`${role} lives on "${vector.backend.name}" but ${of} on "${value.backend.name}"; create it there`);
  }
}

import { formatShape, machineEpsilon, NumericalError, ShapeError, type FloatDType, type Tensor } from "../tensor/index.ts";
import { inputTolerance } from "./checks.ts";

/*
 * The eigenvalues of a matrix that is positive semidefinite in mathematics, and after rounding only almost: a moving average of Gram
 * matrices, say. What is a little below zero stands for zero.
 */

/** @throws ShapeError unless there is a value for each of the vectors, which are columns. */
export function requireValues(operation: string, values: Tensor, count: number): void {
  if (values.shape.length === 1 && values.shape[0] === count) return;
  throw new ShapeError(
    `${operation}: values must have shape [${count}], one for each column of the vectors, but have ${formatShape(values.shape)}`,
  );
}

/**
 * The eigenvalues with zeros in place of those that are negative by rounding of the matrix, down to −1e-4 of the largest for float32,
 * −1e-10 for float64.
 * @param values finite.
 * @param dtype of the matrix.
 * @throws NumericalError for one that is further below zero.
 */
export function withoutNegative(operation: string, values: Float64Array, dtype: FloatDType): Float64Array {
  const largest = largestOf(values);
  const least = -inputTolerance[dtype] * largest;
  const wrong = values.findIndex((value) => value < least);
  if (wrong >= 0) {
    throw new NumericalError(
      `${operation}: eigenvalue ${wrong} is ${values[wrong]}, but a positive semidefinite matrix has none below 0 ` +
        `(rounding accounts for ${inputTolerance[dtype]} of the largest, ${largest})`,
    );
  }
  return values.map((value) => Math.max(0, value));
}

/**
 * How large an eigenvalue must be to be told from zero, relative to the largest: the error bound of `eigh` for a matrix of order n.
 */
export const resolution = (n: number): number => Math.max(3 * n, 15) * machineEpsilon.float64;

/**
 * The same for all the eigenvalues of a matrix as `eigh` gives them, with zeros also in place of those that it cannot tell from zero,
 * whose inverses and roots would be noise.
 */
export function resolved(operation: string, values: Float64Array, dtype: FloatDType): Float64Array {
  const clean = withoutNegative(operation, values, dtype);
  const floor = resolution(values.length) * largestOf(clean);
  return clean.map((value) => (value > floor ? value : 0));
}

/** 0 for none. */
export function largestOf(values: Float64Array): number {
  return values.reduce((largest, value) => Math.max(largest, value), 0);
}

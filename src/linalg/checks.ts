import {
  BackendError,
  DTypeError,
  formatShape,
  NumericalError,
  requireFloat,
  ShapeError,
  stridesOf,
  type FloatDType,
  type Shape,
  type Tensor,
  type TypedArray,
} from "../tensor/index.ts";

/** The extents of a matrix. @throws ShapeError unless `a` has rank 2. */
export function requireMatrix(operation: string, a: Tensor): [rows: number, columns: number] {
  const [rows, columns, ...more] = a.shape;
  if (rows === undefined || columns === undefined || more.length > 0) {
    throw new ShapeError(`${operation}: needs a matrix (rank 2) but the shape is ${formatShape(a.shape)}`);
  }
  return [rows, columns];
}

/** The extent of a square matrix. @throws ShapeError unless `a` is one. */
export function requireSquare(operation: string, a: Tensor): number {
  const [rows, columns] = requireMatrix(operation, a);
  if (rows !== columns) throw new ShapeError(`${operation}: needs a square matrix but the shape is ${formatShape(a.shape)}`);
  return rows;
}

/** The common type of two operands. @throws DTypeError if they differ or are not floating, BackendError on two devices. */
export function requirePartners(operation: string, a: Tensor, b: Tensor): FloatDType {
  const dtype = requireFloat(operation, a.dtype);
  if (requireFloat(operation, b.dtype) !== dtype) {
    throw new DTypeError(`${operation}: operands are ${a.dtype} and ${b.dtype}; cast one, there is no implicit promotion`);
  }
  if (a.backend !== b.backend) {
    throw new BackendError(
      `${operation}: operands live on "${a.backend.name}" and ${b.backend.name === a.backend.name ? "another " : ""}"${b.backend.name}"; create both with the same backend option`,
    );
  }
  return dtype;
}

/** Number of columns of a right-hand side for an [n, n] matrix: a vector has one. @throws ShapeError unless it has n rows. */
export function requireRightHandSide(operation: string, n: number, b: Tensor): number {
  const [rows, columns = 1, ...more] = b.shape;
  if (rows !== n || more.length > 0) {
    throw new ShapeError(
      `${operation}: the right-hand side must have shape [${n}] or [${n}, columns] for a [${n}, ${n}] matrix but has ${formatShape(b.shape)}`,
    );
  }
  return columns;
}

/** The first NaN or infinity, as `entry [i, j] of the [m, n]` for a message, with its place; undefined if there is none. */
export function findNonFinite(data: TypedArray, shape: Shape): { description: string; at: number } | undefined {
  // A loop, as a callback for each entry takes ten times as long; four at a time, as 0·x is 0 for finite numbers alone.
  let at = 0;
  while (at + 3 < data.length && data[at]! * 0 + data[at + 1]! * 0 + data[at + 2]! * 0 + data[at + 3]! * 0 === 0) at += 4;
  while (at < data.length && Number.isFinite(data[at])) at++;
  if (at === data.length) return undefined;
  const position = stridesOf(shape).map((stride, axis) => Math.floor(at / stride) % shape[axis]!);
  return { description: `entry [${position.join(", ")}] of the ${formatShape(shape)}`, at };
}

/** @throws NumericalError at the first NaN or infinity, naming its position. */
export function requireFinite(operation: string, data: TypedArray, shape: Shape): void {
  const found = findNonFinite(data, shape);
  if (!found) return;
  throw new NumericalError(`${operation}: ${found.description} input is ${data[found.at]!}; every entry must be finite`);
}

/** 1 / `value`. @throws NumericalError if that is beyond the range of `dtype`. */
export function reciprocalOf(operation: string, what: string, value: number, dtype: FloatDType): number {
  const reciprocal = 1 / value;
  if (!Number.isFinite(dtype === "float32" ? Math.fround(reciprocal) : reciprocal)) {
    throw new NumericalError(`${operation}: the inverse of ${what}, ${value}, is beyond the range of ${dtype}; scale the input`);
  }
  return reciprocal;
}

/**
 * How far from symmetric an input may be, relative to its largest entry, and how far below zero an eigenvalue of one that must be
 * positive semidefinite, relative to the largest one. A Gram matrix or a moving average of them is symmetric
 * in mathematics, but a backend may add up entry (i, j) in another order than (j, i): each sum of k terms is off by up to k·ε.
 * The float32 bound admits k ≈ 1000 at the worst and far longer sums in practice (errors grow like √k); the float64 one
 * k ≈ 500 000. A matrix that is further off is a mistake by the caller, and its symmetric part would be a wrong answer.
 */
export const inputTolerance: Readonly<Record<FloatDType, number>> = { float32: 1e-4, float64: 1e-10 };

/** Side of the squares of a matrix that are compared with their mirror images, so that both stay in the cache. */
const SQUARE = 32;

/**
 * Makes an [n, n] matrix in float64 its symmetric part (A + Aᵀ)/2, in place, so that results do not depend on which triangle is read.
 * @returns `a`.
 * @throws NumericalError if an entry differs from its mirror image by more than the tolerance of `dtype`.
 */
export function requireSymmetric(operation: string, a: Float64Array, n: number, dtype: FloatDType): Float64Array {
  let largest = 0;
  let worst = { gap: 0, i: 0, j: 0, lower: 0, upper: 0 };
  for (let i0 = 0; i0 < n; i0 += SQUARE) {
    for (let j0 = 0; j0 <= i0; j0 += SQUARE) {
      for (let i = i0; i < Math.min(n, i0 + SQUARE); i++) {
        for (let j = j0; j < Math.min(i + 1, j0 + SQUARE); j++) {
          const lower = a[i * n + j]!;
          const upper = a[j * n + i]!;
          largest = Math.max(largest, Math.abs(lower));
          if (lower === upper) continue;
          largest = Math.max(largest, Math.abs(upper));
          const gap = Math.abs(lower - upper);
          if (gap > worst.gap) worst = { gap, i, j, lower, upper };
          a[i * n + j] = a[j * n + i] = lower / 2 + upper / 2; // the sum itself could overflow
        }
      }
    }
  }
  if (worst.gap > inputTolerance[dtype] * largest) {
    const { gap, i, j, lower, upper } = worst;
    throw new NumericalError(
      `${operation}: the matrix is not symmetric: entries [${i}, ${j}] = ${lower} and [${j}, ${i}] = ${upper} differ by ` +
        `${gap.toExponential(2)}, more than ${inputTolerance[dtype]} of the largest entry ${largest} (${dtype}); ` +
        `symmetrise it first if that is what you mean`,
    );
  }
  return a;
}

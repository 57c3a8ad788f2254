/** A stretch of float64 numbers in memory. */
export interface Run {
  readonly data: Float64Array;
  readonly at: number;
}

/** A part of a row-major matrix: element (i, j) is `data[at + i · stride + j]`. */
export interface Block extends Run {
  readonly rows: number;
  readonly columns: number;
  readonly stride: number;
}

export interface ProductOptions {
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  /** Default 1. */
  readonly scale?: number;
  /** Add to what C holds. */
  readonly add?: boolean;
  /** C is square and only its lower triangle is wanted: entries above the diagonal may or may not be computed. */
  readonly lower?: boolean;
}

/**
 * Arithmetic on matrices in place, in float64: what blocked factorizations are made of. Operands are in memory of the same
 * workspace, and the result overlaps none of them.
 */
export interface MatrixArithmetic {
  /** C ← scale · op(A) op(B), or C plus that. */
  product(c: Block, a: Block, b: Block, options?: ProductOptions): void;
  /** y[i] ← Aᵢ · x for every row of A. */
  timesVector(y: Run, a: Block, x: Run): void;
  /** y ← y + scale · xᵀA. */
  addRows(y: Run, x: Run, a: Block, scale: number): void;
  /** y ← A x for a symmetric A; only the lower triangle is read. */
  symmetricTimesVector(y: Run, a: Block, x: Run): void;
}

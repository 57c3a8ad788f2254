/** A stretch of float64 numbers in memory. */
export interface VectorBlock {
  readonly data: Float64Array;
  readonly at: number;
}

/** A part of a row-major matrix: element (i, j) is `data[at + i · stride + j]`. */
export interface MatrixBlock extends VectorBlock {
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
 * The equation 1 + Σ weights[i] / (pᵢ − λ) = 0, with ascending and distinct poles pᵢ: elements of d, or their squares if none is negative.
 * Its roots are the eigenvalues of diag(p) + ρ z zᵀ, with weights ρ zᵢ².
 */
export interface SecularEquation {
  readonly size: number;
  readonly d: VectorBlock;
  readonly squared: boolean;
  /** Positive. */
  readonly weights: VectorBlock;
}

/**
 * Arithmetic on matrices in place, in float64: what blocked factorizations are made of. Operands are in memory of the same
 * workspace, and the result overlaps none of them. Definitions: linalg/arithmetic.ts.
 */
export interface MatrixArithmetic {
  /** C ← scale · op(A) op(B), or C plus that. */
  product(c: MatrixBlock, a: MatrixBlock, b: MatrixBlock, options?: ProductOptions): void;
  /** X ← X (I − Yᵀ T Y), or the same with Tᵀ: a group of reflections of the rows of X. */
  reflectRows(x: MatrixBlock, y: MatrixBlock, t: MatrixBlock, options?: { readonly transposeT?: boolean }): void;
  /** y[i] ← Aᵢ · x for every row of A. */
  timesVector(y: VectorBlock, a: MatrixBlock, x: VectorBlock): void;
  /** y ← y + scale · xᵀA. */
  addRows(y: VectorBlock, x: VectorBlock, a: MatrixBlock, scale: number): void;
  /** y ← A x for a symmetric A; only the lower triangle is read. */
  symmetricTimesVector(y: VectorBlock, a: MatrixBlock, x: VectorBlock): void;
  /**
   * The roots λ of a secular equation, ascending; for squared poles their square roots.
   * @param differences [size, size], written: row j holds pᵢ − λⱼ, to full relative precision.
   */
  secularRoots(roots: VectorBlock, differences: MatrixBlock, equation: SecularEquation): void;
  /** Magnitudes of the z for which given roots are exact: zᵢ² = Πⱼ (λⱼ − pᵢ) / Π_{j≠i} (pⱼ − pᵢ). @param differences as from `secularRoots`. */
  lowner(z: VectorBlock, differences: MatrixBlock, equation: SecularEquation): void;
  /**
   * Row j of X ← the unit vector along numerators[i] / differences[j, i], element c of it being that of i = order[c].
   * @param first takes the place of the quotient for i = 0.
   */
  unitRows(x: MatrixBlock, differences: MatrixBlock, numerators: VectorBlock, order: VectorBlock, first?: number): void;
}

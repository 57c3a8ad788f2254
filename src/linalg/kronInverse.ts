import { NumericalError, Tensor, tidy, UsageError, type FloatDType, type Shape } from "../tensor/index.ts";
import { requirePartners, requireSquare } from "./checks.ts";
import { requireOperand } from "./kron.ts";
import { factorsOfPower, powerOfTwoNear, scaleByPower } from "./scaling.ts";
import { largestOf, requireValues, resolved } from "./semidefinite.ts";
import { destinationOf, readFloats } from "./transfer.ts";

/** All eigenpairs of a symmetric positive semidefinite matrix, as `eigh` gives them. */
export interface Eigenpairs {
  /** [n]. */
  readonly values: Tensor;
  /** [n, n], orthonormal columns. */
  readonly vectors: Tensor;
}

/** (A + αI) ⊗ (B + βI) + λI. None is negative; all are 0 unless given. */
export interface KronDamping {
  /** λ. */
  readonly ofProduct?: number;
  /** α. */
  readonly ofA?: number;
  /** β. */
  readonly ofB?: number;
}

/** ((A + αI) ⊗ (B + βI) + λI)⁻¹, to be applied with any damping. */
export interface KronInverse {
  /** The largest eigenvalue of A ⊗ B, for a damping relative to it. */
  readonly largest: number;
  /** The smallest one; Infinity if there is none. */
  readonly smallest: number;
  /**
   * The matrix whose flattening is the inverse times vec(X), for X [p, r]; it belongs to the caller. 4·p·r·(p + r) operations.
   * @throws UsageError for a damping that is negative or not finite; NumericalError if the damped product is singular; ShapeError,
   *   DTypeError or BackendError for an X that does not fit.
   */
  apply(x: Tensor, damping?: KronDamping): Tensor;
}

/**
 * The damped inverse of a Kronecker product of symmetric positive semidefinite matrices A = Q_a diag(a) Q_aᵀ [p, p] and
 * B = Q_b diag(b) Q_bᵀ [r, r], from their eigenpairs:
 *
 *     ((A + αI) ⊗ (B + βI) + λI)⁻¹ vec(X) = vec(Q_a [(Q_aᵀ X Q_b) / ((a + α)(b + β)ᵀ + λ)] Q_bᵀ)
 *
 * So λ damps the product itself, which no inverse of the two factors alone can do, and may change with each application at no cost. This
 * is how K-FAC preconditions a weight gradient [dOut, dIn], with A the covariance of the outputs' gradients and B that of the inputs.
 *
 * Products are the tensors' own, in their own type; their rounding is relative to the norm of the inverse. The denominators are scaled
 * by a power of two first, so that products of small eigenvalues do not vanish in float32. Eigenvalues that `eigh` cannot tell from 0
 * count as 0 (see `matrixPower`).
 *
 * The vectors must live for as long as the inverse is used; the values are read at once.
 * @throws ShapeError unless values and vectors fit, DTypeError for int32 or mixed types, NumericalError for an eigenvalue that is negative
 *   beyond rounding, or not finite.
 * Source: Martens & Grosse 2015, arXiv 1503.05671, section 6.2 and appendix B.
 */
export async function kronInverse(a: Eigenpairs, b: Eigenpairs): Promise<KronInverse> {
  requirePartners("kronInverse", a.vectors, b.vectors);
  const [qa, qb] = [a.vectors, b.vectors];
  const { dtype, backend } = destinationOf("kronInverse", qa);
  const [valuesA, valuesB] = await Promise.all([readValues(a), readValues(b)]);
  const tensor = (values: Float64Array, shape: Shape): Tensor => Tensor.from(values, { shape, dtype, backend });
  return {
    largest: largestOf(valuesA) * largestOf(valuesB),
    smallest: smallestProduct(valuesA, valuesB),
    apply(x, { ofProduct = 0, ofA = 0, ofB = 0 } = {}) {
      requireOperand("kronInverse", qa, x, [valuesA.length, valuesB.length]);
      requireDamping({ ofProduct, ofA, ofB });
      const { column, row, constant, exponent } = denominators(damped(valuesA, ofA), damped(valuesB, ofB), ofProduct, dtype);
      const [first, second] = factorsOfPower(-exponent);
      return tidy(() => {
        const rotated = qa.matmul(x, { transposeA: true }).matmul(qb);
        const divisor = tensor(column, [column.length, 1])
          .multiply(tensor(row, [1, row.length]))
          .add(constant);
        const solved = rotated.divide(divisor).multiply(first).multiply(second);
        return qa.matmul(solved).matmul(qb, { transposeB: true });
      });
    },
  };
}

/** The smallest normal numbers: devices may take smaller ones for 0. */
const SMALLEST = { float32: 2 ** -126, float64: 2 ** -1022 } as const;

/** c rᵀ + constant = (a bᵀ + λ) / 2^exponent, its largest element near 1. */
function denominators(
  a: Float64Array,
  b: Float64Array,
  lambda: number,
  dtype: FloatDType,
): { column: Float64Array; row: Float64Array; constant: number; exponent: number } {
  if (smallestProduct(a, b) + lambda === 0) {
    throw new NumericalError(
      `kronInverse: the damped product is singular: the smallest eigenvalues of its factors are ${smallestOf(a)} and ${smallestOf(b)}, ` +
        `their own damping included, and the damping of the product is 0; give a positive damping`,
    );
  }
  const [exponentA, exponentB] = [powerOfTwoNear(largestOf(a)), powerOfTwoNear(largestOf(b))];
  const exponent = lambda > 0 ? Math.max(exponentA + exponentB, powerOfTwoNear(lambda)) : exponentA + exponentB;
  const [first, second] = factorsOfPower(-exponent);
  const [column, row, constant] = [scaleByPower(a, exponentB - exponent), scaleByPower(b, -exponentB), lambda * first * second];
  if (smallestProduct(column, row) + constant < SMALLEST[dtype]) {
    throw new NumericalError(
      `kronInverse: the damped product is singular in ${dtype}: its smallest eigenvalue is below ${SMALLEST[dtype].toExponential(1)} of ` +
        `its largest; give more damping`,
    );
  }
  return { column, row, constant, exponent };
}

const damped = (values: Float64Array, shift: number): Float64Array => values.map((value) => value + shift);

const smallestOf = (values: Float64Array): number => values.reduce((smallest, value) => Math.min(smallest, value), Infinity);
const smallestProduct = (a: Float64Array, b: Float64Array): number =>
  a.length === 0 || b.length === 0 ? Infinity : smallestOf(a) * smallestOf(b);

function requireDamping(damping: Required<KronDamping>): void {
  for (const [name, value] of Object.entries<number>({ ...damping })) {
    if (!(value >= 0 && value < Infinity)) {
      throw new UsageError(`kronInverse: the damping ${name} must be finite and at least 0 but is ${value}`);
    }
  }
}

async function readValues({ values, vectors }: Eigenpairs): Promise<Float64Array> {
  const dtype = requirePartners("kronInverse", vectors, values);
  const n = requireSquare("kronInverse", vectors);
  requireValues("kronInverse", values, n);
  return resolved("kronInverse", await readFloats("kronInverse", values), dtype);
}

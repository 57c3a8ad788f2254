import { formatShape, NumericalError, ShapeError, Tensor, tidy, UsageError, type FloatDType, type Shape } from "../tensor/index.ts";
import { reciprocalOf, requireMatrix, requirePartners } from "./checks.ts";
import { largestOf, requireValues, withoutNegative } from "./semidefinite.ts";
import { readFloats } from "./transfer.ts";

/** Part of the spectrum of a symmetric positive semidefinite matrix X [d, d]: X ≈ U diag(values) Uᵀ on the span of U. */
export interface LowRank {
  /** U [d, r], orthonormal columns. */
  readonly vectors: Tensor;
  /** [r], not negative but for rounding. */
  readonly values: Tensor;
  /** tr X; needed for the tail's mean. */
  readonly trace?: number;
}

/**
 * What the d − r eigenvalues outside of the span are taken to be: `mean` what the trace leaves for them, on average; `smallest` the
 * smallest of `values`, as if the spectrum went on with it (0 if there are none); `zero` nothing.
 */
export type Tail = "mean" | "smallest" | "zero";

export interface LowRankInverseOptions {
  /** λ > 0, added to every eigenvalue. */
  readonly damping: number;
  /** Default `mean`. */
  readonly tail?: Tail;
}

/** (X + λI)⁻¹, to be applied. All results belong to the caller; products throw ShapeError, DTypeError or BackendError for an M that does not fit. */
export interface LowRankInverse {
  /** The eigenvalue that stands for those outside of the span. */
  readonly tail: number;
  /** (X + λI)⁻¹ M for M [d, m]: 4·d·r·m operations. */
  left(m: Tensor): Tensor;
  /** M (X + λI)⁻¹ for M [m, d]. */
  right(m: Tensor): Tensor;
  /** (X + λI)⁻¹ itself [d, d]: 2·d²·r operations, after which a product takes 2·d²·m. Worth it for r above d/2, if it is applied often. */
  matrix(): Tensor;
}

/** U diag(D) Uᵀ + τ(I − UUᵀ), to be inverted with any damping. */
export interface LowRankPlusTail {
  /** D, in the order of the vectors. */
  readonly values: Float64Array;
  /** τ. */
  readonly tail: number;
  /** The largest of `values`, which are taken for the dominant eigenvalues: for a damping relative to it. */
  readonly largest: number;
  /**
   * The inverse with λ > 0 added to every eigenvalue: r operations.
   * @throws UsageError for a damping that is not positive; NumericalError for an inverse beyond the range of the type.
   */
  inverse(damping: number): LowRankInverse;
}

/**
 * The matrix U diag(D) Uᵀ + τ(I − UUᵀ) as an object that gives its damped inverses, of which `lowRankInverse` tells more. What depends on
 * the values alone is read and checked once: for a damping that changes from step to step.
 *
 * The vectors must live for as long as the object is used.
 * @throws UsageError for a missing trace; ShapeError; DTypeError; NumericalError for a value that is not finite or negative beyond rounding
 *   (1e-4 of the largest in float32, 1e-10 in float64).
 */
export async function lowRankPlusTail(x: LowRank, tail: Tail = "mean"): Promise<LowRankPlusTail> {
  const { vectors, values, trace } = x;
  const dtype = requirePartners("lowRankInverse", vectors, values);
  const [d, r] = requireMatrix("lowRankInverse", vectors);
  requireValues("lowRankInverse", values, r);
  const numbers = withoutNegative("lowRankInverse", await readFloats("lowRankInverse", values), dtype);
  const rest = tailOf(tail, numbers, d, trace);
  return {
    values: numbers,
    tail: rest,
    largest: largestOf(numbers),
    inverse: (damping) => inverseOf(vectors, numbers, rest, damping, dtype),
  };
}

/**
 * The inverse of U diag(D) Uᵀ + τ(I − UUᵀ) + λI by the identity of Woodbury:
 *
 *     (X + λI)⁻¹ M = U diag(c) UᵀM + M / (τ + λ),   cⱼ = 1/(Dⱼ + λ) − 1/(τ + λ) = (τ − Dⱼ) / ((Dⱼ + λ)(τ + λ))
 *
 * The last form does not cancel. With r = d it is the inverse of X + λI; with r = 0 it is 1/(τ + λ). Rounding is relative to the norm
 * of the inverse, 1/(τ + λ): where M lies in the span of eigenvalues far above that, the two terms cancel. The error beyond rounding
 * is that of X's part outside of the span: each eigenvalue μ there is inverted as if it were τ, so that
 * ‖error‖ ≤ max |μ − τ| / ((μ + λ)(τ + λ)).
 * Source: Puiu, "Randomized K-FACs", arXiv 2206.15397 (τ = 0); the mean of the tail is the least-squares choice for the matrix itself.
 *
 * The tensors of `x` must live for as long as the inverse is used.
 * @throws UsageError for a damping that is not positive or a missing trace; ShapeError; DTypeError; NumericalError for a value
 *   that is not finite or negative beyond rounding (1e-4 of the largest in float32, 1e-10 in float64), and for an inverse beyond the range of
 *   the type.
 */
export async function lowRankInverse(x: LowRank, { damping, tail = "mean" }: LowRankInverseOptions): Promise<LowRankInverse> {
  requireDamping(damping);
  return (await lowRankPlusTail(x, tail)).inverse(damping);
}

function inverseOf(vectors: Tensor, values: Float64Array, tail: number, damping: number, dtype: FloatDType): LowRankInverse {
  requireDamping(damping);
  const [d, r] = vectors.shape as readonly [number, number];
  // In float64 on the host; as many numbers as the rank.
  const coefficients = values.map((value) => (tail - value) / (value + damping) / (tail + damping));
  const scale = 1 / (tail + damping);
  const smallest = values.reduce((least, value) => Math.min(least, value), tail);
  reciprocalOf("lowRankInverse", "the smallest eigenvalue, damping included", smallest + damping, dtype);
  const factors = (shape: Shape): Tensor => Tensor.from(coefficients, { shape, dtype: vectors.dtype, backend: vectors.backend });
  const check = (m: Tensor, axis: 0 | 1): void => {
    requirePartners("lowRankInverse", vectors, m);
    if (requireMatrix("lowRankInverse", m)[axis] === d) return;
    const problem = `axis ${axis} of the matrix must have ${d} elements, as the vectors have rows, but its shape is ${formatShape(m.shape)}`;
    throw new ShapeError(`lowRankInverse: ${problem}`);
  };
  return {
    tail,
    left(m) {
      check(m, 0);
      return tidy(() => vectors.matmul(vectors.matmul(m, { transposeA: true }).multiply(factors([r, 1]))).add(m.multiply(scale)));
    },
    right(m) {
      check(m, 1);
      return tidy(() =>
        m
          .matmul(vectors)
          .multiply(factors([1, r]))
          .matmul(vectors, { transposeB: true })
          .add(m.multiply(scale)),
      );
    },
    matrix() {
      return tidy(() => {
        const onSpan = vectors.multiply(factors([1, r])).matmul(vectors, { transposeB: true });
        return onSpan.add(Tensor.eye(d, { dtype, backend: vectors.backend }).multiply(scale));
      });
    },
  };
}

function requireDamping(damping: number): void {
  if (!(damping > 0 && damping < Infinity)) throw new UsageError(`lowRankInverse: damping must be positive and finite but is ${damping}`);
}

/** The eigenvalue that stands for those outside of the span. */
function tailOf(kind: Tail, values: Float64Array, d: number, trace: number | undefined): number {
  if (values.length === d) return Math.max(0, ...values); // nothing is outside, and with this c is never negative: nothing cancels
  if (kind === "zero") return 0;
  if (kind === "smallest") return values.length === 0 ? 0 : Math.min(...values);
  if (trace === undefined) {
    throw new UsageError(
      `lowRankInverse: the tail's mean needs the trace of the matrix; give { trace }, or choose tail "zero" or "smallest"`,
    );
  }
  if (!Number.isFinite(trace)) throw new NumericalError(`lowRankInverse: the trace is ${trace}; it must be finite`);
  const sum = values.reduce((total, value) => total + value, 0);
  return Math.max(0, (trace - sum) / (d - values.length)); // below zero by rounding alone
}

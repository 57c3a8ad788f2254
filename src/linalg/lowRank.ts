import { formatShape, NumericalError, ShapeError, Tensor, tidy, UsageError, type Shape } from "../tensor/index.ts";
import { reciprocalOf, requireMatrix, requirePartners } from "./checks.ts";
import { requireValues, withoutNegative } from "./semidefinite.ts";
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

export interface LowRankInverseOptions {
  /** λ > 0, added to every eigenvalue. */
  readonly damping: number;
  /**
   * What the d − r eigenvalues outside of the span are taken to be: `mean` (default) what the trace leaves for them, on average;
   * `smallest` the smallest of `values`, as if the spectrum went on with it (0 if there are none); `zero` nothing.
   */
  readonly tail?: "mean" | "smallest" | "zero";
}

/** (X + λI)⁻¹, to be applied. Both results belong to the caller; both throw ShapeError, DTypeError or BackendError for an M that does not fit. */
export interface LowRankInverse {
  /** The eigenvalue that stands for those outside of the span. */
  readonly tail: number;
  /** (X + λI)⁻¹ M for M [d, m]: 4·d·r·m operations. */
  left(m: Tensor): Tensor;
  /** M (X + λI)⁻¹ for M [m, d]. */
  right(m: Tensor): Tensor;
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
  const { vectors, values, trace } = x;
  const dtype = requirePartners("lowRankInverse", vectors, values);
  const [d, r] = requireMatrix("lowRankInverse", vectors);
  requireValues("lowRankInverse", values, r);
  if (!(damping > 0 && damping < Infinity)) throw new UsageError(`lowRankInverse: damping must be positive and finite but is ${damping}`);
  const numbers = withoutNegative("lowRankInverse", await readFloats("lowRankInverse", values), dtype);
  const rest = tailOf(tail, numbers, d, trace);
  // In float64 on the host; as many numbers as the rank.
  const coefficients = numbers.map((value) => (rest - value) / (value + damping) / (rest + damping));
  const scale = 1 / (rest + damping);
  reciprocalOf("lowRankInverse", "the smallest eigenvalue, damping included", Math.min(rest, ...numbers) + damping, dtype);
  const factors = (shape: Shape): Tensor => Tensor.from(coefficients, { shape, dtype: vectors.dtype, backend: vectors.backend });
  const check = (m: Tensor, axis: 0 | 1): void => {
    requirePartners("lowRankInverse", vectors, m);
    if (requireMatrix("lowRankInverse", m)[axis] === d) return;
    const problem = `axis ${axis} of the matrix must have ${d} elements, as the vectors have rows, but its shape is ${formatShape(m.shape)}`;
    throw new ShapeError(`lowRankInverse: ${problem}`);
  };
  return {
    tail: rest,
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
  };
}

/** The eigenvalue that stands for those outside of the span. */
function tailOf(kind: NonNullable<LowRankInverseOptions["tail"]>, values: Float64Array, d: number, trace: number | undefined): number {
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

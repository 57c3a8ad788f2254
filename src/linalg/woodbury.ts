import { formatShape, ShapeError, Tensor, tidy, UsageError, type FloatArray, type MatrixBlock } from "../tensor/index.ts";
import { inWorkspace, part, type Workspace } from "./arithmetic.ts";
import { reciprocalOf, requireFinite, requireMatrix, requirePartners } from "./checks.ts";
import { choleskyIn, choleskySize, solveFromLeft } from "./cholesky.ts";
import { powerOfTwoNear } from "./scaling.ts";
import { destinationOf } from "./transfer.ts";
import { largestMagnitude } from "./vectors.ts";

export interface WoodburyOptions {
  /** λ > 0. */
  readonly damping: number;
}

/** (UᵀU + λI)⁻¹, to be applied. Both results belong to the caller; both throw ShapeError, DTypeError or BackendError for an M that does not fit. */
export interface WoodburyInverse extends Disposable {
  /** (UᵀU + λI)⁻¹ M for M [d, m]: 4·n·d·m operations. */
  left(m: Tensor): Tensor;
  /** M (UᵀU + λI)⁻¹ for M [m, d]. */
  right(m: Tensor): Tensor;
  /** Gives its memory back, as much as that of U. */
  dispose(): void;
}

/** Columns of U that are in float64 at a time. */
const STRIP = 1024;

/**
 * The inverse of the d × d matrix UᵀU + λI from a U [n, d] with few rows, by the identity of Woodbury, in the space of the rows:
 *
 *     (UᵀU + λI)⁻¹ M = (M − Uᵀ (λI + UUᵀ)⁻¹ U M) / λ = (M − WᵀW M) / λ,   W = L⁻¹U [n, d],  λI + UUᵀ = L Lᵀ
 *
 * With the gradients of n samples as rows of U / √n, this is the natural gradient of SENG. 2·n²·d + n³/3 operations in float64 for W, which
 * takes the place of U: U is not needed any more.
 *
 * Error, relative to the norm ‖M‖/λ of what the inverse may give: the products, in the type of U, are off by O(n + d)·ε of that type,
 * whatever λ, since ‖W‖₂ < 1; and L by O(n)·ε·κ/4 of float64 with κ = 1 + ‖U‖₂²/λ, which is no more than that of a stable solve with the
 * dense matrix. (The small matrix inverted and rounded instead of W would be off by κ·ε of the type; Yip, SIAM J. Sci. Stat. Comput. 7,
 * 1986, has the condition of the identity.) Where UᵀU is far above λ on all of M, the two terms cancel.
 * Source: Yang, Xu, Wen, Chen & Xu, "Sketch-based empirical natural gradient methods" (SENG), arXiv 2006.05924; Golub & Van Loan §2.1.4.
 *
 * @returns the inverse, of the caller, who disposes it.
 * @throws UsageError for a damping that is not positive; ShapeError unless U is a matrix; DTypeError; NumericalError for an entry that is
 *   not finite, and for a damping so small that 1/λ is beyond the range of the type or that λI + UUᵀ is singular to rounding in float64:
 *   below about n·ε·‖U‖₂² where rows depend on each other.
 */
export async function woodburyInverse(u: Tensor, { damping }: WoodburyOptions): Promise<WoodburyInverse> {
  const operation = "woodburyInverse";
  const { dtype, backend } = destinationOf(operation, u);
  const [n, d] = requireMatrix(operation, u);
  if (!(damping > 0 && damping < Infinity)) throw new UsageError(`${operation}: damping must be positive and finite but is ${damping}`);
  const scale = reciprocalOf(operation, "the damping", damping, dtype);
  const rows = (await u.data()) as FloatArray;
  requireFinite(operation, rows, [n, d]);
  inWorkspace(backend, n * n + choleskySize(n) + n * Math.min(d, STRIP), (space) => {
    whiten(space, rows, n, d, damping, operation);
  });
  const w = Tensor.from(rows, { dtype, backend, shape: [n, d] });
  const check = (m: Tensor, axis: 0 | 1): void => {
    requirePartners(operation, w, m);
    if (requireMatrix(operation, m)[axis] === d) return;
    const problem = `axis ${axis} of the matrix must have ${d} elements, as U has columns, but its shape is ${formatShape(m.shape)}`;
    throw new ShapeError(`${operation}: ${problem}`);
  };
  const dispose = (): void => w.dispose();
  return {
    left(m) {
      check(m, 0);
      return tidy(() => m.subtract(w.matmul(w.matmul(m), { transposeA: true })).multiply(scale));
    },
    right(m) {
      check(m, 1);
      return tidy(() => m.subtract(m.matmul(w, { transposeB: true }).matmul(w)).multiply(scale));
    },
    dispose,
    [Symbol.dispose]: dispose,
  };
}

/** U ← L⁻¹U, strip by strip of columns. */
function whiten(space: Workspace, u: FloatArray, n: number, d: number, damping: number, operation: string): void {
  // A power of two that keeps squares of very large or very small entries inside the range of float64; it cancels in L⁻¹U.
  const exponent = powerOfTwoNear(Math.max(largestMagnitude(u), Math.sqrt(damping)));
  const unit = Math.abs(exponent) < 400 ? 1 : 2 ** -exponent;
  const [gram, whole] = [space.matrix(n, n), space.matrix(n, Math.min(d, STRIP))];
  gram.data.fill(0, gram.at, gram.at + n * n);
  const strips = (visit: (strip: MatrixBlock, start: number) => void): void => {
    for (let start = 0; start < d; start += STRIP) {
      const strip = part(whole, 0, 0, n, Math.min(STRIP, d - start));
      for (let i = 0; i < n; i++) {
        const row = strip.at + i * strip.stride;
        for (let j = 0; j < strip.columns; j++) strip.data[row + j] = unit * u[i * d + start + j]!;
      }
      visit(strip, start);
    }
  };
  strips((strip) => space.arithmetic.product(gram, strip, strip, { transposeB: true, add: true, lower: true }));
  for (let i = 0; i < n; i++) gram.data[gram.at + i * (n + 1)]! += unit * damping * unit;
  const l = gram; // the Gram matrix has served
  l.data.set(choleskyIn(space, gram.data.slice(gram.at, gram.at + n * n), n, `${operation} (λI + UUᵀ)`), l.at);
  strips((strip, start) => {
    solveFromLeft(space, l, strip);
    for (let i = 0; i < n; i++) {
      const row = strip.at + i * strip.stride;
      for (let j = 0; j < strip.columns; j++) u[i * d + start + j] = strip.data[row + j]!;
    }
  });
}

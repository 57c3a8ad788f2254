import { NumericalError, UsageError, type Tensor } from "../tensor/index.ts";
import { inWorkspace, mirror, type Workspace } from "./arithmetic.ts";
import { requireSquare } from "./checks.ts";
import { eighIn, eighSize } from "./eigh.ts";
import { largestOf, resolution, resolved } from "./semidefinite.ts";
import { destinationOf, readSymmetric, toTensor } from "./transfer.ts";

export interface MatrixPowerOptions {
  /** Added to every eigenvalue. At least 0. Default 0. */
  readonly damping?: number;
  /** `absolute` (default): the damping itself is added; `relative`: so many times the largest eigenvalue. */
  readonly dampingKind?: "absolute" | "relative";
}

/**
 * (A + δI)^p = V diag((λ + δ)^p) Vᵀ for a symmetric positive semidefinite A [n, n], any real p, and a damping δ ≥ 0, by
 * eigendecomposition: −1/2 whitens, −1/4 on both sides is Shampoo's preconditioner. Symmetric to the last bit. 17/3·n³ operations at most.
 *
 * Eigenvalues that the decomposition cannot tell from 0, below max(3n, 15)·ε of the largest (ε = 2⁻⁵²), count as 0, and so do negative
 * ones down to −1e-4 of the largest in float32, −1e-10 in float64: rounding makes them of a Gram matrix without full rank. A damping
 * far below that is as good as none: it does not change what is known of the other eigenvalues, and δ^p stands for the rest.
 *
 * Error: the decomposition is exact for a matrix within E of A, ‖E‖₂ ≤ max(3n, 15)·ε·‖A‖₂, and so the result is off by at most
 *
 *     |p|·max(m^(p−1), M^(p−1))·‖E‖ + max(6n, 30)·ε·max(m^p, M^p)
 *
 * in the Frobenius norm, to first order, with m and M the smallest and largest of λ + δ: relative to the result, of order
 * n·ε·(1 + |p|·M/m) for a negative p. For 0 < p < 1 the first term is also at most ‖E‖^p in the 2-norm, however near to 0 the
 * eigenvalues are.
 * Source: in the eigenbasis the derivative of x^p multiplies entries by divided differences, which are at most |p|·max(m^(p−1), M^(p−1))
 * (Bhatia, Matrix Analysis, theorem V.3.3; X.1.1 for ‖E‖^p).
 *
 * @throws UsageError for a power that is not finite or a damping that is negative; ShapeError; DTypeError; NumericalError for an entry
 *   that is not finite, a matrix that is not symmetric or not positive semidefinite, a negative power of a singular one without
 *   damping, with the figures, and a result beyond the range of its type.
 */
export async function matrixPower(a: Tensor, power: number, options: MatrixPowerOptions = {}): Promise<Tensor> {
  const { damping = 0, dampingKind = "absolute" } = options;
  const destination = destinationOf("matrixPower", a);
  const n = requireSquare("matrixPower", a);
  if (!Number.isFinite(power)) throw new UsageError(`matrixPower: the power must be a finite number but is ${power}`);
  if (!(damping >= 0 && damping < Infinity)) {
    throw new UsageError(`matrixPower: damping must be finite and at least 0 but is ${damping}`);
  }
  const matrix = await readSymmetric("matrixPower", a);
  const { values: raw, vectors } = inWorkspace(destination.backend, eighSize(n), (space) => eighIn(space, matrix, n));
  const values = resolved("matrixPower", raw, destination.dtype);
  const shift = dampingKind === "relative" ? damping * largestOf(values) : damping;
  const powers = powersOf(
    values.map((value) => value + shift),
    power,
  );
  const result = inWorkspace(destination.backend, 3 * n * n, (space) => compose(space, vectors, powers));
  return toTensor("matrixPower", result, [n, n], destination);
}

function powersOf(values: Float64Array, power: number): Float64Array {
  const n = values.length;
  const zeros = values.filter((value) => value === 0).length;
  if (power < 0 && zeros > 0) {
    const bound = (resolution(n) * largestOf(values)).toExponential(2);
    throw new NumericalError(
      `matrixPower: the matrix is singular to rounding, so it has no power ${power}: ${zeros} of its ${n} eigenvalues are not above ` +
        `${bound} (the largest is ${largestOf(values)}); give { damping }`,
    );
  }
  const powers = values.map((value) => value ** power);
  const beyond = powers.indexOf(Infinity);
  if (beyond >= 0) {
    throw new NumericalError(`matrixPower: ${values[beyond]} to the power ${power} is beyond the range of float64; scale the input`);
  }
  return powers;
}

/** V diag(d) Vᵀ. */
function compose(space: Workspace, vectors: Float64Array, d: Float64Array): Float64Array {
  const n = d.length;
  const [v, scaled, product] = [space.matrix(n, n), space.matrix(n, n), space.matrix(n, n)];
  v.data.set(vectors, v.at);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) scaled.data[scaled.at + i * n + j] = vectors[i * n + j]! * d[j]!;
  }
  space.arithmetic.product(product, scaled, v, { transposeB: true, lower: true });
  const result = product.data.slice(product.at, product.at + n * n);
  mirror(result, n);
  return result;
}

import { formatShape, machineEpsilon, NumericalError, ShapeError, Tensor, tidy, type Backend } from "../tensor/index.ts";
import { inWorkspace } from "./arithmetic.ts";
import { requireFinite, requireMatrix } from "./checks.ts";
import { choleskyIn, choleskySize, inverseLowerIn, inverseSize } from "./cholesky.ts";
import { qr } from "./qr.ts";
import { destinationOf, narrowed, widened } from "./transfer.ts";
import { largestMagnitude } from "./vectors.ts";

/*
 * Orthonormal bases of panels: matrices Y [m, s] of many rows and at most some hundreds of columns. Reflections walk through a panel
 * column by column; CholeskyQR is two products and a small factorization:
 *
 *     G = YᵀY,   G + δI = L Lᵀ,   Q = Y L⁻ᵀ,   QᵀQ − I = −L⁻¹ (δI + E) L⁻ᵀ
 *
 * E is the rounding of G and of its factorization. In float32 it is of the order of ‖Y‖²·1e-7, and Q is lost where Y's condition κ exceeds
 * a few thousand. But products of two float32 numbers are exact in float64, and there E is at most √m·ε·tr G as observed (m·ε in the worst
 * case), so that one pass is good to κ²·√m·ε. A shift δ of that size makes G + δI definite whatever Y is. It takes directions whose
 * singular value σ is below √δ for σ/√(σ² + δ) of what they are, so Q has a condition of at most 1/√(√m·ε) ≈ 10⁷ after a first pass,
 * and for κ ≤ 10¹⁰, which is more than rounding to float32 leaves of any panel but an exactly singular one, at most 10³: a second pass
 * makes it orthonormal. (Yamamoto et al., ETNA 44, 2015; Yamazaki, Tomov & Dongarra, SIAM J. Sci. Comput. 37, 2015, for the mixed
 * precision; Fukaya et al., SIAM J. Sci. Comput. 42, 2020, for the shift.)
 *
 * L⁻¹ is formed: Q = Y L⁻ᵀ is a product then, and rounds by κ·ε, which is less than E does. With it comes a bound on the departure
 * QᵀQ − I of the pass, so that no pass more is made than it takes, and a panel on which passes do not help, with a column of zeros or
 * columns that repeat, is found out and left to Householder's reflections.
 */

/** How far QᵀQ may be from I, in the 2-norm. */
export const DEPARTURE = {
  /** Less than what rounding the entries of Q to float32 does. */
  orthonormal: 1e-8,
  /** Singular values from .87 to 1.12: a product with Q loses no digit that one with an orthonormal basis keeps. */
  wellConditioned: 0.25,
} as const;

/** A third pass saves panels whose columns repeat but for a few; then reflections are as cheap. */
const MOST_PASSES = 3;

/**
 * An orthonormal basis [m, s] of a space that contains the columns of A [m, s], m ≥ s. Where these are dependent, to rounding, the basis
 * goes beyond their span. Column j of A is a combination of the first j columns.
 *
 * float32 by Cholesky factorization of the Gram matrix in float64, 3·m·s² operations a pass, of which it takes one up to a condition of some
 * hundreds and two up to 10¹⁰; and by Householder reflections where that fails. float64 by Householder reflections.
 *
 * @returns Q in A's type and on its device, owned by the caller; ‖QᵀQ − I‖₂ ≤ max(3m, 15)·ε in float64, and at most 1e-8 before Q is rounded
 *   to float32.
 * @throws ShapeError unless A is a matrix with at least as many rows as columns; DTypeError for int32; NumericalError for an entry that is
 *   not finite.
 */
export async function orthonormalize(a: Tensor): Promise<Tensor> {
  const destination = destinationOf("orthonormalize", a);
  const [m, s] = requireMatrix("orthonormalize", a);
  if (m < s) {
    throw new ShapeError(
      `orthonormalize: a matrix of shape ${formatShape(a.shape)} has more columns than rows, so that no basis has as many; ` +
        `pass its transpose, or fewer columns`,
    );
  }
  using panel = a.keep();
  if (!(await allFinite(panel))) requireFinite("orthonormalize", await panel.data(), panel.shape);
  using q = await orthonormalBasis(panel);
  return await narrowed(q, destination);
}

/** Whether all entries are: 0·∞ and 0·NaN are NaN. */
export async function allFinite(a: Tensor): Promise<boolean> {
  using zeros = a.multiply(0);
  using sum = zeros.sum();
  return (await sum.item()) === 0;
}

/** The basis of `orthonormalize` in float64 (`widened`), for a panel that is finite. */
export function orthonormalBasis(panel: Tensor): Promise<Tensor> {
  return basisOf(panel, DEPARTURE.orthonormal);
}

/**
 * A basis of the panel's columns in its type that is well conditioned, and orthonormal only where that is no more work: what a power
 * iteration needs between products, where the span is all that counts.
 */
export async function wellConditionedBasis(panel: Tensor): Promise<Tensor> {
  const destination = destinationOf("orthonormalize", panel);
  using q = await basisOf(panel, DEPARTURE.wellConditioned);
  return await narrowed(q, destination);
}

/**
 * Whether ‖WᵀW − I‖_F is so small that W is well conditioned as it is: one symmetric product in W's own type, whose rounding is far below
 * that bound. False where an entry is not finite.
 */
export async function isWellConditioned(w: Tensor): Promise<boolean> {
  const s = w.shape[1] as number;
  const { dtype, backend } = destinationOf("orthonormalize", w);
  using departure = tidy(() => w.gram().subtract(Tensor.eye(s, { dtype, backend })).square().sum());
  return (await departure.item()) <= DEPARTURE.wellConditioned ** 2;
}

async function basisOf(panel: Tensor, departure: number): Promise<Tensor> {
  using own = panel.keep();
  const found = own.dtype === "float32" ? await choleskyQr(own, departure) : null;
  if (found) return found;
  using wide = await widened(own);
  const { q, r } = await qr(wide);
  r.dispose();
  return q;
}

/** @returns null where the panel is so near to singular that passes do not make it orthonormal. */
async function choleskyQr(panel: Tensor, departure: number): Promise<Tensor | null> {
  const [m, s] = panel.shape as [number, number];
  let q = await widened(panel);
  try {
    for (let pass = 1; pass <= MOST_PASSES; pass++) {
      const gram = await gramOf(q);
      if (departureOf(gram, s) <= departure) return q.keep();
      const step = inverseFactor(q.backend, gram, m, s);
      if (!step) return null;
      const next = timesTransposed(q, step.inverse);
      q.dispose();
      q = next;
      if (step.departure <= departure) return q.keep();
    }
    return null;
  } finally {
    q.dispose();
  }
}

/** QᵀQ, on the host. */
async function gramOf(q: Tensor): Promise<Float64Array> {
  using gram = q.gram();
  return (await gram.data()) as Float64Array;
}

/** ‖G − I‖ in the Frobenius norm, which is at least the 2-norm. */
function departureOf(gram: Float64Array, s: number): number {
  let sum = 0;
  for (let at = 0; at < gram.length; at++) sum += (gram[at]! - (at % (s + 1) === 0 ? 1 : 0)) ** 2;
  return Math.sqrt(sum);
}

/** What rounding in float64 does to the Gram matrix of m rows, in the 2-norm: as observed, with room for three times as much. */
export function roundingOfGram(gram: Float64Array, m: number, s: number): number {
  let trace = 0;
  for (let i = 0; i < s; i++) trace += gram[i * (s + 1)]!;
  return Math.sqrt(m) * machineEpsilon.float64 * trace;
}

/** L⁻¹ for the Gram matrix of m rows, which is shifted in place, and how far Q L⁻ᵀ is from orthonormal; null if there is no L. */
function inverseFactor(backend: Backend, gram: Float64Array, m: number, s: number): { inverse: Float64Array; departure: number } | null {
  const shift = roundingOfGram(gram, m, s);
  for (let i = 0; i < s; i++) gram[i * (s + 1)]! += shift;
  try {
    const l = inWorkspace(backend, choleskySize(s), (space) => choleskyIn(space, gram, s));
    const inverse = inverseOfLower(backend, l, s);
    // The shift, and as much again for rounding, times ‖L⁻¹‖₂².
    return { inverse, departure: 2 * shift * squareOfNorm(inverse, s) };
  } catch (error) {
    if (error instanceof NumericalError) return null;
    throw error;
  }
}

function inverseOfLower(backend: Backend, l: Float64Array, s: number): Float64Array {
  return inWorkspace(backend, inverseSize(s), (space) => inverseLowerIn(space, l, s));
}

/** Y L⁻ᵀ for a lower triangular L [s, s] on the host. */
export function timesInverseOfLower(y: Tensor, l: Float64Array): Tensor {
  return timesTransposed(y, inverseOfLower(y.backend, l, y.shape[1] as number));
}

/** Y Mᵀ for a matrix M [s, s] on the host. */
function timesTransposed(y: Tensor, m: Float64Array): Tensor {
  const s = y.shape[1] as number;
  using factor = Tensor.from(m, { shape: [s, s], backend: y.backend });
  return y.matmul(factor, { transposeB: true });
}

/** At least ‖M‖₂² for a lower triangular M: ‖M‖_F², or ‖M‖₁·‖M‖_∞ if that is less. */
function squareOfNorm(m: Float64Array, s: number): number {
  const columns = new Float64Array(s);
  let [frobenius, mostOfRow] = [0, 0];
  for (let i = 0; i < s; i++) {
    let row = 0;
    for (let j = 0; j <= i; j++) {
      const magnitude = Math.abs(m[i * s + j]!);
      frobenius += magnitude * magnitude;
      row += magnitude;
      columns[j]! += magnitude;
    }
    mostOfRow = Math.max(mostOfRow, row);
  }
  return Math.min(frobenius, mostOfRow * largestMagnitude(columns));
}

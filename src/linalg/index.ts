/**
 * Linear algebra on matrices: factorizations, solves, Kronecker products and norms.
 *
 * Two levels live here. Functions on tensors are asynchronous, check what they are given, and compute on the host in float64
 * whatever the type and device. The cores named `…Host` work synchronously on row-major `Float64Array`s, for callers that
 * already hold numbers on the host; they check only what would otherwise give a wrong answer without a word.
 *
 * May be imported by optim, train and cli. Imports tensor alone: it knows nothing of gradients, layers, curvature or damping
 * schedules. A matrix that cannot be factorized is a `NumericalError`, never NaN; what to do about it is the caller's decision.
 */
export { cholesky, eigh, inversePositiveDefinite, solvePositiveDefinite, solveTriangular } from "./factorizations.ts";
export { kron, kronHost } from "./kron.ts";
export { frobeniusNorm, frobeniusNormHost } from "./norms.ts";
export { eighHost, type Eigh } from "./eigh.ts";
export { lstsq, lstsqHost, qr, qrHost, type Qr, type QrOptions } from "./qr.ts";
export { choleskyHost, inverseCholeskyHost, solveCholeskyHost, solveTriangularHost, type TriangularOptions } from "./cholesky.ts";

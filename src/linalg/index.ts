/**
 * Linear algebra on matrices: factorizations, solves, Kronecker products and norms.
 *
 * Two levels live here. Functions on tensors are asynchronous, check what they are given, and compute in float64 whatever the type,
 * by the backend's arithmetic on matrices in place where it has one and by plain loops on the host elsewhere. The cores named
 * `…Host` work synchronously on row-major `Float64Array`s, for callers that already hold numbers on the host; they check only what
 * would otherwise give a wrong answer without a word. What is applied again and again (`kronMultiply`, and the inverses that
 * `kronInverse`, `lowRankInverse` and `woodburyInverse` prepare) is synchronous too: products of tensors, in their own type.
 *
 * May be imported by optim, train and cli. Imports tensor alone: it knows nothing of gradients, layers, curvature or damping
 * schedules. A matrix that cannot be factorized is a `NumericalError`, never NaN; what to do about it is the caller's decision.
 */
export {
  cholesky,
  eigh,
  eigvalsh,
  inversePositiveDefinite,
  solvePositiveDefinite,
  solveTriangular,
  type EighOptions,
} from "./factorizations.ts";
export {
  lowRankInverse,
  lowRankPlusTail,
  type LowRank,
  type LowRankInverse,
  type LowRankInverseOptions,
  type LowRankPlusTail,
  type Tail,
} from "./lowRank.ts";
export { brandUpdate, type BrandUpdateOptions } from "./brand.ts";
export { woodburyInverse, type WoodburyInverse, type WoodburyOptions } from "./woodbury.ts";
export { kron, kronHost, kronMultiply, kronSolve } from "./kron.ts";
export { kronInverse, type Eigenpairs, type KronDamping, type KronInverse } from "./kronInverse.ts";
export { cond, frobeniusNorm, frobeniusNormHost, norm1, normInfinity, spectralNorm } from "./norms.ts";
export { eighHost, type Eigh } from "./eigh.ts";
export { solve } from "./lu.ts";
export { matrixPower, type MatrixPowerOptions } from "./powers.ts";
export { lstsq, lstsqHost, qr, qrHost, type Qr, type QrOptions } from "./qr.ts";
export { singularValues, svd, svdHost, type Svd } from "./svd.ts";
export { choleskyHost, inverseCholeskyHost, solveCholeskyHost, solveTriangularHost, type TriangularOptions } from "./cholesky.ts";
export { orthonormalize } from "./panels.ts";
export type { SketchOptions } from "./sketch.ts";
export { randomizedRange, type RandomizedRangeOptions } from "./rangeFinder.ts";
export { randomizedEigh, randomizedSvd, type DominantEigenpairs, type RandomizedEighOptions } from "./randomized.ts";
export { nystrom, type Nystrom, type NystromOptions } from "./nystrom.ts";
export { adaptiveEigh, type AdaptiveEigenpairs, type AdaptiveEighOptions } from "./adaptiveRank.ts";
export { routines, type RoutineName, type Routines } from "./routines.ts";
export { LinalgWorker, type LinalgWorkerOptions } from "./worker.ts";

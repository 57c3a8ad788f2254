/**
 * Curvature capture, the one abstraction that every second-order method here is built on: what a reverse pass goes by becomes
 * records, the records of one weight become a view, and a block turns views into a preconditioner. No method is named here;
 * methods are in `blocks`. May import tensor, linalg, autograd and nn.
 *
 * Reading order: capture → view → block → fisher → precondition → clip → optimizer; average, terms, factor, damping, kronecker and inversion
 * are what blocks share, adaptiveDamping lets λ follow the loss, and verify compares all of it with dense matrices.
 */
export { AdaptiveDamping, dampingOf, type AdaptDampingOptions, type DampingOptions, type DampingReport } from "./adaptiveDamping.ts";
export { martensDecay, MatrixAverage, type AverageCounts, type AverageForm, type AverageOptions, type AverageState } from "./average.ts";
export { NO_NEEDS, type BlockFactory, type BlockReport, type BlockState, type CaptureNeeds, type CurvatureBlock } from "./block.ts";
export { Capture, releaseRecords, type LayerGeometry, type LayerKind, type LayerRecord, type LossReduction } from "./capture.ts";
export { klClip, rmsClip, type Clip } from "./clip.ts";
export { dampingKinds, piShares, type DampingKind } from "./damping.ts";
export {
  CovarianceFactor,
  covarianceFactors,
  type FactorAverage,
  type FactorLayer,
  type FactorName,
  type FactorOptions,
  type Factors,
  type FactorSnapshot,
  type FactorTerms,
  type ShiftedFactor,
} from "./factor.ts";
export type { Fisher } from "./fisher.ts";
export {
  KroneckerBlock,
  type ApplyContext,
  type KroneckerInverse,
  type KroneckerOptions,
  type RefreshContext,
  type Refreshed,
} from "./kronecker.ts";
export { CurvatureOptimizer, type CurvatureChain, type CurvatureOptimizerOptions, type StepFigures } from "./optimizer.ts";
export {
  Precondition,
  type CurvatureOptions,
  type LayerReport,
  type RegistrationRow,
  type Skip,
  type StepCapture,
} from "./precondition.ts";
export type { TermBounds } from "./terms.ts";
export { RecordedView, whyNoBlock, type CurvatureView, type MicroBatch, type Pass } from "./view.ts";
export {
  verifyCurvature,
  type CurvatureVerification,
  type FactorPair,
  type LayerVerification,
  type VerifyCurvatureOptions,
} from "./verify.ts";

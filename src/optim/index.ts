/**
 * Optimizers: chains of transforms from gradient to update, first-order ones in `firstOrder.ts`, curvature capture in
 * `curvature`, and one file a curvature method in `blocks`. May import tensor, linalg, autograd and nn; knows no data set and no
 * training loop.
 *
 * Reading order: schedules → transform → transforms → optimizer → firstOrder → curvature → blocks.
 */
export * from "./curvature/index.ts";
export { Kfac, type KfacOptions } from "./blocks/kfac.ts";
export { BrandKfac, type BrandKfacOptions } from "./blocks/brandKfac.ts";
export { EkFac, type EkFacOptions } from "./blocks/ekFac.ts";
export type { DecompositionOptions, Search, SearchContext } from "./blocks/dominant.ts";
export { factoredDampingKinds, LowRankKfac, type FactoredDampingKind, type LowRankOptions } from "./blocks/lowRank.ts";
export { NysKfac, type NysKfacOptions } from "./blocks/nysKfac.ts";
export { RsKfac, type RsKfacOptions } from "./blocks/rsKfac.ts";
export { SreKfac, type SreKfacOptions } from "./blocks/sreKfac.ts";
export { Seng, type SengOptions } from "./blocks/seng.ts";
export type { SketchScaling } from "./blocks/sampleGradients.ts";
export type { ThinOptions } from "./blocks/thin.ts";
export { Adam, AdamW, RmsProp, Sgd, type AdamOptions, type RmsPropOptions, type SgdOptions } from "./firstOrder.ts";
export {
  Optimizer,
  type Auxiliary,
  type LossClosure,
  type OptimizerState,
  type Pipeline,
  type StepPhases,
  type StepReview,
} from "./optimizer.ts";
export { cosine, exponential, polynomial, stepwise, valueAt, warmup, type Schedule } from "./schedules.ts";
export type { LayerParameters, StepContext, Transform, TransformState, Updates } from "./transform.ts";
export { adamScaling, momentum, rmsScaling, weightDecay } from "./transforms.ts";
export type { AdamScalingOptions, MomentumOptions, RmsScalingOptions } from "./transforms.ts";

/**
 * Training: a loop as a stream of events, evaluation, and runs on disk (configuration, metrics, checkpoints). May import every
 * folder but cli. `trainer`, `evaluate`, `diagnose` and `safetensors` run anywhere; `checkpoint` and `runFolder` need Node's file
 * system.
 *
 * Reading order: events → trainer → evaluate → config → run → checkpoint → runFolder → comparisonConfig → compare → spectra.
 */
export { loadCheckpoint, saveCheckpoint, type CheckpointMetadata } from "./checkpoint.ts";
export {
  compareRuns,
  curveOf,
  firstReaching,
  meanCurve,
  statistic,
  type ComparedOutcomes,
  type CurvePoint,
  type MeanPoint,
  type Outcome,
  type RunFigures,
  type Statistic,
  type TargetFigures,
} from "./compare.ts";
export { comparisonKeys, differingKeys, parseComparison, type ComparedRun, type Comparison } from "./comparisonConfig.ts";
export { configKeys, parseConfig, type ConfigKey, type TrainConfig } from "./config.ts";
export { evaluate, type Evaluation } from "./evaluate.ts";
export { addPhases, NO_TIME } from "./events.ts";
export type { CurvatureEvent, DampingEvent, EndEvent, EpochEvent, Phases, RefreshEvent, StepEvent, TrainEvent } from "./events.ts";
export { presets, type Preset, type PresetSettings } from "./presets.ts";
export { makeOptimizer, optimizerNames } from "./optimizers.ts";
export { prepareRun, type Run } from "./run.ts";
export { parseJson, RunFolder, type RunProgress, type RunSummary } from "./runFolder.ts";
export { decodeSafetensors, encodeSafetensors, type HostTensor, type SafetensorsContent } from "./safetensors.ts";
export {
  decayBound,
  SpectrumHistory,
  THRESHOLD,
  type DecayBound,
  type FactorFigures,
  type FactorHistory,
  type FactorOrigin,
} from "./spectra.ts";
export { train, type CurvatureTrainingOptimizer, type TrainOptions } from "./trainer.ts";

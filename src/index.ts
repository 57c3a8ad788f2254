/**
 * kfacet: second-order deep learning in pure TypeScript. Everything public, in reading order. What needs Node's file system
 * (run folders, checkpoint files) is in `kfacet/train`, so that this module loads in a browser.
 */
export * from "./tensor/index.ts";
export * from "./linalg/index.ts";
export * from "./autograd/index.ts";
export * from "./nn/index.ts";
export * from "./optim/index.ts";
export * from "./data/index.ts";
export { evaluate, type Evaluation } from "./train/evaluate.ts";
export type { CurvatureEvent, DampingEvent, EndEvent, EpochEvent, Phases, RefreshEvent, StepEvent, TrainEvent } from "./train/events.ts";
export { decodeSafetensors, encodeSafetensors, type HostTensor, type SafetensorsContent } from "./train/safetensors.ts";
export { train, type CurvatureTrainingOptimizer, type TrainOptions } from "./train/trainer.ts";

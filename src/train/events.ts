import type { DampingReport, LayerReport, RegistrationRow, StepFigures, StepPhases } from "../optim/index.ts";

/** Seconds by part of the work, over a step or a whole run. */
export type Phases = StepPhases & { readonly data: number };

/** With curvature, also λ and the factor by which the layers' updates were clipped. */
export interface StepEvent extends Partial<StepFigures> {
  readonly type: "step";
  /** 0 for the first of the run. */
  readonly step: number;
  readonly epoch: number;
  /** Mean over the batch, before the step. */
  readonly loss: number;
  readonly phases: Phases;
}

export interface EpochEvent {
  readonly type: "epoch";
  /** 0 for the first. */
  readonly epoch: number;
  /** Mean over the epoch's batches, each before its step. */
  readonly trainLoss: number;
  readonly trainAccuracy: number;
  readonly testLoss: number;
  /** In [0, 1]. */
  readonly testAccuracy: number;
  /** Training alone. */
  readonly seconds: number;
}

/** What became of each parameter: after the first step, and again whenever it changes. */
export interface CurvatureEvent {
  readonly type: "curvature";
  readonly step: number;
  readonly registration: readonly RegistrationRow[];
}

/** Inversions of this step: figures, spectra and failures of each layer. */
export interface RefreshEvent {
  readonly type: "refresh";
  readonly step: number;
  readonly layers: readonly LayerReport[];
}

/** An adaptation of the damping at the end of this step, and the figures that led to it. */
export interface DampingEvent extends DampingReport {
  readonly type: "damping";
}

export interface EndEvent {
  readonly type: "end";
  readonly epochs: number;
  readonly steps: number;
  /** Training and evaluation. */
  readonly seconds: number;
  readonly phases: Phases;
}

export type TrainEvent = StepEvent | EpochEvent | CurvatureEvent | RefreshEvent | DampingEvent | EndEvent;

/** Before anything was timed. */
export const NO_TIME: Phases = { forward: 0, backward: 0, factorUpdate: 0, inversion: 0, precondition: 0, update: 0, data: 0 };

/** The phases of two spans of work together. */
export function addPhases(a: Phases, b: Phases): Phases {
  return {
    forward: a.forward + b.forward,
    backward: a.backward + b.backward,
    factorUpdate: a.factorUpdate + b.factorUpdate,
    inversion: a.inversion + b.inversion,
    precondition: a.precondition + b.precondition,
    update: a.update + b.update,
    data: a.data + b.data,
  };
}

import type { Observer, Recording } from "../../autograd/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { CheckpointError, concat, tidy, UsageError, type Tensor } from "../../tensor/index.ts";
import type { LayerParameters, StepContext, Transform, TransformState, Updates } from "../transform.ts";
import { NO_NEEDS, type BlockFactory, type CaptureNeeds, type CurvatureBlock } from "./block.ts";
import { Capture, releaseRecords, type LayerRecord, type LossReduction } from "./capture.ts";
import { lossCall, releaseLoss, type2Passes, type2Seeds, type Fisher, type LossCall } from "./fisher.ts";
import { RecordedView, whyNoBlock, type MicroBatch, type Pass } from "./view.ts";

export interface CurvatureOptions {
  /** Default `empirical`. */
  readonly fisher?: Fisher | undefined;
  /** How the loss combines its samples. Default `mean`. */
  readonly reduction?: LossReduction | undefined;
}

/** What became of a parameter: printed, so that nobody believes a layer preconditioned that is not. */
export interface RegistrationRow {
  readonly parameter: string;
  /** The block's method; null if the parameter takes the plain gradient. */
  readonly block: string | null;
  /** Why there is no block; empty if there is one. */
  readonly reason: string;
}

/** One step's capture: what the optimizer asks of the reverse passes. */
export interface StepCapture {
  /** Observer for the training pass over the next micro-batch. */
  begin(): Observer;
  /** Whether the recording is needed again after the training pass. */
  readonly extraPasses: boolean;
  /** The further reverse passes of the Fisher, on the micro-batch begun last; the last one releases the recording. */
  runExtraPasses(recording: Recording<unknown>): void;
}

/**
 * The link of the chain that preconditions: asks the blocks what they need, records it, lets them observe and refresh, and
 * replaces each layer's gradient by the block's direction. Names no method.
 */
export class Precondition implements Transform {
  readonly #parameters: readonly Parameter[];
  readonly #candidates: readonly Parameter[];
  readonly #method: string;
  readonly #create: BlockFactory;
  readonly #fisher: Fisher;
  readonly #reduction: LossReduction;
  readonly #blocks = new Map<Parameter, { block: CurvatureBlock; bias: Parameter | null }>();
  readonly #reasons = new Map<Parameter, string>();
  #views = new Map<Parameter, RecordedView>();
  #records: LayerRecord[] = [];
  #pending: TransformState | null = null;

  constructor(parameters: readonly Parameter[], method: string, create: BlockFactory, options: CurvatureOptions = {}) {
    this.#parameters = parameters;
    this.#candidates = parameters.filter((parameter) => parameter.shape.length >= 2);
    this.#method = method;
    this.#create = create;
    this.#fisher = options.fisher ?? "empirical";
    this.#reduction = options.reduction ?? "mean";
  }

  /** Which parameter got which block, and why the others have none. Complete after the first step. */
  registration(): RegistrationRow[] {
    const biases = new Map([...this.#blocks.values()].flatMap(({ bias }) => (bias ? [[bias, true] as const] : [])));
    return this.#parameters.map((parameter) => {
      if (this.#blocks.has(parameter) || biases.has(parameter)) return { parameter: parameter.name, block: this.#method, reason: "" };
      const unmet = parameter.shape.length >= 2 ? "not met yet in a linear or conv2d call" : "no weight or bias of a linear or conv2d call";
      return { parameter: parameter.name, block: null, reason: this.#reasons.get(parameter) ?? unmet };
    });
  }

  /** The union of what the blocks need; everything at first, since no weight has been met. */
  needs(step: number): CaptureNeeds {
    if (this.#blocks.size === 0) return { curvature: true, gradient: true };
    return [...this.#blocks.values()]
      .map(({ block }) => block.needs(step))
      .reduce((a, b) => ({ curvature: a.curvature || b.curvature, gradient: a.gradient || b.gradient }), NO_NEEDS);
  }

  /** Prepares a step's capture, or null if nothing is needed. `collect` must follow when the passes are done. */
  capture(step: number): StepCapture | null {
    const needs = this.needs(step);
    if (!needs.curvature && !needs.gradient) return null;
    const extraPasses = needs.curvature && this.#fisher !== "empirical";
    const capture = new Capture(this.#candidates, this.#parameters, this.#reduction);
    const batches: { training: LayerRecord[]; fisher: LayerRecord[][]; losses: LossCall[] }[] = [];
    this.#collector = () => {
      for (const [weight, problem] of capture.problems) this.#reasons.set(weight, problem);
      return batches.map(({ training, fisher }) => ({
        training: needs.gradient || !extraPasses ? training : [],
        fisher: extraPasses ? fisher : [training],
      }));
    };
    return {
      extraPasses,
      begin: () => {
        const batch = { training: [], fisher: [], losses: [] as LossCall[] };
        batches.push(batch);
        const observe = capture.observer(batch.training);
        if (!extraPasses) return observe;
        return (call, gradients) => {
          const loss = lossCall(call, gradients);
          if (loss) batch.losses.push(loss);
          if (needs.gradient) observe(call, gradients);
        };
      },
      runExtraPasses: (recording) => {
        const batch = batches.at(-1);
        if (!batch) return;
        try {
          const passes = type2Passes(batch.losses);
          for (let c = 0; c < passes; c++) {
            const records: LayerRecord[] = [];
            batch.fisher.push(records);
            tidy(() => {
              recording.reverse(type2Seeds(batch.losses, c, this.#reduction), {
                observe: capture.observer(records),
                again: c < passes - 1,
                observeOnly: true,
              });
            });
          }
        } finally {
          for (const loss of batch.losses) releaseLoss(loss);
        }
      },
    };
  }

  #collector: (() => { training: LayerRecord[]; fisher: LayerRecord[][] }[]) | null = null;

  /**
   * Turns what was recorded into views and lets the blocks observe them; weights met for the first time get their blocks.
   * @throws UsageError if no weight can have a block.
   */
  collect(step: number): void {
    if (!this.#collector) return;
    const batches = this.#collector();
    this.#collector = null;
    this.#records = batches.flatMap(({ training, fisher }) => [...training, ...fisher.flat()]);
    for (const weight of this.#candidates) {
      const own = (pass: Pass): Pass => pass.filter((record) => record.weight === weight);
      const micro: MicroBatch[] = batches.map(({ training, fisher }) => ({ training: own(training), fisher: fisher.map(own) }));
      const records = micro.flatMap(({ training, fisher }) => [...training, ...fisher.flat()]);
      if (records.length === 0) continue;
      const problem = this.#reasons.get(weight) ?? whyNoBlock(records);
      if (problem) {
        this.#reasons.set(weight, problem);
        this.#drop(weight);
        continue;
      }
      // A micro-batch that never reached the weight has nothing to say about it.
      const view = new RecordedView(micro.filter(({ training, fisher }) => training.length > 0 || fisher.some((pass) => pass.length > 0)));
      this.#views.set(weight, view);
      if (!this.#blocks.has(weight)) this.#install(weight, view);
    }
    if (this.#blocks.size === 0) {
      throw new UsageError(
        "curvature: no parameter of the optimizer is the weight of a linear or conv2d call in this loss" +
          [...this.#reasons].map(([weight, reason]) => `; "${weight.name}": ${reason}`).join("") +
          ". Use a first-order optimizer, or build the network from Linear and Conv2d",
      );
    }
    for (const [weight, view] of this.#views) {
      const block = this.#blocks.get(weight)?.block;
      if (block)
        tidy(() => {
          block.observe(view, step);
        });
    }
  }

  #install(weight: Parameter, view: RecordedView): void {
    const block = this.#create(view);
    this.#blocks.set(weight, { block, bias: view.bias });
    if (this.#pending) loadBlock(block, weight, this.#pending);
  }

  #drop(weight: Parameter): void {
    this.#blocks.get(weight)?.block.dispose();
    this.#blocks.delete(weight);
  }

  async refresh(step: number): Promise<void> {
    for (const { block } of this.#blocks.values()) await block.refresh(step);
  }

  update(updates: Updates, { step }: StepContext): Updates {
    const values = new Map(updates.values);
    const layers: LayerParameters[] = [];
    for (const [weight, { block, bias }] of this.#blocks) {
      const w = updates.values.get(weight);
      const b = bias && updates.values.get(bias);
      if (!w) continue;
      const dOut = weight.shape[0] as number;
      const gradient = b ? concat([w.reshape([dOut, -1]), b.reshape([dOut, 1])], 1) : w.reshape([dOut, -1]);
      const direction = tidy(() => block.precondition(gradient, { step, view: this.#views.get(weight) ?? null }));
      const dIn = (gradient.shape[1] as number) - (b ? 1 : 0);
      values.set(weight, (b ? direction.slice([0, 0], [dOut, dIn]) : direction).reshape(weight.shape));
      if (bias && b) values.set(bias, direction.slice([0, dIn], [dOut, 1]).reshape([dOut]));
      layers.push({ weight, bias });
    }
    return { values, layers };
  }

  /** Releases the step's records and views. */
  endStep(): void {
    // A step that failed between its passes and `collect` has records that nobody took over.
    for (const { training, fisher } of this.#collector?.() ?? []) this.#records.push(...training, ...fisher.flat());
    for (const view of this.#views.values()) view.dispose();
    this.#views = new Map();
    releaseRecords(this.#records);
    this.#records = [];
    this.#collector = null;
  }

  state(): TransformState {
    const tensors = new Map<string, Tensor>();
    const numbers: Record<string, number> = {};
    for (const [weight, { block }] of this.#blocks) {
      const state = block.state();
      for (const [key, tensor] of state.tensors) tensors.set(`${weight.name}:${key}`, tensor);
      for (const [key, value] of Object.entries(state.numbers)) numbers[`${weight.name}:${key}`] = value;
    }
    return { tensors, numbers };
  }

  /** Blocks are made when their weight is met: a state loaded before the first step waits for them. */
  load(state: TransformState): void {
    const names = new Set(this.#candidates.map((weight) => weight.name));
    for (const key of [...state.tensors.keys(), ...Object.keys(state.numbers)]) {
      const name = key.slice(0, key.indexOf(":"));
      if (!names.has(name)) throw new CheckpointError(`curvature state "${key}" belongs to no weight of this optimizer`);
    }
    this.#releasePending();
    this.#pending = { tensors: new Map([...state.tensors].map(([key, tensor]) => [key, tensor.hold()])), numbers: { ...state.numbers } };
    for (const [weight, { block }] of this.#blocks) loadBlock(block, weight, this.#pending);
  }

  #releasePending(): void {
    for (const tensor of this.#pending?.tensors.values() ?? []) tensor.dispose();
    this.#pending = null;
  }

  dispose(): void {
    this.endStep();
    this.#releasePending();
    for (const { block } of this.#blocks.values()) block.dispose();
    this.#blocks.clear();
  }
}

function loadBlock(block: CurvatureBlock, weight: Parameter, state: TransformState): void {
  const prefix = `${weight.name}:`;
  const own = <T>(entries: Iterable<readonly [string, T]>): [string, T][] =>
    [...entries].filter(([key]) => key.startsWith(prefix)).map(([key, value]) => [key.slice(prefix.length), value]);
  block.load({ tensors: new Map(own(state.tensors)), numbers: Object.fromEntries(own(Object.entries(state.numbers))) });
}

import type { Observer, Recording } from "../../autograd/index.ts";
import { LinalgWorker } from "../../linalg/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { bytesPerElement, CheckpointError, concat, Generator, tidy, UsageError, type Tensor } from "../../tensor/index.ts";
import { parameterKeys, type LayerParameters, type StepContext, type Transform, type TransformState, type Updates } from "../transform.ts";
import { NO_NEEDS, type BlockFactory, type BlockReport, type BlockState, type CaptureNeeds, type CurvatureBlock } from "./block.ts";
import { Capture, releaseRecords, type LayerRecord, type LossReduction } from "./capture.ts";
import { drawsOf, lossCall, releaseLoss, fisherPasses, type Fisher, type LossCall } from "./fisher.ts";
import { RecordedView, whyNoBlock, whyNoFisher, type MicroBatch, type Pass } from "./view.ts";

export interface CurvatureOptions {
  /** Default `empirical`. */
  readonly fisher?: Fisher | undefined;
  /**
   * Where inversions run that are put off (`inversionLag`): for several threads, or to share it between optimizers. It stays its maker's to
   * close. Default: one of the optimizer's own, with one thread.
   */
  readonly worker?: LinalgWorker | undefined;
  /** Of the labels that `mc` draws. Default 0. */
  readonly fisherSeed?: number | undefined;
  /**
   * Whether the scale and shift of a batch normalisation get a block of their own, with the second moments of each channel's two gradients,
   * or take the plain gradient. Default false.
   */
  readonly scaleShift?: boolean | undefined;
  /** Weights that shall have no block, nor their biases with them: they take the plain gradient. Default: none. */
  readonly skip?: Skip | undefined;
  /** How the loss combines its samples. Default `mean`. */
  readonly reduction?: LossReduction | undefined;
}

/** Weights by their names, in which `*` stands for anything, or by what a function says of each. */
export type Skip = readonly string[] | ((weight: Parameter) => boolean);

/** What became of a parameter: printed, so that nobody believes a layer preconditioned that is not. */
export interface RegistrationRow {
  readonly parameter: string;
  /** The block's method; null if the parameter takes the plain gradient. */
  readonly block: string | null;
  /** Why there is no block; empty if there is one. */
  readonly reason: string;
}

/** A block's report, with the weight whose block it is, and the memory that it keeps among the figures. */
export interface LayerReport extends BlockReport {
  readonly layer: string;
  readonly method: string;
}

/** One step's capture: what the optimizer asks of the reverse passes. */
export interface StepCapture {
  /** Observer for the training pass over the next micro-batch. */
  begin(): Observer;
  /** Whether the recording may be needed again after the training pass. */
  readonly extraPasses: boolean;
  /** The further reverse passes of the Fisher, on the micro-batch begun last, if they are needed. Releases the recording. */
  runExtraPasses(recording: Recording<unknown>): void;
}

/** What one micro-batch left behind. */
interface Captured {
  readonly training: LayerRecord[];
  readonly fisher: LayerRecord[][];
}

/**
 * The link of the chain that preconditions: asks the blocks what they need, records it, lets them observe and refresh, and
 * replaces each layer's gradient by the block's direction. Names no method.
 */
export class Precondition implements Transform {
  readonly kind: string;
  readonly #parameters: readonly Parameter[];
  /** Weights that may have a block, with their keys in saved states. */
  readonly #candidates: ReadonlyMap<Parameter, string>;
  readonly #skipped: ReadonlySet<Parameter>;
  readonly #create: BlockFactory;
  readonly #fisher: Fisher;
  readonly #generator: Generator;
  readonly #reduction: LossReduction;
  readonly #blocks = new Map<Parameter, { block: CurvatureBlock; bias: Parameter | null }>();
  /** Why a weight that was met has no block. */
  readonly #reasons = new Map<Parameter, string>();
  /** Loaded states of blocks that are not made yet, by key. */
  readonly #pending = new Map<string, BlockState>();
  readonly #givenWorker: LinalgWorker | null;
  #ownWorker: LinalgWorker | null = null;
  #views = new Map<Parameter, RecordedView>();
  #captured: Captured[] = [];
  /** Loss primitives of the micro-batch under way. */
  #losses: LossCall[] = [];
  #problems: ReadonlyMap<Parameter, string> = new Map();
  #usedElsewhere: ReadonlySet<Parameter> = new Set();

  /**
   * @param kind names the method and the form of its state.
   * @throws UsageError for a name to be skipped that no weight has, and if no parameter can be a layer's weight.
   */
  constructor(parameters: readonly Parameter[], kind: string, create: BlockFactory, options: CurvatureOptions = {}) {
    this.kind = kind;
    this.#parameters = parameters;
    const smallest = options.scaleShift === true ? 1 : 2;
    const weights = [...parameterKeys(parameters)].filter(([{ shape }]) => shape.length >= smallest);
    this.#skipped = chosen(
      options.skip ?? [],
      weights.map(([weight]) => weight),
    );
    this.#candidates = new Map(weights.filter(([weight]) => !this.#skipped.has(weight)));
    this.#create = create;
    this.#fisher = options.fisher ?? "empirical";
    this.#generator = new Generator(options.fisherSeed ?? 0);
    this.#reduction = options.reduction ?? "mean";
    if (this.#candidates.size === 0) throw this.#withoutBlock();
    this.#givenWorker = options.worker ?? null;
  }

  /** Which parameter got which block, and why the others have none. Complete once every weight has been met. */
  registration(): RegistrationRow[] {
    const methods = new Map<Parameter, string>();
    for (const [weight, { block, bias }] of this.#blocks) {
      methods.set(weight, block.method);
      if (bias) methods.set(bias, block.method);
    }
    return this.#parameters.map((parameter) => {
      const block = methods.get(parameter) ?? null;
      return { parameter: parameter.name, block, reason: block === null ? this.#whyPlain(parameter) : "" };
    });
  }

  #whyPlain(parameter: Parameter): string {
    if (this.#skipped.has(parameter)) return "left out by the option skip";
    const unmet = this.#candidates.has(parameter)
      ? "not met yet in a linear or conv2d call"
      : "no weight of a linear or conv2d call, nor the bias of one that has a block";
    return this.#reasons.get(parameter) ?? unmet;
  }

  /** What the blocks have to tell since they were last asked, by weight. */
  reports(): LayerReport[] {
    return [...this.#blocks].flatMap(([weight, { block }]) => {
      const report = block.report?.() ?? null;
      if (!report) return [];
      return [
        {
          layer: weight.name,
          method: block.method,
          ...report,
          figures: { ...report.figures, bytes: memoryOf(block) + (report.figures["bytes"] ?? 0) },
        },
      ];
    });
  }

  /** The union of what the blocks need. */
  needs(step: number): CaptureNeeds {
    return [...this.#needsByWeight(step).values()].reduce(
      (a, b) => ({ curvature: a.curvature || b.curvature, gradient: a.gradient || b.gradient }),
      NO_NEEDS,
    );
  }

  /** Of the blocks that need something. */
  #needsByWeight(step: number): Map<Parameter, CaptureNeeds> {
    const all = [...this.#blocks].map(([weight, { block }]) => [weight, block.needs(step)] as const);
    return new Map(all.filter(([, { curvature, gradient }]) => curvature || gradient));
  }

  /**
   * Prepares a step's capture, or null if there is nothing to record: no block needs anything, and every weight has been met. A
   * weight that has not is watched for in every step, so that it never passes unpreconditioned.
   */
  capture(step: number): StepCapture | null {
    const due = this.#needsByWeight(step);
    const possible = [...this.#candidates.keys()].filter((weight) => !this.#reasons.has(weight));
    // Among vectors are biases, which never get a block: nobody waits for them, unless there is nothing else.
    const unmet = possible.filter((weight) => !this.#blocks.has(weight));
    const waiting = unmet.some(({ shape }) => shape.length >= 2) || (this.#blocks.size === 0 && unmet.length > 0);
    if (due.size === 0 && !waiting) return null;
    // Nothing is kept of a layer whose block needs nothing: a record holds memory that the reverse pass would give back.
    const capture = new Capture([...unmet, ...due.keys()], this.#parameters, this.#reduction);
    this.#problems = capture.problems;
    this.#usedElsewhere = capture.usedElsewhere;
    const curvature = [...due.values()].some((needs) => needs.curvature);
    const extraPasses = this.#fisher !== "empirical" && (curvature || waiting);
    return {
      extraPasses,
      begin: () => {
        const batch: Captured = { training: [], fisher: [] };
        this.#captured.push(batch);
        const observe = capture.observer(batch.training);
        return (call, gradients) => {
          const loss = extraPasses ? lossCall(call, gradients) : null;
          if (loss) this.#losses.push(loss);
          observe(call, gradients);
        };
      },
      runExtraPasses: (recording) => {
        const batch = this.#captured.at(-1) as Captured;
        const met = batch.training.some(({ weight }) => !this.#blocks.has(weight));
        try {
          if (curvature || met) this.#extra(step, recording, capture, batch);
        } finally {
          this.#releaseLosses();
          recording.dispose();
        }
      },
    };
  }

  #releaseLosses(): void {
    for (const loss of this.#losses) releaseLoss(loss);
    this.#losses = [];
  }

  #extra(step: number, recording: Recording<unknown>, capture: Capture, batch: Captured): void {
    if (this.#fisher === "empirical") return;
    const generator = drawsOf(this.#generator, step, this.#captured.length);
    const passes = fisherPasses(this.#fisher, this.#losses, this.#reduction, generator);
    passes.forEach((seeds, i) => {
      const records: LayerRecord[] = [];
      batch.fisher.push(records);
      tidy(() => {
        recording.reverse(seeds(), { observe: capture.observer(records), again: i < passes.length - 1, observeOnly: true });
      });
    });
    // The seeds hold one row a sample: rows that are positions of one sample would need passes of their own.
    const rows = this.#losses[0]?.prediction.shape[0] as number;
    const stranger = batch.fisher.flat().find(({ geometry }) => geometry.n !== rows);
    if (stranger) {
      throw new UsageError(
        `fisher "${this.#fisher}": the loss has ${rows} rows but "${stranger.weight.name}" sees ${stranger.geometry.n} samples; ` +
          `it needs one row a sample, so do not fold positions into the batch, or use fisher: "empirical"`,
      );
    }
  }

  /**
   * Turns what was recorded into views and lets the blocks observe them; weights met for the first time get their blocks.
   * @throws UsageError if no weight can have a block.
   */
  collect(step: number): void {
    if (this.#captured.length > 0) this.#see();
    if (this.#blocks.size === 0) throw this.#withoutBlock();
    for (const [weight, view] of this.#views) {
      const block = this.#blocks.get(weight)?.block;
      if (block) {
        tidy(() => {
          block.observe(view, step);
        });
        view.forgetCovariances();
      }
    }
  }

  #withoutBlock(): UsageError {
    const reasons = [...this.#skipped, ...this.#candidates.keys()].map((weight) => `; "${weight.name}": ${this.#whyPlain(weight)}`);
    return new UsageError(
      `curvature: no parameter of the optimizer is the weight of a linear or conv2d call in this loss${reasons.join("")}. ` +
        "Use a first-order optimizer, or build the network from Linear and Conv2d",
    );
  }

  /** Views of what was recorded, and blocks for weights that are met for the first time. */
  #see(): void {
    const share = 1 / this.#captured.length;
    const batches = this.#captured.map(({ training, fisher }) => ({
      training,
      fisher: this.#fisher === "empirical" ? [training] : fisher,
      share,
    }));
    const views: RecordedView[] = [];
    for (const weight of this.#candidates.keys()) {
      const own = (pass: Pass): Pass => pass.filter((record) => record.weight === weight);
      const micro: MicroBatch[] = batches.map((batch) => ({ ...batch, training: own(batch.training), fisher: batch.fisher.map(own) }));
      // A micro-batch that never reached the weight has nothing to say about it.
      const reached = micro.filter(({ training }) => training.length > 0);
      if (reached.length === 0) continue;
      const problem = this.#problems.get(weight) ?? whyNoBlock(reached.map(({ training }) => training));
      const noFisher = whyNoFisher(reached, this.#fisher);
      if (problem) this.#refuse(weight, problem);
      // One that has a block goes on with what that knows.
      else if (noFisher !== null && this.#blocks.has(weight)) continue;
      else if (noFisher !== null) this.#refuse(weight, noFisher);
      // Met in a step without the Fisher's own passes: its block is made in the next one that has them.
      else if (!this.#blocks.has(weight) && reached.some(({ fisher }) => fisher.length === 0)) continue;
      else views.push(new RecordedView(reached, this.#usedElsewhere));
    }
    for (const view of views) {
      const { weight, bias } = view;
      // Among those that this step saw, and those that have blocks.
      const biases = new Map([...this.#blocks].map(([other, block]) => [other, block.bias]));
      for (const other of views) biases.set(other.weight, other.bias);
      const sharing = [...biases].flatMap(([other, own]) => (bias && own === bias ? [other] : []));
      const known = this.#blocks.get(weight);
      if (sharing.length > 1) {
        for (const layer of sharing) {
          const others = sharing.filter((other) => other !== layer).map(({ name }) => name);
          this.#refuse(layer, `its bias is shared with "${others.join('", "')}"`);
        }
      } else if (known && known.bias !== bias) this.#refuse(weight, "called with its bias in one step and without it in another");
      else {
        this.#views.set(weight, view);
        if (!known && !this.#reasons.has(weight)) this.#install(weight, view);
      }
    }
  }

  /** From now on the weight takes the plain gradient, and the registration says why. */
  #refuse(weight: Parameter, reason: string): void {
    this.#reasons.set(weight, reason);
    this.#blocks.get(weight)?.block.dispose();
    this.#blocks.delete(weight);
  }

  #install(weight: Parameter, view: RecordedView): void {
    const key = this.#candidates.get(weight) as string;
    const state = this.#pending.get(key);
    const made = this.#create(view, state ?? null);
    if ("none" in made) {
      this.#reasons.set(weight, made.none);
      return;
    }
    if (state) {
      try {
        made.load(state);
      } catch (error) {
        made.dispose(); // the state waits on, so that the next step fails, too, and does not go on without it
        throw error;
      }
      this.#release(key);
    }
    this.#blocks.set(weight, { block: made, bias: view.bias });
  }

  /** Lets every block refresh, then reports the first failure, if any. */
  async refresh(step: number): Promise<void> {
    const worker = this.#givenWorker ?? (this.#ownWorker ??= new LinalgWorker());
    // One after the other, so that only one of them has its intermediate results in memory.
    const failures: unknown[] = [];
    for (const { block } of this.#blocks.values()) {
      try {
        await block.refresh(step, worker);
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
  }

  update(updates: Updates, { step }: StepContext): Updates {
    const values = new Map(updates.values);
    const layers: LayerParameters[] = [];
    // In the parameters' order, whichever was met first: a clip that adds up over layers gives the same bits after a resume.
    for (const weight of this.#candidates.keys()) {
      const known = this.#blocks.get(weight);
      const w = updates.values.get(weight);
      if (!known || !w) continue;
      const { block, bias } = known;
      const b = bias && updates.values.get(bias);
      const dOut = weight.shape[0] as number;
      const rows = w.reshape([dOut, -1]);
      const dIn = rows.shape[1] as number;
      // A bias that this step did not reach has the gradient 0 in the layer's matrix, and stays where it is.
      const gradient = bias ? (b ? concat([rows, b.reshape([dOut, 1])], 1) : rows.pad([0, 0], [0, 1])) : rows;
      const direction = tidy(() => block.precondition(gradient, { step, view: this.#views.get(weight) ?? null }));
      values.set(weight, (bias ? direction.slice([0, 0], [dOut, dIn]) : direction).reshape(weight.shape));
      if (bias && b) values.set(bias, direction.slice([0, dIn], [dOut, 1]).reshape([dOut]));
      layers.push({ weight, bias });
    }
    return { values, layers };
  }

  /** Releases the step's records and views. */
  endStep(): void {
    for (const view of this.#views.values()) view.dispose();
    this.#views = new Map();
    this.#releaseLosses();
    releaseRecords(this.#captured.flatMap(({ training, fisher }) => [...training, ...fisher.flat()]));
    this.#captured = [];
  }

  state(): TransformState {
    const tensors = new Map<string, Tensor>();
    const numbers: Record<string, number> = {};
    const add = (key: string, state: BlockState): void => {
      for (const [name, tensor] of state.tensors) tensors.set(`${key}${SEPARATOR}${name}`, tensor);
      for (const [name, value] of Object.entries(state.numbers)) numbers[`${key}${SEPARATOR}${name}`] = value;
    };
    for (const [weight, { block }] of this.#blocks) add(this.#candidates.get(weight) as string, block.state());
    for (const weight of this.#reasons.keys()) numbers[`${this.#candidates.get(weight)}${SEPARATOR}${REFUSED}`] = 1;
    for (const [key, state] of this.#pending) {
      add(key, { ...state, tensors: new Map([...state.tensors].map(([name, tensor]) => [name, tensor.keep()])) });
    }
    return { kind: this.kind, tensors, numbers };
  }

  check(state: TransformState): void {
    const known = new Set(this.#candidates.values());
    for (const key of blockStates(state).keys()) {
      if (known.has(key)) continue;
      throw new CheckpointError(
        `load: the curvature state of "${key}" belongs to no weight of this optimizer that may have a block, which are ` +
          `"${[...known].join('", "')}"; load it into the network that it was saved from, with the same options skip and scaleShift`,
      );
    }
  }

  /** Blocks are made when their weight is met: until then a loaded state waits. */
  load(state: TransformState): void {
    this.dispose();
    this.#reasons.clear();
    const weights = new Map([...this.#candidates].map(([weight, key]) => [key, weight]));
    for (const [key, { tensors, numbers }] of blockStates(state)) {
      if (numbers[REFUSED] === 1) {
        this.#reasons.set(weights.get(key) as Parameter, "it had none when the state was saved that was loaded");
        continue;
      }
      this.#pending.set(key, { numbers, tensors: new Map([...tensors].map(([name, tensor]) => [name, tensor.hold()])) });
    }
  }

  #release(key: string): void {
    for (const tensor of this.#pending.get(key)?.tensors.values() ?? []) tensor.dispose();
    this.#pending.delete(key);
  }

  dispose(): void {
    this.endStep();
    for (const key of [...this.#pending.keys()]) this.#release(key);
    for (const { block } of this.#blocks.values()) block.dispose();
    this.#blocks.clear();
    this.#ownWorker?.close();
    this.#ownWorker = null;
  }
}

/** Bytes of all tensors that a block keeps. */
function memoryOf(block: CurvatureBlock): number {
  let bytes = 0;
  for (const tensor of block.state().tensors.values()) {
    bytes += tensor.size * bytesPerElement[tensor.dtype];
    tensor.dispose();
  }
  return bytes;
}

/** @throws UsageError for a name that no weight has: one that does nothing would be believed. */
function chosen(skip: Skip, weights: readonly Parameter[]): ReadonlySet<Parameter> {
  if (typeof skip === "function") return new Set(weights.filter(skip));
  const named = (pattern: string): Parameter[] => {
    const parts = pattern.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
    const form = new RegExp(`^${parts.join(".*")}$`);
    const found = weights.filter(({ name }) => form.test(name));
    if (found.length > 0) return found;
    throw new UsageError(`skip: no weight is called "${pattern}"; they are ${weights.map(({ name }) => name).join(", ") || "none"}`);
  };
  return new Set(skip.flatMap(named));
}

/** Between a weight's key and the name of an entry of its block. */
const SEPARATOR = "::";
/** In the place of a block's entries, for a weight that shall have no block. */
const REFUSED = "refused";

/** A state's entries by weight. */
function blockStates(state: TransformState): Map<string, { tensors: Map<string, Tensor>; numbers: Record<string, number> }> {
  const found = new Map<string, { tensors: Map<string, Tensor>; numbers: Record<string, number> }>();
  const entry = (key: string): [block: { tensors: Map<string, Tensor>; numbers: Record<string, number> }, name: string] => {
    const at = key.lastIndexOf(SEPARATOR);
    const weight = key.slice(0, Math.max(0, at));
    const block = found.get(weight) ?? { tensors: new Map<string, Tensor>(), numbers: {} };
    found.set(weight, block);
    return [block, key.slice(at + SEPARATOR.length)];
  };
  for (const [key, tensor] of state.tensors) {
    const [block, name] = entry(key);
    block.tensors.set(name, tensor);
  }
  for (const [key, value] of Object.entries(state.numbers)) {
    const [block, name] = entry(key);
    block.numbers[name] = value;
  }
  return found;
}

import type { Parameter } from "../nn/index.ts";
import { CheckpointError, Tensor, tidy, unscoped, Variable } from "../tensor/index.ts";

/** What is about to be subtracted from the parameters, on its way through the pipeline. */
export interface Updates {
  readonly values: ReadonlyMap<Parameter, Tensor>;
  /** The layers that were preconditioned: their weight and bias are one matrix to clipping. */
  readonly layers: readonly LayerParameters[];
}

export interface LayerParameters {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
}

export interface StepContext {
  /** 0 for the first. */
  readonly step: number;
  /** Of this step. */
  readonly learningRate: number;
  /** The loss's own gradients, before any transform. */
  readonly gradients: ReadonlyMap<Parameter, Tensor>;
}

/** Numbers and tensors by name, enough to go on bit for bit. The tensors' handles are the receiver's. */
export interface TransformState {
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly numbers: Readonly<Record<string, number>>;
}

/**
 * One link of an optimizer: from updates to updates, with a state of its own. Runs inside a tidy; what it keeps it holds in
 * variables.
 */
export interface Transform {
  update(updates: Updates, context: StepContext): Updates;
  state(): TransformState;
  /** @throws CheckpointError if the state is another transform's. */
  load(state: TransformState): void;
  dispose(): void;
}

/** A transform that keeps nothing, from a function of one parameter's update. */
export function stateless(f: (update: Tensor, parameter: Parameter, context: StepContext) => Tensor): Transform {
  return {
    update: (updates, context) => mapUpdates(updates, (update, parameter) => f(update, parameter, context)),
    state: () => ({ tensors: new Map(), numbers: {} }),
    load: () => undefined,
    dispose: () => undefined,
  };
}

export function mapUpdates(updates: Updates, f: (update: Tensor, parameter: Parameter) => Tensor): Updates {
  return { ...updates, values: new Map([...updates.values].map(([parameter, update]) => [parameter, f(update, parameter)])) };
}

/** One variable a parameter, made on first use: a momentum buffer, a second moment. */
export class ParameterSlots {
  readonly name: string;
  readonly #slots = new Map<Parameter, Variable>();

  constructor(name: string) {
    this.name = name;
  }

  /** The slot's value, or undefined before the first `set`. */
  get(parameter: Parameter): Tensor | undefined {
    return this.#slots.get(parameter)?.value;
  }

  set(parameter: Parameter, value: Tensor): void {
    const slot = this.#slots.get(parameter);
    if (slot) slot.assign(value);
    else
      this.#slots.set(
        parameter,
        unscoped(() => new Variable(`${this.name}.${parameter.name}`, value)),
      );
  }

  /** Adds the slots to `tensors` as `name.path`. */
  save(tensors: Map<string, Tensor>): void {
    for (const [parameter, slot] of this.#slots) tensors.set(`${this.name}.${parameter.name}`, slot.value.keep());
  }

  /** Takes over the entries that begin with this slot's name, for the parameters given. */
  restore(state: TransformState, parameters: readonly Parameter[]): void {
    const byName = new Map(parameters.map((parameter) => [parameter.name, parameter]));
    for (const [key, value] of state.tensors) {
      if (!key.startsWith(`${this.name}.`)) continue;
      const parameter = byName.get(key.slice(this.name.length + 1));
      if (!parameter) throw new CheckpointError(`optimizer state "${key}" belongs to no parameter of this optimizer`);
      this.set(parameter, value);
    }
  }

  dispose(): void {
    for (const slot of this.#slots.values()) slot.dispose();
    this.#slots.clear();
  }
}

/**
 * The running mean m ← decay · m + (1 − decay) · x of a slot that starts at 0; returns the new mean.
 */
export function movingAverage(slots: ParameterSlots, parameter: Parameter, decay: number, x: Tensor): Tensor {
  const fresh = x.multiply(1 - decay);
  const before = slots.get(parameter);
  slots.set(parameter, before ? tidy(() => before.multiply(decay).add(fresh)) : fresh);
  return slots.get(parameter) as Tensor;
}

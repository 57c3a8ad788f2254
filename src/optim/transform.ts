import type { Parameter } from "../nn/index.ts";
import { apply, CheckpointError, formatShape, sameShape, unscoped, Variable, type Tensor } from "../tensor/index.ts";

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
  /** Whose state it is: only a transform of the same kind takes it. */
  readonly kind: string;
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly numbers: Readonly<Record<string, number>>;
}

/**
 * One link of an optimizer: from updates to updates, with a state of its own. Runs inside a tidy; what it keeps it holds in
 * variables.
 */
export interface Transform {
  /** Names the kind of state that it keeps. */
  readonly kind: string;
  update(updates: Updates, context: StepContext): Updates;
  state(): TransformState;
  /** @throws CheckpointError if `load` could not take this state: unknown parameters, other shapes. Changes nothing. */
  check(state: TransformState): void;
  /** Replaces the whole state by one that `check` has passed. */
  load(state: TransformState): void;
  dispose(): void;
}

/** What a transform without state has for its bookkeeping. */
export const noState = {
  kind: "stateless",
  state: (): TransformState => ({ kind: "stateless", tensors: new Map(), numbers: {} }),
  check: (): void => undefined,
  load: (): void => undefined,
  dispose: (): void => undefined,
} as const;

/** A transform that keeps nothing, from a function of one parameter's update. */
export function stateless(f: (update: Tensor, parameter: Parameter, context: StepContext) => Tensor): Transform {
  return { ...noState, update: (updates, context) => mapUpdates(updates, (update, parameter) => f(update, parameter, context)) };
}

export function mapUpdates(updates: Updates, f: (update: Tensor, parameter: Parameter) => Tensor): Updates {
  return { ...updates, values: new Map([...updates.values].map(([parameter, update]) => [parameter, f(update, parameter)])) };
}

/**
 * A name for each parameter in saved states: its own, or with its position where several have the same.
 */
export function parameterKeys(parameters: readonly Parameter[]): Map<Parameter, string> {
  const count = new Map<string, number>();
  for (const { name } of parameters) count.set(name, (count.get(name) ?? 0) + 1);
  return new Map(
    parameters.map((parameter, i) => [parameter, count.get(parameter.name) === 1 ? parameter.name : `${parameter.name}#${i}`]),
  );
}

/** One variable a parameter, made on first use: a momentum buffer, a second moment. */
export class ParameterSlots {
  readonly name: string;
  readonly #keys: ReadonlyMap<Parameter, string>;
  readonly #slots = new Map<Parameter, Variable>();

  constructor(name: string, parameters: readonly Parameter[]) {
    this.name = name;
    this.#keys = parameterKeys(parameters);
  }

  /** The slot's value, or undefined before the first `put`. */
  get(parameter: Parameter): Tensor | undefined {
    return this.#slots.get(parameter)?.value;
  }

  /** slot ← a · slot + b · x, in the slot's own memory if nobody else holds it; undefined before the first `put`. */
  blend(parameter: Parameter, a: number, x: Tensor, b: number): Tensor | undefined {
    const slot = this.#slots.get(parameter);
    slot?.assign(apply("linearCombination", [slot.value, x], { a, b }, { donate: [0] })[0]);
    return slot?.value;
  }

  /** Sets the slot, and returns its value. */
  put(parameter: Parameter, value: Tensor): Tensor {
    const slot = this.#slots.get(parameter);
    if (slot) slot.assign(value);
    else
      this.#slots.set(
        parameter,
        unscoped(() => new Variable(`${this.name} of ${parameter.name}`, value)),
      );
    return this.get(parameter) as Tensor;
  }

  /** Adds the slots to `tensors` as `name:key`. */
  save(tensors: Map<string, Tensor>): void {
    for (const [parameter, slot] of this.#slots) tensors.set(`${this.name}:${this.#keys.get(parameter)}`, slot.value.keep());
  }

  /** The entries of a state that are this slot's. @throws CheckpointError for those of no parameter, or of another shape. */
  entries({ tensors }: TransformState): [parameter: Parameter, value: Tensor][] {
    const byKey = new Map([...this.#keys].map(([parameter, key]) => [key, parameter]));
    return [...tensors].flatMap(([key, value]) => {
      if (!key.startsWith(`${this.name}:`)) return [];
      const parameter = byKey.get(key.slice(this.name.length + 1));
      if (!parameter) throw new CheckpointError(`optimizer state "${key}" belongs to no parameter of this optimizer`);
      if (!sameShape(parameter.shape, value.shape)) {
        throw new CheckpointError(
          `optimizer state "${key}" is ${formatShape(value.shape)} but the parameter ${formatShape(parameter.shape)}`,
        );
      }
      return [[parameter, value]];
    });
  }

  /** Takes over this slot's entries, and drops what they lack. */
  restore(state: TransformState): void {
    this.dispose();
    for (const [parameter, value] of this.entries(state)) this.put(parameter, value);
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
  return slots.blend(parameter, decay, x, 1 - decay) ?? slots.put(parameter, x.multiply(1 - decay));
}

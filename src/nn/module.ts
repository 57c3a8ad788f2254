import {
  CheckpointError,
  formatShape,
  isWatched,
  owned,
  sameShape,
  ShapeError,
  synchronous,
  tidy,
  unscoped,
  Variable,
  type Backend,
  type FloatDType,
  Generator,
  Tensor,
  UsageError,
} from "../tensor/index.ts";

/** A variable that training changes. */
export class Parameter extends Variable {
  readonly trainable = true;
}

/** What the layers with parameters take in common. */
export interface LayerOptions {
  /** Stream for the initial values. Default: seeded from entropy, so pass one to be reproducible. */
  readonly generator?: Generator | undefined;
  /** Number type of the parameters. Default `float32`. */
  readonly dtype?: FloatDType | undefined;
  /** Default: `defaultBackend()`. */
  readonly backend?: Backend | undefined;
}

/** Told of each module's output as a forward pass goes through it, inner modules first. */
export type ForwardObserver = (module: Module, output: Tensor) => void;

const observers: ForwardObserver[] = [];

/** Whether somebody wants to see each module's own output. */
export function isObserved(): boolean {
  return observers.length > 0;
}

/**
 * A function with parameters. A layer implements `compute`; users call `forward`, which frees what `compute` made on the way.
 * Parameters, buffers (plain variables, such as running statistics) and inner modules are found among its properties, alone or
 * in arrays, and named by them: `layers.0.weight`.
 */
export abstract class Module {
  /** Whether dropout drops and batch norm uses the batch's statistics. This module's alone: `train()` and `eval()` set all inside. */
  training = true;

  protected abstract compute(input: Tensor): Tensor;

  /**
   * Applies the module. Intermediate tensors are freed, except those that an open tape needs. The caller owns the result, even
   * where it is the input's value or a parameter's: disposing it disposes nothing else.
   */
  forward(input: Tensor): Tensor {
    const output = tidy(() => owned(this.#tensor(synchronous(`${this.constructor.name}.forward`, this.compute(input)))));
    for (const observe of observers) observe(this, output);
    return output;
  }

  /** @throws UsageError for a `compute` without a tensor to return. */
  #tensor(output: Tensor): Tensor {
    if (output instanceof Tensor) return output;
    throw new UsageError(`${this.constructor.name}.compute returned no tensor but ${String(output)}; return the module's output`);
  }

  train(): this {
    return this.#setTraining(true);
  }
  eval(): this {
    return this.#setTraining(false);
  }
  #setTraining(training: boolean): this {
    for (const module of this.namedModules().values()) module.training = training;
    return this;
  }

  /** Inner modules by name, in the order in which the constructor set them. */
  children(): [name: string, module: Module][] {
    return this.#properties().filter((property): property is [string, Module] => property[1] instanceof Module);
  }

  /** This module, as `""`, and all inside it by path, outer ones first; one that stands at two places appears once. */
  namedModules(): Map<string, Module> {
    const found = new Map<string, Module>();
    const seen = new Set<Module>();
    const visit = (module: Module, path: string): void => {
      if (seen.has(module)) return;
      seen.add(module);
      found.set(path, module);
      for (const [name, child] of module.children()) visit(child, path ? `${path}.${name}` : name);
    };
    visit(this, "");
    return found;
  }

  /** Every trainable parameter with its path; one that two modules share appears once. */
  namedParameters(): Map<string, Parameter> {
    return this.#named((value): value is Parameter => value instanceof Parameter);
  }

  /** Every variable that is no parameter: running statistics. */
  namedBuffers(): Map<string, Variable> {
    return this.#named((value): value is Variable => value instanceof Variable && !(value instanceof Parameter));
  }

  /** Every random stream that a layer draws from: dropout's. With the buffers, all that a forward pass in training changes. */
  namedGenerators(): Map<string, Generator> {
    return this.#named((value): value is Generator => value instanceof Generator);
  }

  /** Every trainable parameter; each now bears its path as its name, for messages and tables. */
  parameters(): Parameter[] {
    const named = this.namedParameters();
    for (const [path, parameter] of named) parameter.name = path;
    return [...named.values()];
  }

  #named<Value>(wanted: (value: unknown) => value is Value): Map<string, Value> {
    const found = new Map<string, Value>();
    const seen = new Set<Value>();
    for (const [path, module] of this.namedModules()) {
      for (const [name, value] of module.#properties()) {
        if (!wanted(value) || seen.has(value)) continue;
        seen.add(value);
        found.set(path ? `${path}.${name}` : name, value);
      }
    }
    return found;
  }

  /** The module's properties by name, those that are arrays item by item. */
  #properties(): [name: string, value: unknown][] {
    return (Object.entries(this) as [string, unknown][]).flatMap(([name, value]) =>
      Array.isArray(value) ? value.map((item: unknown, i): [string, unknown] => [`${name}.${i}`, item]) : [[name, value]],
    );
  }

  /** Parameters and buffers by path. The handles are the caller's, to be disposed. */
  stateDict(): Map<string, Tensor> {
    return new Map([...this.#state()].map(([path, variable]) => [path, variable.value.keep()]));
  }

  /**
   * Sets every parameter and buffer from a `stateDict`. Nothing changes unless everything fits.
   * @throws CheckpointError naming every entry that is missing, unknown, misshapen, disposed, on another backend, or in the way of
   *   an open tape.
   */
  loadStateDict(state: ReadonlyMap<string, Tensor>): void {
    const own = this.#state();
    const faults: string[] = [];
    for (const [path, variable] of own) {
      const value = state.get(path);
      if (!value) faults.push(`"${path}" is missing`);
      else if (!sameShape(value.shape, variable.shape) || value.dtype !== variable.dtype) {
        faults.push(
          `"${path}" is ${value.dtype} ${formatShape(value.shape)} but the model has ${variable.dtype} ${formatShape(variable.shape)}`,
        );
      } else if (value.isDisposed) faults.push(`"${path}" was disposed`);
      else if (!variable.value.isDisposed && value.backend !== variable.value.backend) {
        faults.push(`"${path}" lives on "${value.backend.name}" but the model on "${variable.value.backend.name}"`);
      } else if (isWatched(variable.value.id)) faults.push(`"${path}" is being differentiated by an open tape`);
    }
    for (const path of state.keys()) if (!own.has(path)) faults.push(`"${path}" is not in the model`);
    if (faults.length > 0) {
      throw new CheckpointError(`loadStateDict: the state cannot be loaded into this model: ${faults.join("; ")}`);
    }
    // Handles apart from the state's: an entry may be the value of a variable here, which assigning to that disposes.
    const values = new Map([...own].map(([path, variable]) => [variable, (state.get(path) as Tensor).hold()]));
    for (const [variable, value] of values) {
      variable.assign(value);
      value.dispose();
    }
  }

  #state(): Map<string, Variable> {
    return new Map([...this.namedParameters(), ...this.namedBuffers()]);
  }

  /** Frees parameters and buffers; the module cannot be used afterwards. */
  dispose(): void {
    for (const variable of this.#state().values()) variable.dispose();
  }
}

/**
 * Runs `f` with an observer on every module's output: for summaries, and to find where numbers go wrong.
 * @throws UsageError if `f` returns a Promise: its modules would run unobserved.
 */
export function observeForward<Result>(observer: ForwardObserver, f: () => Result): Result {
  observers.push(observer);
  try {
    return synchronous("observeForward", f());
  } finally {
    observers.splice(observers.indexOf(observer), 1);
  }
}

/** Puts a model into evaluation mode; the function that it returns gives each module back the mode that it had. @internal */
export function enterEvaluation(model: Module): () => void {
  const modes = [...model.namedModules().values()].map((module) => [module, module.training] as const);
  model.eval();
  return () => {
    for (const [module, training] of modes) module.training = training;
  };
}

/** @throws ShapeError unless every extent is a whole number of at least 1. @internal */
export function requireExtents(layer: string, extents: Readonly<Record<string, number>>): void {
  for (const [name, extent] of Object.entries(extents)) {
    if (!Number.isSafeInteger(extent) || extent < 1) {
      throw new ShapeError(`${layer}: ${name} must be a whole number of at least 1 but is ${extent}`);
    }
  }
}

/** A parameter whose initial value is made outside of all scopes. @internal */
export function parameter(name: string, initial: () => Tensor): Parameter {
  return variable(name, initial, Parameter);
}

/** A buffer, likewise. @internal */
export function buffer(name: string, initial: () => Tensor): Variable {
  return variable(name, initial, Variable);
}

function variable<V extends Variable>(name: string, initial: () => Tensor, type: new (name: string, value: Tensor) => V): V {
  return unscoped(() => {
    const value = tidy(initial);
    const made = new type(name, value);
    value.dispose();
    return made;
  });
}

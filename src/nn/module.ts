import {
  CheckpointError,
  formatShape,
  sameShape,
  tidy,
  unscoped,
  Variable,
  type Backend,
  type FloatDType,
  type Generator,
  type Tensor,
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

/**
 * A function with parameters. A layer implements `compute`; users call `forward`, which frees what `compute` made on the way.
 * Parameters, buffers (plain variables, such as running statistics) and inner modules are found among its properties, alone or
 * in arrays, and named by them: `layers.0.weight`.
 */
export abstract class Module {
  #training = true;

  protected abstract compute(input: Tensor): Tensor;

  /** Applies the module. Intermediate tensors are freed, except those that an open tape needs. */
  forward(input: Tensor): Tensor {
    const output = tidy(() => this.compute(input));
    for (const observe of observers) observe(this, output);
    return output;
  }

  /** Whether dropout drops and batch norm uses the batch's statistics. */
  get training(): boolean {
    return this.#training;
  }
  train(): this {
    return this.#setTraining(true);
  }
  eval(): this {
    return this.#setTraining(false);
  }
  #setTraining(training: boolean): this {
    this.#training = training;
    for (const [, child] of this.children()) child.#setTraining(training);
    return this;
  }

  /** Inner modules by name, in the order in which the constructor set them. */
  children(): [name: string, module: Module][] {
    const found: [string, Module][] = [];
    for (const [name, value] of Object.entries(this) as [string, unknown][]) {
      if (value instanceof Module) found.push([name, value]);
      else if (Array.isArray(value)) {
        value.forEach((item: unknown, i) => {
          if (item instanceof Module) found.push([`${name}.${i}`, item]);
        });
      }
    }
    return found;
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

  /** Every trainable parameter; each now bears its path as its name, for messages and tables. */
  parameters(): Parameter[] {
    const named = this.namedParameters();
    for (const [path, parameter] of named) parameter.name = path;
    return [...named.values()];
  }

  #named<V extends Variable>(wanted: (value: unknown) => value is V, prefix = "", seen = new Set<unknown>()): Map<string, V> {
    const found = new Map<string, V>();
    const visit = (path: string, value: unknown): void => {
      if (!wanted(value) || seen.has(value)) return;
      seen.add(value);
      found.set(path, value);
    };
    for (const [name, value] of Object.entries(this) as [string, unknown][]) {
      if (Array.isArray(value)) value.forEach((item: unknown, i) => visit(`${prefix}${name}.${i}`, item));
      else visit(prefix + name, value);
    }
    for (const [name, child] of this.children()) {
      for (const [path, variable] of child.#named(wanted, `${prefix}${name}.`, seen)) found.set(path, variable);
    }
    return found;
  }

  /** Parameters and buffers by path. The handles are the caller's, to be disposed. */
  stateDict(): Map<string, Tensor> {
    return new Map([...this.#state()].map(([path, variable]) => [path, variable.value.keep()]));
  }

  /**
   * Sets every parameter and buffer from a `stateDict`. Nothing changes unless everything fits.
   * @throws CheckpointError naming missing, unknown and misshapen entries.
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
      }
    }
    for (const path of state.keys()) if (!own.has(path)) faults.push(`"${path}" is not in the model`);
    if (faults.length > 0) {
      throw new CheckpointError(`loadStateDict: the state does not belong to this model: ${faults.join("; ")}`);
    }
    for (const [path, variable] of own) variable.assign(state.get(path) as Tensor);
  }

  #state(): Map<string, Variable> {
    return new Map([...this.namedParameters(), ...this.namedBuffers()]);
  }

  /** Frees parameters and buffers; the module cannot be used afterwards. */
  dispose(): void {
    for (const variable of this.#state().values()) variable.dispose();
  }
}

/** Runs `f` with an observer on every module's output: for summaries, and to find where numbers go wrong. */
export function observeForward<Result>(observer: ForwardObserver, f: () => Result): Result {
  observers.push(observer);
  try {
    return f();
  } finally {
    observers.splice(observers.indexOf(observer), 1);
  }
}

/** Puts a model into evaluation mode; the function that it returns gives each module back the mode that it had. @internal */
export function enterEvaluation(model: Module): () => void {
  const modes = [...model.namedModules().values()].map((module) => [module, module.training] as const);
  model.eval();
  return () => {
    // Outer modules come first, so that what they set inside is put right by the inner ones.
    for (const [module, training] of modes) {
      if (training) module.train();
      else module.eval();
    }
  };
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

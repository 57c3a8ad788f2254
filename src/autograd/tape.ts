import {
  apply,
  isFloat,
  tidy,
  untracked,
  UsageError,
  withRecorder,
  formatShape,
  Tensor,
  Variable,
  type AppliedCall,
  type Backend,
  type DType,
  type Params,
  type PrimitiveName,
  type Recorder,
  type Shape,
} from "../tensor/index.ts";
import { requireLike } from "./likeness.ts";
import { rules, type Recorded, type RecordedCall, type Rule } from "./rules.ts";

/** A call of any primitive, where nothing depends on which one. */
export interface AnyCall {
  readonly name: PrimitiveName;
  readonly params: Params<PrimitiveName>;
  readonly inputs: readonly Recorded[];
  readonly outputs: readonly Recorded[];
  /** Inputs that depend on a watched value. */
  readonly needed: readonly boolean[];
}

/**
 * Told of each recorded call that the reverse pass goes by, with the gradients of its outputs, before their own use ends.
 * Runs untracked. Values that must outlive the callback are kept with `hold()`.
 */
export type Observer = (call: AnyCall, outputGradients: readonly (Tensor | null)[]) => void;

export interface ReverseOptions {
  readonly observe?: Observer | undefined;
  /** Keep the recording for another reverse pass. Default false: every value is released as soon as it has been used. */
  readonly again?: boolean;
  /** Compute no gradients of the watched values themselves, only what observers see on the way. Default false. */
  readonly observeOnly?: boolean;
}

/** A recorded value: its shape always, its numbers only if the rule asked for them. */
class Slot implements Recorded {
  readonly id: number;
  readonly shape: Shape;
  readonly dtype: DType;
  readonly backend: Backend;
  readonly primitive: PrimitiveName;
  #value: Tensor | null;

  constructor(primitive: PrimitiveName, tensor: Tensor, saved: boolean) {
    this.id = tensor.id;
    this.shape = tensor.shape;
    this.dtype = tensor.dtype;
    this.backend = tensor.backend;
    this.primitive = primitive;
    this.#value = saved ? tensor.hold() : null;
  }

  get value(): Tensor {
    if (!this.#value) {
      throw new UsageError(
        `a derivative rule or observer of ${this.primitive} read a value ${formatShape(this.shape)} that the tape does not hold: ` +
          `the rule's saves must name it, and a released recording cannot be read`,
      );
    }
    return this.#value;
  }

  release(): void {
    this.#value?.dispose();
    this.#value = null;
  }
}

interface Node extends AnyCall {
  readonly inputs: readonly Slot[];
  readonly outputs: readonly Slot[];
}

/** Records the calls that depend on watched values. Some may turn out to lead nowhere: the reverse pass goes by them. */
class Tape implements Recorder {
  readonly nodes: Node[] = [];
  readonly #watched: ReadonlySet<number>;
  readonly #reached: Set<number>;

  constructor(watched: readonly Tensor[]) {
    this.#watched = new Set(watched.map((tensor) => tensor.id));
    this.#reached = new Set(this.#watched);
  }

  watches(id: number): boolean {
    return this.#watched.has(id);
  }

  record({ name, inputs, params, outputs }: AppliedCall): void {
    const needed = inputs.map((input) => this.#reached.has(input.id));
    if (!needed.includes(true)) return;
    const rule = rules[name];
    const saves = (side: "inputs" | "outputs", position: number): boolean =>
      "definition" in rule ? side === "inputs" : (rule.saves[side]?.includes(position) ?? false);
    this.nodes.push({
      name,
      params,
      needed,
      inputs: inputs.map((input, i) => new Slot(name, input, saves("inputs", i))),
      outputs: outputs.map((output, i) => new Slot(name, output, saves("outputs", i))),
    });
    for (const output of outputs) if (isFloat(output.dtype)) this.#reached.add(output.id);
  }
}

/** A function's value with the tape that led to it. Hold it no longer than needed: it keeps what the reverse pass reads. */
export class Recording<Result> {
  readonly value: Result;
  readonly #watched: readonly Tensor[];
  readonly #nodes: Node[];
  #released = false;

  /** @internal */
  constructor(value: Result, watched: readonly Tensor[], nodes: Node[]) {
    this.value = value;
    this.#watched = watched;
    this.#nodes = nodes;
  }

  /** The recorded calls in order, to find a loss primitive or its inputs. */
  get calls(): readonly AnyCall[] {
    return this.#nodes;
  }

  /**
   * One reverse pass. Seeds are gradients of any recorded values, results or in between.
   * @returns for each watched tensor its gradient, or `null` if no seed depends on it.
   * @throws ShapeError, DTypeError or BackendError if a seed is not like its value; UsageError after the recording was released.
   */
  reverse(
    seeds: Iterable<readonly [value: { readonly id: number; readonly shape: Shape }, seed: Tensor]>,
    options: ReverseOptions = {},
  ): (Tensor | null)[] {
    if (this.#released)
      throw new UsageError("reverse: the recording was released by an earlier pass; pass { again: true } to the passes before the last");
    const gradients = new Gradients();
    try {
      for (const [value, seed] of seeds) {
        // Of a value that the tape has not seen, and that gives no gradient, nothing but the shape is known.
        const { dtype, backend } = this.#find(value.id) ?? seed;
        requireLike("reverse: a seed", seed, "its value", { shape: value.shape, dtype, backend });
        gradients.add(value.id, seed);
      }
      this.#released = options.again !== true;
      for (let i = this.#nodes.length - 1; i >= 0; i--) {
        const node = this.#nodes[i] as Node;
        this.#reverseNode(node, gradients, options);
        if (this.#released) {
          release(node);
          this.#nodes.length = i;
        }
      }
      return this.#watched.map((tensor) => gradients.read(tensor.id));
    } finally {
      gradients.dispose();
      if (this.#released) this.dispose();
    }
  }

  #reverseNode(node: Node, gradients: Gradients, { observe, observeOnly = false }: ReverseOptions): void {
    const own = node.outputs.map((output) => gradients.take(output.id));
    if (own.every((gradient) => gradient === null)) return;
    try {
      tidy(() => {
        if (observe)
          untracked(() => {
            observe(node, own);
          });
        gradientThunks(node, own).forEach((thunk, i) => {
          const { id } = node.inputs[i] as Slot;
          const wanted = node.needed[i] && !(observeOnly && this.#watched.some((tensor) => tensor.id === id));
          if (thunk && wanted) gradients.add(id, thunk());
        });
      });
    } finally {
      for (const gradient of own) gradient?.dispose();
    }
  }

  #find(id: number): Slot | Tensor | undefined {
    const watched = this.#watched.find((tensor) => tensor.id === id);
    return watched ?? this.#nodes.flatMap(({ outputs }) => outputs).find((slot) => slot.id === id);
  }

  /** Releases everything that the tape holds. Results that were returned stay. */
  dispose(): void {
    this.#released = true;
    for (const node of this.#nodes) release(node);
    this.#nodes.length = 0;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function release(node: Node): void {
  for (const slot of [...node.inputs, ...node.outputs]) slot.release();
}

/** Gradients that have arrived so far, by value. Owns its handles, so that tidies around it cannot drop them. */
class Gradients {
  readonly #held = new Map<number, Tensor>();

  add(id: number, gradient: Tensor): void {
    const before = this.#held.get(id);
    // Donation writes the sum over the earlier part unless someone else (an outer tape) holds it.
    const total = before ? tidy(() => apply("add", [before, gradient], {}, { donate: [0] })[0].hold()) : gradient.hold();
    this.#held.set(id, total);
  }

  /** Gives up the gradient of a value; the caller disposes it. */
  take(id: number): Tensor | null {
    const gradient = this.#held.get(id) ?? null;
    this.#held.delete(id);
    return gradient;
  }

  read(id: number): Tensor | null {
    return this.#held.get(id)?.keep() ?? null;
  }

  dispose(): void {
    for (const gradient of this.#held.values()) gradient.dispose();
    this.#held.clear();
  }
}

function gradientThunks(node: Node, gradients: readonly (Tensor | null)[]): readonly ((() => Tensor) | null)[] {
  // The table pairs each name with a rule for exactly that primitive; the loop here does not know which one it holds.
  const rule = rules[node.name] as Rule<"add">;
  if ("definition" in rule) return definitionThunks(node, gradients);
  return rule.vjp(node as unknown as RecordedCall<"add">, gradients as [Tensor]);
}

/** Differentiates a rule's definition in place of the primitive: one nested pass gives the gradients of all inputs. */
function definitionThunks(node: Node, gradients: readonly (Tensor | null)[]): readonly (() => Tensor)[] {
  const rule = rules[node.name] as { definition(inputs: readonly Tensor[], params: unknown): readonly Tensor[] };
  // Identities of their own, since one tensor may stand at two places: a reshape is free, and outer tapes see through it.
  const inputs = node.inputs.map((input) => input.value.reshape(input.shape));
  let results: (Tensor | null)[] | undefined;
  const compute = (): (Tensor | null)[] => {
    const recording = record(() => rule.definition(inputs, node.params), inputs);
    const seeds = recording.value.flatMap((output, i) => {
      const gradient = gradients[i];
      return gradient ? [[output, gradient] as const] : [];
    });
    return recording.reverse(seeds);
  };
  return inputs.map((input, i) => () => {
    results ??= compute();
    return results[i] ?? Tensor.zeros(input.shape, { dtype: input.dtype as "float32", backend: input.backend });
  });
}

/**
 * Runs `f` and records what depends on `watched`. `f` is a tidy: intermediate tensors are freed as it returns,
 * except those that the reverse pass needs.
 *
 * @throws UsageError if `f` returns a Promise.
 */
export function record<Result>(f: () => Result, watched: readonly (Tensor | Variable)[]): Recording<Result> {
  const tensors = watched.map((w) => (w instanceof Variable ? w.value : w));
  const tape = new Tape(tensors);
  try {
    const value = withRecorder(tape, () => tidy(f));
    return new Recording(value, tensors, tape.nodes);
  } catch (error) {
    tape.nodes.forEach(release);
    throw error;
  }
}

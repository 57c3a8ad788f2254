import {
  apply,
  defaultBackend,
  isFloat,
  type Backend,
  type FloatDType,
  type Inputs,
  type Params,
  type PrimitiveName,
  type Tensor,
} from "../../src/tensor/index.ts";
import { realize, sampledNames, type Sample } from "../samples.ts";

/** Primitives whose floating inputs lead to no floating output. */
const withoutDerivative = new Set<PrimitiveName>(["fill", "arange", "uniform", "normal", "equal", "less", "lessEqual", "argmax"]);
export const differentiable = sampledNames.filter((name) => !withoutDerivative.has(name));

/** A primitive as a function of its floating inputs; integer inputs are closed over. Every floating output takes part. */
export class Restriction<K extends PrimitiveName> {
  readonly #name: K;
  readonly #inputs: readonly Tensor[];
  readonly #params: Params<K>;

  constructor(name: K, sample: Sample<K>, dtype: FloatDType = "float64", backend: Backend = defaultBackend()) {
    const { inputs, params } = realize(sample, dtype, backend);
    this.#name = name;
    this.#inputs = inputs;
    this.#params = params;
  }

  get floats(): readonly Tensor[] {
    return this.#inputs.filter((input) => isFloat(input.dtype));
  }

  readonly outputs = (...floats: Tensor[]): Tensor[] => {
    let next = 0;
    const all: unknown = this.#inputs.map((input) => (isFloat(input.dtype) ? floats[next++] : input));
    const outputs: readonly Tensor[] = apply(this.#name, all as Inputs<K, Tensor>, this.#params);
    return outputs.filter((output) => isFloat(output.dtype));
  };

  dispose(): void {
    for (const input of this.#inputs) input.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

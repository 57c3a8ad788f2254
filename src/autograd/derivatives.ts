import { DTypeError, formatShape, isFloat, owned, ShapeError, synchronous, Tensor, tidy, UsageError, Variable } from "../tensor/index.ts";
import { requireLike } from "./likeness.ts";
import { frozen } from "./state.ts";
import { record, type Observer } from "./tape.ts";

export interface ValueAndGradOptions {
  readonly observe?: Observer | undefined;
}

/**
 * The value of a scalar function and its gradient with respect to variables or tensors; zeros where it does not depend on one.
 * The caller owns both, even if `f` returns a handle of somebody else's.
 *
 * @throws ShapeError if `f` does not return a scalar (shape [] or one element).
 */
export function valueAndGrad(
  f: () => Tensor,
  params: readonly (Variable | Tensor)[],
  { observe }: ValueAndGradOptions = {},
): { value: Tensor; gradients: Tensor[] } {
  return tidy(() => {
    using recording = record(() => {
      const result = f();
      requireScalar("valueAndGrad", result);
      return owned(result);
    }, params);
    const { value } = recording;
    const gradients = recording.reverse([[value, onesLike(value)]], { observe });
    return { value, gradients: gradients.map((gradient, i) => gradient ?? zerosLike(params[i] as Variable | Tensor)) };
  });
}

/**
 * Vector-Jacobian product: for outputs y = f(x) and vectors v of their shapes, the gradients Σ vᵀ ∂y/∂x. `f` gets the inputs.
 * The caller owns outputs and gradients.
 *
 * @throws ShapeError, DTypeError or BackendError if a vector is not like its output.
 */
export function vjp(
  f: (...inputs: Tensor[]) => Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  vectors: readonly Tensor[],
): { outputs: Tensor[]; gradients: Tensor[] } {
  return tidy(() => {
    // A tensor given twice needs an identity for each place; a reshape is free, and outer tapes see through it.
    const places = inputs.map((input, i) => (inputs.findIndex(({ id }) => id === input.id) < i ? input.reshape(input.shape) : input));
    using recording = record(() => {
      const result = synchronous("vjp", f(...places));
      return (result instanceof Tensor ? [result] : [...result]).map(owned);
    }, places);
    const outputs = recording.value;
    if (outputs.length !== vectors.length)
      throw new UsageError(`vjp: the function has ${outputs.length} outputs but ${vectors.length} vectors were given`);
    const gradients = recording.reverse(outputs.map((output, i) => [output, vectors[i] as Tensor] as const));
    return { outputs, gradients: gradients.map((gradient, i) => gradient ?? zerosLike(inputs[i] as Tensor)) };
  });
}

/**
 * Hessian-vector product of a scalar function: H v with H the second derivatives with respect to `params`, one vector a
 * parameter. Reverse over reverse (Pearlmutter 1994): the gradient of ⟨∇f, v⟩. State updates inside `f` are frozen.
 *
 * @throws ShapeError, DTypeError or BackendError if a vector is not like its parameter.
 */
export function hvp(f: () => Tensor, params: readonly (Variable | Tensor)[], vectors: readonly Tensor[]): Tensor[] {
  if (params.length !== vectors.length) throw new UsageError(`hvp: ${params.length} parameters but ${vectors.length} vectors were given`);
  params.forEach((param, i) => {
    requireLike(`hvp: vector ${i}`, vectors[i] as Tensor, "its parameter", valueOf(param));
  });
  if (params.length === 0) return [];
  return tidy(() => {
    // A parameter may be its own vector: identities of their own keep vectors constant here and visible to outer tapes.
    const constants = vectors.map((vector) => vector.reshape(vector.shape));
    const slope = (): Tensor => {
      const { gradients } = valueAndGrad(f, params);
      const terms = gradients.map((gradient, i) => gradient.multiply(constants[i] as Tensor).sum());
      return terms.reduce((total, term) => total.add(term));
    };
    return frozen(() => valueAndGrad(slope, params).gradients);
  });
}

export function requireScalar(operation: string, value: unknown): asserts value is Tensor {
  synchronous(operation, value);
  if (!(value instanceof Tensor))
    throw new UsageError(`${operation}: the function must return a tensor, the loss, but returned ${typeof value}`);
  if (value.size !== 1) {
    throw new ShapeError(
      `${operation}: the function must return a single number but returned ${formatShape(value.shape)}; use mean() or sum()`,
    );
  }
  if (!isFloat(value.dtype)) throw new DTypeError(`${operation}: the function must return a floating tensor but returned ${value.dtype}`);
}

export function onesLike({ shape, dtype, backend }: Tensor): Tensor {
  return Tensor.ones(shape, { dtype, backend });
}

function zerosLike(like: Variable | Tensor): Tensor {
  const { shape, dtype, backend } = valueOf(like);
  return Tensor.zeros(shape, { dtype, backend });
}

const valueOf = (like: Variable | Tensor): Tensor => (like instanceof Variable ? like.value : like);

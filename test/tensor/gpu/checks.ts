import {
  apply,
  tidy,
  unscoped,
  type Backend,
  type DType,
  type PrimitiveName,
  type Tensor,
  type TypedArray,
} from "../../../src/tensor/index.ts";
import { realize, type HostTensor, type Sample } from "../../samples.ts";
import { definitions } from "../definitions.ts";

/* What a device must compute, told by errors: in a browser there is no test runner to expect anything. */

interface Result {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly data: TypedArray;
}

export async function resultsOf<K extends PrimitiveName>(
  name: K,
  sample: Sample<K>,
  backend: Backend,
  dtype: "float32" | "float64" = "float32",
): Promise<Result[]> {
  const tensors: Tensor[] = [];
  try {
    const outputs = unscoped((): readonly Tensor[] => {
      const { inputs, params } = realize(sample, dtype, backend);
      tensors.push(...(inputs as readonly Tensor[]));
      return apply(name, inputs, params, { backend });
    });
    tensors.push(...outputs);
    const read = outputs.map(async (output) => ({ shape: output.shape, dtype: output.dtype, data: await output.data() }));
    return await Promise.all(read);
  } finally {
    for (const tensor of tensors) tensor.dispose();
  }
}

/** float32 rounds by 6e-8, and WGSL allows its functions a few such units each. */
export const ERROR = 4e-6;

/** @throws Error unless they are equal to an error relative to the largest element, or 1. */
export function requireNear(actual: ArrayLike<number>, expected: ArrayLike<number>, relative: number): void {
  if (actual.length !== expected.length) throw new Error(`${actual.length} numbers, expected ${expected.length}`);
  let [worst, at, scale] = [0, 0, 1];
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [actual[i] as number, expected[i] as number];
    if (Number.isFinite(b)) scale = Math.max(scale, Math.abs(b));
    const error = Object.is(a, b) || a === b ? 0 : Math.abs(a - b);
    if (error <= worst) continue;
    [worst, at] = [error, i];
    if (Number.isNaN(error)) break;
  }
  if (worst <= relative * scale) return;
  const what = `the error of element ${at} of ${expected.length} is ${worst}, accepted ${relative * scale}`;
  throw new Error(`${what}: ${actual[at]}, expected ${expected[at]}`);
}

export async function equalsDefinition<K extends PrimitiveName>(name: K, sample: Sample<K>, backend: Backend): Promise<void> {
  const { params } = tidy(() => ({ params: realize(sample, "float32", backend).params }));
  const expected: readonly HostTensor[] = definitions[name](sample.inputs, params);
  const results = await resultsOf(name, sample, backend);
  if (results.length !== expected.length) throw new Error(`${name} gives ${results.length} results, expected ${expected.length}`);
  for (const [i, { shape, dtype, data }] of results.entries()) {
    const definition = expected[i] as HostTensor;
    const kind = definition.kind === "int" ? "int32" : "float32";
    if (String(shape) !== String(definition.shape) || dtype !== kind)
      throw new Error(`${name} gives ${dtype} [${String(shape)}], expected ${kind} [${String(definition.shape)}]`);
    requireNear(data, definition.values, dtype === "int32" ? 0 : ERROR);
  }
}

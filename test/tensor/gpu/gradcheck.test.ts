import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { frozen, valueAndGrad, vjp } from "../../../src/autograd/index.ts";
import {
  AveragePool2d,
  BatchNorm2d,
  Conv2d,
  crossEntropy,
  Flatten,
  Linear,
  Sequential,
  Tanh,
  type Parameter,
} from "../../../src/nn/index.ts";
import { openReference } from "../../../src/tensor/backends/reference/index.ts";
import { Generator, Tensor, tidy, type Backend, type FloatDType, type PrimitiveName, type Shape } from "../../../src/tensor/index.ts";
import { differentiable, Restriction } from "../../autograd/restriction.ts";
import { samples, type Sample } from "../../samples.ts";
import { describeOnGpu } from "./gpu.ts";

/*
 * Derivatives on the device. Differences of float32 results are far too coarse to check a rule element by element: they are right to
 * ε^(2/3) = 2e-5 of the largest, if the step fits. So what is checked are vector-Jacobian products with random vectors, against the
 * reference backend's in float64, whose rules central differences have confirmed on the same samples. Of a whole network's loss,
 * differences along a direction are exact enough.
 */

const oracle = openReference();

/** Random numbers that float32 and float64 both hold. */
const draw = (generator: Generator, shape: Shape): Float32Array =>
  tidy(() => Float32Array.from(generator.normal(shape, { dtype: "float64", backend: oracle }).dataSync()));

interface Derivatives {
  /** Σ cᵀ ∂y/∂x for each input x. */
  readonly first: readonly Float64Array[];
  /** The same of `first`, as a function of inputs and vectors c. */
  readonly second: readonly Float64Array[];
}

async function derivativesOf<K extends PrimitiveName>(
  name: K,
  sample: Sample<K>,
  dtype: FloatDType,
  backend: Backend,
): Promise<Derivatives | null> {
  using restriction = new Restriction(name, sample, dtype, backend);
  const { floats, outputs } = restriction;
  const shapes = tidy(() => outputs(...floats).map(({ shape }) => shape));
  if (floats.length === 0 || shapes.length === 0) return null; // an integer variant, or a cast to integers
  const generator = new Generator(1);
  const [vectors, weights] = [shapes, floats.map(({ shape }) => shape)].map((list) =>
    list.map((shape) => Tensor.from(draw(generator, shape), { shape, dtype, backend })),
  ) as [Tensor[], Tensor[]];
  const gradients = (...all: Tensor[]): Tensor[] => vjp(outputs, all.slice(0, floats.length), all.slice(floats.length)).gradients;
  const [first, second] = tidy(() => [gradients(...floats, ...vectors), vjp(gradients, [...floats, ...vectors], weights).gradients]);
  const read = (tensors: readonly Tensor[]): Promise<Float64Array[]> =>
    Promise.all(tensors.map(async (tensor) => Float64Array.from(await tensor.data())));
  try {
    return { first: await read(first), second: await read(second) };
  } finally {
    for (const tensor of [...vectors, ...weights, ...first, ...second]) tensor.dispose();
  }
}

/** Of the largest element, or of 1. */
function expectNear(actual: readonly Float64Array[], expected: readonly Float64Array[], relative: number): void {
  for (const [i, numbers] of expected.entries()) {
    expect([...(actual[i] ?? []), 1]).toBeAllclose([...numbers, 1], { relative });
  }
}

/** A network without kinks, whose loss is smooth in its parameters. */
function smoothNetwork(backend: Backend): { readonly parameters: Parameter[]; readonly loss: () => Tensor } {
  const options = { backend, generator: new Generator(1) };
  const model = new Sequential(
    new Conv2d(2, 4, 3, { padding: 1, ...options }),
    new BatchNorm2d(4, options),
    new Tanh(),
    new AveragePool2d(2),
    new Flatten(),
    new Linear(36, 5, options),
  );
  const images = Tensor.from(draw(new Generator(2), [8, 6, 6, 2]), { shape: [8, 6, 6, 2], backend });
  const labels = Tensor.from([0, 1, 2, 3, 4, 0, 1, 2], { dtype: "int32", backend });
  return { parameters: model.parameters(), loss: () => crossEntropy(model.forward(images), labels) };
}

const inner = (a: readonly ArrayLike<number>[], b: readonly ArrayLike<number>[]): number =>
  a.reduce((sum, row, i) => Array.from(row).reduce((part, x, j) => part + x * (b[i]?.[j] as number), sum), 0);

describeOnGpu("derivatives on a GPU", (open) => {
  describe.each([true, false])("with kernels in WGSL: %s", (overrides) => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await open({ overrides });
    });

    test.each(differentiable)("first and second derivatives of %s equal those in float64", async (name) => {
      const before = backend.memory().buffers;
      const equal = async <K extends PrimitiveName>(of: K, sample: Sample<K>): Promise<void> => {
        const expected = await derivativesOf(of, sample, "float64", oracle);
        const actual = await derivativesOf(of, sample, "float32", backend);
        fc.pre(expected !== null && actual !== null);
        // As exact as the primitives themselves, 32 ε. Second derivatives of batch norm have powers of rstd in terms that cancel: 8² at most.
        expectNear(actual.first, expected.first, 4e-6);
        expectNear(actual.second, expected.second, 4e-5);
      };
      await fc.assert(
        fc.asyncProperty(samples[name], (sample: Sample<typeof name>) => equal(name, sample)),
        { numRuns: 20 },
      );
      expect(backend.memory().buffers).toBe(before);
    });
  });

  test("the gradient of a network's whole loss equals its differences along directions", async () => {
    const backend = await open();
    const { parameters, loss } = smoothNetwork(backend);
    const { gradients } = tidy(() => valueAndGrad(loss, parameters));
    const gradient = await Promise.all(gradients.map((tensor) => tensor.data()));
    const start = await Promise.all(parameters.map((parameter) => parameter.value.data()));
    const generator = new Generator(3);
    const random = (): Float32Array[] => parameters.map(({ shape }) => draw(generator, shape));
    for (const direction of [gradient, random(), random(), random()]) {
      const length = Math.sqrt(inner(direction, direction));
      const at = async (t: number): Promise<number> => {
        for (const [i, parameter] of parameters.entries()) {
          const moved = Float32Array.from(start[i] ?? [], (x, j) => x + (t / length) * (direction[i]?.[j] as number));
          tidy(() => parameter.assign(Tensor.from(moved, { shape: parameter.shape, backend })));
        }
        using result = tidy(() => frozen(loss));
        return await result.item();
      };
      // Of fourth order, with a step of 1/20 of a unit vector: h⁴ L⁽⁵⁾ / 30 is 7e-7 here (from steps of 0.1 and 0.2, where it shows), and
      // losses of 1.7 that are right to ε or two leave 3 · 1.7 ε / h = 1.2e-5.
      const h = 0.05;
      const difference = (8 * ((await at(h)) - (await at(-h))) - ((await at(2 * h)) - (await at(-2 * h)))) / (12 * h);
      expect(Math.abs(difference - inner(gradient, direction) / length)).toBeLessThan(2e-5);
    }
  });
});

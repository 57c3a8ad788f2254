import { Generator, NumericalError, tidy, Tensor, UsageError } from "../tensor/index.ts";
import { vjp } from "./derivatives.ts";
import { frozen } from "./state.ts";

export interface GradcheckOptions {
  /** 1 checks the gradient, 2 also the gradient of the gradient. Default 1. */
  readonly order?: 1 | 2;
  /** Step of the central difference relative to max(1, |x|). Default 1e-5, near the optimum ε^(1/3) in float64. */
  readonly step?: number;
  /** Largest |analytic − numeric| / max(1, largest numeric derivative with respect to the same input). Default 1e-6. */
  readonly tolerance?: number;
  /** Seed of the random output weights. Default 0. */
  readonly seed?: number;
}

/** A function that `gradcheck` can differentiate. */
export type Differentiable = (...inputs: Tensor[]) => Tensor | readonly Tensor[];

/**
 * Compares the derivatives of `f` at float64 `inputs` with central differences of ⟨c, f(x)⟩ for random vectors c. Inputs must
 * be away from kinks (a ReLU at 0). State updates in `f` are frozen.
 *
 * @returns the largest relative deviation found.
 * @throws NumericalError naming input, element, and both values where they differ.
 */
export async function gradcheck(f: Differentiable, inputs: readonly Tensor[], options: GradcheckOptions = {}): Promise<number> {
  const { order = 1, seed = 0 } = options;
  for (const input of inputs) {
    if (input.dtype !== "float64")
      throw new UsageError(`gradcheck: inputs must be float64 but one is ${input.dtype}; differences in float32 prove nothing`);
  }
  const generator = new Generator(seed);
  const vectors = tidy(() =>
    frozen(() => asList(f(...inputs))).map((output) => generator.normal(output.shape, { dtype: "float64", backend: output.backend })),
  );
  try {
    const first = await compare("gradient", f, inputs, vectors, options);
    if (order === 1) return first;
    // The gradient is a function of the inputs and, linearly, of the vectors: check its derivatives by both.
    const gradient: Differentiable = (...all) => vjp(f, all.slice(0, inputs.length), all.slice(inputs.length)).gradients;
    const extended = [...inputs, ...vectors];
    const weights = inputs.map((input) => generator.normal(input.shape, { dtype: "float64", backend: input.backend }));
    try {
      return Math.max(first, await compare("second derivative", gradient, extended, weights, options));
    } finally {
      for (const weight of weights) weight.dispose();
    }
  } finally {
    for (const vector of vectors) vector.dispose();
  }
}

function asList(result: Tensor | readonly Tensor[]): readonly Tensor[] {
  return result instanceof Tensor ? [result] : result;
}

async function compare(
  what: string,
  f: Differentiable,
  inputs: readonly Tensor[],
  vectors: readonly Tensor[],
  { step = 1e-5, tolerance = 1e-6 }: GradcheckOptions,
): Promise<number> {
  const gradients = tidy(() => frozen(() => vjp(f, inputs, vectors).gradients));
  const project = async (at: readonly Tensor[]): Promise<number> => {
    const total = tidy(() =>
      frozen(() => asList(f(...at)))
        .map((output, i) => output.multiply(vectors[i] as Tensor).sum())
        .reduce((sum, term) => sum.add(term)),
    );
    try {
      return await total.item();
    } finally {
      total.dispose();
    }
  };

  const analytic: number[][] = [];
  for (const gradient of gradients) {
    analytic.push([...(await gradient.data())]);
    gradient.dispose();
  }
  const numeric: number[][] = [];
  for (const [which, input] of inputs.entries()) {
    const data = await input.data();
    const differences: number[] = [];
    for (let i = 0; i < data.length; i++) {
      const centre = data[i] as number;
      const h = step * Math.max(1, Math.abs(centre));
      const values: number[] = [];
      for (const x of [centre + h, centre - h]) {
        data[i] = x;
        using shifted = Tensor.from(data, { shape: input.shape, dtype: "float64", backend: input.backend });
        values.push(await project(inputs.map((other, j) => (j === which ? shifted : other))));
      }
      data[i] = centre;
      differences.push(((values[0] as number) - (values[1] as number)) / (2 * h));
    }
    numeric.push(differences);
  }

  let worst = 0;
  for (const [which, differences] of numeric.entries()) {
    // Of this input alone: beside one with derivatives of 10⁶, an error in another with derivatives of 1 would not show.
    const scale = differences.reduce((largest, difference) => Math.max(largest, Math.abs(difference)), 1);
    for (const [i, expected] of differences.entries()) {
      const actual = (analytic[which] as number[])[i] as number;
      const deviation = Math.abs(actual - expected) / scale;
      // Written so that NaN fails too.
      if (!(deviation <= tolerance)) {
        throw new NumericalError(
          `gradcheck: the ${what} with respect to input ${which} differs at element ${i}: the rule gives ${actual}, differences give ` +
            `${expected} (relative deviation ${deviation.toExponential(1)}, tolerance ${tolerance})`,
        );
      }
      worst = Math.max(worst, deviation);
    }
  }
  return worst;
}

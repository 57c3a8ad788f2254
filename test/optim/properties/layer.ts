import fc, { type Arbitrary } from "fast-check";
import { Parameter } from "../../../src/nn/index.ts";
import type { Optimizer } from "../../../src/optim/index.ts";
import { linear, Tensor } from "../../../src/tensor/index.ts";
import { normalMatrix, seeds } from "../../arbitraries/matrices.ts";
import { build, at, matrix, product, scaled, transpose, type Matrix } from "../../linalg/dense.ts";

/*
 * One dense layer whose input rows a and output gradients g are given, so that theorems about factors and preconditioned gradients can be
 * stated on any of them. The loss is linear in the weight, which starts at 0: a step at rate 1 leaves there the direction, to all digits.
 */

export interface LayerCase {
  readonly n: number;
  /** T. */
  readonly positions: number;
  readonly dIn: number;
  readonly dOut: number;
  readonly bias: boolean;
  readonly seed: number;
}

export const layerCases: Arbitrary<LayerCase> = fc.record({
  n: fc.integer({ min: 1, max: 6 }),
  positions: fc.constantFrom(1, 1, 3),
  dIn: fc.integer({ min: 1, max: 5 }),
  dOut: fc.integer({ min: 1, max: 4 }),
  bias: fc.boolean(),
  seed: seeds,
});

export interface OneLayer {
  readonly parameters: Parameter[];
  readonly loss: () => Tensor;
  /** J = (1/n) Σ g aᵀ, [dOut, dA]. */
  readonly gradient: Matrix;
  /** Ω = (1/n) Σ a aᵀ. */
  readonly omega: Matrix;
  /** Γ = (1/nT) Σ g gᵀ. */
  readonly gamma: Matrix;
}

/**
 * @param x rows of inputs [n T, dIn].
 * @param g of each sample's own loss, [n T, dOut].
 * @param reduction whether the loss is the mean or the sum of the samples' losses.
 */
export function layerOf(x: Matrix, g: Matrix, { n, bias }: Pick<LayerCase, "n" | "bias">, reduction: "mean" | "sum" = "mean"): OneLayer {
  const [rows, dIn, dOut] = [x.rows, x.columns, g.columns];
  const a = build(rows, dIn + (bias ? 1 : 0), (i, j) => (j < dIn ? at(x, i, j) : 1));
  const zeros = (...shape: number[]): Tensor => Tensor.zeros(shape, { dtype: "float64" });
  const weight = new Parameter("weight", zeros(dOut, dIn));
  const shift = bias ? new Parameter("bias", zeros(dOut)) : null;
  const input = Tensor.from(x.data, { shape: rows === n ? [n, dIn] : [n, rows / n, dIn] });
  const slope = Tensor.from(scaled(g, reduction === "mean" ? 1 / n : 1).data, { shape: [...input.shape.slice(0, -1), dOut] });
  return {
    parameters: shift ? [weight, shift] : [weight],
    loss: () => linear(input, weight.value, shift?.value).multiply(slope).sum(),
    gradient: scaled(product(transpose(g), a), reduction === "mean" ? 1 / n : 1),
    omega: scaled(product(transpose(a), a), 1 / n),
    gamma: scaled(product(transpose(g), g), 1 / rows),
  };
}

export function randomLayer(layer: LayerCase): OneLayer {
  const { n, positions, dIn, dOut, seed } = layer;
  return layerOf(normalMatrix(n * positions, dIn, seed + 1), normalMatrix(n * positions, dOut, seed + 2), layer);
}

/** What the first step at rate 1 subtracts, [dOut, dA]. `make` is to clip nothing, and to have no momentum. */
export async function direction({ parameters, loss }: OneLayer, make: (parameters: Parameter[]) => Optimizer): Promise<Matrix> {
  const optimizer = make(parameters);
  await optimizer.minimize(loss);
  const [w, b] = parameters.map(({ value }) => value.dataSync());
  const [dOut, dIn] = parameters[0]?.shape as [number, number];
  for (const parameter of parameters) parameter.assign(parameter.value.multiply(0));
  optimizer.dispose();
  return build(dOut, dIn + (b ? 1 : 0), (i, j) => -((j < dIn ? w?.[i * dIn + j] : b?.[i]) as number));
}

/** ⟨A, B⟩. */
export const inner = (a: Matrix, b: Matrix): number => a.data.reduce((sum, value, i) => sum + value * (b.data[i] as number), 0);

/** A + s I. */
export const damped = (a: Matrix, s: number): Matrix => build(a.rows, a.columns, (i, j) => at(a, i, j) + (i === j ? s : 0));

/** A row-major matrix as a column. */
export const vec = (a: Matrix): Matrix => matrix(a.data.length, 1, a.data);

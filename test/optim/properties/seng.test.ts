import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { choleskyHost, solveCholeskyHost } from "../../../src/linalg/index.ts";
import { Seng, type SengOptions } from "../../../src/optim/index.ts";
import { normalMatrix } from "../../arbitraries/matrices.ts";
import { eachBackend } from "../../backends.ts";
import { at, build, matrix, minus, norm, plus, product, scaled, transpose, type Matrix } from "../../linalg/dense.ts";
import { damped, direction, layerCases, layerOf, vec, type LayerCase, type OneLayer } from "./layer.ts";

const lambdas = fc.double({ min: 1e-3, max: 10, noNaN: true });

/** A layer, and the gradient Gᵢ = Σ_t g aᵀ of each sample's own loss, [dOut, dA]. */
function layerWithSamples(layer: LayerCase): { readonly layer: OneLayer; readonly samples: readonly Matrix[] } {
  const { n, positions, dIn, dOut, bias, seed } = layer;
  const [x, g] = [normalMatrix(n * positions, dIn, seed + 1), normalMatrix(n * positions, dOut, seed + 2)];
  const samples = Array.from({ length: n }, (_, i) => {
    const own = build(positions, dIn + (bias ? 1 : 0), (t, j) => (j < dIn ? at(x, i * positions + t, j) : 1));
    const slopes = build(positions, dOut, (t, o) => at(g, i * positions + t, o));
    return product(transpose(slopes), own);
  });
  return { layer: layerOf(x, g, layer), samples };
}

/** U [n, d]: the samples' gradients as rows, over √n. F = UᵀU. */
const rowsOf = (samples: readonly Matrix[]): Matrix => {
  const [n, d] = [samples.length, samples[0]?.data.length ?? 0];
  return build(n, d, (i, k) => ((samples[i] as Matrix).data[k] as number) / Math.sqrt(n));
};

function solved(a: Matrix, b: Matrix): Matrix {
  const x = b.data.slice();
  solveCholeskyHost(choleskyHost(a.data, a.rows), a.rows, x, b.columns);
  return matrix(b.rows, b.columns, x);
}

/** Every form in which gradients of samples are kept. */
const forms: [name: string, settings: Partial<SengOptions>][] = [
  ["in the form that the layer gets by default", {}],
  ["as explicit gradients", { scaling: "paper" }],
  ["as factors", { scaling: "paper", explicitUpTo: 0, svdRank: 1000 }],
];

eachBackend(() => {
  describe("SENG's direction without a sketch, on the batch that it was made from,", () => {
    const directionOf = (layer: OneLayer, damping: number, settings: Partial<SengOptions>): Promise<Matrix> =>
      direction(layer, (parameters) => new Seng(parameters, { learningRate: 1, momentum: 0, columns: Infinity, damping, ...settings }));

    it.each(forms)("is the gradient with its samples reweighted: Σ bᵢ Gᵢ with b = (UUᵀ + λI)⁻¹ 1/n: %s", async (_, settings) => {
      await fc.assert(
        fc.asyncProperty(layerCases, lambdas, async (layerCase, lambda) => {
          const { layer, samples } = layerWithSamples(layerCase);
          const u = rowsOf(samples);
          const n = samples.length;
          const b = solved(
            damped(product(u, transpose(u)), lambda),
            build(n, 1, () => 1 / n),
          );
          const expected = samples.map((sample, i) => scaled(sample, b.data[i] as number)).reduce(plus);
          const actual = await directionOf(layer, lambda, settings);
          // P is what is left of J/λ: as exact as ε times that, and the solve as ε times its condition, which ‖U‖² / λ is at most.
          const condition = 1 + norm(u) ** 2 / lambda;
          const bound = 1e-14 * condition * (norm(layer.gradient) / lambda + norm(expected));
          expect(norm(minus(actual, expected))).toBeLessThanOrEqual(bound);
        }),
        { numRuns: 40 },
      );
    });

    it.each(forms)("solves (F + λI) P = J: %s", async (_, settings) => {
      await fc.assert(
        fc.asyncProperty(layerCases, lambdas, async (layerCase, lambda) => {
          const { layer, samples } = layerWithSamples(layerCase);
          const u = rowsOf(samples);
          const p = vec(await directionOf(layer, lambda, settings));
          const left = plus(product(transpose(u), product(u, p)), scaled(p, lambda));
          const size = norm(u) ** 2 + lambda;
          // An error of P, see above, times at most ‖F‖ + λ.
          expect(norm(minus(left, vec(layer.gradient)))).toBeLessThanOrEqual(1e-14 * (size / lambda) ** 2 * norm(layer.gradient));
        }),
        { numRuns: 40 },
      );
    });
  });
});

import { expect, it } from "vitest";
import { Seng, type SengOptions } from "../../src/optim/index.ts";
import type { FloatDType } from "../../src/tensor/index.ts";
import { golden, patchOrder, reordered, type GoldenArray } from "../golden.ts";
import { direction, type GoldenLayer } from "./goldenLayer.ts";

export interface SengLayer extends GoldenLayer {
  U: GoldenArray;
  damping: number;
  direction: GoldenArray;
  sketch_index: GoldenArray;
  direction_sketched: GoldenArray;
  coeffs_sketched_gram: GoldenArray;
  grad_mat: GoldenArray;
}

export const sengLayers = (golden("seng_layers") as { layers: SengLayer[] }).layers;
const norm = (x: readonly number[]): number => Math.hypot(...x);

/**
 * 1e-9 in float64. In float32, J/λ and Uᵀt cancel down to the direction P, and what is left is as exact as ε·‖J/λ‖; with an n-term sum
 * for each of three products, and the subtraction from the weights by which the test sees P.
 */
function toleranceOf(layer: SengLayer, dtype: FloatDType): number {
  if (dtype === "float64") return 1e-9;
  const epsilon = 2 ** -23;
  const [terms, p] = [norm(layer.grad_mat.data) / layer.damping, norm(layer.direction.data)];
  return (20 * epsilon * (terms + norm(layer.weight.data))) / p;
}

/** Directions of single layers, in every form in which gradients of samples are kept. */
export function sengLayersEqualDenseSolves(dtypes: readonly FloatDType[]): void {
  for (const dtype of dtypes) {
    for (const layer of sengLayers) {
      const order = patchOrder(layer.weight.shape, layer.bias !== null);
      const variants: [string, Partial<SengOptions>][] = [
        ["in its own form", { columns: Infinity }],
        ["as explicit gradients", { columns: Infinity, scaling: "paper" }],
        ["as factors", { columns: Infinity, scaling: "paper", explicitUpTo: 0, svdRank: 1000 }],
        ["as truncated factors, of which nothing is left out", { columns: Infinity, scaling: "paper", explicitUpTo: 0, svdRank: 8 }],
      ];
      it.each(variants)(`${layer.name}, ${dtype}, %s: equals the dense solve`, async (_, options) => {
        const settings = { learningRate: 1, momentum: 0, damping: layer.damping, ...options };
        const actual = await direction(layer, dtype, (own) => new Seng(own, settings));
        expect(actual).toBeAllclose(reordered(layer.direction, order), { relative: toleranceOf(layer, dtype) });
      });
    }
  }
}

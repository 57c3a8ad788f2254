import { describe, expect, it } from "vitest";
import { eighHost } from "../../src/linalg/index.ts";
import { crossEntropy, Linear, Parameter, ReLU, Sequential } from "../../src/nn/index.ts";
import { combine, combineByMeans, innerProducts, project, type SampleGradients } from "../../src/optim/blocks/sampleGradients.ts";
import { Seng, type SengOptions } from "../../src/optim/index.ts";
import { conv2d, Generator, linear, Tensor, type FloatDType } from "../../src/tensor/index.ts";
import { eachBackend } from "../backends.ts";
import { golden, patchOrder, reordered, tensorOf, type GoldenArray } from "../golden.ts";

interface SengLayer {
  name: string;
  kind: "linear" | "conv";
  stride: [number, number] | null;
  padding: [number, number] | null;
  x: GoldenArray;
  weight: GoldenArray;
  bias: GoldenArray | null;
  grad_y: GoldenArray;
  U: GoldenArray;
  damping: number;
  direction: GoldenArray;
  sketch_index: GoldenArray;
  direction_sketched: GoldenArray;
  coeffs_sketched_gram: GoldenArray;
  grad_mat: GoldenArray;
}

const layers = (golden("seng_layers") as { layers: SengLayer[] }).layers;
const dtypes: FloatDType[] = ["float64", "float32"];
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

function layerLoss(layer: SengLayer, weight: Parameter, bias: Parameter | null, dtype: FloatDType): () => Tensor {
  const [x, gradient] = [tensorOf(layer.x, dtype), tensorOf(layer.grad_y, dtype)];
  return () => {
    const y =
      layer.kind === "linear"
        ? linear(x, weight.value, bias?.value ?? null)
        : conv2d(x, weight.value, bias?.value ?? null, { stride: layer.stride ?? 1, padding: layer.padding ?? 0 });
    return y.multiply(gradient).sum();
  };
}

/** The direction of the first step: what a rate of 1 subtracts, as rows [dOut, dA]. */
async function direction(layer: SengLayer, dtype: FloatDType, options: Partial<SengOptions>): Promise<number[]> {
  const weight = new Parameter("weight", tensorOf(layer.weight, dtype));
  const bias = layer.bias && new Parameter("bias", tensorOf(layer.bias, dtype));
  const own = bias ? [weight, bias] : [weight];
  const before = own.map((p) => p.value.dataSync());
  const optimizer = new Seng(own, { learningRate: 1, momentum: 0, damping: layer.damping, ...options });
  await optimizer.minimize(layerLoss(layer, weight, bias, dtype));
  const [w, b] = own.map((p, i) => p.value.dataSync().map((v, j) => (before[i]?.[j] ?? 0) - v));
  const dOut = weight.shape[0] as number;
  const row = (w as Float64Array).length / dOut;
  optimizer.dispose();
  return Array.from({ length: dOut }, (_, o) => [
    ...(w as Float64Array).subarray(o * row, (o + 1) * row),
    ...(b ? [b[o] as number] : []),
  ]).flat();
}

eachBackend(() => {
  describe("SENG of single layers", () => {
    for (const dtype of dtypes) {
      for (const layer of layers) {
        const order = patchOrder(layer.weight.shape, layer.bias !== null);
        const variants: [string, Partial<SengOptions>][] = [
          ["in its own form", { columns: Infinity }],
          ["as explicit gradients", { columns: Infinity, scaling: "paper" }],
          ["as factors", { columns: Infinity, scaling: "paper", explicitUpTo: 0, svdRank: 1000 }],
          ["as truncated factors, of which nothing is left out", { columns: Infinity, scaling: "paper", explicitUpTo: 0, svdRank: 8 }],
        ];
        it.each(variants)(`${layer.name}, ${dtype}, %s: equals the dense solve`, async (_, options) => {
          const actual = await direction(layer, dtype, options);
          expect(actual).toBeAllclose(reordered(layer.direction, order), { relative: toleranceOf(layer, dtype) });
        });
      }
    }

    it.each(layers.map((layer) => [layer.name, layer] as const))(
      "%s: the sketch with the paper's scaling equals its formula",
      (_, layer) => {
        const order = patchOrder(layer.weight.shape, layer.bias !== null);
        const [n = 0, d = 0] = layer.U.shape;
        const dA = order.length;
        // Columns of U and drawn entries in kfacet's order of patches.
        const place = new Map<number, number>();
        for (let o = 0; o < d / dA; o++) order.forEach((from, to) => place.set(o * dA + from, o * dA + to));
        const u = new Float64Array(d * n);
        for (let i = 0; i < n; i++) for (let k = 0; k < d; k++) u[(place.get(k) as number) * n + i] = layer.U.data[i * d + k] as number;
        const entries = Int32Array.from(layer.sketch_index.data, (k) => place.get(k) as number);
        const tensors = new Map([
          ["u", Tensor.from(u, { shape: [d, n] })],
          ["entries", Tensor.from(entries)],
        ]);
        const samples: SampleGradients = { form: "explicit", scaling: "paper", tensors };
        const gram = innerProducts(samples).dataSync();
        expect(gram).toBeAllclose(layer.coeffs_sketched_gram.data, { relative: 1e-9 });
        // (λI + gram)⁻¹ by its eigenvectors.
        const { values, vectors } = eighHost(Float64Array.from(gram), n);
        const j = Tensor.from(Float64Array.from(reordered(layer.grad_mat, order)), { shape: [d / dA, dA] });
        const right = project(samples, j.multiply(1 / layer.damping)).dataSync();
        const t = Float64Array.from({ length: n }, (_, i) => {
          let sum = 0;
          for (let k = 0; k < n; k++) {
            let inner = 0;
            for (let l = 0; l < n; l++) inner += (vectors[l * n + k] as number) * (right[l] as number);
            sum += ((vectors[i * n + k] as number) * inner) / ((values[k] as number) + layer.damping);
          }
          return sum;
        });
        const back = combine(samples, Tensor.from(t, { shape: [n, 1] }), [d / dA, dA]);
        const actual = j
          .multiply(1 / layer.damping)
          .subtract(back)
          .dataSync();
        expect(actual).toBeAllclose(reordered(layer.direction_sketched, order), { relative: 1e-9 });
      },
    );
  });
});

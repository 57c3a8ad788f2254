import type { Precision } from "../../golden.ts";
import { randomizedEighEqualsGolden, randomizedSvdEqualsGolden } from "../../linalg/goldenStatements.ts";
import { layersEqualPyTorch } from "../../nn/goldenStatements.ts";
import {
  firstOrderFollowsPyTorch,
  kfacLayersEqualDenseSolves,
  smallVggEqualsPyTorch,
  trajectoriesEqualPaperCode,
} from "../../optim/goldenStatements.ts";
import { sengLayersEqualDenseSolves } from "../../optim/sengLayers.ts";
import { primitivesEqualPyTorch } from "../goldenStatements.ts";
import { describeByDefaultOnGpu } from "./byDefault.ts";

/*
 * The golden vectors in float32 on a device, where ε = 2⁻²³ = 1.2e-7. Their inputs are rounded once when they are uploaded, by up to ε / 2.
 */

const within = (relative: number): Precision[] => [["float32", relative]];

describeByDefaultOnGpu("golden vectors on a GPU:", () => {
  // Sums of some 100 terms, made by blocks, and functions of which WGSL is right to some ε: 32 ε.
  primitivesEqualPyTorch(within(4e-6));
  layersEqualPyTorch(within(4e-6));
  // Ten steps, each with some roundings of numbers about as large as the parameters.
  firstOrderFollowsPyTorch(within(4e-6));
  // Forward and backward through 16 layers, which add 4 ε or so each.
  smallVggEqualsPyTorch(within(1e-5));
  // Damping of 0.1 of each factor's largest eigenvalue: a condition of 11² for the direction, of which a step changes parameters by no more
  // than the clip of 0.07 times a rate of 0.3. A direction that is right to 11² ε leaves them right to 6 · 0.3 · 0.07 · 11² ε = 15 ε.
  // SENG's is what is left of g / λ, here right to some ε times ‖g‖ / 2, times a rate of 0.05. (The iterated ones, 400 products for each
  // inverse, wait for the device most of the time, and tell no more of it.)
  trajectoriesEqualPaperCode(within(4e-6));
  // Damping of 0.03 of each factor's largest eigenvalue: a condition of 34² for the direction, hence 34² ε = 1.4e-4 at worst.
  kfacLayersEqualDenseSolves(within(1e-4));
  sengLayersEqualDenseSolves(["float32"]);
  // Xᵠ without bases between the products shows of λ what is above ε λ₁ (λ₁ / λ)ᵠ⁻¹: 5e-5 λ₁ for the smallest one kept, 0.13 λ₁, and q = 4.
  randomizedEighEqualsGolden(within(1e-4));
  // With a basis after each product, nothing is lost: some ε times the 24 terms of a sum.
  randomizedSvdEqualsGolden(within(4e-6));
});

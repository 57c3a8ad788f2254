import { beforeAll, describe, expect, test } from "vitest";
import { loadMnist } from "../../src/index.ts";
import { openReference } from "../../src/tensor/backends/reference/index.ts";
import { describeInBrowser } from "./chromium.ts";
import { lossesOf, networkNames, optimizerNames, type Digits, type OptimizerName } from "./training.ts";

/*
 * A page trains a small VGG on handwritten digits, and its losses are those of the reference backend in Node. KFACET_MODEL=vgg_small_bn
 * takes that in place of the smallest: the browser's software driver needs ten minutes for it, most of them with WebGL2.
 */

const STEPS = 20;
const asked = process.env["KFACET_MODEL"] ?? "vgg_tiny_bn";
const MODEL = networkNames.find((name) => name === asked);
if (!MODEL) throw new Error(`KFACET_MODEL is ${asked}; expected ${networkNames.join(" or ")}`);

describeInBrowser("A page in Chromium", (call) => {
  const expected = new Map<OptimizerName, number[]>();
  let digits: Digits;
  beforeAll(async () => {
    const { train } = await loadMnist();
    const count = 16 * STEPS;
    // The data set goes digit by digit; every n-th image has all of them.
    const chosen = Array.from({ length: count }, (_, i) => Math.floor((i * train.length) / count));
    digits = {
      pixels: chosen.flatMap((i) => [...train.pixels.subarray(i * 784, (i + 1) * 784)]),
      labels: chosen.map((i) => train.labels[i] as number),
    };
    const reference = openReference();
    for (const name of optimizerNames) expected.set(name, await lossesOf(reference, MODEL, name, digits));
  }, 300_000);

  describe.each(["webgpu", "webgl2"] as const)("with %s", (api) => {
    test.each(optimizerNames)(
      `trains ${MODEL} by %s: the losses of ${STEPS} steps are the reference's`,
      { timeout: 900_000 },
      async (name) => {
        const losses = await call("lossesOf", api, MODEL, name, digits);
        expect(losses).toHaveLength(STEPS);
        expect(losses.at(-1)).toBeLessThan(0.85 * (losses[0] as number));
        const differences = losses.map((loss, step) => Math.abs(loss - (expected.get(name)?.[step] as number)));
        expect(Math.max(...differences)).toBeLessThan(1e-3);
      },
    );
  });
});

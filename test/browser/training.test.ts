import { beforeAll, describe, expect, test } from "vitest";
import { loadMnist } from "../../src/index.ts";
import { openReference } from "../../src/tensor/backends/reference/index.ts";
import { describeInBrowser } from "./chromium.ts";
import { lossesOf, optimizerNames, type Digits, type OptimizerName } from "./training.ts";

/* A page trains the small VGG on handwritten digits, and its losses are those of the reference backend in Node. */

const STEPS = 20;

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
    for (const name of optimizerNames) expected.set(name, await lossesOf(reference, name, digits));
  }, 300_000);

  describe.each(["webgpu", "webgl2"] as const)("with %s", (api) => {
    test.each(optimizerNames)(`trains by %s: the losses of ${STEPS} steps are the reference's`, { timeout: 300_000 }, async (name) => {
      const losses = await call("lossesOf", api, name, digits);
      expect(losses).toHaveLength(STEPS);
      expect(losses.at(-1)).toBeLessThan(0.7 * (losses[0] as number));
      losses.forEach((loss, step) => {
        expect(Math.abs(loss - (expected.get(name)?.[step] as number))).toBeLessThan(1e-3);
      });
    });
  });
});

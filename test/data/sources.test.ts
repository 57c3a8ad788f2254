import { describe, expect, test } from "vitest";
import { channelStatistics, dataNames, loadData, loadSynthetic, type ImageDataset, type SyntheticOptions } from "../../src/data/index.ts";
import { DataError, UsageError } from "../../src/tensor/errors.ts";

describe("loadData", () => {
  test("loads by name", async () => {
    expect(dataNames()).toEqual(["mnist", "cifar10", "synthetic"]);
    expect((await loadData("mnist")).test.name).toBe("mnist test");
    expect((await loadData("synthetic")).train.length).toBe(1000);
  });

  test("hands on a path, colons included", async () => {
    await expect(loadData("mnist:C:/nowhere")).rejects.toThrow("C:/nowhere");
    await expect(loadData("mnist:C:/nowhere")).rejects.toThrow(DataError);
  });

  test.each([
    ["imagenet", 'data "imagenet" is not known; known: mnist, cifar10, synthetic'],
    ["toString", 'data "toString" is not known'],
    ["", 'data "" is not known'],
    ["mnist:", "no path after the colon"],
    ["synthetic:x", "synthetic takes no path"],
    ["cifar10", "cifar10 needs a folder; write cifar10:PATH"],
  ])("refuses %j", async (spec, message) => {
    await expect(loadData(spec)).rejects.toThrow(UsageError);
    await expect(loadData(spec)).rejects.toThrow(message);
  });
});

describe("loadSynthetic", () => {
  const small = { classes: 3, train: 60, test: 31, height: 6, width: 5, channels: 2, seed: 4 };

  test("gives the sizes that were asked for, in balance", async () => {
    const { train, test: held } = await loadSynthetic(small);
    expect([train.length, held.length]).toEqual([60, 31]);
    expect([train.height, train.width, train.channels]).toEqual([6, 5, 2]);
    expect(train.classes.map((_, c) => train.labels.filter((label) => label === c).length)).toEqual([20, 20, 20]);
  });

  test("depends on the seed alone", async () => {
    const first = await loadSynthetic(small);
    expect(await loadSynthetic(small)).toEqual(first);
    expect((await loadSynthetic({ ...small, seed: 5 })).train.pixels).not.toEqual(first.train.pixels);
  });

  test("shows other images in the test part", async () => {
    const { train, test: held } = await loadSynthetic(small);
    expect(held.pixels.subarray(0, 60)).not.toEqual(train.pixels.subarray(0, 60));
  });

  test.each<SyntheticOptions>([{}, small, { height: 8, width: 8, seed: 1 }, { height: 32, width: 32, channels: 3, train: 100, test: 50 }])(
    "is separable: the nearest class mean is always right (%j)",
    async (options) => {
      const { train, test: held } = await loadSynthetic(options);
      const size = train.height * train.width * train.channels;
      const means = train.classes.map((_, c) => meanImage(train, c, size));
      held.labels.forEach((label, n) => {
        const distances = means.map((mean) =>
          mean.reduce((sum, value, p) => sum + (value - (held.pixels[n * size + p] as number)) ** 2, 0),
        );
        expect(distances.indexOf(Math.min(...distances))).toBe(label);
      });
    },
  );

  test("without noise shows the pattern itself, with noise alone shows none", async () => {
    const clean = (await loadSynthetic({ ...small, noise: 0 })).train;
    expect(clean.pixels.subarray(0, 60)).toEqual(clean.pixels.subarray(180, 240));
    const { mean, std } = channelStatistics((await loadSynthetic({ train: 100, noise: 1 })).train);
    expect(mean[0]).toBeCloseTo(0.5, 1);
    expect(std[0]).toBeCloseTo(Math.sqrt(1 / 12), 2);
  });

  test.each<[SyntheticOptions, string]>([
    [{ classes: 0 }, "classes must be a whole number of at least 1 but is 0"],
    [{ train: 0 }, "train must be"],
    [{ test: 1.5 }, "test must be"],
    [{ width: -1 }, "width must be"],
    [{ noise: 2 }, "noise must be from 0 to 1 but is 2"],
    [{ noise: NaN }, "noise must be from 0 to 1"],
  ])("refuses %j", async (options, message) => {
    await expect(loadSynthetic(options)).rejects.toThrow(DataError);
    await expect(loadSynthetic(options)).rejects.toThrow(message);
  });
});

function meanImage({ pixels, labels }: ImageDataset, label: number, size: number): Float64Array {
  const mean = new Float64Array(size);
  let count = 0;
  labels.forEach((other, n) => {
    if (other !== label) return;
    count++;
    pixels.subarray(n * size, (n + 1) * size).forEach((pixel, p) => ((mean[p] as number) += pixel));
  });
  return mean.map((sum) => sum / count);
}

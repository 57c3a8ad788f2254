import { describe, expect, test } from "vitest";
import fc from "fast-check";
import { channelStatistics, imageDataset, subset, type ImageDataset } from "../../src/data/index.ts";
import { DataError } from "../../src/tensor/errors.ts";

/** A data set of any small size whose pixels are arbitrary. */
const datasets: fc.Arbitrary<ImageDataset> = fc
  .record({
    length: fc.integer({ min: 1, max: 12 }),
    height: fc.integer({ min: 1, max: 4 }),
    width: fc.integer({ min: 1, max: 4 }),
    channels: fc.integer({ min: 1, max: 3 }),
    classes: fc.integer({ min: 1, max: 5 }),
  })
  .chain(({ length, height, width, channels, classes }) => {
    const size = length * height * width * channels;
    return fc
      .record({
        pixels: fc.uint8Array({ minLength: size, maxLength: size }),
        labels: fc.array(fc.integer({ min: 0, max: classes - 1 }), { minLength: length, maxLength: length }),
      })
      .map(({ pixels, labels }) =>
        imageDataset({
          name: "arbitrary",
          classes: Array.from({ length: classes }, (_, c) => `class ${c}`),
          height,
          width,
          channels,
          pixels,
          labels: Int32Array.from(labels),
        }),
      );
  });

const parts = {
  name: "toy",
  classes: ["a", "b"],
  height: 2,
  width: 3,
  channels: 1,
  pixels: new Uint8Array(18),
  labels: Int32Array.of(0, 1, 0),
};

describe("imageDataset", () => {
  test("counts the images", () => {
    expect(imageDataset(parts).length).toBe(3);
  });

  test.each([
    ["no image", { pixels: new Uint8Array(0), labels: new Int32Array(0) }, "the data set is empty"],
    ["no class", { classes: [] }, "there are no classes"],
    ["a label above the range", { labels: Int32Array.of(0, 2, 0) }, "label 2 of image 1 is out of range; 2 classes take 0 to 1"],
    ["a label that is no whole number", { labels: [0, 1.5, 1] as unknown as Int32Array }, "label 1.5 of image 1 is out of range"],
    ["pixels of another type", { pixels: new Float32Array(18) as unknown as Uint8Array }, "pixels must be a Uint8Array"],
    ["a label below the range", { labels: Int32Array.of(0, 1, -1) }, "label -1 of image 2 is out of range"],
    ["too few pixels", { pixels: new Uint8Array(17) }, "need 18 pixel values but there are 17"],
    ["too many pixels", { pixels: new Uint8Array(24) }, "need 18 pixel values but there are 24 (enough for 4 images)"],
    ["an extent of 0", { height: 0 }, "whole numbers of at least 1 but are 0, 3, 1"],
    ["an extent that is not whole", { width: 1.5 }, "2, 1.5, 1"],
  ])("refuses %s", (_, change, message) => {
    const create = (): unknown => imageDataset({ ...parts, ...change });
    expect(create).toThrow(DataError);
    expect(create).toThrow(message);
    expect(create).toThrow("toy");
  });
});

describe("subset", () => {
  test("image k of a subset is the image that index k names", () => {
    fc.assert(
      fc.property(
        datasets.chain((dataset) =>
          fc.tuple(fc.constant(dataset), fc.array(fc.integer({ min: 0, max: dataset.length - 1 }), { minLength: 1, maxLength: 20 })),
        ),
        ([dataset, indices]) => {
          const picked = subset(dataset, indices);
          const size = dataset.height * dataset.width * dataset.channels;
          expect(picked.length).toBe(indices.length);
          for (const [k, index] of indices.entries()) {
            expect(picked.labels[k]).toBe(dataset.labels[index]);
            expect(picked.pixels.subarray(k * size, (k + 1) * size)).toEqual(dataset.pixels.subarray(index * size, (index + 1) * size));
          }
        },
      ),
    );
  });

  test("copies", () => {
    const dataset = imageDataset({ ...parts, pixels: new Uint8Array(18) });
    const picked = subset(dataset, [2], "one");
    dataset.pixels.fill(9);
    expect(picked.name).toBe("one");
    expect([...picked.pixels]).toEqual([0, 0, 0, 0, 0, 0]);
  });

  test.each([
    [[0, 3], "index 3 (at position 1) is outside"],
    [[-1], "index -1 (at position 0) is outside"],
    [[0.5], "index 0.5"],
    [[], "the data set is empty"],
  ])("refuses the indices %j", (indices, message) => {
    const pick = (): unknown => subset(imageDataset(parts), indices);
    expect(pick).toThrow(DataError);
    expect(pick).toThrow(message);
  });
});

describe("channelStatistics", () => {
  test("equals the definition: mean and root mean squared deviation of each channel", () => {
    fc.assert(
      fc.property(datasets, (dataset) => {
        const { mean, std } = channelStatistics(dataset);
        for (let c = 0; c < dataset.channels; c++) {
          const values = [...dataset.pixels].filter((_, i) => i % dataset.channels === c).map((pixel) => pixel / 255);
          const average = values.reduce((sum, x) => sum + x, 0) / values.length;
          const variance = values.reduce((sum, x) => sum + (x - average) ** 2, 0) / values.length;
          expect(mean[c]).toBeCloseTo(average, 12);
          expect(std[c]).toBeCloseTo(Math.sqrt(variance), 12);
        }
      }),
    );
  });

  test("a channel in which nothing varies has std 0", () => {
    expect(channelStatistics(imageDataset({ ...parts, pixels: new Uint8Array(18).fill(51) }))).toEqual({ mean: [0.2], std: [0] });
  });
});

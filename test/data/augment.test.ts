import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DataLoader, imageDataset, type Augmentation, type ImageDataset } from "../../src/data/index.ts";

const [height, width] = [5, 7];
/** Images whose pixels are all different, none black: pixel p of image n is (n + 1, p + 1). */
function numbered(length: number): ImageDataset {
  const pixels = new Uint8Array(length * height * width * 2);
  for (let n = 0; n < length; n++) {
    for (let p = 0; p < height * width; p++) pixels.set([n + 1, p + 1], (n * height * width + p) * 2);
  }
  return imageDataset({ name: "numbered", classes: ["a"], height, width, channels: 2, pixels, labels: new Int32Array(length) });
}

/** The bytes that an epoch gives out, image by image in the order of the data set. */
async function bytesOf(augment: Augmentation, { length = 20, batchSize = 4, seed = 1, epoch = 0 } = {}): Promise<number[][]> {
  const size = height * width * 2;
  const images: number[][] = [];
  for await (const batch of new DataLoader(numbered(length), { batchSize, seed, augment }).epoch(epoch)) {
    const data = await batch.images.data();
    for (let n = 0; n < batch.size; n++)
      images.push(Array.from(data.subarray(n * size, (n + 1) * size), (value) => Math.round(value * 255)));
  }
  return images;
}

/** How far an augmented image was moved, and whether it was mirrored: the only way that explains its pixels. */
function explain(image: readonly number[], n: number, crop: number): { down: number; right: number; mirrored: boolean }[] {
  const ways = [];
  for (let down = -crop; down <= crop; down++) {
    for (let right = -crop; right <= crop; right++) {
      for (const mirrored of [false, true]) {
        const expected = Array.from({ length: height * width * 2 }, (_, i) => {
          const [p, channel] = [Math.floor(i / 2), i % 2];
          const [y, column] = [Math.floor(p / width) + down, p % width];
          const x = (mirrored ? width - 1 - column : column) + right;
          if (y < 0 || y >= height || x < 0 || x >= width) return 0;
          return channel === 0 ? n + 1 : y * width + x + 1;
        });
        if (expected.every((value, i) => value === image[i])) ways.push({ down, right, mirrored });
      }
    }
  }
  return ways;
}

describe("augmentation", () => {
  test("crops from a padded image, and mirrors half of them", async () => {
    const images = await bytesOf({ crop: 2, flip: true }, { length: 200, batchSize: 50 });
    const ways = images.map((image, n) => explain(image, n, 2));
    expect(ways.every((found) => found.length === 1)).toBe(true);
    const chosen = ways.map((found) => found[0] as { down: number; right: number; mirrored: boolean });
    for (const key of ["down", "right"] as const) expect(new Set(chosen.map((way) => way[key]))).toEqual(new Set([-2, -1, 0, 1, 2]));
    const mirrored = chosen.filter((way) => way.mirrored).length;
    expect(mirrored).toBeGreaterThan(70);
    expect(mirrored).toBeLessThan(130);
  });

  test("depends on seed, epoch and image, not on the batch", async () => {
    const augment = { crop: 3, flip: true };
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.nat({ max: 9 }), fc.integer({ min: 1, max: 20 }), async (seed, epoch, batchSize) => {
        expect(await bytesOf(augment, { seed, epoch, batchSize })).toEqual(await bytesOf(augment, { seed, epoch, batchSize: 20 }));
      }),
      { numRuns: 10 },
    );
    const first = await bytesOf(augment);
    expect(await bytesOf(augment, { epoch: 1 })).not.toEqual(first);
    expect(await bytesOf(augment, { seed: 2 })).not.toEqual(first);
  });

  test("without crop and flip is none", async () => {
    expect(await bytesOf({ crop: 0, flip: false })).toEqual(await bytesOf({}));
  });

  test.each([-1, 0.5, NaN])("refuses a crop of %d", (crop) => {
    expect(() => new DataLoader(numbered(1), { batchSize: 1, augment: { crop } })).toThrow("crop must be a whole number of at least 0");
  });
});

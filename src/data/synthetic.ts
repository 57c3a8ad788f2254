import { DataError, Generator, openBackend } from "../tensor/index.ts";
import { imageDataset, type DataSplit, type ImageDataset } from "./dataset.ts";

export interface SyntheticOptions {
  /** Number of classes, from 1. Default 10. */
  readonly classes?: number;
  /** Number of training images, from 1. Default 1000. */
  readonly train?: number;
  /** Number of test images, from 1. Default 200. */
  readonly test?: number;
  /** Image extents in pixels, from 1. Defaults 16, 16 and 1. */
  readonly height?: number;
  readonly width?: number;
  readonly channels?: number;
  /** Share of noise in an image, from 0 (every image is its class's pattern) to 1 (nothing but noise). Default 0.5. */
  readonly noise?: number;
  /** Default 0. */
  readonly seed?: number;
}

/** Control points a side of a pattern. Few, so that neighbouring pixels are alike, as they are in photographs. */
const grid = 4;

/**
 * Small images that a network can learn to tell apart within seconds. Each class has a smooth random pattern; an image is
 * (1 − noise) · pattern + noise · uniform noise. Labels run 0, 1, 2, … in turn, so that any stretch is balanced.
 *
 * @throws DataError if an option is out of its range.
 */
export async function loadSynthetic(options: SyntheticOptions = {}): Promise<DataSplit> {
  const { classes = 10, train = 1000, test = 200, height = 16, width = 16, channels = 1, noise = 0.5, seed = 0 } = options;
  for (const [option, value] of Object.entries({ classes, train, test, height, width, channels })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new DataError(`synthetic: ${option} must be a whole number of at least 1 but is ${value}`);
    }
  }
  if (!(noise >= 0 && noise <= 1)) throw new DataError(`synthetic: noise must be from 0 to 1 but is ${noise}`);

  const generator = new Generator(seed);
  const controlPoints = await uniform(generator.fork("patterns"), classes * channels * grid * grid);
  const patterns = Array.from({ length: classes }, (_, c) =>
    smoothPattern(controlPoints.subarray(c * channels * grid * grid), height, width, channels),
  );

  const draw = async (part: string, length: number): Promise<ImageDataset> => {
    const imageSize = height * width * channels;
    const noises = await uniform(generator.fork(part), length * imageSize);
    const labels = Int32Array.from({ length }, (_, n) => n % classes);
    const pixels = new Uint8Array(length * imageSize);
    for (let n = 0, i = 0; n < length; n++) {
      const pattern = patterns[n % classes] as Float64Array;
      for (let p = 0; p < imageSize; p++, i++)
        pixels[i] = Math.round(255 * ((1 - noise) * (pattern[p] as number) + noise * (noises[i] as number)));
    }
    const names = Array.from({ length: classes }, (_, c) => `pattern ${c}`);
    return imageDataset({ name: `synthetic ${part}`, classes: names, height, width, channels, pixels, labels });
  };
  return { train: await draw("train", train), test: await draw("test", test) };
}

/** Host numbers in [0, 1), whatever the default backend is. */
async function uniform(generator: Generator, length: number): Promise<ArrayLike<number> & { subarray(start: number): ArrayLike<number> }> {
  using numbers = generator.uniform([length], { backend: await openBackend("reference") });
  return await numbers.data();
}

/** [height, width, channels] by bilinear interpolation between the control points [channels, grid, grid]. */
function smoothPattern(points: ArrayLike<number>, height: number, width: number, channels: number): Float64Array {
  const pattern = new Float64Array(height * width * channels);
  let at = 0;
  for (let y = 0; y < height; y++) {
    const row = between(y, height);
    for (let x = 0; x < width; x++) {
      const column = between(x, width);
      for (let channel = 0; channel < channels; channel++) {
        const point = (i: number, j: number): number => points[(channel * grid + i) * grid + j] as number;
        const above = mix(point(row.low, column.low), point(row.low, column.low + 1), column.share);
        const below = mix(point(row.low + 1, column.low), point(row.low + 1, column.low + 1), column.share);
        pattern[at++] = mix(above, below, row.share);
      }
    }
  }
  return pattern;
}

/** Where pixel `at` of `extent` lies between two neighbouring control points. */
function between(at: number, extent: number): { low: number; share: number } {
  const place = ((at + 0.5) / extent) * (grid - 1);
  const low = Math.floor(place);
  return { low, share: place - low };
}

function mix(a: number, b: number, share: number): number {
  return (1 - share) * a + share * b;
}

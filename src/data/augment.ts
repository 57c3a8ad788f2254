import { DataError, type FloatArray, type Generator } from "../tensor/index.ts";
import type { ImageDataset } from "./dataset.ts";

/** Random changes of training images, drawn anew for each image and epoch. */
export interface Augmentation {
  /** Pad each side by this many black pixels, and crop an image of the old size from a random place. Default 0. */
  readonly crop?: number | undefined;
  /** Mirror left and right in half of the cases. Default false. */
  readonly flip?: boolean | undefined;
}

/** Writes a normalised image of a data set to `images` from `to` on. */
export type ImageWriter = (index: number, images: FloatArray, to: number) => void;

/**
 * How one epoch's images are written: looked up in the table of normalised values, and changed as `augmentation` wants. What happens to
 * an image depends on the generator and its position in the data set, not on the batch that it is in.
 *
 * @throws DataError if `crop` is not a whole number of at least 0.
 */
export function imageWriter(dataset: ImageDataset, table: FloatArray, augmentation: Augmentation, generator: Generator): ImageWriter {
  const { height, width, channels, pixels, length } = dataset;
  const { crop = 0, flip = false } = augmentation;
  if (!Number.isSafeInteger(crop) || crop < 0) throw new DataError(`augment: crop must be a whole number of at least 0 but is ${crop}`);
  const imageSize = height * width * channels;
  if (crop === 0 && !flip) {
    return (index, images, to) => {
      const end = (index + 1) * imageSize;
      for (let from = index * imageSize; from < end;) {
        for (let channel = 0; channel < channels; channel++) images[to++] = table[256 * channel + (pixels[from++] as number)] as number;
      }
    };
  }
  const draws = generator.numbers(3 * length);
  const shift = (draw: number): number => Math.floor(draw * (2 * crop + 1)) - crop;
  return (index, images, to) => {
    const [down, right] = [shift(draws[3 * index] as number), shift(draws[3 * index + 1] as number)];
    const mirrored = flip && (draws[3 * index + 2] as number) < 0.5;
    for (let y = down; y < height + down; y++) {
      for (let column = 0; column < width; column++) {
        const x = (mirrored ? width - 1 - column : column) + right;
        const inside = y >= 0 && y < height && x >= 0 && x < width;
        const from = index * imageSize + (y * width + x) * channels;
        for (let channel = 0; channel < channels; channel++) {
          images[to++] = table[256 * channel + (inside ? (pixels[from + channel] as number) : 0)] as number;
        }
      }
    }
  };
}

import { DataError } from "../tensor/index.ts";

/**
 * Labelled images of one size on the host, as bytes: what files hold and what fits into memory. They become floating point a
 * batch at a time (`DataLoader`).
 */
export interface ImageDataset {
  readonly name: string;
  /** The name of each class; a label is a position in this list. */
  readonly classes: readonly string[];
  /** Extents of one image, in pixels. */
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  /** All images in NHWC order, 0 (black) to 255. */
  readonly pixels: Uint8Array;
  readonly labels: Int32Array;
  /** Number of images. */
  readonly length: number;
}

export interface DataSplit {
  readonly train: ImageDataset;
  readonly test: ImageDataset;
}

/**
 * A checked data set from its parts. The arrays are kept, not copied.
 *
 * @throws DataError when there are no images or classes, an extent is not a whole number of at least 1, the sizes do not
 *   match, pixels are no bytes, or a label is not one of the classes.
 */
export function imageDataset(parts: Omit<ImageDataset, "length">): ImageDataset {
  const dataset = { ...parts, length: parts.labels.length };
  checkDataset(dataset);
  return dataset;
}

/** @throws DataError for each fault that `imageDataset` names. */
export function checkDataset(dataset: ImageDataset): void {
  const { name, classes, height, width, channels, pixels, labels, length } = dataset;
  if (![height, width, channels].every((extent) => Number.isSafeInteger(extent) && extent > 0)) {
    throw new DataError(`${name}: height, width and channels must be whole numbers of at least 1 but are ${height}, ${width}, ${channels}`);
  }
  if (classes.length === 0) throw new DataError(`${name}: there are no classes; a classifier needs the name of each`);
  if (labels.length === 0) throw new DataError(`${name}: the data set is empty; it needs at least one image`);
  if (length !== labels.length) throw new DataError(`${name}: length is ${length} but there are ${labels.length} labels`);
  const imageSize = height * width * channels;
  if (pixels.length !== length * imageSize) {
    throw new DataError(
      `${name}: ${length} labels with images of ${height} × ${width} × ${channels} need ${length * imageSize} pixel values ` +
        `but there are ${pixels.length} (enough for ${pixels.length / imageSize} images)`,
    );
  }
  if (!(pixels instanceof Uint8Array)) throw new DataError(`${name}: pixels must be a Uint8Array of numbers from 0 to 255`);
  const wrong = labels.findIndex((label) => !Number.isInteger(label) || label < 0 || label >= classes.length);
  if (wrong >= 0) {
    throw new DataError(
      `${name}: label ${String(labels[wrong])} of image ${wrong} is out of range; ${classes.length} classes take 0 to ${classes.length - 1}`,
    );
  }
}

/**
 * The images at `indices`, in that order, copied. An index may occur more than once.
 *
 * @param name of the new data set. Default: that of `dataset`.
 * @throws DataError if there are no indices or one is out of range.
 */
export function subset(dataset: ImageDataset, indices: Iterable<number>, name: string = dataset.name): ImageDataset {
  const picked = Array.from(indices);
  const imageSize = dataset.height * dataset.width * dataset.channels;
  const pixels = new Uint8Array(picked.length * imageSize);
  const labels = new Int32Array(picked.length);
  for (const [position, index] of picked.entries()) {
    const label = dataset.labels[index];
    if (label === undefined) {
      throw new DataError(
        `subset: index ${index} (at position ${position}) is outside of "${dataset.name}", which has ${dataset.length} images`,
      );
    }
    labels[position] = label;
    pixels.set(dataset.pixels.subarray(index * imageSize, (index + 1) * imageSize), position * imageSize);
  }
  return imageDataset({ ...dataset, name, pixels, labels });
}

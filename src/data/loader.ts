import {
  DataError,
  defaultBackend,
  Generator,
  Tensor,
  typedArray,
  UsageError,
  type Backend,
  type FloatArray,
  type FloatDType,
} from "../tensor/index.ts";
import { imageWriter, type Augmentation, type ImageWriter } from "./augment.ts";
import { checkDataset, type ImageDataset } from "./dataset.ts";
import { normalizationTable, type Normalization } from "./normalize.ts";

export interface DataLoaderOptions {
  /** Images a batch, from 1 to the size of the data set. */
  readonly batchSize: number;
  /** A new order every epoch; otherwise the order of the data set. Default false. */
  readonly shuffle?: boolean;
  /** What the orders depend on, besides the epoch. A generator is forked, never advanced. Default 0. */
  readonly seed?: number | Generator;
  /** Leave out a last batch that is not full. Default false. */
  readonly dropLast?: boolean;
  /** Mean and std of each channel; see `channelStatistics`. Default mean 0 and std 1: pixels in 0..1. */
  readonly normalize?: Normalization;
  /** Random changes of the images, which depend on the seed, the epoch and the image alone. Default: none. */
  readonly augment?: Augmentation;
  /** Number type of the images. Default `float32`. */
  readonly dtype?: FloatDType;
  /** Where the batches live. Default: `defaultBackend()` at the time of each batch. */
  readonly backend?: Backend;
}

/** Valid until the next batch is asked for; `keep()` what must live longer. */
export interface Batch {
  /** [size, height, width, channels], normalised. */
  readonly images: Tensor;
  /** [size] int32. */
  readonly labels: Tensor;
  readonly size: number;
}

/**
 * Gives a data set out in batches of tensors.
 *
 * The order of epoch e is a function of (seed, e) alone, so a run that resumes at epoch e sees what it would have seen.
 */
export class DataLoader {
  readonly dataset: ImageDataset;
  readonly batchSize: number;
  /** Batches an epoch. */
  readonly batches: number;
  readonly #shuffle: boolean;
  readonly #generator: Generator;
  readonly #dtype: FloatDType;
  readonly #table: FloatArray;
  readonly #augment: Augmentation;
  readonly #backend: Backend | undefined;

  /**
   * @throws DataError if the data set has one of the faults that `imageDataset` names, the batch size is not a whole number from 1
   *   to its size, or `normalize` or `augment` does not fit.
   */
  constructor(dataset: ImageDataset, options: DataLoaderOptions) {
    const { batchSize, shuffle = false, seed = 0, dropLast = false, dtype = "float32" } = options;
    checkDataset(dataset);
    const { channels, length } = dataset;
    if (!Number.isSafeInteger(batchSize) || batchSize < 1 || batchSize > length) {
      throw new DataError(
        `DataLoader: batchSize is ${batchSize} but "${dataset.name}" has ${length} images; use a whole number from 1 to ${length}`,
      );
    }
    const plain = { mean: new Array<number>(channels).fill(0), std: new Array<number>(channels).fill(1) };
    this.dataset = dataset;
    this.batchSize = batchSize;
    this.batches = dropLast ? Math.floor(length / batchSize) : Math.ceil(length / batchSize);
    this.#shuffle = shuffle;
    this.#generator = typeof seed === "number" ? new Generator(seed) : seed;
    this.#dtype = dtype;
    this.#table = normalizationTable("DataLoader", options.normalize ?? plain, channels, dtype);
    this.#augment = options.augment ?? {};
    this.#writer(0); // a mistake in the augmentation is an error here, not in the first epoch
    this.#backend = options.backend;
  }

  /**
   * The batches of one epoch, counted from 0. A batch's tensors are disposed when the next one is asked for and when the loop
   * is left, also by `break` or an error. No `tidy` of the caller owns them. Between batches the event loop gets a turn.
   *
   * @throws UsageError unless `epoch` is a whole number of at least 0.
   */
  async *epoch(epoch: number): AsyncGenerator<Batch, void, undefined> {
    const order = this.order(epoch);
    const write = this.#writer(epoch);
    for (let k = 0; k < this.batches; k++) {
      await eventLoopTurn();
      const batch = this.#batch(order.subarray(k * this.batchSize, (k + 1) * this.batchSize), write);
      try {
        yield batch;
      } finally {
        batch.images.dispose();
        batch.labels.dispose();
      }
    }
  }

  /**
   * Positions in the data set in the order in which `epoch` gives them out (those that `dropLast` leaves out are at the end).
   *
   * @throws UsageError unless `epoch` is a whole number of at least 0.
   */
  order(epoch: number): Int32Array {
    if (!Number.isSafeInteger(epoch) || epoch < 0) {
      throw new UsageError(`DataLoader: epochs are whole numbers counted from 0 but got ${epoch}`);
    }
    const { length } = this.dataset;
    return this.#shuffle ? this.#generator.fork(`epoch ${epoch}`).permutation(length) : Int32Array.from({ length }, (_, i) => i);
  }

  #writer(epoch: number): ImageWriter {
    return imageWriter(this.dataset, this.#table, this.#augment, this.#generator.fork(`changes of epoch ${epoch}`));
  }

  #batch(indices: Int32Array, write: ImageWriter): Batch {
    const { height, width, channels, labels } = this.dataset;
    const imageSize = height * width * channels;
    const size = indices.length;
    const images = typedArray(this.#dtype, size * imageSize) as FloatArray;
    const picked = new Int32Array(size);
    indices.forEach((index, n) => {
      picked[n] = labels[index] as number;
      write(index, images, n * imageSize);
    });
    const backend = this.#backend ?? defaultBackend();
    // No scope is open after an await, so nobody but the loop in `epoch` owns these.
    return {
      images: Tensor.from(images, { shape: [size, height, width, channels], backend }),
      labels: Tensor.from(picked, { backend }),
      size,
    };
  }
}

/**
 * Lets timers, signals and drawing happen. A CPU backend never waits for anything, so without this an epoch would be one long
 * task: no Ctrl-C, no progress bar, a frozen page.
 */
function eventLoopTurn(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof setImmediate === "function") setImmediate(resolve);
    else setTimeout(resolve, 0);
  });
}

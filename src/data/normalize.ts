import { DataError, typedArray, type FloatArray, type FloatDType } from "../tensor/index.ts";
import type { ImageDataset } from "./dataset.ts";

/** One mean and one standard deviation a channel, of pixels scaled to 0..1. A pixel x becomes (x / 255 − mean) / std. */
export interface Normalization {
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

/**
 * Mean and (population) standard deviation of each channel over all images. Use those of the training set for the test set
 * too. The std of a channel in which nothing varies is 0.
 *
 * A histogram of the 256 values carries all that is needed, and makes the result independent of the order of the images.
 */
export function channelStatistics(dataset: ImageDataset): Normalization {
  const { channels, pixels } = dataset;
  const counts = Array.from({ length: channels }, () => new Float64Array(256));
  for (const [channel, count] of counts.entries()) {
    for (let i = channel; i < pixels.length; i += channels) (count[pixels[i] as number] as number)++;
  }
  const pixelsPerChannel = pixels.length / channels;
  const mean = counts.map((count) => count.reduce((sum, times, value) => sum + times * value, 0) / pixelsPerChannel);
  const std = counts.map((count, channel) => {
    const centre = mean[channel] ?? 0;
    return Math.sqrt(count.reduce((sum, times, value) => sum + times * (value - centre) ** 2, 0) / pixelsPerChannel);
  });
  return { mean: mean.map((value) => value / 255), std: std.map((value) => value / 255) };
}

/**
 * The normalised value of every byte: entry 256·channel + byte. Pixels have 256 values, so a batch is filled by looking up.
 *
 * @throws DataError unless there is one finite mean and one finite std above 0 for each channel.
 */
export function normalizationTable(operation: string, { mean, std }: Normalization, channels: number, dtype: FloatDType): FloatArray {
  if (mean.length !== channels || std.length !== channels) {
    throw new DataError(
      `${operation}: images have ${channels} channel(s) but normalize gives ${mean.length} mean(s) and ${std.length} std(s); one each a channel`,
    );
  }
  const table = typedArray(dtype, 256 * channels) as FloatArray;
  for (const [channel, centre] of mean.entries()) {
    const spread = std[channel] ?? NaN;
    if (!Number.isFinite(centre) || !Number.isFinite(spread) || spread <= 0) {
      throw new DataError(
        `${operation}: normalize has mean ${centre} and std ${spread} for channel ${channel}, but the mean must be finite and the std ` +
          `finite and above 0; for a channel in which nothing varies use std 1`,
      );
    }
    for (let value = 0; value < 256; value++) table[256 * channel + value] = (value / 255 - centre) / spread;
  }
  return table;
}

import { channelStatistics, DataLoader, loadSynthetic, type DataSplit } from "../../src/data/index.ts";
import { BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential } from "../../src/nn/index.ts";
import { Generator } from "../../src/tensor/index.ts";

/*
 * Something to train within milliseconds: images of 6 × 6 pixels in four classes, and a network with one layer of each kind.
 */

export const smallData = (train = 60): Promise<DataSplit> =>
  loadSynthetic({ classes: 4, train, test: 20, height: 6, width: 6, noise: 0.4 });

export function smallModel(seed = 0): Sequential {
  const generator = new Generator(seed);
  return new Sequential(
    new Conv2d(1, 4, 3, { padding: 1, generator }),
    new BatchNorm2d(4, { generator }),
    new ReLU(),
    new MaxPool2d(2),
    new Flatten(),
    new Linear(36, 4, { generator }),
  );
}

/** Training in batches of 20, in an order of the seed's; testing in batches of 8, so that the last is not full. */
export function loaders({ train, test }: DataSplit, seed = 0): { train: DataLoader; test: DataLoader } {
  const normalize = channelStatistics(train);
  return {
    train: new DataLoader(train, { batchSize: 20, shuffle: true, seed, normalize }),
    test: new DataLoader(test, { batchSize: 8, normalize }),
  };
}

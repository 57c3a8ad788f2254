/**
 * Data sets and loaders: labelled images as bytes on the host, named sources of them, and batches of tensors made from them.
 *
 * Imports `tensor` alone. Imported by `train` and `cli`, by examples and by tests. It never knows about models, losses,
 * gradients or optimizers: a batch is images and labels, and nothing here asks what they are for.
 *
 * Reading order: `dataset` (what a data set is), `normalize`, `augment`, `loader` (batches), then the sources.
 */
export type { Augmentation } from "./augment.ts";
export { loadCifar10 } from "./cifar10.ts";
export { checkDataset, imageDataset, subset, type DataSplit, type ImageDataset } from "./dataset.ts";
export { DataLoader, type Batch, type DataLoaderOptions } from "./loader.ts";
export { loadMnist } from "./mnist.ts";
export { channelStatistics, type Normalization } from "./normalize.ts";
export { dataNames, loadData } from "./sources.ts";
export { loadSynthetic, type SyntheticOptions } from "./synthetic.ts";

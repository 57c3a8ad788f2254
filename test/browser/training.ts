import {
  channelStatistics,
  crossEntropy,
  DataLoader,
  imageDataset,
  RsKfac,
  Sgd,
  vgg,
  type Backend,
  type Optimizer,
  type Parameter,
} from "../../src/index.ts";

/*
 * A training that is the same everywhere: in Node and in the page. Its steps are such that no two elements of a window compete for being
 * the largest within rounding: which of them gets the gradient would make the losses differ by more than rounding does.
 */

/** Handwritten digits of 28 × 28 pixels, a byte a pixel. */
export interface Digits {
  readonly pixels: readonly number[];
  readonly labels: readonly number[];
}

const optimizers = {
  sgd: (parameters: readonly Parameter[]) => new Sgd(parameters, { learningRate: 0.02, momentum: 0.9 }),
  "rs-kfac": (parameters: readonly Parameter[]) =>
    new RsKfac(parameters, {
      learningRate: 0.3,
      clip: { kl: 1e-2 },
      damping: 0.1,
      rank: 40,
      oversampling: 8,
      exactUpTo: 0, // what is tried are the randomized decompositions
      factorUpdateEvery: 5,
      inversionEvery: 10,
    }),
} as const satisfies Record<string, (parameters: readonly Parameter[]) => Optimizer>;

export type OptimizerName = keyof typeof optimizers;
export const optimizerNames = Object.keys(optimizers) as OptimizerName[];

/** The losses of one epoch of the small VGG in float32, a batch of 16 digits a step. */
export async function lossesOf(backend: Backend, name: OptimizerName, { pixels, labels }: Digits): Promise<number[]> {
  const dataset = imageDataset({
    name: "digits",
    classes: Array.from({ length: 10 }, (_, digit) => `${digit}`),
    height: 28,
    width: 28,
    channels: 1,
    pixels: Uint8Array.from(pixels),
    labels: Int32Array.from(labels),
  });
  const loader = new DataLoader(dataset, { batchSize: 16, shuffle: true, normalize: channelStatistics(dataset), backend });
  const model = vgg("vgg_tiny_bn", { channels: 1, size: 28, backend });
  const optimizer = optimizers[name](model.parameters());
  const losses: number[] = [];
  for await (const { images, labels: classes } of loader.epoch(0)) {
    const loss = await optimizer.minimize(() => crossEntropy(model.forward(images), classes));
    losses.push(await loss.item());
    loss.dispose();
  }
  optimizer.dispose();
  model.dispose();
  return losses;
}

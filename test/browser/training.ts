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
 * A training that is the same everywhere: in Node and in the page. Its seeds are such that hardly an activation is within rounding of 0, where
 * the gradient of ReLU jumps, and hardly two of a pooling's window of each other: from then on losses differ by more than rounding. Its steps
 * are so small that they do not make rounding grow to where this is likely, nor what comes of it.
 */

/** Handwritten digits of 28 × 28 pixels, a byte a pixel. */
export interface Digits {
  readonly pixels: readonly number[];
  readonly labels: readonly number[];
}

interface Settings {
  readonly seed: number;
  readonly learningRate: number;
  readonly momentum: number;
  /** κ of RS-KFAC's clip: default 1e-3. */
  readonly kl?: number;
}

const optimizers = {
  sgd: (parameters: readonly Parameter[], settings: Settings) => new Sgd(parameters, settings),
  "rs-kfac": (parameters: readonly Parameter[], settings: Settings) =>
    new RsKfac(parameters, {
      ...settings,
      clip: { kl: settings.kl ?? 1e-3 },
      damping: 0.1,
      rank: 40,
      oversampling: 8,
      exactUpTo: 0, // what is tried are the randomized decompositions
      factorUpdateEvery: 5,
      inversionEvery: 10,
    }),
} as const satisfies Record<string, (parameters: readonly Parameter[], settings: Settings) => Optimizer>;

export type OptimizerName = keyof typeof optimizers;
export const optimizerNames = Object.keys(optimizers) as OptimizerName[];

/** By a name of `vgg`. */
const networks = {
  vgg_tiny_bn: { sgd: { seed: 0, learningRate: 0.02, momentum: 0.9 }, "rs-kfac": { seed: 0, learningRate: 0.3, momentum: 0, kl: 1e-2 } },
  vgg_small_bn: { sgd: { seed: 1, learningRate: 0.02, momentum: 0 }, "rs-kfac": { seed: 1, learningRate: 0.1, momentum: 0 } },
} as const satisfies Record<string, Record<OptimizerName, Settings>>;

export type NetworkName = keyof typeof networks;
export const networkNames = Object.keys(networks) as NetworkName[];

/** The losses of one epoch in float32, a batch of 16 digits a step. */
export async function lossesOf(backend: Backend, network: NetworkName, name: OptimizerName, { pixels, labels }: Digits): Promise<number[]> {
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
  const settings = networks[network][name];
  const model = vgg(network, { channels: 1, size: 28, backend, seed: settings.seed });
  const optimizer = optimizers[name](model.parameters(), settings);
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

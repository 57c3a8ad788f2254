import { channelStatistics, DataLoader, loadData, type DataSplit } from "../data/index.ts";
import { vgg, type Sequential, type VggOptions } from "../nn/index.ts";
import { backendNames, Generator, openBackend, setDefaultBackend, ShapeError, UsageError } from "../tensor/index.ts";
import type { TrainConfig } from "./config.ts";
import { makeOptimizer } from "./optimizers.ts";
import type { CurvatureTrainingOptimizer } from "./trainer.ts";

/** All that a configuration stands for, ready to be trained or evaluated. */
export interface Run {
  readonly config: TrainConfig;
  readonly data: DataSplit;
  readonly model: Sequential;
  readonly optimizer: CurvatureTrainingOptimizer;
  readonly train: DataLoader;
  readonly test: DataLoader;
  /** Frees model and optimizer, and ends the device if it was opened for this run alone: then the default is what it was. Not while a step runs. */
  dispose(): void;
}

/** Images a step of evaluation: bounds memory, changes no result. */
const TEST_BATCH = 250;

/**
 * Opens the device, loads the data and builds model, optimizer and loaders. Everything random derives from the seed.
 *
 * @throws UsageError for unknown names and a network that the images do not fit, DataError for data that cannot be loaded or batched.
 */
export async function prepareRun(config: TrainConfig): Promise<Run> {
  if (!backendNames().includes(config.device)) {
    throw new UsageError(`there is no device "${config.device}"; known: ${backendNames().join(", ")}`);
  }
  const device = await openDevice(config);
  try {
    const { model, optimizer, ...loaders } = await build(config);
    const dispose = (): void => {
      optimizer.dispose();
      model.dispose();
      device.release();
    };
    return { config, model, optimizer, ...loaders, dispose };
  } catch (error) {
    device.release();
    throw error;
  }
}

async function build(config: TrainConfig): Promise<Omit<Run, "config" | "dispose">> {
  const { fc, init, seed } = config;
  const data = await loadData(config.data);
  const { height, width, channels, classes } = data.train;
  const normalize = channelStatistics(data.train);
  const train = new DataLoader(data.train, {
    batchSize: config.batchSize,
    shuffle: true,
    seed: new Generator(seed).fork("order"),
    normalize,
    ...(config.augment === "crop-flip" && { augment: { crop: 4, flip: true } }),
  });
  const test = new DataLoader(data.test, { batchSize: Math.min(TEST_BATCH, data.test.length), normalize });
  const model = network(config, { classes: classes.length, channels, size: [height, width], fc, init, seed });
  try {
    return { data, model, optimizer: makeOptimizer(model.parameters(), config, train.batches), train, test };
  } catch (error) {
    model.dispose();
    throw error;
  }
}

/** Makes the device the default. `release` ends it, if it is this run's own: with options of its own it is no one else's. */
async function openDevice({ device, threads, precision }: TrainConfig): Promise<{ release(): void }> {
  if (threads === undefined && precision === undefined) {
    setDefaultBackend(await openBackend(device));
    return { release: () => undefined };
  }
  if (device !== "wasm") throw new UsageError(`threads and precision are options of the device wasm, but the device is ${device}`);
  const own = await openBackend(device, { ...(threads !== undefined && { threads }), ...(precision && { precision }) });
  const before = setDefaultBackend(own);
  const release = (): void => {
    // What was the default before is so again, unless somebody has chosen another one meanwhile.
    const now = setDefaultBackend(before?.closed ? null : before);
    if (now !== own) setDefaultBackend(now);
    own.close?.();
  };
  return { release };
}

function network({ model, data }: TrainConfig, options: VggOptions): Sequential {
  try {
    return vgg(model, options);
  } catch (cause) {
    if (cause instanceof ShapeError)
      throw new UsageError(`model ${model} does not take the images of ${data}: ${cause.message}`, { cause });
    throw cause;
  }
}

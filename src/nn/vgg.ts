import { Generator, ShapeError, UsageError, type Backend, type FloatDType } from "../tensor/index.ts";
import { ReLU } from "./activations.ts";
import { Dropout } from "./dropout.ts";
import { vggInit } from "./init.ts";
import { Conv2d, Flatten, Linear, Sequential } from "./layers.ts";
import type { Module } from "./module.ts";
import { BatchNorm2d } from "./normalization.ts";
import { MaxPool2d } from "./pooling.ts";

export interface VggOptions {
  /** Number of classes. Default 10. */
  readonly classes?: number | undefined;
  /** Channels of the image. Default 3. */
  readonly channels?: number | undefined;
  /** Height and width of the image in pixels. Default 32. */
  readonly size?: number | readonly [height: number, width: number] | undefined;
  /** Widths of the hidden fully connected layers. Default: the network's own. */
  readonly fc?: readonly number[] | undefined;
  /** Probability of dropout after each hidden fully connected layer. Default: the network's own. */
  readonly dropout?: number | undefined;
  /**
   * Initial convolution weights: `vgg`, normal with variance 2 / (k² out) and zero bias, or `pytorch`, uniform on ±1/√fanIn.
   * Fully connected layers are always PyTorch's. Default `vgg`.
   */
  readonly init?: "vgg" | "pytorch" | undefined;
  /** Seed of the initial weights and of dropout. Default 0. */
  readonly seed?: number | undefined;
  readonly dtype?: FloatDType | undefined;
  readonly backend?: Backend | undefined;
}

interface Architecture {
  /** Widths of 3 × 3 convolutions with padding 1; `M` halves the image by max pooling. */
  readonly features: readonly (number | "M")[];
  readonly fc: readonly number[];
  readonly dropout: number;
}

// Configurations A, B, D and E of Simonyan and Zisserman 2014 (arXiv 1409.1556), with the small classifier customary on CIFAR.
const A = [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"] as const;
const B = [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"] as const;
const D = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"] as const;
const E = [64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M"] as const;

const architectures: ReadonlyMap<string, Architecture> = new Map([
  ["vgg_tiny", { features: [8, 8, "M", 16, 16, "M", 32, 32, "M"], fc: [64], dropout: 0 }],
  ["vgg_small", { features: [16, 16, "M", 32, 32, "M", 64, 64, "M"], fc: [128], dropout: 0 }],
  ["vgg11", { features: A, fc: [512], dropout: 0.5 }],
  ["vgg13", { features: B, fc: [512], dropout: 0.5 }],
  ["vgg16", { features: D, fc: [512], dropout: 0.5 }],
  ["vgg19", { features: E, fc: [512], dropout: 0.5 }],
]);

/** The names that `vgg` takes: each network plain and, with `_bn`, with batch normalisation after every convolution. */
export const vggNames: readonly string[] = [...architectures.keys()].flatMap((name) => [`${name}_bn`, name]);

/**
 * A VGG network for images [n, height, width, channels] → logits [n, classes].
 *
 * @throws UsageError for an unknown name, listing the known ones; ShapeError if the image is too small for the poolings.
 */
export function vgg(name: string, options: VggOptions = {}): Sequential {
  const withNorm = name.endsWith("_bn");
  const architecture = architectures.get(withNorm ? name.slice(0, -3) : name);
  if (!architecture) throw new UsageError(`vgg: there is no network "${name}"; known: ${vggNames.join(", ")}`);
  const { classes = 10, channels = 3, size = 32, fc = architecture.fc, dropout = architecture.dropout, init = "vgg" } = options;
  const { dtype, backend } = options;
  const generator = new Generator(options.seed ?? 0);
  const common = { generator: generator.fork("init"), dtype, backend };
  const convInit = init === "vgg" ? vggInit : undefined;

  const [imageHeight, imageWidth] = typeof size === "number" ? [size, size] : size;
  const poolings = architecture.features.filter((item) => item === "M").length;
  const [height, width] = [Math.floor(imageHeight / 2 ** poolings), Math.floor(imageWidth / 2 ** poolings)];
  if (!(height >= 1 && width >= 1)) {
    throw new ShapeError(
      `vgg: ${name} halves the image ${poolings} times, so it needs at least ${2 ** poolings} × ${2 ** poolings} pixels but got ${imageHeight} × ${imageWidth}`,
    );
  }

  let depth = channels;
  const modules: Module[] = [];
  for (const item of architecture.features) {
    if (item === "M") {
      modules.push(new MaxPool2d(2));
    } else {
      modules.push(new Conv2d(depth, item, 3, { ...common, padding: 1, init: convInit }));
      if (withNorm) modules.push(new BatchNorm2d(item, common));
      modules.push(new ReLU());
      depth = item;
    }
  }

  modules.push(new Flatten());
  let features = depth * height * width;
  for (const [i, hidden] of fc.entries()) {
    modules.push(new Linear(features, hidden, common), new ReLU());
    if (dropout > 0) modules.push(new Dropout(dropout, { generator: generator.fork(`dropout ${i}`) }));
    features = hidden;
  }
  modules.push(new Linear(features, classes, common));
  return new Sequential(...modules);
}

import {
  BatchNorm2d,
  Conv2d,
  crossEntropy,
  Flatten,
  Generator,
  Linear,
  MaxPool2d,
  ReLU,
  Sequential,
  Sgd,
  Tensor,
  tidy,
  type Backend,
  type Module,
  type Optimizer,
  type Parameter,
} from "../src/index.ts";
import { pattern, sgd, type Network } from "./peers/protocol.ts";

type Architecture = Omit<Network, "kind" | "pass" | "layout">;

/** `vgg_small_bn` on CIFAR's images: 205,018 parameters. */
export const half: Architecture = {
  features: [16, 16, "M", 32, 32, "M", 64, 64, "M"],
  kernel: 3,
  fc: [128],
  classes: 10,
  channels: 3,
  size: 32,
  batch: 128,
};

/** `vgg16_bn` on CIFAR's images, without dropout: 14,990,922 parameters. */
export const vgg16: Architecture = {
  ...half,
  features: [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"],
  fc: [512],
};

/** So little to compute that what takes time is everything else. */
export const overhead: Architecture = {
  features: Array.from({ length: 10 }, () => 8),
  kernel: 1,
  fc: [],
  classes: 10,
  channels: 8,
  size: 1,
  batch: 4,
};

/** The same for trying the benches. */
export const tiny: Architecture = { ...half, features: [4, "M", 8, "M"], fc: [8], size: 8, batch: 8 };

export interface Trainee {
  readonly parameters: number;
  readonly optimizer: Optimizer;
  /** One training step. */
  readonly step: () => Promise<void>;
  /** One evaluation. */
  readonly forward: () => void;
  readonly dispose: () => void;
}

/** kfacet's version of a network, with images and labels to train it on; by SGD unless told otherwise. */
export function trainee(
  { features, kernel, fc, classes, channels, size, batch }: Architecture,
  backend: Backend,
  make: (parameters: readonly Parameter[]) => Optimizer = (parameters) => new Sgd(parameters, sgd),
): Trainee {
  const common = { backend, generator: new Generator(0) };
  const modules: Module[] = [];
  let [depth, extent] = [channels, size];
  for (const item of features) {
    if (item === "M") {
      modules.push(new MaxPool2d(2));
      extent = Math.floor(extent / 2);
      continue;
    }
    modules.push(new Conv2d(depth, item, kernel, { ...common, padding: (kernel - 1) / 2 }), new BatchNorm2d(item, common), new ReLU());
    depth = item;
  }
  modules.push(new Flatten());
  let width = depth * extent * extent;
  for (const hidden of fc) {
    modules.push(new Linear(width, hidden, common), new ReLU());
    width = hidden;
  }
  const model = new Sequential(...modules, new Linear(width, classes, common));
  const images = Tensor.from(pattern(batch * size * size * channels, 1), { shape: [batch, size, size, channels], backend });
  const labels = Tensor.from(
    Int32Array.from({ length: batch }, (_, i) => i % classes),
    { backend },
  );
  const optimizer = make(model.parameters());
  return {
    parameters: model.parameters().reduce((sum, { value }) => sum + value.size, 0),
    optimizer,
    step: async () => {
      await optimizer.minimize(() => crossEntropy(model.forward(images), labels));
    },
    forward: () => {
      model.eval();
      tidy(() => {
        model.forward(images);
      });
      model.train();
    },
    dispose: () => {
      optimizer.dispose();
      model.dispose();
      images.dispose();
      labels.dispose();
    },
  };
}

import { expect, test, vi } from "vitest";
import { Conv2d, crossEntropy, Flatten, Linear, ReLU, Sequential, type Parameter } from "../../../src/nn/index.ts";
import { Adam, BrandKfac, EkFac, Kfac, NysKfac, RsKfac, Seng, Sgd, SreKfac, type Optimizer } from "../../../src/optim/index.ts";
import type { DeviceArray } from "../../../src/tensor/backends/gpu/kernel.ts";
import { defaultBackend, Generator, Tensor } from "../../../src/tensor/index.ts";
import { train } from "../../../src/train/index.ts";
import { loaders, smallData, smallModel } from "../../train/small.ts";
import { describeByDefaultOnGpu } from "./byDefault.ts";

/* What a training reads back from the device, which waits for it: nothing that nobody asked for. */

const cadence = { learningRate: 0.02, momentum: 0.9, damping: 0.1, factorUpdateEvery: 2, inversionEvery: 4 } as const;
const sketch = { rank: 4, oversampling: 2, exactUpTo: 0 } as const;
const STEPS = 9;
/** Steps in which an inversion is due, and those in which a factor is updated. */
const [inversions, updates] = [
  [0, 4, 8],
  [0, 2, 4, 6, 8],
];

type Make = (parameters: Parameter[]) => Optimizer;
const sgd: Make = (parameters) => new Sgd(parameters, { learningRate: 0.02, momentum: 0.9, weightDecay: 1e-4 });
const rsKfac: Make = (parameters) => new RsKfac(parameters, { ...cadence, ...sketch });
const methods: [name: string, reading: number[], make: Make][] = [
  ["SGD", [], sgd],
  ["Adam", [], (parameters) => new Adam(parameters, { learningRate: 0.002 })],
  ["K-FAC", inversions, (parameters) => new Kfac(parameters, cadence)],
  ["RS-KFAC", inversions, rsKfac],
  ["SRE-KFAC", inversions, (parameters) => new SreKfac(parameters, { ...cadence, ...sketch })],
  ["Nyström K-FAC", inversions, (parameters) => new NysKfac(parameters, { ...cadence, ...sketch })],
  ["EK-FAC", inversions, (parameters) => new EkFac(parameters, cadence)],
  // To follow a factor is to invert it at each update.
  ["B-KFAC", updates, (parameters) => new BrandKfac(parameters, { ...cadence, ...sketch })],
  ["SENG", inversions, (parameters) => new Seng(parameters, { learningRate: 0.02, damping: 0.1, refreshEvery: 4 })],
];

/** How often each step reads from the device. */
async function readsOf(make: Make): Promise<number[]> {
  const generator = new Generator(1);
  const layers = [new Conv2d(1, 4, 3, { generator }), new ReLU(), new Flatten(), new Linear(64, 3, { generator })];
  const model = new Sequential(...layers);
  const optimizer = make(model.parameters());
  const download = vi.spyOn(defaultBackend(), "download");
  const reads: number[] = [];
  for (let step = 0; step < STEPS; step++) {
    using x = new Generator(100 + step).normal([8, 6, 6, 1]);
    using labels = Tensor.from(Int32Array.from({ length: 8 }, (_, k) => (k + step) % 3));
    const before = download.mock.calls.length;
    (await optimizer.minimize(() => crossEntropy(model.forward(x), labels))).dispose();
    reads.push(download.mock.calls.length - before);
  }
  download.mockRestore();
  optimizer.dispose();
  model.dispose();
  return reads;
}

describeByDefaultOnGpu("a step on a GPU", () => {
  test.each(methods)("of %s reads back in steps %j alone", async (_, reading, make) => {
    const reads = await readsOf(make);
    expect(reads.flatMap((count, step) => (count > 0 ? [step] : []))).toEqual(reading);
  });

  test.each([
    ["SGD", 2, sgd],
    ["RS-KFAC", 3, rsKfac],
  ] as const)("of %s that `train` takes reads %d numbers: loss and hits, and the clip's factor", async (_, count, make) => {
    const data = loaders(await smallData());
    const model = smallModel();
    const optimizer = make(model.parameters());
    const download = vi.spyOn(defaultBackend(), "download");
    const reads: number[][] = [];
    for await (const event of train({ model, optimizer, ...data, epochs: 2 })) {
      if (event.type === "step") reads.push(download.mock.calls.map(([array]) => (array as DeviceArray).size));
      download.mockClear();
    }
    download.mockRestore();
    expect(reads).toHaveLength(6);
    // Of RS-KFAC's, steps 0 and 4 invert.
    for (const step of [1, 2, 3, 5]) expect(reads[step]).toEqual(Array.from({ length: count }, () => 1));
    optimizer.dispose();
    model.dispose();
  });
});

import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { DataSplit } from "../../../src/data/index.ts";
import { crossEntropy, type Module, type Parameter } from "../../../src/nn/index.ts";
import { RsKfac, Sgd, type Optimizer, type TransformState } from "../../../src/optim/index.ts";
import { BackendError, defaultBackend, openBackend, setDefaultBackend, Tensor } from "../../../src/tensor/index.ts";
import type { WebGpuBackend } from "../../../src/tensor/backends/gpu/index.ts";
import { decodeSafetensors, encodeSafetensors, train, type EpochEvent, type HostTensor } from "../../../src/train/index.ts";
import { loaders, smallData, smallModel } from "../../train/small.ts";
import { describeOnGpu } from "./gpu.ts";
import { exhaust } from "./refusals.ts";

/*
 * A device that fails in the middle of an epoch takes its tensors with it, and nothing else: the training ends with an error, and goes on
 * elsewhere from the last checkpoint. (A rejection that nobody handles would end a process; the test runner takes it for a failure.)
 */

/** What the host holds of a training: as `saveCheckpoint` writes it into a file, with the optimizer's state besides. */
interface Checkpoint {
  readonly model: Uint8Array;
  readonly step: number;
  readonly transforms: readonly {
    readonly kind: string;
    readonly tensors: Uint8Array;
    readonly numbers: Readonly<Record<string, number>>;
  }[];
}

/** Reads tensors, and lets go of them. */
async function encoded(tensors: ReadonlyMap<string, Tensor>): Promise<Uint8Array> {
  const own = new Map<string, HostTensor>();
  for (const [name, tensor] of tensors) {
    own.set(name, { dtype: tensor.dtype, shape: tensor.shape, data: await tensor.data() });
    tensor.dispose();
  }
  return encodeSafetensors(own, {});
}

/** On the default backend, for the duration of `f`. */
function decoded(bytes: Uint8Array, f: (tensors: ReadonlyMap<string, Tensor>) => void): void {
  const tensors = new Map<string, Tensor>();
  for (const [name, { data, shape, dtype }] of decodeSafetensors(bytes).tensors) tensors.set(name, Tensor.from(data, { shape, dtype }));
  f(tensors);
  for (const tensor of tensors.values()) tensor.dispose();
}

async function checkpointOf(model: Module, optimizer: Optimizer): Promise<Checkpoint> {
  const { step, transforms } = optimizer.state();
  const own = transforms.map(async ({ kind, tensors, numbers }) => ({ kind, tensors: await encoded(tensors), numbers }));
  return { model: await encoded(model.stateDict()), step, transforms: await Promise.all(own) };
}

function restore({ model: weights, step, transforms }: Checkpoint, model: Module, optimizer: Optimizer): void {
  decoded(weights, (state) => model.loadStateDict(state));
  const load = (loaded: readonly TransformState[]): void => {
    const next = transforms[loaded.length];
    if (next) decoded(next.tensors, (tensors) => load([...loaded, { ...next, tensors }]));
    else optimizer.load({ step, transforms: loaded });
  };
  load([]);
}

const stepsOfEpoch = 10;
/** In the middle of the second epoch. */
const fatalStep = 14;

const optimizers: [name: string, make: (parameters: Parameter[]) => Optimizer][] = [
  ["SGD", (parameters) => new Sgd(parameters, { learningRate: 0.05, momentum: 0.9 })],
  ["RS-KFAC", (parameters) => new RsKfac(parameters, { learningRate: 0.05, rank: 4, oversampling: 2, exactUpTo: 0, inversionEvery: 3 })],
];

const lost = /gpu: the device is lost .* openBackend\("gpu"\).*"wasm".*the last checkpoint/;
const refused = /gpu: a tensor needs 5242880 bytes of memory.* openBackend\("gpu"\).*"wasm".*the last checkpoint/s;

const moments: [when: string, lose: (backend: WebGpuBackend) => void, says: RegExp][] = [
  ["lost between two steps", (backend) => backend.device.destroy(), lost],
  [
    "lost while a result is being read",
    (backend) => {
      const download = backend.download.bind(backend);
      vi.spyOn(backend, "download").mockImplementationOnce((array) => {
        const reading = download(array);
        backend.device.destroy();
        return reading;
      });
    },
    lost,
  ],
  [
    "out of memory",
    (backend) => {
      exhaust(backend.device);
      backend.free(backend.alloc("float32", 5 * 2 ** 18));
    },
    refused,
  ],
];

describeOnGpu("a GPU that fails in the middle of an epoch", () => {
  let data: DataSplit;
  beforeAll(async () => {
    data = await smallData(20 * stepsOfEpoch);
  });

  /** Losses of the second epoch, step by step. */
  async function secondEpoch(model: Module, optimizer: Optimizer): Promise<number[]> {
    const losses: number[] = [];
    for await (const { images, labels } of loaders(data).train.epoch(1)) {
      losses.push(await (await optimizer.minimize(() => crossEntropy(model.forward(images), labels))).item());
    }
    return losses;
  }

  /** Those of a training that nothing happens to. */
  async function undisturbed(make: (parameters: Parameter[]) => Optimizer): Promise<number[]> {
    const model = smallModel();
    const optimizer = make(model.parameters());
    const losses: number[] = [];
    for await (const event of train({ model, optimizer, ...loaders(data), epochs: 2 })) {
      if (event.type === "step" && event.step >= stepsOfEpoch) losses.push(event.loss);
    }
    optimizer.dispose();
    model.dispose();
    return losses;
  }

  const before = defaultBackend();
  afterEach(() => {
    setDefaultBackend(before);
  });

  describe.each(optimizers)("training with %s", (_, make) => {
    test.each(moments.flatMap(([when, lose, says]) => (["gpu", "wasm"] as const).map((target) => [when, target, lose, says] as const)))(
      "%s ends with a BackendError, and goes on from the last checkpoint on %s",
      async (_when, target, lose, says) => {
        const device = (await openBackend("gpu")) as WebGpuBackend;
        setDefaultBackend(device);
        const expected = await undisturbed(make);
        const model = smallModel();
        const optimizer = make(model.parameters());
        let checkpoint: Checkpoint | undefined;
        let last: EpochEvent | undefined;
        const training = async (): Promise<void> => {
          for await (const event of train({ model, optimizer, ...loaders(data), epochs: 4 })) {
            if (event.type === "epoch") [last, checkpoint] = [event, await checkpointOf(model, optimizer)];
            if (event.type === "step" && event.step === fatalStep) lose(device);
          }
        };
        const error: unknown = await training().catch((reason: unknown) => reason);
        expect(error).toBeInstanceOf(BackendError);
        expect((error as Error).message).toMatch(says);
        expect(device.closed).toBe(true);
        expect(last?.epoch).toBe(0);
        // What is left of it can be dropped, and then nothing is.
        optimizer.dispose();
        model.dispose();
        expect(device.memory().buffers).toBe(0);

        const next = await openBackend(target);
        expect(next).not.toBe(device);
        setDefaultBackend(next);
        const buffers = next.memory().buffers;
        const resumed = smallModel(1);
        const fresh = make(resumed.parameters());
        restore(checkpoint as Checkpoint, resumed, fresh);
        expect(await checkpointOf(resumed, fresh)).toEqual(checkpoint);
        const losses = await secondEpoch(resumed, fresh);
        // On another device of the same kind as if nothing had happened; on the engine up to rounding.
        if (target === "gpu") expect(losses).toEqual(expected);
        else losses.forEach((loss, i) => expect(loss).toBeCloseTo(expected[i] as number, 4));
        expect(losses).toHaveLength(stepsOfEpoch);
        fresh.dispose();
        resumed.dispose();
        expect(next.memory().buffers).toBe(buffers);
        if (target === "gpu") next.close?.();
      },
    );
  });
});

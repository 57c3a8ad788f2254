import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { DataSplit } from "../../../src/data/index.ts";
import type { Module, Parameter } from "../../../src/nn/index.ts";
import { RsKfac, Sgd, type Optimizer } from "../../../src/optim/index.ts";
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

/** A checkpoint that the host holds, with what `saveCheckpoint` writes into a file. */
async function checkpointOf(model: Module): Promise<Uint8Array> {
  const tensors = new Map<string, HostTensor>();
  for (const [name, tensor] of model.stateDict()) {
    tensors.set(name, { dtype: tensor.dtype, shape: tensor.shape, data: await tensor.data() });
    tensor.dispose();
  }
  return encodeSafetensors(tensors, {});
}

function restore(model: Module, checkpoint: Uint8Array): void {
  const state = new Map<string, Tensor>();
  for (const [name, { data, shape, dtype }] of decodeSafetensors(checkpoint).tensors) state.set(name, Tensor.from(data, { shape, dtype }));
  model.loadStateDict(state);
  for (const tensor of state.values()) tensor.dispose();
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
        const model = smallModel();
        const optimizer = make(model.parameters());
        let checkpoint: Uint8Array | undefined;
        let last: EpochEvent | undefined;
        const training = async (): Promise<void> => {
          for await (const event of train({ model, optimizer, ...loaders(data), epochs: 4 })) {
            if (event.type === "epoch") [last, checkpoint] = [event, await checkpointOf(model)];
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
        const saved = checkpoint as Uint8Array;
        restore(resumed, saved);
        expect(await checkpointOf(resumed)).toEqual(saved);
        const fresh = make(resumed.parameters());
        const losses: number[] = [];
        for await (const event of train({ model: resumed, optimizer: fresh, ...loaders(data), epochs: 3 })) {
          if (event.type === "step") losses.push(event.loss);
          if (event.type === "epoch") expect(event.trainLoss).toBeLessThan(last?.trainLoss ?? NaN);
        }
        expect(losses).toHaveLength(3 * stepsOfEpoch);
        expect(losses.every(Number.isFinite)).toBe(true);
        fresh.dispose();
        resumed.dispose();
        expect(next.memory().buffers).toBe(buffers);
        if (target === "gpu") next.close?.();
      },
    );
  });
});

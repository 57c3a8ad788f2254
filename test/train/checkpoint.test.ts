import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { Linear, ReLU, Sequential, type Module } from "../../src/nn/index.ts";
import { CheckpointError, defaultBackend, Generator, openBackend, Tensor, tidy, UsageError } from "../../src/tensor/index.ts";
import {
  decodeSafetensors,
  loadCheckpoint,
  parseConfig,
  RunFolder,
  saveCheckpoint,
  type RunSummary,
  type TrainEvent,
} from "../../src/train/index.ts";
import { smallModel } from "./small.ts";
import { settledBuffers } from "../settled.ts";

const folder = mkdtempSync(join(tmpdir(), "kfacet-checkpoint-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let files = 0;
const fresh = (): string => join(folder, String(files++));

/** Every variable's bits by name. */
const bits = (model: Module): unknown =>
  tidy(() =>
    [...model.stateDict()].map(([name, tensor]) => {
      const { buffer, byteOffset, byteLength } = tensor.dataSync();
      return [name, tensor.dtype, Buffer.from(buffer, byteOffset, byteLength).toString("hex")];
    }),
  );

/** A model whose running statistics are no longer the initial ones. */
function used(seed: number): Sequential {
  const model = smallModel(seed);
  tidy(() => model.forward(new Generator(seed).normal([4, 6, 6, 1])));
  return model;
}

describe("a checkpoint", () => {
  test("gives parameters, running statistics and metadata back, bit for bit", async () => {
    const [from, to, path] = [used(1), used(2), fresh()];
    tidy(() =>
      from
        .namedParameters()
        .get("5.bias")
        ?.assign(Tensor.from([NaN, -0, Infinity, 1e-45])),
    );
    const buffers = await settledBuffers();
    await saveCheckpoint(path, from, { epochs: "3" });
    expect(await loadCheckpoint(path, to)).toMatchObject({ epochs: "3", format: "kfacet" });
    expect(bits(to)).toEqual(bits(from));
    expect(defaultBackend().memory().buffers).toBe(buffers);
  });

  test("keeps float64 models float64", async () => {
    const make = (seed: number): Linear => new Linear(3, 2, { dtype: "float64", generator: new Generator(seed) });
    const [from, to, path] = [make(1), make(2), fresh()];
    await saveCheckpoint(path, from, {});
    await loadCheckpoint(path, to);
    expect(bits(to)).toEqual(bits(from));
  });

  test("is read to where the model is, whatever the default", async () => {
    const backend = await openBackend("wasm", { threads: 1 });
    const make = (seed: number): Linear => new Linear(3, 2, { backend, generator: new Generator(seed) });
    const [from, to, path] = [make(1), make(2), fresh()];
    expect(defaultBackend()).not.toBe(backend);
    await saveCheckpoint(path, from, {});
    await loadCheckpoint(path, to);
    expect(bits(to)).toEqual(bits(from));
    for (const model of [from, to]) model.dispose();
    backend.close?.();
  });

  test("is safetensors with the entries model.<path>, and no unfinished file lies beside it", async () => {
    const path = fresh();
    await saveCheckpoint(path, used(1), {});
    const { tensors } = decodeSafetensors(readFileSync(path));
    expect([...tensors.keys()].sort()).toEqual(
      ["0.bias", "0.weight", "1.bias", "1.runningMean", "1.runningVariance", "1.weight", "5.bias", "5.weight"].map(
        (name) => `model.${name}`,
      ),
    );
    expect(readdirSync(folder).filter((name) => name.endsWith(".part"))).toEqual([]);
  });

  test("of another model is a CheckpointError that names file and entries, and changes nothing", async () => {
    const [path, other] = [fresh(), new Sequential(new Linear(3, 2), new ReLU())];
    await saveCheckpoint(path, used(1), {});
    const before = bits(other);
    const buffers = await settledBuffers();
    const load = loadCheckpoint(path, other);
    await expect(load).rejects.toThrow(CheckpointError);
    await expect(load).rejects.toThrow(path);
    await expect(load).rejects.toThrow('"0.weight" is float32 [4, 3, 3, 1] but the model has float32 [2, 3]');
    await expect(load).rejects.toThrow('"5.bias" is not in the model');
    expect(bits(other)).toEqual(before);
    expect(defaultBackend().memory().buffers).toBe(buffers);
  });

  test.each([
    ["cut short", (path: string) => truncateSync(path, 900)],
    ["empty", (path: string) => writeFileSync(path, "")],
    ["not there", (path: string) => rmSync(path)],
  ])("that is %s is a CheckpointError that names the file, and changes nothing", async (_, spoil) => {
    const [model, path] = [used(1), fresh()];
    await saveCheckpoint(path, model, {});
    spoil(path);
    const before = bits(model);
    const load = loadCheckpoint(path, model);
    await expect(load).rejects.toThrow(CheckpointError);
    await expect(load).rejects.toThrow(path);
    expect(bits(model)).toEqual(before);
  });
});

describe("a run folder", () => {
  const config = parseConfig({ data: "synthetic", seed: 3 });

  test("is made with everything above it, holds the configuration and gives it back", async () => {
    const path = join(fresh(), "deep", "run");
    expect((await RunFolder.create(path, config)).path).toBe(path);
    expect(readdirSync(path).sort()).toEqual(["config.json", "metrics.jsonl"]);
    expect((await RunFolder.open(path)).config).toEqual(config);
  });

  test("that is not empty is refused with a UsageError, and nothing in it is touched", async () => {
    const path = fresh();
    await RunFolder.create(path, config);
    writeFileSync(join(path, "metrics.jsonl"), "precious\n");
    const again = RunFolder.create(path, parseConfig({ seed: 4 }));
    await expect(again).rejects.toThrow(UsageError);
    await expect(again).rejects.toThrow(`${path} is not empty`);
    expect(readFileSync(join(path, "metrics.jsonl"), "utf8")).toBe("precious\n");
    expect((await RunFolder.open(path)).config).toEqual(config);
  });

  test("where a file stands is a UsageError that names the path", async () => {
    const path = fresh();
    writeFileSync(path, "");
    for (const place of [path, join(path, "below")]) {
      const make = RunFolder.create(place, config);
      await expect(make).rejects.toThrow(UsageError);
      await expect(make).rejects.toThrow(`cannot make the run folder ${place}`);
    }
  });

  test("opened where there is none is a CheckpointError; with a configuration that is not valid a UsageError", async () => {
    const open = RunFolder.open(join(folder, "nowhere"));
    await expect(open).rejects.toThrow(CheckpointError);
    await expect(open).rejects.toThrow("is not a run folder");
    const path = fresh();
    await RunFolder.create(path, config);
    writeFileSync(join(path, "config.json"), '{"epochs": 0}');
    await expect(RunFolder.open(path)).rejects.toThrow(UsageError);
    await expect(RunFolder.open(path)).rejects.toThrow("config.json is not valid: epochs");
    writeFileSync(join(path, "config.json"), "{");
    await expect(RunFolder.open(path)).rejects.toThrow("config.json is not JSON");
  });

  test("has each event on a line as soon as it is told", async () => {
    const path = fresh();
    const run = await RunFolder.create(path, config);
    const phases = { forward: 1, backward: 0, factorUpdate: 0, inversion: 0, precondition: 0, update: 0, data: 0 };
    const events: TrainEvent[] = [
      { type: "step", step: 0, epoch: 0, loss: 2.5, phases },
      { type: "end", epochs: 1, steps: 1, seconds: 3, phases },
    ];
    for (const [i, event] of events.entries()) {
      run.append(event);
      const lines = readFileSync(join(path, "metrics.jsonl"), "utf8").trimEnd().split("\n");
      expect(lines.map((line): unknown => JSON.parse(line))).toEqual(events.slice(0, i + 1));
    }
  });

  test("keeps the newest checkpoint alone, and loads it", async () => {
    const path = fresh();
    const run = await RunFolder.create(path, config);
    const none = run.loadCheckpoint(used(1));
    await expect(none).rejects.toThrow(CheckpointError);
    await expect(none).rejects.toThrow("has no checkpoint");
    const checkpoints = (): string[] => readdirSync(path).filter((name) => name.endsWith(".safetensors"));
    for (const epochs of [1, 2, 9, 10]) {
      await run.saveCheckpoint(used(epochs), { epochs, steps: 7 * epochs }, config);
      expect(checkpoints()).toEqual([`checkpoint-${String(7 * epochs).padStart(8, "0")}.safetensors`]);
    }
    const model = used(0);
    expect(await (await RunFolder.open(path)).folder.loadCheckpoint(model)).toEqual({ epochs: 10, steps: 70 });
    expect(bits(model)).toEqual(bits(used(10)));
    await run.saveInterrupted(used(11), { epochs: 10, steps: 72 }, config);
    expect(await run.loadCheckpoint(model)).toEqual({ epochs: 10, steps: 72 });
    expect(bits(model)).toEqual(bits(used(11)));
    // The last whole epoch, whose accuracy the metrics tell, is still there.
    expect(checkpoints()).toEqual(["checkpoint-00000070.safetensors", "checkpoint-00000072.safetensors"]);
  });

  test("ends with a summary", async () => {
    const path = fresh();
    const run = await RunFolder.create(path, config);
    const phases = { forward: 1, backward: 0, factorUpdate: 0, inversion: 0, precondition: 0, update: 0, data: 0 };
    const summary: RunSummary = {
      model: "m",
      optimizer: "o",
      device: "d",
      parameters: 1,
      epochs: 1,
      seconds: 2,
      secondsPerEpoch: [1],
      testAccuracy: [0.5],
      phases,
      seed: 0,
      version: "0",
    };
    expect(existsSync(join(path, "summary.json"))).toBe(false);
    await run.writeSummary(summary);
    expect(JSON.parse(readFileSync(join(path, "summary.json"), "utf8"))).toEqual(summary);
  });
});

import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { channelStatistics, loadCifar10, loadData } from "../../src/data/index.ts";
import { DataError } from "../../src/tensor/errors.ts";

/** A record whose pixel p of channel c is (label + 7·p + 80·c) mod 256. */
function record(label: number): Uint8Array {
  return Uint8Array.from({ length: 3073 }, (_, i) =>
    i === 0 ? label : (label + 7 * ((i - 1) % 1024) + 80 * Math.floor((i - 1) / 1024)) % 256,
  );
}

describe("loadCifar10", () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "kfacet-cifar-"));
  });
  afterEach(() => rm(folder, { recursive: true }));
  const write = (name: string, ...labels: number[]): Promise<void> => writeFile(join(folder, name), Buffer.concat(labels.map(record)));

  test("reads the batches that are there in order, planes as channels", async () => {
    await write("data_batch_1.bin", 3, 9);
    await write("data_batch_3.bin", 0);
    await write("test_batch.bin", 5);
    const { train, test: held } = await loadData(`cifar10:${folder}`);
    expect([...train.labels]).toEqual([3, 9, 0]);
    expect([...held.labels]).toEqual([5]);
    expect([train.height, train.width, train.channels, train.classes[9]]).toEqual([32, 32, 3, "truck"]);
    // Image 1, row 2, column 5: position 69 of each plane.
    const at = (1024 + 69) * 3;
    expect([...train.pixels.subarray(at, at + 3)]).toEqual([0, 80, 160].map((shift) => (9 + 7 * 69 + shift) % 256));
  });

  test("says what is missing or broken", async () => {
    await expect(loadCifar10(join(folder, "nowhere"))).rejects.toThrow("cannot read the folder");
    await expect(loadCifar10(folder)).rejects.toThrow("has no data_batch_1.bin");
    await write("data_batch_1.bin", 1);
    await expect(loadCifar10(folder)).rejects.toThrow("has no test_batch.bin");
    await writeFile(join(folder, "test_batch.bin"), record(1).subarray(1));
    await expect(loadCifar10(folder)).rejects.toThrow("has 3072 bytes, which is not a whole number of records of 3073 bytes");
    await write("test_batch.bin", 1, 10);
    await expect(loadCifar10(folder)).rejects.toThrow("the label of record 1 is 10, not 0 to 9");
    await writeFile(join(folder, "test_batch.bin"), "");
    await expect(loadCifar10(folder)).rejects.toThrow(DataError);
  });
});

const real = process.env["KFACET_CIFAR10"];
describe.skipIf(!real || !existsSync(real))("the images that KFACET_CIFAR10 names", () => {
  test("have CIFAR-10's statistics", async () => {
    const { train } = await loadCifar10(real as string);
    const { mean, std } = channelStatistics(train);
    [0.4914, 0.4822, 0.4465].forEach((value, channel) => expect(Math.abs((mean[channel] ?? 0) - value)).toBeLessThan(0.01));
    [0.247, 0.2435, 0.2616].forEach((value, channel) => expect(Math.abs((std[channel] ?? 0) - value)).toBeLessThan(0.01));
  });
});

import { beforeAll, describe, expect, test } from "vitest";
import fc from "fast-check";
import { channelStatistics, DataLoader, imageDataset, type DataLoaderOptions, type ImageDataset } from "../../src/data/index.ts";
import { defaultBackend, openBackend } from "../../src/tensor/index.ts";
import { DataError, UsageError } from "../../src/tensor/errors.ts";
import { Generator } from "../../src/tensor/random.ts";
import { tidy } from "../../src/tensor/scope.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";

/** Images of 1 × 2 × 1 whose two pixels spell their index, and whose label is index mod 3. */
function numbered(length: number): ImageDataset {
  const pixels = Uint8Array.from({ length: 2 * length }, (_, i) => (i % 2 === 0 ? (i / 2) >> 8 : ((i - 1) / 2) & 255));
  const labels = Int32Array.from({ length }, (_, i) => i % 3);
  return imageDataset({ name: "numbered", classes: ["a", "b", "c"], height: 1, width: 2, channels: 1, pixels, labels });
}

/** The indices that an epoch gives out, batch by batch, checked against their labels. */
async function indicesOf(loader: DataLoader, epoch: number): Promise<number[][]> {
  const batches: number[][] = [];
  for await (const { images, labels, size } of loader.epoch(epoch)) {
    expect(images.shape).toEqual([size, 1, 2, 1]);
    expect(labels.shape).toEqual([size]);
    expect(labels.dtype).toBe("int32");
    const pixels = await images.data();
    const indices = Array.from(
      { length: size },
      (_, n) => Math.round((pixels[2 * n] ?? NaN) * 255) * 256 + Math.round((pixels[2 * n + 1] ?? NaN) * 255),
    );
    expect([...(await labels.data())]).toEqual(indices.map((index) => index % 3));
    batches.push(indices);
  }
  return batches;
}

/** Sizes, a batch size that is allowed, and a seed. */
const settings = fc
  .record({
    length: fc.integer({ min: 1, max: 400 }),
    seed: fc.nat(),
    epoch: fc.nat({ max: 1000 }),
    share: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  .map(({ length, seed, epoch, share }) => ({ length, seed, epoch, batchSize: 1 + Math.floor(share * (length - 1)) }));

describe("an epoch", () => {
  test("gives every image exactly once, in full batches but for the last", async () => {
    await fc.assert(
      fc.asyncProperty(settings, fc.boolean(), async ({ length, seed, epoch, batchSize }, shuffle) => {
        const loader = new DataLoader(numbered(length), { batchSize, shuffle, seed });
        const batches = await indicesOf(loader, epoch);
        expect(batches.length).toBe(loader.batches);
        expect(batches.slice(0, -1).every((batch) => batch.length === batchSize)).toBe(true);
        expect(batches.flat().sort((a, b) => a - b)).toEqual(Array.from({ length }, (_, i) => i));
      }),
      { numRuns: 40 },
    );
  });

  test("without shuffling keeps the order of the data set", async () => {
    expect(await indicesOf(new DataLoader(numbered(5), { batchSize: 2 }), 7)).toEqual([[0, 1], [2, 3], [4]]);
  });

  test("leaves out what does not fill a batch if told to", async () => {
    const loader = new DataLoader(numbered(11), { batchSize: 4, shuffle: true, dropLast: true });
    const batches = await indicesOf(loader, 0);
    expect(batches.map((batch) => batch.length)).toEqual([4, 4]);
    expect(loader.batches).toBe(2);
    expect(batches.flat()).toEqual([...loader.order(0).subarray(0, 8)]);
  });

  test("depends on seed and epoch alone: a fresh loader that starts at epoch e gives what the first one gave", async () => {
    await fc.assert(
      fc.asyncProperty(settings, fc.integer({ min: 1, max: 5 }), async ({ length, seed, batchSize }, resumeAt) => {
        const first = new DataLoader(numbered(length), { batchSize, shuffle: true, seed });
        let seen: number[][] = [];
        for (let epoch = 0; epoch <= resumeAt; epoch++) seen = await indicesOf(first, epoch);
        const resumed = new DataLoader(numbered(length), { batchSize, shuffle: true, seed });
        expect(await indicesOf(resumed, resumeAt)).toEqual(seen);
      }),
      { numRuns: 15 },
    );
  });

  test("differs from other epochs and other seeds", () => {
    const loader = new DataLoader(numbered(100), { batchSize: 10, shuffle: true, seed: 1 });
    const other = new DataLoader(numbered(100), { batchSize: 10, shuffle: true, seed: 2 });
    const orders = [...Array.from({ length: 200 }, (_, epoch) => loader.order(epoch)), other.order(0)];
    expect(new Set(orders.map((order) => order.join(" "))).size).toBe(201);
  });

  test("takes a generator for a seed, and does not advance it", () => {
    const generator = new Generator(5);
    const loader = new DataLoader(numbered(50), { batchSize: 10, shuffle: true, seed: generator });
    expect(loader.order(3)).toEqual(new DataLoader(numbered(50), { batchSize: 10, shuffle: true, seed: 5 }).order(3));
    expect(generator.state().offset).toBe(0);
  });
});

describe("images", () => {
  const coloured = imageDataset({
    name: "coloured",
    classes: ["only"],
    height: 2,
    width: 2,
    channels: 3,
    pixels: Uint8Array.from({ length: 5 * 12 }, (_, i) => (i * 37) % 256),
    labels: new Int32Array(5),
  });

  test("are (x / 255 − mean) / std of their channel, in NHWC order", async () => {
    const normalize = { mean: [0.5, 0, 0.25], std: [0.5, 2, 0.125] };
    const loader = new DataLoader(coloured, { batchSize: 5, normalize, dtype: "float64" });
    for await (const { images } of loader.epoch(0)) {
      expect(images.dtype).toBe("float64");
      expect(images.shape).toEqual([5, 2, 2, 3]);
      const expected = Array.from(coloured.pixels, (x, i) => (x / 255 - (normalize.mean[i % 3] ?? NaN)) / (normalize.std[i % 3] ?? NaN));
      expect([...(await images.data())]).toEqual(expected);
    }
  });

  test("are float32 by default", async () => {
    for await (const { images } of new DataLoader(coloured, { batchSize: 2 }).epoch(0)) expect(images.dtype).toBe("float32");
  });

  test("normalised by the statistics of their data set have mean 0 and variance 1 in each channel", async () => {
    const loader = new DataLoader(coloured, { batchSize: 5, normalize: channelStatistics(coloured), dtype: "float64" });
    for await (const { images } of loader.epoch(0)) {
      const values = await images.data();
      for (let c = 0; c < 3; c++) {
        const channel = Array.from(values).filter((_, i) => i % 3 === c);
        const mean = channel.reduce((sum, x) => sum + x, 0) / channel.length;
        expect(mean).toBeCloseTo(0, 12);
        expect(channel.reduce((sum, x) => sum + (x - mean) ** 2, 0) / channel.length).toBeCloseTo(1, 12);
      }
    }
  });

  test("live on the backend that was asked for", async () => {
    const backend = await openBackend("reference");
    for await (const { images, labels } of new DataLoader(coloured, { batchSize: 2, backend }).epoch(0)) {
      expect(images.backend).toBe(backend);
      expect(labels.backend).toBe(backend);
    }
  });
});

describe("the tensors of a batch", () => {
  beforeAll(() => openBackend("reference"));

  test("are disposed when the next batch is asked for", async () => {
    const seen: Tensor[] = [];
    const before = defaultBackend().memory().buffers;
    for await (const { images, labels } of new DataLoader(numbered(9), { batchSize: 2 }).epoch(0)) {
      expect(seen.every((tensor) => tensor.isDisposed)).toBe(true);
      expect(images.isDisposed || labels.isDisposed).toBe(false);
      expect(defaultBackend().memory().buffers).toBe(before + 2);
      seen.push(images, labels);
    }
    expect(seen.length).toBe(10);
    expect(seen.every((tensor) => tensor.isDisposed)).toBe(true);
    expect(defaultBackend().memory().buffers).toBe(before);
  });

  test("are disposed when the loop is left by break or by an error", async () => {
    const before = defaultBackend().memory().buffers;
    const loader = new DataLoader(numbered(9), { batchSize: 2 });
    for await (const batch of loader.epoch(0)) {
      expect(batch.size).toBe(2);
      break;
    }
    expect(defaultBackend().memory().buffers).toBe(before);
    const failing = async (): Promise<void> => {
      for await (const batch of loader.epoch(0)) throw new Error(`batch of ${batch.size}`);
    };
    await expect(failing()).rejects.toThrow("batch of 2");
    expect(defaultBackend().memory().buffers).toBe(before);
  });

  test("belong to no scope of the consumer", async () => {
    const epoch = new DataLoader(numbered(4), { batchSize: 2 }).epoch(0);
    let pending: ReturnType<typeof epoch.next> | undefined;
    tidy(() => {
      pending = epoch.next();
    });
    const { value } = (await pending) ?? {};
    expect(value?.images.isDisposed).toBe(false);
    await epoch.return();
    expect(value?.images.isDisposed).toBe(true);
  });

  test("live on in a handle that the consumer keeps", async () => {
    const kept: Tensor[] = [];
    for await (const { labels } of new DataLoader(numbered(4), { batchSize: 2 }).epoch(0)) kept.push(labels.keep());
    expect(await Promise.all(kept.map(async (labels) => [...(await labels.data())]))).toEqual([
      [0, 1],
      [2, 0],
    ]);
    for (const labels of kept) labels.dispose();
  });
});

test("timers run between batches", async () => {
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  try {
    for await (const batch of new DataLoader(numbered(20), { batchSize: 1 }).epoch(0)) {
      const end = performance.now() + 2;
      while (performance.now() < end) expect(batch.size).toBe(1);
    }
  } finally {
    clearInterval(timer);
  }
  expect(ticks).toBeGreaterThan(5);
});

describe("a loader refuses", () => {
  test.each<[string, DataLoaderOptions, string]>([
    ["a batch size of 0", { batchSize: 0 }, 'batchSize is 0 but "numbered" has 10 images'],
    ["a negative batch size", { batchSize: -3 }, "batchSize is -3"],
    ["a batch size that is not whole", { batchSize: 2.5 }, "batchSize is 2.5"],
    ["a batch larger than the data", { batchSize: 11 }, 'batchSize is 11 but "numbered" has 10 images'],
    [
      "statistics for other channels",
      { batchSize: 2, normalize: { mean: [0, 0], std: [1, 1] } },
      "1 channel(s) but normalize gives 2 mean(s)",
    ],
    ["a std of 0", { batchSize: 2, normalize: { mean: [0], std: [0] } }, "std 0 for channel 0"],
    ["a mean that is not finite", { batchSize: 2, normalize: { mean: [NaN], std: [1] } }, "mean NaN"],
  ])("%s", (_, options, message) => {
    const create = (): unknown => new DataLoader(numbered(10), options);
    expect(create).toThrow(DataError);
    expect(create).toThrow(message);
  });

  test("a data set with a fault, whoever made it", () => {
    const sound = numbered(10);
    const faulty: [Partial<ImageDataset>, string][] = [
      [{ labels: Int32Array.from({ length: 10 }, () => 3) }, "label 3 of image 0 is out of range"],
      [{ pixels: sound.pixels.subarray(1) }, "need 20 pixel values but there are 19"],
      [{ length: 11 }, "length is 11 but there are 10 labels"],
      [{ channels: 0 }, "whole numbers of at least 1"],
    ];
    for (const [fault, message] of faulty) {
      const create = (): unknown => new DataLoader({ ...sound, ...fault }, { batchSize: 2 });
      expect(create).toThrow(DataError);
      expect(create).toThrow(message);
    }
  });

  test.each([-1, 0.5, NaN])("epoch %d", async (epoch) => {
    const loader = new DataLoader(numbered(10), { batchSize: 2 });
    expect(() => loader.order(epoch)).toThrow(UsageError);
    await expect(loader.epoch(epoch).next()).rejects.toThrow(UsageError);
  });
});

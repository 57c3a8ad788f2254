import { DataError } from "../tensor/index.ts";
import { imageDataset, type DataSplit, type ImageDataset } from "./dataset.ts";

const side = 32;
const plane = side * side;
/** A label, then the red, the green and the blue plane. */
const recordSize = 1 + 3 * plane;
const classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const trainFiles = Array.from({ length: 5 }, (_, i) => `data_batch_${i + 1}.bin`);

/**
 * CIFAR-10 (Krizhevsky 2009) from its official binary version: `data_batch_1.bin` … `data_batch_5.bin`, of which those that exist are the
 * training images, and `test_batch.bin`. 32 × 32 pixels, three channels.
 *
 * @param folder that holds the files (`cifar-10-batches-bin` in the official archive).
 * @throws DataError if a file is missing or is not of that form.
 */
export async function loadCifar10(folder: string): Promise<DataSplit> {
  // Imported here so that a page can bundle src/data: only who calls this needs Node.
  const { readFile, readdir } = await import("node:fs/promises");
  const path = await import("node:path");
  const present = await readdir(folder).catch((cause: unknown) => {
    throw new DataError(`cifar10: cannot read the folder ${folder}; it should hold data_batch_1.bin … and test_batch.bin`, { cause });
  });
  const found = trainFiles.filter((name) => present.includes(name));
  for (const name of [found[0] ?? "data_batch_1.bin", "test_batch.bin"]) {
    if (present.includes(name)) continue;
    throw new DataError(
      `cifar10: ${folder} has no ${name}; the binary version of CIFAR-10 (cifar-10-binary.tar.gz) holds it in cifar-10-batches-bin`,
    );
  }
  const read = async (name: string): Promise<Uint8Array> =>
    checkedRecords(path.join(folder, name), await readFile(path.join(folder, name)));
  const [train, test] = await Promise.all([Promise.all(found.map(read)), read("test_batch.bin")]);
  return { train: datasetOf("cifar10 train", train), test: datasetOf("cifar10 test", [test]) };
}

function checkedRecords(file: string, bytes: Uint8Array): Uint8Array {
  if (bytes.length === 0 || bytes.length % recordSize !== 0) {
    throw new DataError(
      `cifar10: ${file} has ${bytes.length} bytes, which is not a whole number of records of ${recordSize} bytes (a label and 3 × 32 × 32 pixels)`,
    );
  }
  for (let at = 0; at < bytes.length; at += recordSize) {
    const label = bytes[at] as number;
    if (label >= classes.length) throw new DataError(`cifar10: ${file}: the label of record ${at / recordSize} is ${label}, not 0 to 9`);
  }
  return bytes;
}

function datasetOf(name: string, files: readonly Uint8Array[]): ImageDataset {
  const length = files.reduce((sum, bytes) => sum + bytes.length / recordSize, 0);
  const pixels = new Uint8Array(length * 3 * plane);
  const labels = new Int32Array(length);
  let n = 0;
  for (const bytes of files) {
    for (let at = 0; at < bytes.length; at += recordSize, n++) {
      labels[n] = bytes[at] as number;
      const to = n * 3 * plane;
      for (let p = 0; p < plane; p++) {
        for (let channel = 0; channel < 3; channel++) pixels[to + 3 * p + channel] = bytes[at + 1 + channel * plane + p] as number;
      }
    }
  }
  return imageDataset({ name, classes, height: side, width: side, channels: 3, pixels, labels });
}

import { describe, expect, test } from "vitest";
import { Tensor, tidy } from "../../../src/tensor/index.ts";
import { engines, numbers } from "./against.ts";

const backends = engines();

/** Around the borders of what is summed by blocks of rows, and of a tile; the activations of a small VGG; and others. */
const shapes = [
  [1023, 16],
  [1024, 16],
  [1025, 8],
  [1030, 24],
  [2048, 4],
  [2049, 12],
  [3001, 60],
  [8192, 64],
  [8192, 68],
  [20_001, 32],
  [131_072, 16],
] as const;

describe.each(["float32", "float64"] as const)("the Gram matrix in %s", (dtype) => {
  test.each(shapes)("of %d rows of %d is the product XᵀX to the bit, on any number of threads", (rows, d) => {
    const { values } = numbers([rows, d], 1);
    const results = backends.map((backend) =>
      tidy(() => {
        const x = Tensor.from(Float32Array.from(values), { shape: [rows, d], backend }).cast(dtype);
        return { gram: x.gram(0.25).dataSync(), product: x.matmul(x, { transposeA: true }).multiply(0.25).dataSync() };
      }),
    );
    for (const { gram, product } of results) {
      expect(gram).toHaveSameBits(product);
      expect(gram).toHaveSameBits((results[0] as { gram: typeof gram }).gram);
    }
  });
});

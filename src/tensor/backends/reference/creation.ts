import { normalQuantile, philoxBlock } from "../../philox.ts";
import type { RandomParams } from "../../primitives.ts";
import type { Operand, Kernels } from "./kernel.ts";

/**
 * Element i from word i of the stream (float32) or from words 2i and 2i + 1 (float64), by `fromWord` or `fromWords`.
 */
function fillRandom(
  y: Operand,
  { dtype, key, offset }: RandomParams,
  fromWord: (word: number) => number,
  fromWords: (high: number, low: number) => number,
): void {
  const words = new Uint32Array(4);
  const perBlock = dtype === "float32" ? 4 : 2;
  for (let i = 0; i < y.data.length; i++) {
    const lane = i % perBlock;
    if (lane === 0) philoxBlock(offset + i / perBlock, key, words);
    y.data[i] = perBlock === 4 ? fromWord(words[lane] as number) : fromWords(words[2 * lane] as number, words[2 * lane + 1] as number);
  }
}

export const creation: Kernels<"fill" | "arange" | "uniform" | "normal"> = {
  fill: (_, { value }, [y]) => {
    y.data.fill(value);
  },
  arange: (_, { start, step }, [y]) => {
    for (let i = 0; i < y.data.length; i++) y.data[i] = start + i * step;
  },
  // 24 or 53 random bits, so that 1 is never reached by rounding.
  uniform: (_, params, [y]) => {
    fillRandom(
      y,
      params,
      (word) => (word >>> 8) * 2 ** -24,
      (high, low) => ((high >>> 5) * 2 ** 26 + (low >>> 6)) * 2 ** -53,
    );
  },
  // The middle of each step, so that the quantile function never sees 0 or 1.
  normal: (_, params, [y]) => {
    fillRandom(
      y,
      params,
      (word) => normalQuantile((word + 0.5) * 2 ** -32),
      (high, low) => normalQuantile(((high >>> 6) * 2 ** 26 + (low >>> 6) + 0.5) * 2 ** -52),
    );
  },
};

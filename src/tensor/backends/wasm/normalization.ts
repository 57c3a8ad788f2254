import { bytesPerElement } from "../../dtype.ts";
import type { Engine } from "./engine.ts";
import { floatSuffix, type Kernels, type Operand } from "./kernel.ts";

/** Elements of a chunk of rows, whose statistics one thread takes. */
const CHUNK = 65536;
/** A chunk has a multiple of this many rows: the longest block of assembly/normalization.ts. */
const BLOCK = 64;

function chunkOf(channels: number): number {
  return BLOCK * Math.ceil(CHUNK / (BLOCK * channels));
}

function forward(
  engine: Engine,
  [x, scale, shift]: readonly [Operand, Operand, Operand],
  epsilon: number,
  [y, mean, rstd]: readonly [Operand, Operand, Operand],
  relu: 0 | 1,
): void {
  const channels = mean.size;
  if (channels === 0) return;
  const rows = x.size / channels;
  const chunk = chunkOf(channels);
  const chunks = Math.ceil(rows / chunk);
  const type = floatSuffix(x.dtype);
  const bytes = bytesPerElement[x.dtype];
  const statistics = chunks * 2 * channels * 8;
  engine.temporary(statistics + 3 * channels * bytes, "batchNorm", (sums) => {
    const table = sums + statistics;
    engine.run(`batchNormMoments_${type}`, chunks, Math.min(rows, chunk) * channels * bytes * 0.1, x.pointer, rows, channels, chunk, sums);
    engine.run(
      `batchNormFinish_${type}`,
      channels,
      20 + 5 * chunks,
      sums,
      rows,
      channels,
      chunk,
      epsilon,
      scale.pointer,
      shift.pointer,
      mean.pointer,
      rstd.pointer,
      table,
    );
    engine.run(`batchNormRows_${type}`, rows, 2 + channels * bytes * 0.08, x.pointer, channels, table, y.pointer, relu);
  });
}

/** @param output address of the output of a ReLU after the normalisation, through which the gradient comes; 0 if there is none. */
function backward(
  engine: Engine,
  [x, scale, mean, rstd, gradient]: readonly [Operand, Operand, Operand, Operand, Operand],
  [gx, gscale, gshift]: readonly [Operand, Operand, Operand],
  output: number,
): void {
  const channels = mean.size;
  if (channels === 0) return;
  const rows = x.size / channels;
  const chunk = chunkOf(channels);
  const chunks = Math.ceil(rows / chunk);
  const type = floatSuffix(x.dtype);
  const bytes = bytesPerElement[x.dtype];
  const statistics = chunks * 2 * channels * 8;
  engine.temporary(statistics + 4 * channels * bytes, "batchNormGradient", (sums) => {
    const table = sums + statistics;
    engine.run(
      `batchNormDots_${type}`,
      chunks,
      Math.min(rows, chunk) * channels * bytes * 0.12,
      x.pointer,
      gradient.pointer,
      output,
      mean.pointer,
      rows,
      channels,
      chunk,
      sums,
    );
    engine.run(
      `batchNormFinishDots_${type}`,
      channels,
      20 + 2 * chunks,
      sums,
      chunks,
      rows,
      channels,
      scale.pointer,
      mean.pointer,
      rstd.pointer,
      gscale.pointer,
      gshift.pointer,
      table,
    );
    const cost = 2 + channels * bytes * 0.12;
    engine.run(`batchNormGradientRows_${type}`, rows, cost, x.pointer, gradient.pointer, output, channels, table, gx.pointer);
  });
}

/** The variants with ReLU cost no pass over memory of their own. */
export const normalization: Kernels<"normalize" | "batchNorm" | "batchNormGradient" | "batchNormRelu" | "batchNormReluGradient"> = {
  normalize: (engine, [x, mean, gain, shift], { relu }, [y]) => {
    const channels = mean.size;
    if (y.size === 0) return;
    const bytes = bytesPerElement[x.dtype];
    engine.temporary(3 * channels * bytes, "normalize", (table) => {
      const rows = engine.view(x.dtype, table, 3 * channels);
      [mean, gain, shift].forEach(({ pointer }, i) => rows.set(engine.view(x.dtype, pointer, channels), i * channels));
      const cost = 2 + channels * bytes * 0.08;
      const name = x.dtype === "float64" ? "batchNormRows_f64" : "batchNormRows_f32";
      engine.run(name, y.size / channels, cost, x.pointer, channels, table, y.pointer, relu ? 1 : 0);
    });
  },
  batchNorm: (engine, inputs, { epsilon }, outputs) => {
    forward(engine, inputs, epsilon, outputs, 0);
  },
  batchNormGradient: (engine, inputs, _, outputs) => {
    backward(engine, inputs, outputs, 0);
  },
  batchNormRelu: (engine, inputs, { epsilon }, outputs) => {
    forward(engine, inputs, epsilon, outputs, 1);
  },
  batchNormReluGradient: (engine, [x, scale, mean, rstd, output, gradient], _, outputs) => {
    backward(engine, [x, scale, mean, rstd, gradient], outputs, output.pointer);
  },
};

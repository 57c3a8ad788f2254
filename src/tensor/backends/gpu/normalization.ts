import { sizeOf } from "../../shape.ts";
import { elementwise } from "./elementwise.ts";
import { portable, type DeviceArray, type Kernel, type Kernels, type Operand } from "./kernel.ts";
import type { Queue } from "./queue.ts";
import { sums } from "./reduction.ts";

/* Tensors are seen as [rows, channels]: threads' x is the channel, and y the row. */

const rowsOf = ({ shape }: Operand): number => sizeOf(shape.slice(0, -1));

const ELEMENT = "this.thread.y * channels + this.thread.x";

/** The channel, in a sum's term. */
const CHANNEL = "remainder(this.thread.x, channels)";

const quotients = portable("mean", { total: "array", count: "float" }, `return total[this.thread.x] / count;`);

const squares = sums.of(
  "variance",
  { x: "array", mean: "array", channels: "integer" },
  (at) => `const d = x[${at}] - mean[${CHANNEL}];
    const v = d * d;`,
  `let d = x[at] - mean[column];
    v = d * d;`,
);

const inverseRoots = portable(
  "rstd",
  { total: "array", count: "float", epsilon: "float" },
  `return 1 / Math.sqrt(total[this.thread.x] / count + epsilon);`,
);

const normalize = portable(
  "normalize",
  { x: "array", mean: "array", gain: "array", shift: "array", channels: "integer", relu: "integer" },
  `const y = (x[${ELEMENT}] - mean[this.thread.x]) * gain[this.thread.x] + shift[this.thread.x];
  if (y < 0) { if (relu == 1) { return 0; } }
  return y;`, // lets NaN through
);

/** Two passes, mean before variance: E[x²] − E[x]² cancels when the mean is large. */
function normalizeBatch(
  queue: Queue,
  [x, scale, shift]: readonly [Operand, Operand, Operand],
  { epsilon, relu }: { readonly epsilon: number; readonly relu: number },
  [y, mean, rstd]: readonly [Operand, Operand, Operand],
): void {
  const [count, channels] = [rowsOf(x), mean.array.size];
  queue.temporary(channels, "batchNorm", (perChannel) => {
    sums.plain(queue, [1, count, channels], { x: x.array }, perChannel);
    queue.run(quotients, [channels], mean.array, { total: perChannel, count });
    squares(queue, [1, count, channels], { x: x.array, mean: mean.array, channels }, perChannel);
    queue.run(inverseRoots, [channels], rstd.array, { total: perChannel, count, epsilon });
    elementwise.multiply(queue, [scale, rstd], {}, [{ ...rstd, array: perChannel }]);
    const values = { x: x.array, mean: mean.array, gain: perChannel, shift: shift.array, channels, relu };
    queue.run(normalize, [channels, count], y.array, values);
  });
}

const dots = sums.of(
  "batchNormGradient, scale",
  { x: "array", mean: "array", rstd: "array", g: "array", channels: "integer" },
  (at) => `const v = g[${at}] * (x[${at}] - mean[${CHANNEL}]) * rstd[${CHANNEL}];`,
  "v = g[at] * (x[at] - mean[column]) * rstd[column];",
);

const inputGradient = portable(
  "batchNormGradient",
  { x: "array", scale: "array", mean: "array", rstd: "array", g: "array", dot: "array", sum: "array", channels: "integer", count: "float" },
  `const r = rstd[this.thread.x];
  const pull = r * dot[this.thread.x] / count;
  return scale[this.thread.x] * r * (g[${ELEMENT}] - sum[this.thread.x] / count - (x[${ELEMENT}] - mean[this.thread.x]) * pull);`,
);

// With x̂ = (x − mean) rstd:  ∂γ = Σ g x̂,  ∂β = Σ g,  ∂x = γ rstd (g − ∂β/count − x̂ ∂γ/count)
const batchNormGradient: Kernel<"batchNormGradient"> = (queue, inputs, _, outputs) => {
  const [x, scale, mean, rstd, g] = inputs.map(({ array }) => array) as [DeviceArray, DeviceArray, DeviceArray, DeviceArray, DeviceArray];
  const [gx, dot, sum] = outputs.map(({ array }) => array) as [DeviceArray, DeviceArray, DeviceArray];
  const [count, channels] = [rowsOf(inputs[0]), mean.size];
  dots(queue, [1, count, channels], { x, mean, rstd, g, channels }, dot);
  sums.plain(queue, [1, count, channels], { x: g }, sum);
  queue.run(inputGradient, [channels, count], gx, { x, scale, mean, rstd, g, dot, sum, channels, count });
};

export const normalization: Kernels<"normalize" | "batchNorm" | "batchNormGradient" | "batchNormRelu" | "batchNormReluGradient"> = {
  normalize: (queue, [x, mean, gain, shift], { relu }, [y]) => {
    const channels = mean.array.size;
    const values = { x: x.array, mean: mean.array, gain: gain.array, shift: shift.array, channels, relu: Number(relu) };
    queue.run(normalize, [channels, rowsOf(x)], y.array, values);
  },
  batchNorm: (queue, inputs, { epsilon }, outputs) => normalizeBatch(queue, inputs, { epsilon, relu: 0 }, outputs),
  batchNormRelu: (queue, inputs, { epsilon }, outputs) => normalizeBatch(queue, inputs, { epsilon, relu: 1 }, outputs),
  batchNormGradient,
  batchNormReluGradient: (queue, [x, scale, mean, rstd, output, gradient], _, outputs) => {
    queue.temporary(gradient.array.size, "batchNormReluGradient", (array) => {
      const masked = { ...gradient, array };
      elementwise.reluGradient(queue, [output, gradient], {}, [masked]);
      batchNormGradient(queue, [x, scale, mean, rstd, masked], {}, outputs);
    });
  },
};

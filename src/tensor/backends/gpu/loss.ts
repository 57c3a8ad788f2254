import type { LabelSmoothing } from "../../primitives.ts";
import { sizeOf } from "../../shape.ts";
import { elementwise } from "./elementwise.ts";
import { portable, type DeviceArray, type Kernels } from "./kernel.ts";
import type { Queue } from "./queue.ts";
import { maxima, sums } from "./reduction.ts";
import { logSoftmax as logSoftmaxByGroups, softmaxCrossEntropy as crossEntropyByGroups } from "./wgsl/softmax.ts";

/*
 * A label that is out of range, which the device could not throw for, is the class of no element: its loss has no term of its own.
 */

/** The smoothed target distribution as the probability of the true class and of each other one. */
function target({ smoothing, smoothingKind }: LabelSmoothing, classes: number): { readonly own: number; readonly other: number } {
  if (smoothingKind === "uniform") return { own: 1 - smoothing + smoothing / classes, other: smoothing / classes };
  return { own: 1 - smoothing, other: smoothing / (classes - 1) };
}

const exponentials = sums.of(
  "sum of exponentials",
  { x: "array", top: "array" },
  (at) => `const v = Math.exp(x[${at}] - top[this.thread.y]);`,
);

/** x − top is exact where they are close, and top + log total would round away the logarithm's digits when x is large. */
const lessLog = portable(
  "logSoftmax",
  { x: "array", top: "array", total: "array", row: "integer" },
  `return x[this.thread.y * row + this.thread.x] - top[this.thread.y] - Math.log(total[this.thread.y]);`,
);

function logSoftmax(queue: Queue, rows: number, row: number, x: DeviceArray, y: DeviceArray): void {
  if (queue.wgsl && logSoftmaxByGroups(queue.wgsl, [rows, row], x, y)) return;
  queue.temporary(rows, "logSoftmax", (top) => {
    maxima.plain(queue, [rows, row, 1], { x }, top);
    queue.temporary(rows, "logSoftmax", (total) => {
      exponentials(queue, [rows, row, 1], { x, top }, total);
      queue.run(lessLog, [row, rows], y, { x, top, total, row });
    });
  });
}

/** −Σ q log p, but 0 · ∞ is 0. */
const crossEntropy = sums.of(
  "softmaxCrossEntropy",
  { logp: "array", labels: "array", own: "float", other: "float" },
  (at, inRow) => `let q = other;
    if (${inRow} == labels[this.thread.y]) { q = own; }
    let v = 0;
    if (q != 0) { v = -q * logp[${at}]; }`,
);

const crossEntropyGradient = portable(
  "softmaxCrossEntropyGradient",
  { p: "array", labels: "array", gradient: "array", own: "float", other: "float", classes: "integer" },
  `let q = other;
  if (this.thread.x == labels[this.thread.y]) { q = own; }
  return gradient[this.thread.y] * (p[this.thread.y * classes + this.thread.x] - q);`,
);

const squares = sums.of(
  "squaredError",
  { a: "array", b: "array" },
  (at) => `const d = a[${at}] - b[${at}];
    const v = d * d;`,
  `let d = a[at] - b[at];
    v = d * d;`,
);

export const loss: Kernels<"logSoftmax" | "softmaxCrossEntropy" | "softmaxCrossEntropyGradient" | "squaredError"> = {
  logSoftmax: (queue, [{ array: x, shape }], _, [{ array: y }]) => {
    logSoftmax(queue, sizeOf(shape.slice(0, -1)), shape.at(-1) as number, x, y);
  },
  softmaxCrossEntropy: (queue, [logits, { array: labels }], smoothing, [{ array: y }, probabilities]) => {
    const [n, classes] = logits.shape as [number, number];
    const distribution = target(smoothing, classes);
    if (queue.wgsl && crossEntropyByGroups(queue.wgsl, [n, classes], logits.array, labels, y, probabilities.array, distribution)) return;
    queue.temporary(n * classes, "softmaxCrossEntropy", (logp) => {
      logSoftmax(queue, n, classes, logits.array, logp);
      elementwise.exp(queue, [{ ...logits, array: logp }], {}, [probabilities]);
      crossEntropy(queue, [n, classes, 1], { logp, labels, ...distribution }, y);
    });
  },
  softmaxCrossEntropyGradient: (queue, [{ array: p, shape }, { array: labels }, { array: gradient }], smoothing, [{ array: y }]) => {
    const [n, classes] = shape as [number, number];
    queue.run(crossEntropyGradient, [classes, n], y, { p, labels, gradient, classes, ...target(smoothing, classes) });
  },
  squaredError: (queue, [{ array: a, shape }, { array: b }], _, [{ array: y }]) => {
    squares(queue, [y.size, sizeOf(shape.slice(1)), 1], { a, b }, y);
  },
};

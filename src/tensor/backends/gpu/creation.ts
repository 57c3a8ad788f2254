import { BackendError } from "../../errors.ts";
import { normalQuantile, philoxBlock } from "../../philox.ts";
import type { RandomParams } from "../../primitives.ts";
import { portable, type DeviceArray, type Kernels } from "./kernel.ts";
import type { Queue } from "./queue.ts";
import { uniform } from "./wgsl/philox.ts";

const fill = portable("fill", { value: "float" }, `return value;`);
const RANGE = "return start + this.thread.x * step;";
const arange = portable("arange", { start: "float", step: "float" }, RANGE);
/** Of whole numbers: float32 would round places beyond 2²⁴, and products. */
const wholeArange = portable("arange, integers", { start: "integer", step: "integer" }, RANGE);

/** float32 holds the whole numbers up to this one, and with them int32's on this device. */
const MOST_INTEGER = 2 ** 24;

/** @throws BackendError for an integer that float32 cannot hold. */
export function requireHeld(operation: string, value: number): void {
  if (Math.abs(value) <= MOST_INTEGER) return;
  throw new BackendError(
    `gpu: ${operation} has the int32 ${value}, but this device holds whole numbers up to ${MOST_INTEGER} (2²⁴); compute with it on "wasm"`,
  );
}

/** Multiplications of 32 bits are beyond gpu.js, and float64 beyond the device: this draws on the host, the same numbers as everywhere. */
function draw(queue: Queue, y: DeviceArray, { key, offset }: RandomParams, fromWord: (word: number) => number): void {
  const data = new Float32Array(y.size);
  const words = new Uint32Array(4);
  for (let i = 0; i < data.length; i++) {
    if (i % 4 === 0) philoxBlock(offset + i / 4, key, words);
    data[i] = fromWord(words[i % 4] as number);
  }
  queue.write(y, data);
}

export const creation: Kernels<"fill" | "arange" | "uniform" | "normal"> = {
  fill: (queue, _, { value, dtype }, [{ array: y }]) => {
    if (dtype === "int32") requireHeld("fill", value);
    queue.run(fill, [y.size], y, { value });
  },
  arange: (queue, _, { start, step, length, dtype }, [{ array: y }]) => {
    if (dtype === "int32" && length > 0) for (const end of [start, start + (length - 1) * step]) requireHeld("arange", end);
    const whole = [start, step, start + length * step].every((value) => Number.isInteger(value) && Math.abs(value) < 2 ** 31);
    if (whole) queue.run(wholeArange, [y.size], y, { start, step });
    else queue.run(arange, [y.size], y, { start, step });
  },
  uniform: (queue, _, params, [{ array: y }]) => {
    if (queue.wgsl) uniform(queue.wgsl, params, y);
    else draw(queue, y, params, (word) => (word >>> 8) * 2 ** -24);
  },
  normal: (queue, _, params, [{ array: y }]) => draw(queue, y, params, (word) => normalQuantile((word + 0.5) * 2 ** -32)),
};

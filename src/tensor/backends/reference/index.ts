/**
 * The reference backend: every primitive as plain loops over JavaScript arrays, in both float types. It defines what each
 * kernel means and is the oracle for the faster backends, so it is written to be read; only matrix products are blocked.
 * It may import shapes, types and errors, and knows nothing of tensors, scopes or gradients.
 */
import ndarray from "ndarray";
import type { Backend, KernelName, MemoryStatistics, View } from "../../backend.ts";
import { bytesPerElement, dtypeOf, typedArray, type TypedArray } from "../../dtype.ts";
import { BackendError } from "../../errors.ts";
import type { Inputs, Outputs, Params } from "../../primitives.ts";
import { convolution } from "./convolution.ts";
import { creation } from "./creation.ts";
import { elementwise } from "./elementwise.ts";
import type { Kernels, Operand } from "./kernel.ts";
import { loss } from "./loss.ts";
import { movement } from "./movement.ts";
import { normalization } from "./normalization.ts";
import { pooling } from "./pooling.ts";
import { product } from "./product.ts";
import { reduction } from "./reduction.ts";

const kernels: Kernels<KernelName> = {
  ...creation,
  ...movement,
  ...elementwise,
  ...reduction,
  ...product,
  ...convolution,
  ...pooling,
  ...normalization,
  ...loss,
};

/**
 * A backend with buffers of its own.
 *
 * @param poolLimit freed arrays are kept for reuse up to this many bytes: fresh pages are dearer than most kernels. Beyond it
 *   those of the size that has lain there for longest make room, so that a program that changes its sizes still finds its own.
 */
export function openReference(poolLimit: number = 2 ** 29): Backend<TypedArray> {
  /** By type and size, the one that has been there for longest first; none is empty. */
  const pool = new Map<string, TypedArray[]>();
  let [buffers, bytes, peakBuffers, peakBytes, pooledBytes] = [0, 0, 0, 0, 0];
  const makeRoomFor = (size: number): void => {
    for (const [oldest, arrays] of pool) {
      while (pooledBytes + size > poolLimit && arrays.length > 0) pooledBytes -= arrays.pop()?.byteLength ?? 0;
      if (arrays.length > 0) return;
      pool.delete(oldest);
    }
  };
  const operand = ({ buffer, shape }: View<TypedArray>): Operand => ndarray(buffer, [...shape]);

  return {
    name: "reference",
    alloc(dtype, size) {
      const key = `${dtype} ${size}`;
      const list = pool.get(key);
      const pooled = list?.pop();
      if (pooled) pooledBytes -= pooled.byteLength;
      if (list?.length === 0) pool.delete(key);
      const buffer = pooled ?? allocate(dtype, size, bytes);
      bytes += buffer.byteLength;
      peakBuffers = Math.max(peakBuffers, ++buffers);
      peakBytes = Math.max(peakBytes, bytes);
      return buffer;
    },
    free(buffer) {
      buffers--;
      bytes -= buffer.byteLength;
      if (buffer.byteLength > poolLimit) return;
      makeRoomFor(buffer.byteLength);
      pooledBytes += buffer.byteLength;
      const key = `${dtypeOf(buffer)} ${buffer.length}`;
      const list = pool.get(key);
      if (list) list.push(buffer);
      else pool.set(key, [buffer]);
    },
    upload(buffer, data) {
      buffer.set(data);
    },
    download(buffer) {
      return Promise.resolve(buffer.slice());
    },
    downloadSync(buffer) {
      return buffer.slice();
    },
    run<K extends KernelName>(name: K, inputs: Inputs<K, View<TypedArray>>, params: Params<K>, outputs: Outputs<K, View<TypedArray>>) {
      // The tuple types depend on K and are opaque here; mapping keeps length and order.
      const toOperands = (views: readonly View<TypedArray>[]): unknown => views.map(operand);
      kernels[name](toOperands(inputs) as Inputs<K, Operand>, params, toOperands(outputs) as Outputs<K, Operand>);
    },
    memory(): MemoryStatistics {
      return { buffers, bytes, peakBuffers, peakBytes, pooledBytes };
    },
    resetPeak() {
      [peakBuffers, peakBytes] = [buffers, bytes];
    },
    describe: () => "plain loops, one thread, float32 and float64",
  };
}

function allocate(dtype: keyof typeof bytesPerElement, size: number, inUse: number): TypedArray {
  try {
    return typedArray(dtype, size);
  } catch (cause) {
    const wanted = size * bytesPerElement[dtype];
    throw new BackendError(
      `reference: cannot allocate ${wanted} bytes for ${size} ${dtype} with ${inUse} bytes in use; use a smaller batch`,
      { cause },
    );
  }
}

/**
 * The GPU backend: WebGPU in Node (Dawn, by the npm package webgpu) and in browsers, and WebGL2 in browsers without it. A kernel is a few
 * lines of JavaScript that gpu.js translates (portable), or on WebGPU WGSL where that is not enough (wgsl/); the queue issues both without
 * waiting. Numbers are float32, and int32 is held in float32, exactly up to 2²⁴. The reference backend says what each primitive computes.
 *
 * Reading order: kernel → compiler → memory, queue → device, webgpu → webgl → walk → elementwise and the other families.
 */
import type { Backend, KernelName, View } from "../../backend.ts";
import type { TypedArray } from "../../dtype.ts";
import { DTypeError } from "../../errors.ts";
import type { Inputs, Outputs, Params } from "../../primitives.ts";
import type { GpuJs } from "./compiler.ts";
import { convolution } from "./convolution.ts";
import { creation, requireHeld } from "./creation.ts";
import { findDevice, hasWebGpu, isBrowser, nameOf } from "./device.ts";
import { elementwise } from "./elementwise.ts";
import type { DeviceArray, Kernels, Operand } from "./kernel.ts";
import { loss } from "./loss.ts";
import { movement } from "./movement.ts";
import { normalization } from "./normalization.ts";
import { patches } from "./patches.ts";
import { pooling } from "./pooling.ts";
import { product } from "./product.ts";
import type { Queue } from "./queue.ts";
import { reduction } from "./reduction.ts";
import { findContext, nameOfContext, WebGlQueue } from "./webgl.ts";
import { WebGpuQueue } from "./webgpu.ts";

export interface GpuOptions {
  /** Default: `webgpu`, and `webgl2` in a browser without it. */
  readonly api?: "webgpu" | "webgl2";
  /** Whether kernels in WGSL take the place of portable ones. Default true. WebGL2 has portable ones only. */
  readonly overrides?: boolean;
}

const kernels: Kernels<KernelName> = {
  ...convolution,
  ...creation,
  ...elementwise,
  ...loss,
  ...movement,
  ...normalization,
  ...patches,
  ...pooling,
  ...product,
  ...reduction,
};

const operand = ({ buffer, shape, dtype }: View<DeviceArray>): Operand => ({ array: buffer, shape, dtype });

export interface GpuBackend extends Backend<DeviceArray> {
  readonly queue: Queue;
}

/** On WebGPU. */
export interface WebGpuBackend extends GpuBackend {
  readonly queue: WebGpuQueue;
  readonly device: GPUDevice;
}

/**
 * @param host computes linear algebra in float64 for this device.
 * @throws BackendError if there is no device, saying how to get one.
 */
export async function openGpu(options: GpuOptions = {}, host?: Backend): Promise<GpuBackend> {
  const { api = isBrowser() && !hasWebGpu() ? "webgl2" : "webgpu" } = options;
  return api === "webgpu" ? openWebGpu(options, host) : openWebGl(host);
}

/** The same for WebGPU alone. */
export async function openWebGpu({ overrides = true }: Pick<GpuOptions, "overrides"> = {}, host?: Backend): Promise<WebGpuBackend> {
  const { adapter, device } = await findDevice();
  const queue = new WebGpuQueue(device, await loadGpuJs(), overrides, adapter.info);
  const software = adapter.info.isFallbackAdapter ? " (software)" : "";
  return Object.assign(backendOf(queue, `${nameOf(adapter)}${software}, WebGPU`, host), { queue, device });
}

/** The same for WebGL2 alone. */
async function openWebGl(host?: Backend): Promise<GpuBackend> {
  const gl = findContext();
  return backendOf(new WebGlQueue(gl, await loadGpuJs()), `${nameOfContext(gl)}, WebGL2`, host);
}

async function loadGpuJs(): Promise<GpuJs> {
  const { default: gpuJs } = (await import("gpu.js")) as unknown as { default: GpuJs };
  return gpuJs;
}

function backendOf(queue: Queue, description: string, host?: Backend): GpuBackend {
  const { memory } = queue;
  return {
    name: "gpu",
    options: { api: queue instanceof WebGlQueue ? "webgl2" : "webgpu", overrides: queue.wgsl !== null } satisfies GpuOptions,
    ...(host && { host }),
    dtypes: ["float32", "int32"],
    queue,
    alloc(dtype, size, origin = "a tensor"): DeviceArray {
      if (dtype === "float64") {
        throw new DTypeError(
          `gpu: ${origin} wants float64, and this device has float32 and int32; cast to float32, or compute on the device "wasm"`,
        );
      }
      return { block: memory.take(4 * size, origin), size, dtype, origin };
    },
    free({ block }) {
      memory.give(block);
    },
    upload(array, data) {
      if (array.dtype === "int32") for (const value of data) requireHeld(array.origin ?? "a tensor", value);
      queue.write(array, data instanceof Float32Array ? data : Float32Array.from(data));
    },
    async download(array): Promise<TypedArray> {
      const data = await queue.read(array);
      return array.dtype === "int32" ? Int32Array.from(data) : data;
    },
    run<K extends KernelName>(name: K, inputs: Inputs<K, View<DeviceArray>>, params: Params<K>, outputs: Outputs<K, View<DeviceArray>>) {
      const views: readonly View<DeviceArray>[] = inputs;
      const results: readonly View<DeviceArray>[] = outputs;
      // A kernel may not read what it writes: a result that is to take the place of an operand is made aside.
      const aside = new Map<DeviceArray, DeviceArray>();
      try {
        for (const { buffer } of results) {
          if (!views.some((view) => view.buffer === buffer)) continue;
          aside.set(buffer, { ...buffer, block: memory.take(4 * buffer.size, name) });
        }
        // The tuple types depend on K and are opaque here; mapping keeps length and order.
        const from: unknown = views.map(operand);
        const to: unknown = results.map((view) => operand({ ...view, buffer: aside.get(view.buffer) ?? view.buffer }));
        kernels[name](queue, from as Inputs<K, Operand>, params, to as Outputs<K, Operand>);
        // Only now: the operand of an operation that fails is still the caller's.
        for (const [array, made] of aside) [array.block, made.block] = [made.block, array.block];
      } finally {
        for (const { block } of aside.values()) memory.give(block);
      }
    },
    memory: () => memory.statistics(),
    resetPeak() {
      memory.resetPeak();
    },
    describe: () => `${description}, float32, tensors of up to ${Math.floor(memory.limit / 2 ** 20)} MiB`,
    close() {
      queue.close();
    },
    get closed() {
      return queue.ended || host?.closed === true; // without its host it has no linear algebra
    },
  };
}

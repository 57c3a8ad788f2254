import fc from "fast-check";
import type { GpuBackend, GpuOptions, WebGpuBackend } from "../../src/tensor/backends/gpu/index.ts";
import { portable, type DeviceArray } from "../../src/tensor/backends/gpu/kernel.ts";
import type { WgslKernel } from "../../src/tensor/backends/gpu/queue.ts";
import { LinalgWorker, routines, type Routines } from "../../src/linalg/index.ts";
import { BackendError, Generator, openBackend, Tensor, tidy, type Backend, type KernelName } from "../../src/tensor/index.ts";
import { samples, type Sample } from "../samples.ts";
import { equalsDefinition } from "../tensor/gpu/checks.ts";
import { avoids } from "../tensor/gpu/traps.ts";
import { lossesOf, type Digits, type NetworkName, type OptimizerName } from "./training.ts";

/* The page's side of the browser tests: what runs there, asked for by name from outside. What fails throws. */

export type Api = NonNullable<GpuOptions["api"]>;

/** What is used of a canvas. */
interface ContextMaker {
  getContext: (...values: unknown[]) => unknown;
}

/** What a WebGL2 context has for trying its loss. */
interface LosableContext {
  getExtension(name: "WEBGL_lose_context"): { loseContext(): void };
}

const backends = new Map<string, Promise<Backend>>();
function backendOf(api: Api, overrides = true): Promise<Backend> {
  const key = `${api} ${overrides}`;
  const opened = backends.get(key) ?? openBackend("gpu", { api, overrides });
  backends.set(key, opened);
  return opened;
}

const page = {
  async describe(api: Api): Promise<string> {
    return (await backendOf(api)).describe();
  },

  /** A primitive on small samples, and that nothing is left of it. */
  async equalsDefinition(api: Api, name: KernelName, numRuns: number): Promise<void> {
    const backend = await backendOf(api);
    const before = backend.memory().buffers;
    await fc.assert(
      fc.asyncProperty(samples[name], (sample: Sample<typeof name>) => equalsDefinition(name, sample, backend)),
      { numRuns, seed: 20260101, includeErrorInReport: true },
    );
    const after = backend.memory().buffers;
    if (after !== before) throw new Error(`${after - before} buffers are left of ${name}`);
  },

  /** A case of traps.ts. */
  async avoids(api: Api, trap: string): Promise<void> {
    await avoids(trap, (await backendOf(api, false)) as GpuBackend);
  },

  /** What a read says once the page has lost the device, and whether the backend says that it can compute no more. */
  async loses(api: Api): Promise<{ message: string; closed: boolean }> {
    const { prototype } = (globalThis as unknown as { OffscreenCanvas: { prototype: ContextMaker } }).OffscreenCanvas;
    const { getContext } = prototype;
    const contexts: LosableContext[] = [];
    prototype.getContext = function (...values) {
      const context = getContext.apply(this, values);
      contexts.push(context as LosableContext);
      return context;
    };
    const backend = await openBackend("gpu", { api }).finally(() => (prototype.getContext = getContext));
    using x = Tensor.from([1, 2], { backend });
    if (api === "webgpu") (backend as WebGpuBackend).device.destroy();
    else contexts[0]?.getExtension("WEBGL_lose_context").loseContext();
    await new Promise((resolve) => setTimeout(resolve, 100)); // the page is told of it by an event
    const error: unknown = await x.data().catch((reason: unknown) => reason);
    if (!(error instanceof BackendError)) throw new Error(`the read gave ${String(error)}`);
    return { message: error.message, closed: backend.closed ?? false };
  },

  /** What is said of a kernel that gpu.js translates and WebGL2 does not compile. */
  async refusesKernel(): Promise<string> {
    const backend = (await backendOf("webgl2")) as GpuBackend;
    using x = Tensor.from([1, 2], { backend });
    const array = x.storage.buffer as DeviceArray;
    const broken = portable("bits", { a: "array" }, "return a[this.thread.x] | 1;");
    using y = Tensor.zeros([2], { backend });
    try {
      backend.queue.run(broken, [2], y.storage.buffer as DeviceArray, { a: array });
    } catch (error) {
      if (error instanceof BackendError) return error.message;
      throw error;
    }
    throw new Error("it was compiled");
  },

  /** What a read says after a kernel in WGSL that the browser does not compile, on a device of its own: it is the end of that. */
  async refusesWgsl(): Promise<string> {
    const backend = (await openBackend("gpu", { api: "webgpu" })) as WebGpuBackend;
    const broken: WgslKernel = { name: "half a kernel", code: "@compute @workgroup_size(64) fn main() { let x = ; }", reads: 0, writes: 1 };
    using y = Tensor.zeros([2], { backend });
    backend.queue.runWgsl(broken, [1, 1, 1], [], [y.storage.buffer as DeviceArray], []);
    const error: unknown = await y.data().catch((reason: unknown) => reason);
    backend.close?.();
    if (!(error instanceof BackendError)) throw new Error(`the read gave ${String(error)}`);
    return error.message;
  },

  /** The bits of a decomposition by a worker beside the page, which has a device of its own, and by the page itself. */
  async besideAndHere(api: Api, overrides: boolean): Promise<{ beside: number[]; here: number[] }> {
    const backend = await backendOf(api, overrides);
    const worker = new LinalgWorker();
    using x = tidy(() => new Generator(1).normal([120, 90], { backend }).gram());
    const bits = async ({ routines: { randomizedEigh } }: { routines: Pick<Routines, "randomizedEigh"> }): Promise<number[]> => {
      const { values, vectors } = await randomizedEigh(x, { rank: 12, oversampling: 4, generator: new Generator(7) });
      const data = await Promise.all([values, vectors].map((tensor) => tensor.data()));
      for (const tensor of [values, vectors]) tensor.dispose();
      return data.flatMap((numbers) => [...new Uint32Array(Float32Array.from(numbers).buffer)]);
    };
    const both = { beside: await bits(worker), here: await bits({ routines }) };
    worker.close();
    return both;
  },

  /** A training, and that nothing is left of it. */
  async lossesOf(api: Api, network: NetworkName, name: OptimizerName, digits: Digits): Promise<number[]> {
    const backend = await backendOf(api);
    const before = backend.memory().buffers;
    const losses = await lossesOf(backend, network, name, digits);
    const after = backend.memory().buffers;
    if (after !== before) throw new Error(`${after - before} buffers are left of the training by ${name}`);
    return losses;
  },
};

export type Page = typeof page;
Object.assign(globalThis, { page });

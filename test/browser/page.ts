import fc from "fast-check";
import type { GpuOptions } from "../../src/tensor/backends/gpu/index.ts";
import { openBackend, type Backend, type KernelName } from "../../src/tensor/index.ts";
import { samples, type Sample } from "../samples.ts";
import { equalsDefinition } from "../tensor/gpu/checks.ts";
import { lossesOf, type Digits, type OptimizerName } from "./training.ts";

/* The page's side of the browser tests: what runs there, asked for by name from outside. What fails throws. */

export type Api = NonNullable<GpuOptions["api"]>;

const backends = new Map<Api, Promise<Backend>>();
function backendOf(api: Api): Promise<Backend> {
  const opened = backends.get(api) ?? openBackend("gpu", { api });
  backends.set(api, opened);
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

  /** A training, and that nothing is left of it. */
  async lossesOf(api: Api, name: OptimizerName, digits: Digits): Promise<number[]> {
    const backend = await backendOf(api);
    const before = backend.memory().buffers;
    const losses = await lossesOf(backend, name, digits);
    const after = backend.memory().buffers;
    if (after !== before) throw new Error(`${after - before} buffers are left of the training by ${name}`);
    return losses;
  },
};

export type Page = typeof page;
Object.assign(globalThis, { page });

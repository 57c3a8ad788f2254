import fc from "fast-check";
import type { GpuBackend, GpuOptions } from "../../src/tensor/backends/gpu/index.ts";
import { openBackend, type Backend, type KernelName } from "../../src/tensor/index.ts";
import { samples, type Sample } from "../samples.ts";
import { equalsDefinition } from "../tensor/gpu/checks.ts";
import { avoids } from "../tensor/gpu/traps.ts";
import { lossesOf, type Digits, type NetworkName, type OptimizerName } from "./training.ts";

/* The page's side of the browser tests: what runs there, asked for by name from outside. What fails throws. */

export type Api = NonNullable<GpuOptions["api"]>;

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

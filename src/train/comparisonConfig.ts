import { z } from "zod";
import { UsageError } from "../tensor/index.ts";
import { checked, keysOf, parseConfig, type TrainConfig } from "./config.ts";

/** A run's name is the name of its folder too, so it keeps to what file systems and shells bear. */
const NAME = /^[\p{L}\p{N}](?:[\p{L}\p{N} ._+=,()-]*[\p{L}\p{N}+)])?$/u;

const distinct = (values: readonly unknown[]): boolean => new Set(values).size === values.length;

/** What a comparison has besides the keys of a training, which all its runs have in common unless they say otherwise. */
const schema = z.strictObject({
  seeds: z
    .array(z.number().int().min(0))
    .min(1)
    .refine(distinct, "a seed stands there twice")
    .default([0, 1, 2])
    .describe("seeds that each run is trained with"),
  targets: z
    .array(z.number().positive().max(100))
    .refine(distinct, "a target stands there twice")
    .default([])
    .describe("test accuracies in %, to each of which epochs and seconds are counted"),
  out: z.string().optional().describe("folder of the comparison; default runs/<name of the configuration file>"),
  runs: z
    .array(z.looseObject({ name: z.string().regex(NAME, "must be letters, digits and . _ + = , ( ) - or spaces inside").optional() }))
    .min(1)
    .describe("what is compared"),
});

/** One of the things compared: what it is called, and how it is trained, the seed aside. */
export interface ComparedRun {
  readonly name: string;
  readonly config: TrainConfig;
}

/** Several ways to train, each with the same seeds. */
export interface Comparison {
  readonly seeds: readonly number[];
  /** Test accuracies in %, in (0, 100]. */
  readonly targets: readonly number[];
  readonly out: string | undefined;
  readonly runs: readonly ComparedRun[];
}

/** The keys of a comparison that a command line can offer: all but its runs. */
export const comparisonKeys = keysOf(schema).filter(({ key }) => key !== "runs");

/**
 * Checks a comparison: `{ seeds, targets, out, runs: [{ name, … }], … }`, where the dots are keys of a training, those of all runs outside
 * and those of one run inside it. A run without a name is called by its optimizer.
 *
 * @throws UsageError listing every fault, for names that do not differ, and for a `seed` or a run's `out`, which are the comparison's.
 */
export function parseComparison(input: unknown, source = "the comparison"): Comparison {
  const keys = Object.keys(schema.shape);
  const given = typeof input === "object" && input !== null && !Array.isArray(input) ? Object.entries(input) : null;
  if (!given) throw new UsageError(`${source} is not valid: expected an object with the key "runs"`);
  const own = checked(schema, Object.fromEntries(given.filter(([key]) => keys.includes(key))), source);
  const common = Object.fromEntries(given.filter(([key]) => !keys.includes(key)));
  refuse(common, ["seed"], source);
  parseConfig(common, source); // a fault outside the runs is told once, and not with the name of a run
  const runs = own.runs.map(({ name, ...settings }, i) => {
    const place = `${source}: run ${i + 1}${name === undefined ? "" : ` ("${name}")`}`;
    refuse(settings, ["seed", "out"], place);
    const config = parseConfig({ ...common, ...settings }, place);
    return { name: name ?? config.optimizer, config };
  });
  // Some file systems do not tell A from a.
  const folders = runs.map(({ name }) => name.toLowerCase());
  const twice = runs.find(({ name }, i) => folders.indexOf(name.toLowerCase()) < i);
  if (twice) throw new UsageError(`${source}: two runs are called "${twice.name}"; give each a "name" of its own`);
  return { seeds: own.seeds, targets: own.targets, out: own.out, runs };
}

function refuse(settings: Readonly<Record<string, unknown>>, keys: readonly string[], place: string): void {
  const found = keys.filter((key) => key in settings);
  if (found.length > 0) {
    throw new UsageError(`${place}: ${found.join(", ")} cannot be set here; seeds and out are the comparison's, for all runs`);
  }
}

/** Keys in which two configurations differ; where the run is written does not count. */
export function differingKeys(a: TrainConfig, b: TrainConfig): string[] {
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]) as Set<keyof TrainConfig>;
  return [...keys].filter((key) => key !== "out" && JSON.stringify(a[key]) !== JSON.stringify(b[key]));
}

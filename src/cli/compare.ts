import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { summarize } from "../nn/index.ts";
import { KfacetError, UsageError } from "../tensor/index.ts";
import {
  compareRuns,
  differingKeys,
  parseComparison,
  prepareRun,
  RunFolder,
  type Comparison,
  type EpochEvent,
  type Outcome,
  type RunFigures,
  type TrainConfig,
} from "../train/index.ts";
import { plotComparison } from "./comparisonPlots.ts";
import { comparisonMarkdown, comparisonTable } from "./comparisonTable.ts";
import { openPlotter, type Plotter } from "./plots.ts";
import { progressBar, silent } from "./progress.ts";
import { follow, readConfig } from "./train.ts";
import { version } from "./version.ts";

/** One training of a comparison: a run with a seed. */
interface Planned {
  readonly name: string;
  readonly seed: number;
  readonly config: TrainConfig;
  readonly path: string;
}

/** `kfacet compare`: trains what is not trained yet, and writes and prints the figures. Returns the exit code. */
export async function compareCommand(file: string, flags: Record<string, unknown>): Promise<number> {
  const { json, ...given } = flags;
  const silently = json === true;
  const source = Object.keys(given).length > 0 ? `${file} with the command line` : file;
  const comparison = parseComparison({ ...(await readConfig(file)), ...given }, source);
  const out = comparison.out ?? join("runs", basename(file, ".json"));
  const plan = planOf(comparison, out);
  const trained = new Map<Planned, Outcome>();
  for (const planned of plan) {
    const epochs = await epochsOf(planned);
    if (epochs) trained.set(planned, { seed: planned.seed, epochs });
  }
  const open = plan.filter((planned) => !trained.has(planned));
  await tryOut(open);
  await mkdir(out, { recursive: true }).catch((cause: unknown) => {
    throw new UsageError(`cannot make the folder ${out}: ${String(cause)}`, { cause });
  });
  const plotter = await openPlotter();
  if (!plotter.works) console.error(`${plotter.reason}; call the command again then, finished trainings are not repeated`);

  const outcomes = await trainAll(open, silently);
  if (!outcomes) {
    console.error("call the command again to go on: finished trainings are not repeated, the interrupted one starts over");
    return 130;
  }
  for (const [planned, outcome] of outcomes) trained.set(planned, outcome);
  const compared = comparison.runs.map(({ name }) => ({
    name,
    outcomes: plan.flatMap((planned) => (planned.name === name ? (trained.get(planned) ?? []) : [])),
  }));
  const figures = compareRuns(compared, comparison.targets);
  await writeFigures(comparison, figures, plotter, out, silently);
  return figures.some(({ failures }) => failures.length > 0) ? 1 : 0;
}

/** Trains one after the other, also after one that fails. Null if it is interrupted. */
async function trainAll(open: readonly Planned[], silently: boolean): Promise<Map<Planned, Outcome> | null> {
  const interruption = new AbortController();
  process.once("SIGINT", () => {
    interruption.abort();
  });
  const outcomes = new Map<Planned, Outcome>();
  for (const [i, planned] of open.entries()) {
    const { name, seed } = planned;
    if (!silently) console.error(`\n${i + 1} of ${open.length} trainings: ${name}, seed ${seed}`);
    try {
      outcomes.set(planned, { seed, epochs: await trainOne(planned, silently, interruption.signal) });
    } catch (error) {
      // One that fails is a result like others. What is no error of kfacet's own is shown with its place.
      const failure = error instanceof Error ? error.message : String(error);
      console.error(`kfacet: ${name}, seed ${seed} failed: ${failure}`);
      if (!(error instanceof KfacetError)) console.error(error);
      outcomes.set(planned, { seed, failure });
    }
    if (interruption.signal.aborted) return null;
  }
  return outcomes;
}

/** Writes `comparison.json`, `comparison.md` and the plots, and prints the table. */
async function writeFigures(
  comparison: Comparison,
  figures: readonly RunFigures[],
  plotter: Plotter,
  out: string,
  silently: boolean,
): Promise<void> {
  const { seeds, targets } = comparison;
  const runs = comparison.runs.map(({ name, config: { seed: _, ...config } }) => ({ name, config }));
  const report = { version, config: { seeds, targets, runs }, runs: figures };
  await writeFile(join(out, "comparison.json"), `${JSON.stringify(report, null, 2)}\n`);
  const plots = plotter.works ? await plotComparison(plotter, figures, targets, out) : [];
  await writeFile(join(out, "comparison.md"), comparisonMarkdown(comparison, figures, plots));
  if (silently) {
    console.log(JSON.stringify(report));
    return;
  }
  const files = ["comparison.md", "comparison.json", ...plots].map((name) => join(out, name));
  console.log(`\n${comparisonTable(figures)}\n${files.join("\n")}`);
}

/** Seed by seed, and within a seed run by run, so that a slow drift of the machine hits all runs alike. */
function planOf({ seeds, runs }: Comparison, out: string): Planned[] {
  return seeds.flatMap((seed) =>
    runs.map(({ name, config }) => {
      const path = join(out, name, `seed-${seed}`);
      return { name, seed, path, config: { ...config, seed, out: path } };
    }),
  );
}

/** What an earlier call trained to the end; null if it did not. @throws UsageError if something else was trained there. */
async function epochsOf({ path, config }: Planned): Promise<EpochEvent[] | null> {
  if (!existsSync(join(path, "config.json"))) return null;
  const { folder, config: found } = await RunFolder.open(path);
  const differing = differingKeys(config, found);
  if (differing.length > 0) {
    throw new UsageError(
      `${path} holds a run with another configuration: ${differing.map((key) => describeDifference(key, config, found)).join(", ")}; choose another folder with --out, or remove that one`,
    );
  }
  if (!folder.finished) return null;
  const epochs = await epochEvents(folder);
  return epochs.length === config.epochs ? epochs : null;
}

function describeDifference(key: string, config: object, found: object): string {
  const show = (side: object): string => (key in side ? JSON.stringify((side as Record<string, unknown>)[key]) : "not set");
  return `${key} is ${show(found)} there and ${show(config)} here`;
}

/** Builds each run once, so that a mistake in the last of them is found before the first is trained. */
async function tryOut(plan: readonly Planned[]): Promise<void> {
  const seen = new Set<string>();
  for (const { name, config } of plan) {
    if (seen.has(name)) continue;
    seen.add(name);
    try {
      (await prepareRun(config)).dispose();
    } catch (cause) {
      if (cause instanceof UsageError) throw new UsageError(`run "${name}": ${cause.message}`, { cause });
      throw cause;
    }
  }
}

/** Trains from the beginning, also where an earlier call was interrupted. An interrupted training has no summary. */
async function trainOne({ config, path }: Planned, silently: boolean, interruption: AbortSignal): Promise<EpochEvent[]> {
  const run = await prepareRun(config);
  try {
    const { height, width, channels } = run.data.train;
    const { parameters } = summarize(run.model, [1, height, width, channels]);
    const folder = await emptyFolder(path, config);
    const progress = silently ? silent : progressBar(config.epochs, run.train.batches);
    const summary = await follow(run, folder, parameters, progress, { talk: silently ? "nothing" : "briefly", interruption });
    // Also of one that was interrupted when all was done.
    if (summary.epochs === config.epochs) await folder.writeSummary(summary);
    return await epochEvents(folder);
  } finally {
    run.dispose();
  }
}

async function emptyFolder(path: string, config: TrainConfig): Promise<RunFolder> {
  if (!existsSync(join(path, "config.json"))) return RunFolder.create(path, config);
  const { folder } = await RunFolder.open(path);
  await folder.startOver();
  return folder;
}

async function epochEvents(folder: RunFolder): Promise<EpochEvent[]> {
  const epochs: EpochEvent[] = [];
  for await (const event of folder.events()) if (event.type === "epoch") epochs.push(event);
  return epochs;
}

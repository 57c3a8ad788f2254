import { readFile } from "node:fs/promises";
import { join } from "node:path";
import Table from "cli-table3";
import { summarize } from "../nn/index.ts";
import { UsageError } from "../tensor/index.ts";
import {
  addPhases,
  NO_TIME,
  parseConfig,
  parseJson,
  prepareRun,
  RunFolder,
  train,
  type CurvatureEvent,
  type RefreshEvent,
  type Run,
  type RunSummary,
  type TrainConfig,
} from "../train/index.ts";
import { progressBar, silent, type Progress } from "./progress.ts";
import { version } from "./version.ts";

/** `kfacet train`: returns the exit code. */
export async function trainCommand(file: string | undefined, flags: Record<string, unknown>): Promise<number> {
  const { json = false, ...given } = flags;
  const sources = [
    ...(file === undefined ? [] : [file]),
    ...(file === undefined || Object.keys(given).length > 0 ? ["the command line"] : []),
  ];
  const config = parseConfig({ ...(await readConfig(file)), ...given }, sources.join(" with "));
  const run = await prepareRun(config);
  const { height, width, channels } = run.data.train;
  const network = summarize(run.model, [1, height, width, channels]);
  // From here on Ctrl-C ends the run in good order: before the folder exists, so that none is left without a checkpoint.
  const interruption = new AbortController();
  process.once("SIGINT", () => {
    interruption.abort();
  });
  const folder = await RunFolder.create(config.out ?? defaultFolder(config), config);
  if (!json) {
    console.log(`${config.model} on ${config.data}: ${run.data.train.length} images to learn from, ${run.data.test.length} to test\n`);
    console.log(`${network.toString()}\n`);
  }

  const progress = json ? silent : progressBar(config.epochs, run.train.batches);
  const summary = await follow(run, folder, network.parameters, progress, {
    talk: json ? "nothing" : "fully",
    interruption: interruption.signal,
  });
  await folder.writeSummary(summary);
  if (json) console.log(JSON.stringify(summary));
  else printSummary(summary, folder.path);
  return interruption.signal.aborted ? 130 : 0;
}

/** Trains, writing every event to the folder and a checkpoint after each epoch. An interruption ends it after the step under way. */
export async function follow(
  run: Run,
  folder: RunFolder,
  parameters: number,
  progress: Progress,
  { talk, interruption }: { readonly talk: "fully" | "briefly" | "nothing"; readonly interruption: AbortSignal },
): Promise<RunSummary> {
  const { config, model } = run;
  const start = performance.now();
  const secondsPerEpoch: number[] = [];
  const testAccuracy: number[] = [];
  let phases = NO_TIME;
  try {
    for await (const event of train({ ...run, epochs: config.epochs })) {
      folder.append(event);
      if (event.type === "step") {
        progress.step(event);
        phases = addPhases(phases, event.phases);
      } else if (event.type === "epoch") {
        progress.epoch(event);
        secondsPerEpoch.push(event.seconds);
        testAccuracy.push(event.testAccuracy);
        await folder.saveCheckpoint(model, { epochs: event.epoch + 1, steps: run.optimizer.steps }, config);
      } else if (event.type === "curvature" && talk !== "nothing") {
        progress.stop();
        if (talk === "fully") console.error(registrationTable(event));
        console.error(registrationCount(event));
      } else if (event.type === "refresh" && talk !== "nothing") {
        const lines = spokenOf(event);
        if (lines.length > 0) progress.stop();
        for (const line of lines) console.error(line);
      }
      if (interruption.aborted) break;
    }
    if (interruption.aborted) {
      progress.stop();
      await folder.saveInterrupted(model, { epochs: secondsPerEpoch.length, steps: run.optimizer.steps }, config);
      console.error("interrupted: the model as it is was saved");
    }
  } finally {
    progress.stop();
  }
  return {
    model: config.model,
    optimizer: config.optimizer,
    device: config.device,
    parameters,
    epochs: secondsPerEpoch.length,
    seconds: (performance.now() - start) / 1000,
    secondsPerEpoch,
    testAccuracy,
    phases,
    seed: config.seed,
    version,
  };
}

/** Which parameter got what. */
function registrationTable({ registration }: CurvatureEvent): string {
  const table = new Table({
    head: ["parameter", "preconditioned by", "or else why not"],
    style: { head: [], border: [] },
    chars: { mid: "", "left-mid": "", "mid-mid": "", "right-mid": "" }, // a network has many: no lines between them
  });
  for (const { parameter, block, reason } of registration) table.push([parameter, block ?? "–", reason]);
  return table.toString();
}

function registrationCount({ registration }: CurvatureEvent): string {
  const count = registration.filter(({ block }) => block !== null).length;
  // SENG takes the Fisher matrix of these for the identity.
  const divided = registration.some(({ block }) => block === "seng") ? ", divided by 1 + λ" : "";
  return `curvature: ${count} of ${registration.length} parameters are preconditioned, the others take the plain gradient${divided}`;
}

/** What blocks have to say in words, once for all layers that say the same. */
function spokenOf({ step, layers }: RefreshEvent): string[] {
  const speakers = new Map<string, string[]>();
  for (const { layer, problems, remarks } of layers) {
    for (const words of [...problems, ...remarks]) speakers.set(words, [...(speakers.get(words) ?? []), layer]);
  }
  return [...speakers].map(([words, names]) => `step ${step}, ${names.join(", ")}: ${words}`);
}

/** What a configuration file holds; nothing if there is none. @throws UsageError for one that is no JSON object. */
export async function readConfig(file: string | undefined): Promise<Record<string, unknown>> {
  if (file === undefined) return {};
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new UsageError(`cannot read the configuration file ${file}: ${String(cause)}`, { cause });
  });
  const value = parseJson(text, file);
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new UsageError(`${file} must hold a JSON object of options`);
  return value as Record<string, unknown>;
}

function defaultFolder({ model, optimizer }: TrainConfig): string {
  const time = new Date().toISOString().slice(0, 19).replace(/:/g, "-");
  return join("runs", `${model}-${optimizer}-${time}`);
}

function printSummary(summary: RunSummary, path: string): void {
  const table = new Table({ style: { head: [], border: [] } });
  const last = summary.testAccuracy.at(-1);
  const spent = (Object.entries(summary.phases) as [string, number][]).filter(([, seconds]) => seconds > 0);
  table.push(
    { "test accuracy": last === undefined ? "no epoch finished" : `${(100 * last).toFixed(2)} %` },
    { optimizer: summary.optimizer },
    { parameters: summary.parameters.toLocaleString("en") },
    { "seconds an epoch": summary.secondsPerEpoch.map((s) => s.toFixed(1)).join(", ") },
    { "seconds in all": summary.seconds.toFixed(1) },
    { "of these": spent.map(([phase, seconds]) => `${phase} ${seconds.toFixed(1)}`).join(", ") },
    { "run folder": path },
  );
  console.log(`\n${table.toString()}`);
}

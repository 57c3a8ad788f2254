import { appendFileSync, existsSync } from "node:fs";
import { mkdir, open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Module } from "../nn/index.ts";
import { CheckpointError, UsageError } from "../tensor/index.ts";
import { loadCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import { parseConfig, type TrainConfig } from "./config.ts";
import type { Phases, TrainEvent } from "./events.ts";

/** The last file of a run: what it was and how it went. */
export interface RunSummary {
  readonly model: string;
  readonly optimizer: string;
  readonly device: string;
  readonly parameters: number;
  readonly epochs: number;
  readonly seconds: number;
  readonly secondsPerEpoch: readonly number[];
  readonly testAccuracy: readonly number[];
  readonly phases: Phases;
  readonly seed: number;
  readonly version: string;
}

/** How far a model has come: whole epochs, and steps in all. */
export interface RunProgress {
  readonly epochs: number;
  readonly steps: number;
}

/**
 * The folder of one run: `config.json`, `metrics.jsonl` (one event a line, written as it happens), the newest
 * `checkpoint-*.safetensors`, and at the end `summary.json`.
 */
export class RunFolder {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /** Makes a new folder. @throws UsageError if it cannot be made, or is not empty: nothing is overwritten. */
  static async create(path: string, config: TrainConfig): Promise<RunFolder> {
    await mkdir(path, { recursive: true }).catch((cause: unknown) => {
      throw new UsageError(`cannot make the run folder ${path}: ${String(cause)}`, { cause });
    });
    const entries = await readdir(path);
    if (entries.length > 0) throw new UsageError(`the run folder ${path} is not empty; choose another with --out, nothing is overwritten`);
    await writeFile(join(path, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
    await writeFile(join(path, "metrics.jsonl"), "");
    return new RunFolder(path);
  }

  /** Opens a folder that `create` made. @throws CheckpointError if there is no run in it. */
  static async open(path: string): Promise<{ folder: RunFolder; config: TrainConfig }> {
    const file = join(path, "config.json");
    const text = await readFile(file, "utf8").catch((cause: unknown) => {
      throw new CheckpointError(`${path} is not a run folder: cannot read ${file}: ${String(cause)}`, { cause });
    });
    return { folder: new RunFolder(path), config: parseConfig(parseJson(text, file), file) };
  }

  /** Appends at once, so that a crash loses nothing that was told. */
  append(event: TrainEvent): void {
    appendFileSync(join(this.path, "metrics.jsonl"), `${JSON.stringify(event)}\n`);
  }

  /** What was told, event by event. @throws CheckpointError if the metrics cannot be read, naming the line. */
  async *events(): AsyncGenerator<TrainEvent, void, undefined> {
    const file = join(this.path, "metrics.jsonl");
    const handle = await open(file).catch((cause: unknown) => {
      throw new CheckpointError(`cannot read the metrics ${file}: ${String(cause)}`, { cause });
    });
    try {
      let number = 0;
      // Line by line: the spectra of a long run are more than one string can hold.
      for await (const line of handle.readLines()) yield parseEvent(line, `${file}, line ${++number}`);
    } finally {
      await handle.close();
    }
  }

  /** Whether there is a summary: the run ended, by itself or interrupted. */
  get finished(): boolean {
    return existsSync(join(this.path, "summary.json"));
  }

  /** Forgets what a run left that did not come to its end, so that it can be trained from the beginning. The configuration stays. */
  async startOver(): Promise<void> {
    for (const name of [...(await this.#checkpoints()), "summary.json"]) await rm(join(this.path, name), { force: true });
    await writeFile(join(this.path, "metrics.jsonl"), "");
  }

  /** Saves the model at the end of an epoch, then removes the checkpoints before it. */
  async saveCheckpoint(model: Module, progress: RunProgress, config: TrainConfig): Promise<void> {
    const older = await this.#checkpoints();
    const name = await this.#save(model, progress, config);
    for (const other of older) if (other !== name) await rm(join(this.path, other));
  }

  /** Saves the model in the middle of an epoch; the checkpoint of the last whole epoch stays. */
  async saveInterrupted(model: Module, progress: RunProgress, config: TrainConfig): Promise<void> {
    await this.#save(model, progress, config);
  }

  async #save(model: Module, { epochs, steps }: RunProgress, config: TrainConfig): Promise<string> {
    const name = `checkpoint-${String(steps).padStart(8, "0")}.safetensors`;
    await saveCheckpoint(join(this.path, name), model, { epochs: String(epochs), steps: String(steps), config: JSON.stringify(config) });
    return name;
  }

  /** Loads the newest checkpoint into the model; returns how far it had come. */
  async loadCheckpoint(model: Module): Promise<RunProgress> {
    const newest = (await this.#checkpoints()).at(-1);
    if (!newest) throw new CheckpointError(`${this.path} has no checkpoint: the run ended before its first epoch did`);
    const metadata = await loadCheckpoint(join(this.path, newest), model);
    return { epochs: Number(metadata["epochs"]), steps: Number(metadata["steps"]) };
  }

  async #checkpoints(): Promise<string[]> {
    return (await readdir(this.path)).filter((name) => /^checkpoint-\d+\.safetensors$/.test(name)).sort();
  }

  async writeSummary(summary: RunSummary): Promise<void> {
    await writeFile(join(this.path, "summary.json"), `${JSON.stringify(summary, null, 2)}\n`);
  }
}

function parseEvent(line: string, place: string): TrainEvent {
  let event: unknown;
  try {
    event = JSON.parse(line);
  } catch (cause) {
    throw new CheckpointError(`${place} is not JSON: ${String(cause)}; was the run killed while it wrote?`, { cause });
  }
  if (typeof event !== "object" || event === null || !("type" in event)) throw new CheckpointError(`${place} is no event of a training`);
  return event as TrainEvent;
}

/** @throws UsageError for text that is not JSON, naming the file. */
export function parseJson(text: string, file: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new UsageError(`${file} is not JSON: ${String(cause)}`, { cause });
  }
}

#!/usr/bin/env node
/**
 * The `kfacet` command. Imports everything, is imported by nothing. Each command is a file; this one parses and turns errors into
 * exit codes: 0 done, 1 failed, 2 wrong usage or unreadable input, 130 interrupted with the checkpoint written.
 */
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { CheckpointError, DataError, KfacetError, UsageError } from "../tensor/index.ts";
import { comparisonKeys, configKeys, type ConfigKey } from "../train/index.ts";
import { compareCommand } from "./compare.ts";
import { doctorCommand } from "./doctor.ts";
import { evalCommand } from "./eval.ts";
import { spectrumCommand } from "./spectrum.ts";
import { trainCommand } from "./train.ts";
import { version } from "./version.ts";

/** What a flag's value looks like. */
const FORMS: Readonly<Record<ConfigKey["kind"], string>> = {
  string: "string",
  number: "number",
  list: "a,b,…",
  names: "a,b,…",
  "number or list": "a or a,b,…",
};

/** A key of a configuration that is a flag too. */
type Flag = Omit<ConfigKey, "key"> & { readonly key: string };

const program = new Command("kfacet")
  .description("Second-order deep learning in TypeScript: trains VGG networks with K-FAC and first-order optimizers.")
  .version(version)
  .exitOverride()
  .showHelpAfterError("(kfacet --help and kfacet COMMAND --help show what there is)");

const train = program
  .command("train")
  .description("Train a network; every option but --json is also a key of the configuration file.")
  .argument("[config]", "JSON file of options; flags win over it")
  .option("--json", "print the summary as JSON, and no progress bar")
  .action(async (config: string | undefined, flags: Record<string, unknown>) => {
    process.exitCode = await trainCommand(config, flags);
  });
for (const key of configKeys) train.addOption(flagOf(key));

program
  .command("eval")
  .description("Evaluate the newest checkpoint of a run on its test data.")
  .argument("<dir>", "run folder")
  .option("--json", "print JSON")
  .action(async (directory: string, { json = false }: { json?: boolean }) => {
    await evalCommand(directory, json);
  });

const compare = program
  .command("compare")
  .description("Train several runs with several seeds each on one task, and print and plot how fast each of them learns.")
  .argument("<config>", 'JSON file of options, with "runs": a list of what is compared, each with the options that it has for itself')
  .option("--json", "print the figures as JSON, and no progress bar")
  .action(async (config: string, flags: Record<string, unknown>) => {
    process.exitCode = await compareCommand(config, flags);
  });
for (const key of comparisonKeys) compare.addOption(flagOf(key));
// What all runs have in common; what one has for itself stands in the file. A comparison has its own folder and seeds.
for (const key of configKeys) if (!["optimizer", "seed", "out"].includes(key.key)) compare.addOption(flagOf(key));

program
  .command("spectrum")
  .description("Show how the eigenvalues of a run's Kronecker factors decay; writes figures and plots into its folder.")
  .argument("<dir>", "run folder")
  .option("--json", "print JSON")
  .action(async (directory: string, { json = false }: { json?: boolean }) => {
    await spectrumCommand(directory, json);
  });

program
  .command("doctor")
  .description("Show which backends and data sources work on this machine, and why others do not.")
  .option("--json", "print JSON")
  .action(async ({ json = false }: { json?: boolean }) => {
    process.exitCode = await doctorCommand(json);
  });

/** `batchSize` → `--batch-size <number>`. Defaults are the schema's, so that a configuration file can still set them. */
function flagOf({ key, kind, description, choices, default: fallback }: Flag): Option {
  const name = key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  const shown = fallback === undefined ? description : `${description} (default: ${JSON.stringify(fallback)})`;
  const option = new Option(`--${name} <${FORMS[kind]}>`, shown);
  if (choices) option.choices([...choices]);
  if (kind === "number") option.argParser(toNumber);
  if (kind === "names") option.argParser((text) => text.split(","));
  if (kind === "list") option.argParser((text) => text.split(",").map(toNumber));
  if (kind === "number or list") option.argParser((text) => (text.includes(",") ? text.split(",").map(toNumber) : toNumber(text)));
  return option;
}

function toNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value)) throw new InvalidArgumentError("It must be a number.");
  return value;
}

// `kfacet … | head` closes the pipe early: that is the reader's choice and no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(process.exitCode ?? 0);
});

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}

function report(error: unknown): number {
  // Commander has already printed its own message; help and version are no errors.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if (error instanceof KfacetError) {
    console.error(`kfacet: ${error.message}`);
    return error instanceof UsageError || error instanceof DataError || error instanceof CheckpointError ? 2 : 1;
  }
  console.error(error);
  return 1;
}

/**
 * `npm run bench -- NAME… [--json FILE]`: benchmark suites, each printing times beside its peers' in the same run. No name runs
 * the quick ones. Every time is a median of interleaved rounds after a warm-up; compare ratios, not milliseconds, between machines.
 */
import { writeFile } from "node:fs/promises";
import { Command, Option } from "commander";
import { conv } from "./conv.ts";
import { covariance } from "./covariance.ts";
import { curvature } from "./curvature.ts";
import { eigh } from "./eigh.ts";
import { gemm } from "./gemm.ts";
import { gpu } from "./gpu.ts";
import { memory } from "./memory.ts";
import { optimizers } from "./optimizers.ts";
import { randomized } from "./randomized.ts";
import { machine, printTable, type BenchOptions, type Suite } from "./report.ts";
import { step } from "./step.ts";

const suites: Readonly<Record<string, (options: BenchOptions) => Promise<Suite>>> = {
  gemm,
  conv,
  covariance,
  step,
  memory,
  eigh,
  randomized,
  curvature,
  optimizers,
  gpu,
};
/** Those that take a minute or two. */
const quick = ["gemm", "conv", "covariance", "optimizers"];

const command = new Command("bench")
  .argument("[names...]", `suites: ${Object.keys(suites).join(", ")}`)
  .option("--json <file>", "also write the figures to a file")
  .addOption(new Option("--backend <name>", "kfacet's backend").choices(["wasm", "reference"]).default("wasm"))
  .option("--small", "small sizes and few rounds: to see whether a bench works", false)
  .parse();
const names = command.args.length > 0 ? command.args : quick;
const unknown = names.filter((name) => !Object.hasOwn(suites, name));
if (unknown.length > 0)
  command.error(`there is no benchmark "${unknown.join('", "')}"; known: ${Object.keys(suites).join(", ")}`, { exitCode: 2 });

const { json, ...options } = command.opts<BenchOptions & { json?: string }>();
const files: unknown[] = [];
for (const name of names) {
  const suite = await (suites[name] as (options: BenchOptions) => Promise<Suite>)(options);
  console.log(`\n${name}, ${machine().cpu}, Node ${machine().node}`);
  printTable(suite);
  for (const note of suite.notes) console.log(note);
  const { rows, absent = [] } = suite;
  files.push({ bench: name, machine: machine(), backend: options.backend, rows, absent });
}
if (json) await writeFile(json, `${JSON.stringify(files.length === 1 ? files[0] : files, null, 2)}\n`);

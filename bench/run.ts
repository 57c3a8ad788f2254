/**
 * `npm run bench -- NAME… [--json FILE]`: benchmark suites, each printing times beside its peers' in the same run. No name runs
 * all. Every figure is a median of interleaved rounds after a warm-up; compare ratios, not milliseconds, between machines.
 */
import { writeFile } from "node:fs/promises";
import { Command } from "commander";
import { optimizers } from "./optimizers.ts";
import { machine, printTable, type Suite } from "./report.ts";

const suites: Readonly<Record<string, () => Promise<Suite>>> = { optimizers };

const command = new Command("bench")
  .argument("[names...]", `suites: ${Object.keys(suites).join(", ")}`)
  .option("--json <file>", "also write the figures to a file")
  .parse();
const names = command.args.length > 0 ? command.args : Object.keys(suites);
const unknown = names.filter((name) => !(name in suites));
if (unknown.length > 0)
  command.error(`there is no benchmark "${unknown.join('", "')}"; known: ${Object.keys(suites).join(", ")}`, { exitCode: 2 });

const files: unknown[] = [];
for (const name of names) {
  const { rows, notes } = await (suites[name] as () => Promise<Suite>)();
  console.log(`\n${name}, ${machine().cpu}, Node ${machine().node}`);
  printTable(rows);
  for (const note of notes) console.log(note);
  files.push({ bench: name, machine: machine(), rows });
}
const { json } = command.opts<{ json?: string }>();
if (json) await writeFile(json, `${JSON.stringify(files.length === 1 ? files[0] : files, null, 2)}\n`);

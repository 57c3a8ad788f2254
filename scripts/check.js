/**
 * `npm run check`: runs every `check:*` script of package.json in order, goes on after a failure, and ends with a table.
 * `--json FILE` also writes `[{ name, passed, seconds }]`. Arguments without dashes pick checks: `npm run check -- lint types`.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({ options: { json: { type: "string" } }, allowPositionals: true });
const { scripts } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
const known = Object.keys(scripts).filter((name) => name.startsWith("check:"));
const chosen = positionals.length > 0 ? positionals.map((name) => `check:${name}`) : known;
const unknown = chosen.filter((name) => !known.includes(name));
if (unknown.length > 0) {
  console.error(`check: there is no ${unknown.join(", ")}; known: ${known.join(", ")}`);
  process.exit(2);
}

const results = chosen.map((name) => {
  console.log(`\n── ${name}`);
  const start = performance.now();
  const { status } = spawnSync(`npm run --silent ${name}`, { shell: true, stdio: "inherit" });
  return { name, passed: status === 0, seconds: (performance.now() - start) / 1000 };
});

console.log();
for (const { name, passed, seconds } of results) console.log(`${passed ? "✓" : "✗"} ${name.padEnd(18)} ${seconds.toFixed(1)} s`);
if (values.json) writeFileSync(values.json, JSON.stringify(results));
process.exitCode = results.every(({ passed }) => passed) ? 0 : 1;

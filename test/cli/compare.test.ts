import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { RunFigures } from "../../src/train/index.ts";
import { makeCommand, type Command, type Result } from "./command.ts";
import { tinyMnist } from "./tinyMnist.ts";
import { parseXml } from "./xml.ts";

const folder = mkdtempSync(join(tmpdir(), "kfacet-compare-"));
let kfacet: Command;
let files = 0;

beforeAll(() => {
  kfacet = makeCommand();
});
afterAll(() => {
  kfacet.dispose();
  rmSync(folder, { recursive: true, force: true });
});

/** A configuration file with these keys besides those of the smallest training that there is. */
function configuration(keys: object): string {
  const file = join(folder, `comparison-${files++}.json`);
  const common = { model: "vgg_tiny_bn", data: tinyMnist(folder), batchSize: 8, fc: [8], epochs: 1, seeds: [0, 1] };
  writeFileSync(file, JSON.stringify({ ...common, ...keys }));
  return file;
}
const runs = [
  { optimizer: "sgd", learningRate: 0.01 },
  { name: "K-FAC+co", optimizer: "rs-kfac", rank: 4 },
];
const json = (path: string): unknown => JSON.parse(readFileSync(path, "utf8"));
const text = (path: string): string => readFileSync(path, "utf8");
/** When the files that only a training writes were written. */
const written = (out: string): Record<string, number> =>
  Object.fromEntries(
    readdirSync(out, { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith("summary.json"))
      .map((name) => [name, statSync(join(out, name)).mtimeMs]),
  );

describe("two runs with two seeds", () => {
  const out = join(folder, "two");
  let file: string;
  let result: Result;
  beforeAll(async () => {
    file = configuration({ runs, targets: [1, 99.9] });
    result = await kfacet.run("compare", file, "--out", out);
  });

  test("are trained seed by seed, each in a run folder of its own", () => {
    expect(result.code).toBe(0);
    expect(result.stderr.match(/\d of 4 trainings: .*/g)).toEqual([
      "1 of 4 trainings: sgd, seed 0",
      "2 of 4 trainings: K-FAC+co, seed 0",
      "3 of 4 trainings: sgd, seed 1",
      "4 of 4 trainings: K-FAC+co, seed 1",
    ]);
    for (const [name, seed] of [
      ["sgd", 0],
      ["sgd", 1],
      ["K-FAC+co", 0],
      ["K-FAC+co", 1],
    ] as const) {
      const run = join(out, name, `seed-${seed}`);
      expect(readdirSync(run).sort()).toEqual(["checkpoint-00000004.safetensors", "config.json", "metrics.jsonl", "summary.json"]);
      expect(json(join(run, "config.json"))).toMatchObject({ seed, epochs: 1, optimizer: name === "sgd" ? "sgd" : "rs-kfac" });
    }
  });

  test("give the figures of their summaries, as JSON, as a page and as a table", () => {
    const { config, runs: figures } = json(join(out, "comparison.json")) as { config: object; runs: RunFigures[] };
    expect(config).toMatchObject({ seeds: [0, 1], targets: [1, 99.9] });
    expect(figures.map(({ name }) => name)).toEqual(["sgd", "K-FAC+co"]);
    for (const { name, finalAccuracy, secondsPerEpoch, targets } of figures) {
      const summaries = [0, 1].map(
        (seed) => json(join(out, name, `seed-${seed}`, "summary.json")) as { testAccuracy: [number]; secondsPerEpoch: [number] },
      );
      const mean = (numbers: number[]): number => numbers.reduce((a, b) => a + b, 0) / numbers.length;
      expect(finalAccuracy?.mean).toBeCloseTo(mean(summaries.map(({ testAccuracy: [accuracy] }) => accuracy)), 12);
      expect(secondsPerEpoch?.mean).toBeCloseTo(mean(summaries.map(({ secondsPerEpoch: [seconds] }) => seconds)), 12);
      expect(targets.map(({ target }) => target)).toEqual([1, 99.9]);
    }
    const page = text(join(out, "comparison.md"));
    expect(page).toMatch(/^\| sgd \| 2 \| \d+\.\d\d ± \d+\.\d\d \|/m);
    expect(page).toContain("![accuracy epochs](accuracy-epochs.svg)");
    expect(result.stdout).toMatch(/│ K-FAC\+co +│ 2 +│ \d+\.\d\d ± \d+\.\d\d +│/);
  });

  test.each(["accuracy-epochs", "accuracy-seconds", "loss-epochs", "loss-seconds"])("are plotted: %s.svg is SVG and names both", (name) => {
    const { elements, texts } = parseXml(text(join(out, `${name}.svg`)));
    expect(elements[0]).toBe("svg");
    expect(texts).toEqual(expect.arrayContaining(["sgd", "K-FAC+co"]));
    expect(texts.some((label) => label.startsWith(name.startsWith("accuracy") ? "Test accuracy" : "Training loss"))).toBe(true);
    expect(elements.filter((element) => element === "path").length).toBeGreaterThan(4);
  });

  test("are not trained again, but for what did not come to its end; seeds and targets may be added", async () => {
    const before = written(out);
    rmSync(join(out, "sgd", "seed-1", "summary.json")); // as a call that was killed leaves it
    const again = await kfacet.run("compare", file, "--out", out, "--seeds", "0,1,2", "--targets", "1,2", "--json");
    expect(again).toMatchObject({ code: 0, stderr: "" });
    const report = JSON.parse(again.stdout) as { runs: RunFigures[] };
    expect(report).toEqual(json(join(out, "comparison.json")));
    expect(report.runs.map(({ finished, targets }) => [finished, targets.map(({ target }) => target)])).toEqual([
      [3, [1, 2]],
      [3, [1, 2]],
    ]);
    const after = written(out);
    expect(
      Object.keys(after)
        .filter((name) => after[name] !== before[name])
        .sort(),
    ).toEqual([join("K-FAC+co", "seed-2", "summary.json"), join("sgd", "seed-1", "summary.json"), join("sgd", "seed-2", "summary.json")]);
  });

  test("are not mixed with other ones: another configuration for the same folder is exit code 2, and changes nothing", async () => {
    const before = written(out);
    const other = await kfacet.run("compare", file, "--out", out, "--epochs", "2");
    expect(other).toMatchObject({ code: 2, stdout: "" });
    expect(other.stderr).toContain(`${join(out, "sgd", "seed-0")} holds a run with another configuration: epochs is 1 there and 2 here`);
    expect(written(out)).toEqual(before);
  });
});

test("a run that fails is told of, the others go on, and the exit code is 1", async () => {
  const out = join(folder, "failing");
  const file = configuration({ runs: [{ name: "wild", optimizer: "sgd", learningRate: 1e30 }, { optimizer: "sgd" }], seeds: [0] });
  const result = await kfacet.run("compare", file, "--out", out);
  expect(result.code).toBe(1);
  expect(result.stdout).toMatch(/│ wild +│ 0 of 1 │ –/);
  expect(result.stdout).toMatch(/│ sgd +│ 1 +│ \d/);
  expect(result.stdout).toMatch(/^wild, seed 0 failed: training: the loss is (NaN|Infinity) at step \d/m);
  const { runs } = json(join(out, "comparison.json")) as { runs: RunFigures[] };
  expect(runs.map(({ finished, failures }) => [finished, failures.length])).toEqual([
    [0, 1],
    [1, 0],
  ]);
  expect(text(join(out, "comparison.md"))).toContain("- wild, seed 0 failed: ");
  expect(parseXml(text(join(out, "accuracy-epochs.svg"))).texts).not.toContain("wild");
});

test("an interrupted comparison is exit code 130, and goes on where it was", async () => {
  const out = join(folder, "interrupted");
  const file = configuration({
    runs: [
      { optimizer: "sgd", epochs: 1 },
      { optimizer: "adam", epochs: 60 },
    ],
    seeds: [0],
  });
  const { child, done } = kfacet.start("compare", file, "--out", out);
  const metrics = join(out, "adam", "seed-0", "metrics.jsonl");
  while (child.exitCode === null && !(existsSync(metrics) && text(metrics) !== "")) await new Promise((resolve) => setTimeout(resolve, 2));
  child.kill("SIGINT");
  const interrupted = await done;
  expect(interrupted.code).toBe(130);
  expect(interrupted.stderr).toContain("call the command again to go on");
  expect(existsSync(join(out, "comparison.json"))).toBe(false);

  const again = await kfacet.run("compare", file, "--out", out);
  expect(again.code).toBe(0);
  expect(again.stderr.match(/\d of \d trainings: .*/g)).toEqual(["1 of 1 trainings: adam, seed 0"]);
  const told = text(metrics).trimEnd().split("\n");
  expect(told.filter((line) => line.includes('"type":"epoch"'))).toHaveLength(60);
  expect(readdirSync(join(out, "adam", "seed-0")).filter((name) => name.startsWith("checkpoint"))).toHaveLength(1);
});

describe("wrong usage is exit code 2, before anything is trained", () => {
  test.concurrent.each<[string, object, string]>([
    [
      "an unknown optimizer in the last run",
      { runs: [{}, { name: "b", optimizer: "adagrad" }] },
      'run "b": there is no optimizer "adagrad"',
    ],
    ["an option that a run's optimizer does not take", { damping: 1, runs }, 'run "sgd": optimizer "sgd" does not take damping'],
    ["a batch that is too large", { batchSize: 33, runs }, 'batchSize is 33 but "mnist train" has 32 images'],
    ["no runs", {}, "is not valid: runs: "],
  ])("%s", async (_, keys, message) => {
    const out = join(folder, `wrong-${files}`);
    const result = await kfacet.run("compare", configuration(keys), "--out", out);
    expect(result).toMatchObject({ code: 2, stdout: "" });
    expect(result.stderr).toContain(message);
    expect(existsSync(out)).toBe(false);
  });

  test("no file, one that is not there, and a place where a file stands", async () => {
    const [none, missing, occupied] = await Promise.all([
      kfacet.run("compare"),
      kfacet.run("compare", join(folder, "nowhere.json")),
      kfacet.run("compare", configuration({ runs, out: configuration({}) })),
    ]);
    for (const result of [none, missing, occupied]) expect(result).toMatchObject({ code: 2, stdout: "" });
    expect(none.stderr).toContain("missing required argument 'config'");
    expect(missing.stderr).toContain("cannot read the configuration file");
    expect(occupied.stderr).toContain("cannot make the folder");
  });
});

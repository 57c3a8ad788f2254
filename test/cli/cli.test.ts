import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { dataNames } from "../../src/data/index.ts";
import { vggNames } from "../../src/nn/index.ts";
import { backendNames } from "../../src/tensor/index.ts";
import { optimizerNames, parseConfig } from "../../src/train/index.ts";
import { makeCommand, type Command, type Result } from "./command.ts";
import { tinyMnist } from "./tinyMnist.ts";

const folder = mkdtempSync(join(tmpdir(), "kfacet-cli-"));
let kfacet: Command;
let runs = 0;
const fresh = (): string => join(folder, `run-${runs++}`);

beforeAll(() => {
  kfacet = makeCommand();
});
afterAll(() => {
  kfacet.dispose();
  rmSync(folder, { recursive: true, force: true });
});

const json = (path: string): unknown => JSON.parse(readFileSync(path, "utf8"));
const eventsOf = (run: string): Record<string, unknown>[] =>
  readFileSync(join(run, "metrics.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

const seconds = z.number().nonnegative();
const summarySchema = z.strictObject({
  model: z.string(),
  optimizer: z.string(),
  device: z.string(),
  parameters: z.int().positive(),
  epochs: z.int(),
  seconds,
  secondsPerEpoch: z.array(seconds),
  testAccuracy: z.array(z.number().min(0).max(1)),
  phases: z.strictObject({
    forward: seconds,
    backward: seconds,
    factorUpdate: seconds,
    inversion: seconds,
    precondition: seconds,
    update: seconds,
    data: seconds,
  }),
  seed: z.int(),
  version: z.string().regex(/^\d+\.\d+\.\d+/),
});

/** The smallest run that there is: 32 images to train, 8 to test. */
const quick = (): string[] => ["--model", "vgg_tiny_bn", "--data", tinyMnist(folder), "--batch-size", "8", "--fc", "8"];

describe("a training on synthetic data", () => {
  const run = fresh();
  let result: Result;
  beforeAll(async () => {
    result = await kfacet.run(
      "train",
      "--model",
      "vgg_tiny_bn",
      "--data",
      "synthetic",
      "--epochs",
      "1",
      "--batch-size",
      "100",
      "--out",
      run,
      "--json",
    );
  });

  test("exits with 0, says nothing on stderr and prints one line of JSON: the summary", () => {
    expect(result).toMatchObject({ code: 0, stderr: "" });
    expect(result.stdout).toMatch(/^[^\n]*\n$/);
    expect(JSON.parse(result.stdout)).toEqual(json(join(run, "summary.json")));
  });

  test("leaves configuration, metrics, one checkpoint and a summary", () => {
    expect(readdirSync(run).sort()).toEqual(["checkpoint-00000010.safetensors", "config.json", "metrics.jsonl", "summary.json"]);
    expect(json(join(run, "config.json"))).toEqual({
      model: "vgg_tiny_bn",
      optimizer: "rs-kfac",
      data: "synthetic",
      epochs: 1,
      batchSize: 100,
      seed: 0,
      device: parseConfig({}).device,
      augment: "none",
      out: run,
    });
  });

  test("has a summary of the documented shape", () => {
    const summary = summarySchema.parse(json(join(run, "summary.json")));
    expect(summary).toMatchObject({
      model: "vgg_tiny_bn",
      optimizer: "rs-kfac",
      device: parseConfig({}).device,
      parameters: 27_170,
      epochs: 1,
      seed: 0,
    });
    expect(summary.secondsPerEpoch).toHaveLength(1);
    expect(summary.testAccuracy).toHaveLength(1);
    expect(summary.version).toBe((json("package.json") as { version: string }).version);
  });

  test("has metrics of known types, one event a line, and learns something", () => {
    const events = eventsOf(run);
    expect(events.map(({ type }) => type)).toEqual(["curvature", "refresh", ...Array.from({ length: 10 }, () => "step"), "epoch", "end"]);
    const losses = events.flatMap(({ loss }) => (typeof loss === "number" ? [loss] : []));
    expect(losses.at(-1)).toBeLessThan(losses[0] ?? NaN);
  });

  test("is evaluated to the same accuracy and loss, exactly, as JSON and as text", async () => {
    const [epoch] = eventsOf(run).filter(({ type }) => type === "epoch");
    const { code, stdout } = await kfacet.run("eval", run, "--json");
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual({
      model: "vgg_tiny_bn",
      data: "synthetic",
      epochs: 1,
      steps: 10,
      samples: 200,
      loss: epoch?.["testLoss"],
      accuracy: epoch?.["testAccuracy"],
    });
    const text = await kfacet.run("eval", run);
    expect(text.stdout).toContain(`accuracy ${(100 * Number(epoch?.["testAccuracy"])).toFixed(2)} %`);
  });

  test("is not overwritten by another one: exit code 2, and nothing in the folder changes", async () => {
    const before = readdirSync(run).map((name) => [name, statSync(join(run, name)).mtimeMs]);
    const again = await kfacet.run("train", ...quick(), "--out", run);
    expect(again).toMatchObject({ code: 2, stdout: "" });
    expect(again.stderr).toContain(`the run folder ${run} is not empty`);
    expect(readdirSync(run).map((name) => [name, statSync(join(run, name)).mtimeMs])).toEqual(before);
  });
});

test("the same seed gives the same metrics, apart from times", async () => {
  const metrics = async (): Promise<unknown> => {
    const run = fresh();
    expect(await kfacet.run("train", ...quick(), "--epochs", "1", "--seed", "3", "--out", run, "--json")).toMatchObject({ code: 0 });
    return eventsOf(run).map((event) => ({ ...event, seconds: 0, phases: 0 }));
  };
  const [first, second] = await Promise.all([metrics(), metrics()]);
  expect(second).toEqual(first);
});

test("a configuration file sets options, and flags win over it", async () => {
  const [file, run] = [join(folder, "config.json"), fresh()];
  writeFileSync(file, JSON.stringify({ model: "vgg_tiny", data: tinyMnist(folder), optimizer: "sgd", epochs: 5, batchSize: 16, fc: [8] }));
  const result = await kfacet.run("train", file, "--epochs", "1", "--optimizer", "adam", "--learning-rate", "1e-2", "--out", run);
  expect(result.code).toBe(0);
  expect(json(join(run, "config.json"))).toMatchObject({
    model: "vgg_tiny",
    optimizer: "adam",
    epochs: 1,
    batchSize: 16,
    fc: [8],
    learningRate: 0.01,
  });
  expect(eventsOf(run).map(({ type }) => type)).toEqual(["step", "step", "epoch", "end"]);
  // Without --json: the network and the result on stdout, progress on stderr.
  expect(result.stdout).toContain("32 images to learn from, 8 to test");
  expect(result.stdout).toMatch(/Linear +\[1, 8\]/);
  expect(result.stdout).toContain("test accuracy");
  expect(result.stdout).toContain(run);
  expect(result.stderr).toMatch(/^epoch 1\/1 · train loss /);
});

describe("a training with curvature says on stderr", () => {
  const told = async (...words: string[]): Promise<string> => {
    const { code, stderr } = await kfacet.run("train", ...quick(), "--epochs", "2", "--out", fresh(), ...words);
    expect(code).toBe(0);
    return stderr;
  };

  test("which parameter got what, and once that a rank does not fit a factor", async () => {
    const text = await told("--rank", "9", "--inversion-every", "1");
    expect(text).toMatch(/│ 0\.weight +│ rs-kfac +│ +│/);
    expect(text).toMatch(/│ 1\.weight +│ – +│ no weight of a linear or conv2d call, nor the bias of one that has a block +│/);
    expect(text).toMatch(/\d+ of \d+ parameters are preconditioned, the others take the plain gradient/);
    expect(text.match(/all its eigenpairs are kept/g)).toHaveLength(1);
    expect(text).toMatch(
      /step 0, 0\.weight, [\d., a-z]+: the rank 9 is more than the output factor has rows, so all its eigenpairs are kept/,
    );
  });

  test("that weights were skipped, by names with * in them", async () => {
    const text = await told("--skip", "0.weight,2*.weight");
    expect(text).toMatch(/│ 0\.weight +│ – +│ left out by the option skip +│/);
    expect(text).toMatch(/│ 3\.weight +│ rs-kfac +│/);
    expect(text).toMatch(/│ 2\d\.weight +│ – +│ left out by the option skip +│/);
  });

  test("that SENG did not refresh on the last batch, which is not full; the other methods do, and say nothing", async () => {
    // Batches of 12, 12 and 8: steps 2 and 5 are not full, and 2 is due.
    const seng = await told("--optimizer", "seng", "--batch-size", "12", "--inversion-every", "2");
    expect(seng.match(/no refresh/g)).toHaveLength(1);
    expect(seng).toMatch(
      /step 2, 0\.weight, .*: no refresh at step 2: a batch of 8 is not full, the largest had 12; the next full one refreshes/,
    );
    for (const optimizer of ["rs-kfac", "ek-fac"]) {
      const text = await told("--optimizer", optimizer, "--batch-size", "12", "--factor-update-every", "1", "--inversion-every", "2");
      expect(text).not.toMatch(/step \d+, .*: (?!.*all its eigenpairs are kept)/);
    }
  });
});

describe("wrong usage is exit code 2, with a line that says what and no run folder", () => {
  const list = (...names: string[]): string => names.join(", ");
  const cases: [words: string[], message: string][] = [
    [["--optimizer", "adagrad"], `there is no optimizer "adagrad"; known: ${list(...optimizerNames)}`],
    [["--model", "resnet"], `there is no network "resnet"; known: ${list(...vggNames)}`],
    [["--data", "cifar"], `data "cifar" is not known; known: ${list(...dataNames())}`],
    [["--device", "abacus"], `there is no device "abacus"; known: ${list(...backendNames())}`],
    [["--batch-size", "33"], 'batchSize is 33 but "mnist train" has 32 images'],
    [["--epochs", "0"], "the command line is not valid: epochs: "],
    [["--epochs", "two"], "'two' is invalid. It must be a number."],
    [["--epoch", "3"], "unknown option '--epoch'"],
    [["--skip", "24.wieght"], 'skip: no weight is called "24.wieght"; they are 0.weight, '],
    [["--skip", "*"], "curvature: no parameter of the optimizer is the weight of a linear or conv2d call"],
    [["--optimizer", "adam", "--skip", "*"], 'optimizer "adam" does not take skip'],
    [["/nowhere/config.json"], "cannot read the configuration file /nowhere/config.json: Error: ENOENT"],
  ];
  test.concurrent.each(cases)("train %j", async (words, message) => {
    const run = fresh();
    const result = await kfacet.run("train", ...quick(), "--out", run, ...words);
    expect(result).toMatchObject({ code: 2, stdout: "" });
    expect(result.stderr).toContain(message);
    expect(result.stderr).not.toContain("    at ");
    expect(existsSync(run)).toBe(false);
  });

  test.each([
    ["{epochs: 1}", "wrong.json is not JSON"],
    ["[]", "wrong.json must hold a JSON object of options"],
    ['{"lerningRate": 1}', 'wrong.json is not valid: Unrecognized key: "lerningRate"'],
  ])("train with a configuration file that holds %s", async (text, message) => {
    const file = join(folder, "wrong.json");
    writeFileSync(file, text);
    const result = await kfacet.run("train", file);
    expect(result).toMatchObject({ code: 2, stdout: "" });
    expect(result.stderr).toContain(message);
  });

  test("train into a place where a file stands", async () => {
    const file = join(folder, "file");
    writeFileSync(file, "");
    const result = await kfacet.run("train", ...quick(), "--out", file);
    expect(result).toMatchObject({ code: 2, stdout: "" });
    expect(result.stderr).toContain(`cannot make the run folder ${file}`);
  });

  test("eval of what is no run folder, or has no checkpoint, or another model's", async () => {
    const missing = await kfacet.run("eval", join(folder, "nowhere"));
    expect(missing).toMatchObject({ code: 2, stdout: "" });
    expect(missing.stderr).toContain("is not a run folder");
    const empty = fresh();
    mkdirSync(empty);
    writeFileSync(join(empty, "config.json"), JSON.stringify({ data: "synthetic" }));
    const unfinished = await kfacet.run("eval", empty);
    expect(unfinished).toMatchObject({ code: 2, stdout: "" });
    expect(unfinished.stderr).toContain("has no checkpoint");
    writeFileSync(join(empty, "checkpoint-0001.safetensors"), "nothing of the kind");
    const spoiled = await kfacet.run("eval", empty);
    expect(spoiled).toMatchObject({ code: 2, stdout: "" });
    expect(spoiled.stderr).toContain("checkpoint-0001.safetensors");
  });

  test("an unknown command, none at all, and eval without a folder", async () => {
    for (const result of await Promise.all([["fit"], [], ["eval"]].map((words) => kfacet.run(...words)))) {
      expect(result).toMatchObject({ code: 2, stdout: "" });
      expect(result.stderr).toContain("kfacet");
    }
  });
});

test("a loss that is not finite is exit code 1: step and layer are named, and what was told stays", async () => {
  const run = fresh();
  const result = await kfacet.run("train", ...quick(), "--optimizer", "sgd", "--learning-rate", "1e30", "--out", run, "--json");
  expect(result).toMatchObject({ code: 1, stdout: "" });
  expect(result.stderr).toMatch(
    /^kfacet: training: the loss is (NaN|Infinity) at step \d+; the first layer whose output is not finite is "\d+"/,
  );
  expect(eventsOf(run)[0]).toMatchObject({ type: "step", step: 0 });
});

describe("SIGINT ends a training with exit code 130 and a checkpoint that eval reads", () => {
  const interrupted = async (ready: (run: string) => boolean): Promise<string> => {
    const run = fresh();
    const { child, done } = kfacet.start("train", ...quick(), "--optimizer", "sgd", "--epochs", "1000", "--out", run);
    while (child.exitCode === null && !ready(run)) await new Promise((resolve) => setTimeout(resolve, 2));
    child.kill("SIGINT");
    const result = await done;
    expect(result.stderr).toContain("interrupted: the model as it is was saved");
    expect(result.code).toBe(130);
    return run;
  };
  const told = (run: string, type: string): boolean =>
    existsSync(join(run, "metrics.jsonl")) && readFileSync(join(run, "metrics.jsonl"), "utf8").includes(`"type":"${type}"`);

  test.each<[string, (run: string) => boolean]>([
    ["as soon as there is a folder, and so before the first epoch ends", existsSync],
    ["after the first epoch", (run) => told(run, "epoch")],
  ])("%s", async (_, ready) => {
    const run = await interrupted(ready);
    const summary = summarySchema.parse(json(join(run, "summary.json")));
    const steps = eventsOf(run).filter(({ type }) => type === "step").length;
    const names = [4 * summary.epochs, steps].filter((n) => n > 0).map((n) => `checkpoint-${String(n).padStart(8, "0")}.safetensors`);
    expect(readdirSync(run).filter((name) => name.startsWith("checkpoint"))).toEqual([...new Set(names)]);
    expect(summary.testAccuracy).toHaveLength(summary.epochs);
    const { code, stdout } = await kfacet.run("eval", run, "--json");
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ epochs: summary.epochs, steps, samples: 8 });
  });
});

describe("doctor", () => {
  test("tries every backend and data source; with --json it prints one line that says the same", async () => {
    const [text, line] = await Promise.all([kfacet.run("doctor"), kfacet.run("doctor", "--json")]);
    // Of graphics drivers that it does not find, Dawn writes warnings.
    const silent = { code: 0, stderr: expect.not.stringContaining("kfacet") as unknown };
    expect(text).toMatchObject(silent);
    for (const name of ["wasm", "reference", "mnist", "synthetic"]) expect(text.stdout).toMatch(new RegExp(`${name} +│ yes`));

    expect(line).toMatchObject(silent);
    const limits = z.strictObject({
      maxBufferSize: z.int().positive(),
      maxStorageBufferBindingSize: z.int().positive(),
      maxComputeWorkgroupsPerDimension: z.int().positive(),
    });
    const device = z.strictObject({ adapter: z.string(), driver: z.string().nullable(), software: z.boolean(), limits });
    const finding = z.strictObject({ name: z.string(), works: z.boolean(), detail: z.string(), device: device.optional() });
    const machine = z.strictObject({ kfacet: z.string(), node: z.string(), platform: z.string(), cores: z.int().positive() });
    const report = z.strictObject({ machine, backends: z.array(finding), data: z.array(finding) }).parse(JSON.parse(line.stdout));
    expect(report.machine.node).toBe(process.version);
    expect(report.backends.map(({ name }) => name)).toEqual(backendNames());
    expect(report.data.map(({ name }) => name)).toEqual(dataNames());
    for (const { name, detail } of [...report.backends, ...report.data]) {
      expect(text.stdout).toContain(name);
      expect(text.stdout).toContain(detail);
    }
  });
});

/** No driver is found where this variable says. */
const noDriver = { VK_DRIVER_FILES: "/nonexistent" };

test("doctor says of a GPU without a driver that it does not work, and how to get one; the others do", async () => {
  const [text, line] = await Promise.all([kfacet.run("doctor", noDriver), kfacet.run("doctor", "--json", noDriver)]);
  expect([text.code, line.code]).toEqual([0, 0]);
  const { backends } = JSON.parse(line.stdout) as { backends: { name: string; works: boolean; detail: string }[] };
  expect(backends.map(({ name, works }) => [name, works])).toEqual(backendNames().map((name) => [name, name !== "gpu"]));
  const found = backends.find(({ name }) => name === "gpu");
  expect(found).not.toHaveProperty("device");
  expect(found?.detail).toMatch(/gpu: there is no graphics driver.*apt-get install libvulkan1 mesa-vulkan-drivers.*bookworm-backports/);
  expect(text.stdout).toMatch(/gpu +│ no/);
  expect(text.stdout).toContain(found?.detail);
});

test("a device without a driver is exit code 1, and the message says what helps", async () => {
  const { code, stderr } = await kfacet.run("train", ...quick(), "--epochs", "1", "--device", "gpu", noDriver);
  expect(code).toBe(1);
  expect(stderr).toContain("kfacet: gpu: there is no graphics driver that WebGPU can use");
  expect(stderr).toContain("apt-get install");
  expect(stderr).not.toContain("at Object");
});

test("--version prints the package's, --help what there is, and both exit with 0", async () => {
  const { version } = json("package.json") as { version: string };
  const [shown, help, trainHelp] = await Promise.all([kfacet.run("--version"), kfacet.run("--help"), kfacet.run("train", "--help")]);
  expect(shown).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
  expect(help).toMatchObject({ code: 0, stderr: "" });
  for (const command of ["train", "eval", "compare", "spectrum", "doctor"]) expect(help.stdout).toMatch(new RegExp(`^  ${command} `, "m"));
  expect(trainHelp).toMatchObject({ code: 0, stderr: "" });
  expect(trainHelp.stdout).toContain("--batch-size <number>");
});

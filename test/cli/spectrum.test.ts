import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeCommand, type Command } from "./command.ts";
import { tinyMnist } from "./tinyMnist.ts";
import { parseXml } from "./xml.ts";

const folder = mkdtempSync(join(tmpdir(), "kfacet-spectrum-"));
let kfacet: Command;

beforeAll(() => {
  kfacet = makeCommand();
});
afterAll(() => {
  kfacet.dispose();
  rmSync(folder, { recursive: true, force: true });
});

/** A run of 4 steps, its folder named after it. */
async function trained(name: string, ...words: string[]): Promise<string> {
  const run = join(folder, name);
  const common = ["--data", tinyMnist(folder), "--batch-size", "8", "--fc", "8", "--epochs", "1", "--out", run, "--json"];
  expect(await kfacet.run("train", ...common, ...words)).toMatchObject({ code: 0 });
  return run;
}
const text = (path: string): string => readFileSync(path, "utf8");
const plotsIn = (run: string): string[] => readdirSync(run).filter((name) => name.endsWith(".svg"));

interface Report {
  readonly threshold: number;
  readonly factors: readonly {
    readonly layer: string;
    readonly method: string;
    readonly factor: string;
    readonly refreshes: readonly {
      readonly step: number;
      readonly largest: number;
      readonly rank: number;
      readonly above: number;
      readonly truncation: number;
      readonly bound: { readonly most: number; readonly above: number; readonly width: number; readonly holds: boolean | null };
    }[];
  }[];
}

describe("a run of RS-KFAC", () => {
  let run: string;
  beforeAll(async () => {
    run = await trained("rs-kfac", "--optimizer", "rs-kfac", "--rank", "6", "--factor-update-every", "1", "--inversion-every", "2");
  });

  test("without the optional packages has figures and a table, and says what the plots need", async () => {
    const hooks = join(folder, "hooks.mjs");
    writeFileSync(
      hooks,
      `export async function resolve(name, context, next) {
        if (/^vega/.test(name)) throw Object.assign(new Error("Cannot find package " + name), { code: "ERR_MODULE_NOT_FOUND" });
        return next(name, context);
      }`,
    );
    const preload = join(folder, "preload.mjs");
    writeFileSync(preload, `import { register } from "node:module"; register(${JSON.stringify(pathToFileURL(hooks).href)});`);
    const before = process.env["NODE_OPTIONS"];
    process.env["NODE_OPTIONS"] = `--import=${pathToFileURL(preload).href}`;
    const pending = kfacet.run("spectrum", run);
    if (before === undefined) delete process.env["NODE_OPTIONS"];
    else process.env["NODE_OPTIONS"] = before;
    const { code, stdout, stderr } = await pending;
    expect(code).toBe(0);
    // The versions that are tested here, in the README as in the message.
    const { devDependencies } = JSON.parse(readFileSync("package.json", "utf8")) as { devDependencies: Record<string, string> };
    const install = `npm install vega@${devDependencies["vega"]} vega-lite@${devDependencies["vega-lite"]}`;
    expect(stderr).toContain(install);
    expect(readFileSync("README.md", "utf8")).toContain(install);
    expect(stdout).toMatch(/│ 0\.weight +│ input/);
    expect(stdout).toMatch(/The bound on the decay \(proposition 3\.1 of arXiv 2206\.15397\) holds on \d+ of \d+ recorded factors/);
    expect(plotsIn(run)).toEqual([]);
  });

  test("has the figures of every refresh that its metrics tell of, largest eigenvalues first among them", async () => {
    const { code, stdout, stderr } = await kfacet.run("spectrum", run, "--json");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const report = JSON.parse(stdout) as Report;
    expect(report).toEqual(JSON.parse(text(join(run, "spectrum.json"))));
    const events = text(join(run, "metrics.jsonl"))
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { type: string; step: number; layers: { layer: string; spectra: Record<string, number[]> }[] })
      .filter(({ type }) => type === "refresh");
    expect(events.map(({ step }) => step)).toEqual([0, 2]);
    expect(report.factors).not.toHaveLength(0);
    for (const { layer, method, factor, refreshes } of report.factors) {
      expect(method).toBe("rs-kfac");
      expect(refreshes.map(({ step }) => step)).toEqual([0, 2]);
      for (const [i, { largest, rank, above, truncation }] of refreshes.entries()) {
        const values = events[i]?.layers.find((report) => report.layer === layer)?.spectra[factor] ?? [];
        expect(largest).toBe(Math.max(...values));
        expect(rank).toBe(values.length);
        expect(rank).toBeLessThanOrEqual(6);
        expect(above).toBe(values.filter((value) => value > report.threshold * largest).length);
        expect(truncation).toBeGreaterThanOrEqual(0);
        expect(truncation).toBeLessThan(1);
      }
      for (const { bound, above } of refreshes) {
        expect(bound.above).toBe(above);
        expect(bound.holds).not.toBe(false);
      }
    }
    // At step 0 a factor is one batch of 8: that of a dense layer has a rank of 8 at most, bias and all.
    const first = report.factors.flatMap(({ refreshes }) => refreshes.slice(0, 1).map(({ bound }) => bound));
    expect(first).toContainEqual(expect.objectContaining({ most: 8, width: 289, holds: true }));
  });

  test("is plotted: all layers at the last refresh, and each layer over the run", () => {
    const report = JSON.parse(text(join(run, "spectrum.json"))) as Report;
    const layers = [...new Set(report.factors.map(({ layer }) => layer))];
    expect(plotsIn(run).sort()).toEqual(["spectrum.svg", ...layers.map((layer) => `spectrum-${layer}.svg`)].sort());
    const overview = parseXml(text(join(run, "spectrum.svg")));
    expect(overview.elements[0]).toBe("svg");
    expect(overview.texts).toEqual(expect.arrayContaining([...layers, "input factor Ω", "output factor Γ", "index of the eigenvalue"]));
    for (const layer of layers) {
      const { texts } = parseXml(text(join(run, `spectrum-${layer}.svg`)));
      expect(texts).toEqual(expect.arrayContaining([`Eigenvalue decay over training: ${layer}`, "step", "eigenvalue / largest"]));
    }
  });

  test("whose metrics end in the middle of a line is exit code 2, with the line", async () => {
    const lines = text(join(run, "metrics.jsonl")).split("\n").length;
    appendFileSync(join(run, "metrics.jsonl"), '{"type":"ref');
    const result = await kfacet.run("spectrum", run);
    expect(result).toMatchObject({ code: 2, stdout: "" });
    expect(result.stderr).toContain(`${join(run, "metrics.jsonl")}, line ${lines} is not JSON`);
  });
});

test("a run without spectra is exit code 2, and says why", async () => {
  const [sgd, cholesky] = await Promise.all([
    trained("sgd", "--optimizer", "sgd"),
    trained("cholesky", "--optimizer", "kfac", "--inverse", "cholesky"),
  ]);
  const [first, second] = await Promise.all([kfacet.run("spectrum", sgd), kfacet.run("spectrum", cholesky)]);
  for (const result of [first, second]) expect(result).toMatchObject({ code: 2, stdout: "" });
  expect(first.stderr).toContain(`${sgd} has no spectra: sgd has told of no eigenvalues`);
  expect(second.stderr).toContain("has no spectra: kfac (cholesky) keeps no eigenvalues; train with the inverse eigh");
  expect(readdirSync(sgd)).not.toContain("spectrum.json");
});

test("what is no run folder is exit code 2", async () => {
  const result = await kfacet.run("spectrum", join(folder, "nowhere"));
  expect(result).toMatchObject({ code: 2, stdout: "" });
  expect(result.stderr).toContain("is not a run folder");
});

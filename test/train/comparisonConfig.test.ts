import { describe, expect, test } from "vitest";
import { UsageError } from "../../src/tensor/index.ts";
import { comparisonKeys, differingKeys, parseComparison, parseConfig } from "../../src/train/index.ts";

describe("parseComparison", () => {
  test("gives every run the common keys and its own, and calls it by its optimizer unless it has a name", () => {
    const comparison = parseComparison({
      data: "synthetic",
      epochs: 4,
      seeds: [3, 1],
      targets: [50, 98.5],
      out: "there",
      runs: [{ optimizer: "sgd" }, { name: "K-FAC, λ=0.1", optimizer: "kfac", damping: 0.1, epochs: 2 }],
    });
    expect(comparison).toEqual({
      seeds: [3, 1],
      targets: [50, 98.5],
      out: "there",
      runs: [
        { name: "sgd", config: parseConfig({ data: "synthetic", epochs: 4, optimizer: "sgd" }) },
        { name: "K-FAC, λ=0.1", config: parseConfig({ data: "synthetic", epochs: 2, optimizer: "kfac", damping: 0.1 }) },
      ],
    });
  });

  test("has three seeds and no targets by default", () => {
    expect(parseComparison({ runs: [{}] })).toMatchObject({ seeds: [0, 1, 2], targets: [], runs: [{ name: "rs-kfac" }] });
  });

  test.each<[string, unknown, string]>([
    ["no object", [], 'expected an object with the key "runs"'],
    ["no runs", {}, "runs: "],
    ["an empty list of runs", { runs: [] }, "runs: "],
    ["a run that is no object", { runs: ["kfac"] }, "runs.0: "],
    ["a seed twice", { runs: [{}], seeds: [1, 1] }, "seeds: a seed stands there twice"],
    ["a seed that is none", { runs: [{}], seeds: [0.5] }, "seeds.0: "],
    ["a target twice", { runs: [{}], targets: [50, 50] }, "targets: a target stands there twice"],
    ["a target that is a share, or nothing", { runs: [{}], targets: [0, 101] }, "targets.1: "],
    ["a misspelt key outside the runs", { runs: [{}], epoch: 3 }, 'c.json is not valid: Unrecognized key: "epoch"'],
    ["a fault outside the runs", { runs: [{}], epochs: 0 }, "c.json is not valid: epochs: "],
    ["a misspelt key inside", { runs: [{}, { name: "b", dampin: 3 }] }, 'c.json: run 2 ("b") is not valid: Unrecognized key: "dampin"'],
    ["a seed outside the runs", { runs: [{}], seed: 1 }, "c.json: seed cannot be set here"],
    ["a seed inside", { runs: [{ seed: 1 }] }, "c.json: run 1: seed cannot be set here"],
    ["a folder inside", { runs: [{ name: "a", out: "x" }] }, 'c.json: run 1 ("a"): out cannot be set here'],
    ["two runs of one name", { runs: [{ optimizer: "sgd" }, { name: "SGD" }] }, 'two runs are called "SGD"; give each a "name"'],
    ["a name that leads elsewhere", { runs: [{ name: "../a" }] }, "runs.0.name: must be letters, digits"],
    ["a name that ends in a dot", { runs: [{ name: "a." }] }, "runs.0.name: must be letters, digits"],
    ["an empty name", { runs: [{ name: "" }] }, "runs.0.name: must be letters, digits"],
  ])("refuses %s", (_, input, message) => {
    const parse = (): unknown => parseComparison(input, "c.json");
    expect(parse).toThrow(UsageError);
    expect(parse).toThrow(message);
  });
});

test("seeds, targets and out are for the command line, runs are not", () => {
  expect(comparisonKeys.map(({ key, kind }) => [key, kind])).toEqual([
    ["seeds", "list"],
    ["targets", "list"],
    ["out", "string"],
  ]);
  for (const { description } of comparisonKeys) expect(description).not.toBe("");
});

test("two configurations differ in the keys that one of them sets otherwise, where they are written aside", () => {
  const config = parseConfig({ learningRate: [0.1, 0.01], out: "a" });
  expect(differingKeys(config, { ...config, out: "b" })).toEqual([]);
  expect(differingKeys(config, parseConfig({ learningRate: [0.1, 0.02], epochs: 9, rank: 3 })).sort()).toEqual([
    "epochs",
    "learningRate",
    "rank",
  ]);
});

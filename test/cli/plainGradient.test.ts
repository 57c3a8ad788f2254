import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, expect, it, vi } from "vitest";
import { trainCommand } from "../../src/cli/train.ts";
import { tinyMnist } from "./tinyMnist.ts";

const folder = mkdtempSync(join(tmpdir(), "kfacet-plain-"));
afterEach(() => vi.restoreAllMocks());
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

it.each([
  ["seng", "the others take the plain gradient, divided by 1 + λ"],
  ["kfac", "the others take the plain gradient"],
])("`train --optimizer %s` says what becomes of the parameters that are not preconditioned: %s", async (optimizer, words) => {
  vi.spyOn(console, "log").mockReturnValue();
  const said = vi.spyOn(console, "error").mockReturnValue();
  const quick = { model: "vgg_tiny_bn", data: tinyMnist(folder), batchSize: 16, fc: [8], epochs: 1 };
  expect(await trainCommand(undefined, { ...quick, optimizer, out: join(folder, optimizer) })).toBe(0);
  const lines = said.mock.calls.map(([line]) => String(line)).filter((line) => line.startsWith("curvature: "));
  expect(lines).toEqual([
    expect.stringMatching(new RegExp(`^curvature: \\d+ of \\d+ parameters are preconditioned, ${words.replace("+", "\\+")}$`)),
  ]);
});

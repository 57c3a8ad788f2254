/**
 * Runs the documentation. In README.md, CONTRIBUTING.md and docs/, each block fenced as
 *
 * - `ts` is a module that is type-checked and run; `ts continued` goes on where the block before it ended.
 *   `x.shape; // → [ 2, 3 ]` and `console.log(x); // → …` compare what `console.log` prints for the value; more lines of output may
 *   follow as comments of their own (`// → …`). White space counts as one space, and `…` stands for anything.
 * - `ts no-run` is type-checked only.
 * - `json compare` is the configuration of a comparison, and must be valid.
 * - `console`: in its lines that start with `$ npx kfacet`, command and flags must be known to the command line's help.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import ts from "typescript";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseComparison } from "../src/train/index.ts";

const root = resolve(import.meta.dirname, "..");
const files = [
  "README.md",
  ...["CONTRIBUTING.md"].filter((file) => existsSync(join(root, file))),
  ...(existsSync(join(root, "docs")) ? readdirSync(join(root, "docs")) : []).filter((f) => f.endsWith(".md")).map((file) => `docs/${file}`),
];
const documents = files.map((file) => ({ file, lines: readFileSync(join(root, file), "utf8").split(/\r?\n/) }));
const snippets = documents.flatMap(({ file, lines }) => snippetsIn(file, lines));
const commands = documents.flatMap(({ file, lines }) => commandsIn(file, lines));
const comparisons = documents.flatMap(({ file, lines }) =>
  blocksIn(lines)
    .filter(({ info }) => info === "json compare")
    .map(({ from, to }) => ({ title: `${file}:${from}`, text: lines.slice(from, to).join("\n") })),
);

let folder: string;
let elsewhere: string;
let program: ts.Program;

beforeAll(() => {
  const cache = join(root, "node_modules/.cache");
  mkdirSync(cache, { recursive: true });
  folder = mkdtempSync(join(cache, "kfacet-docs-"));
  elsewhere = mkdtempSync(join(tmpdir(), "kfacet-docs-"));
  for (const snippet of snippets) writeFileSync(moduleOf(snippet), snippet.code);
  program = ts.createProgram(snippets.map(moduleOf), snippetOptions());
  process.chdir(elsewhere); // a snippet may write a run folder
});

afterAll(() => {
  process.chdir(root);
  rmSync(folder, { recursive: true, force: true });
  rmSync(elsewhere, { recursive: true, force: true });
});

test("the README has a snippet that runs", () => {
  expect(snippets.filter(({ file, runs }) => runs && file === "README.md")).not.toHaveLength(0);
});

describe.runIf(snippets.length > 0)("snippets", () => {
  for (const snippet of snippets) test(`${snippet.file}:${snippet.line}`, () => check(snippet));
});

describe.runIf(comparisons.length > 0)("configurations of comparisons", () => {
  for (const { title, text } of comparisons) test(title, () => void parseComparison(JSON.parse(text), title));
});

describe.runIf(commands.length > 0)("commands", () => {
  for (const { title, command, flags } of commands) {
    test(title, () => {
      const help = helpFor(command);
      expect(help).toContain(`Usage: kfacet${command ? ` ${command}` : ""} `);
      expect(flags.filter((flag) => !new RegExp(`${flag}(?![\\w-])`).test(help))).toEqual([]);
    });
  }
});

async function check(snippet: Snippet): Promise<void> {
  expect(typeErrors(snippet)).toEqual([]);
  if (!snippet.runs) return;
  const { code, expected } = instrument(snippet);
  const path = moduleOf(snippet).replace(/\.mts$/, ".run.mts");
  writeFileSync(path, code);
  const { __printed: printed } = (await import(pathToFileURL(path).href)) as { __printed: [line: number, text: string][] };
  for (const [line, text] of printed) {
    const wanted = expected.get(line) ?? "";
    if (!matches(text, wanted)) expect.soft(text, `${snippet.file}:${line}`).toBe(wanted);
  }
  const reached = new Set(printed.map(([line]) => line));
  const missed = [...expected.keys()].filter((line) => !reached.has(line));
  expect(missed, `lines of ${snippet.file} that were never reached`).toEqual([]);
}

// ── reading Markdown ──────────────────────────────────────────────────────────────────────────────────────────────────────

interface Snippet {
  readonly file: string;
  /** Of the opening fence, from 1. */
  readonly line: number;
  readonly runs: boolean;
  /** All other lines of the document are blank, so that line numbers in errors are those of the document. */
  readonly code: string;
}

interface Block {
  readonly info: string;
  /** First and one past the last line of the content, from 0. */
  readonly from: number;
  readonly to: number;
}

function blocksIn(lines: readonly string[]): Block[] {
  const blocks: Block[] = [];
  let open: { fence: string; info: string; from: number } | null = null;
  for (const [i, line] of lines.entries()) {
    const [, fence = "", info = ""] = /^\s*(`{3,})(.*)$/.exec(line) ?? [];
    if (!fence) continue;
    if (!open) open = { fence, info: info.trim(), from: i + 1 };
    else if (!info.trim() && fence.length >= open.fence.length) {
      blocks.push({ ...open, to: i });
      open = null;
    }
  }
  return blocks;
}

function snippetsIn(file: string, lines: readonly string[]): Snippet[] {
  const found: (Snippet & { blocks: Block[] })[] = [];
  for (const block of blocksIn(lines)) {
    const [language, ...words] = block.info.split(/\s+/);
    if (language !== "ts") continue;
    const unknown = words.filter((word) => word !== "no-run" && word !== "continued");
    if (unknown.length > 0) throw new Error(`${file}:${block.from}: \`ts ${unknown.join(" ")}\` means nothing; known: no-run, continued`);
    const continued = words.includes("continued") ? found.pop() : undefined;
    if (words.includes("continued") && !continued) throw new Error(`${file}:${block.from}: there is no snippet to continue`);
    const blocks = [...(continued?.blocks ?? []), block];
    const code = lines.map((line, i) => (blocks.some(({ from, to }) => i >= from && i < to) ? line : "")).join("\n");
    found.push({ file, line: continued?.line ?? block.from, runs: !words.includes("no-run"), code, blocks });
  }
  return found;
}

function commandsIn(file: string, lines: readonly string[]): { title: string; command: string; flags: string[] }[] {
  const shown = blocksIn(lines).filter(({ info }) => info === "console");
  return shown.flatMap(({ from, to }) =>
    lines.slice(from, to).flatMap((line, i) => {
      const [, words] = /^\s*\$ npx kfacet\b(.*)$/.exec(line) ?? [];
      if (words === undefined) return [];
      const command = /^\s+([a-z]\S*)/.exec(words)?.[1] ?? "";
      return [{ title: `${file}:${from + i + 1}${words}`, command, flags: words.match(/(?<=\s)--[a-z][\w-]*/g) ?? [] }];
    }),
  );
}

// ── checking ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

function moduleOf({ file, line }: Snippet): string {
  return join(folder, `${file.replaceAll("/", "-")}.${line}.mts`);
}

function snippetOptions(): ts.CompilerOptions {
  const config = ts.readConfigFile(join(root, "tsconfig.json"), (path) => ts.sys.readFile(path)).config as object;
  const { options } = ts.parseJsonConfigFileContent({ ...config, files: [], include: [] }, ts.sys, root);
  return { ...options, noUnusedLocals: false, noUnusedParameters: false, paths: { kfacet: [join(root, "src/index.ts")] } };
}

function typeErrors(snippet: Snippet): string[] {
  const source = program.getSourceFile(moduleOf(snippet));
  const found = [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)];
  return found.map(({ start = 0, messageText }) => {
    const line = source ? source.getLineAndCharacterOfPosition(start).line + 1 : 0;
    return `${snippet.file}:${line}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`;
  });
}

const expectation = /^\s*\/\/ → ?(.*)$/;

/** The snippet as a module that exports what each statement with an expectation printed, and the expectations by line. */
function instrument({ file, code }: Snippet): { code: string; expected: Map<number, string> } {
  const source = ts.createSourceFile("snippet.mts", code, ts.ScriptTarget.Latest, true);
  const lines = code.split("\n");
  const expected = new Map<number, string>();
  const claimed = new Set<number>();
  const edits: { from: number; to: number; text: string }[] = [];

  const visit = (node: ts.Node): void => {
    ts.forEachChild(node, visit);
    if (!ts.isExpressionStatement(node) && !ts.isVariableStatement(node)) return;
    const { line: last, character } = source.getLineAndCharacterOfPosition(node.getEnd());
    const rest = /^;?\s*(.*)$/.exec(lines[last]?.slice(character) ?? "")?.[1] ?? "";
    const texts: string[] = [];
    const after = [rest, ...lines.slice(last + 1)];
    for (let i = rest === "" ? 1 : 0; expectation.test(after[i] ?? ""); i++) {
      claimed.add(last + i);
      texts.push(expectation.exec(after[i] ?? "")?.[1] ?? "");
    }
    if (texts.length === 0) return;
    const at = last + 1;
    expected.set(at, texts.join("\n"));
    if (ts.isVariableStatement(node)) {
      const names = node.declarationList.declarations.map(({ name }) => name.getText(source));
      edits.push({ from: node.getEnd(), to: node.getEnd(), text: `; __print(${[at, ...names].join(", ")});` });
      return;
    }
    const { expression } = node;
    if (ts.isCallExpression(expression) && expression.expression.getText(source) === "console.log") {
      edits.push({ from: expression.getStart(source), to: expression.expression.getEnd(), text: `__print.bind(null, ${at})` });
    } else {
      edits.push({ from: expression.getStart(source), to: expression.getStart(source), text: `__print(${at}, (` });
      edits.push({ from: expression.getEnd(), to: expression.getEnd(), text: "))" });
    }
  };
  visit(source);

  const orphan = lines.findIndex((line, i) => line.includes("// →") && !claimed.has(i));
  if (orphan >= 0) throw new Error(`${file}:${orphan + 1}: "// →" must follow an expression, a console.log or a declaration`);

  let instrumented = code;
  for (const { from, to, text } of edits.sort((a, b) => b.from - a.from || b.to - a.to)) {
    instrumented = instrumented.slice(0, from) + text + instrumented.slice(to);
  }
  // The document's first line is never inside a block.
  const prologue =
    `import { format as __format } from "node:util"; export const __printed = []; ` +
    `const __print = (line, ...values) => void __printed.push([line, __format(...values)]);`;
  return { code: prologue + instrumented, expected };
}

function matches(text: string, wanted: string): boolean {
  const [a, b] = [text, wanted].map((value) => value.replace(/\s+/g, " ").trim()) as [string, string];
  const pattern = b.split("…").map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  return new RegExp(`^${pattern.join(".*")}$`).test(a);
}

const helps = new Map<string, string>();

function helpFor(command: string): string {
  const main = ["--import", "./scripts/typescript/register.js", "src/cli/main.ts"];
  const run = (args: readonly string[]): string => execFileSync(process.execPath, [...main, ...args], { cwd: root, encoding: "utf8" });
  for (const name of ["", command]) if (!helps.has(name)) helps.set(name, run(name ? [name, "--help"] : ["--help"]));
  return ["", command].map((name) => helps.get(name)).join("\n");
}

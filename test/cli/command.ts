import { spawn, type ChildProcess } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = fileURLToPath(new URL("../..", import.meta.url));

export interface Result {
  /** `null` if a signal ended the process. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** The `kfacet` command as it is in `src/` now, run by Node as users run it. */
export interface Command {
  /** Where `src` is, translated, for scripts of a test. */
  readonly folder: string;
  /** Starts it; `done` tells how it ended. */
  start(...words: string[]): { readonly child: ChildProcess; readonly done: Promise<Result> };
  /** Runs it; environment variables may follow the words. */
  run(...words: (string | Readonly<Record<string, string>>)[]): Promise<Result>;
  dispose(): void;
}

/**
 * Translates `src/` once, file by file and without checking types, as scripts/typescript does it on every start, which would
 * take longer than most tests here. The result lies in the package, so that its dependencies are found.
 */
export function makeCommand(): Command {
  const cache = join(root, "node_modules/.cache");
  mkdirSync(cache, { recursive: true });
  const folder = mkdtempSync(join(cache, "kfacet-cli-"));
  const compilerOptions: ts.CompilerOptions = {
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    verbatimModuleSyntax: true,
    rewriteRelativeImportExtensions: true,
  };
  // The version is read from where it lies in the package: two folders up from src/cli.
  cpSync(join(root, "package.json"), join(folder, "package.json"));
  for (const entry of readdirSync(join(root, "src"), { recursive: true, withFileTypes: true })) {
    // Types alone, and AssemblyScript, which is compiled already.
    if (!entry.isFile() || entry.name.endsWith(".d.ts") || entry.parentPath.endsWith("assembly")) continue;
    const from = join(entry.parentPath, entry.name);
    const to = join(folder, from.slice(root.length));
    mkdirSync(join(to, ".."), { recursive: true });
    if (!entry.name.endsWith(".ts")) cpSync(from, to);
    else
      writeFileSync(
        to.replace(/\.ts$/, ".js"),
        ts.transpileModule(readFileSync(from, "utf8"), { fileName: from, compilerOptions }).outputText,
      );
  }

  const begin = (words: readonly string[], env: NodeJS.ProcessEnv): { child: ChildProcess; done: Promise<Result> } => {
    const program = [join(folder, "src/cli/main.js"), ...words];
    const child = spawn(process.execPath, program, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
    const output = { stdout: "", stderr: "" };
    for (const stream of ["stdout", "stderr"] as const) child[stream].on("data", (chunk: Buffer) => (output[stream] += chunk.toString()));
    const done = new Promise<Result>((resolve, reject) => {
      child.on("error", reject);
      child.on("close", (code) => resolve({ code, ...output }));
    });
    return { child, done };
  };
  return {
    folder,
    start: (...words) => begin(words, {}),
    run: (...given) => {
      const words = given.filter((word) => typeof word === "string");
      const env = Object.assign({}, ...given.filter((word) => typeof word !== "string")) as NodeJS.ProcessEnv;
      return begin(words, env).done;
    },
    dispose: () => rmSync(folder, { recursive: true, force: true }),
  };
}

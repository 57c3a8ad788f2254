import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import type { Command } from "./children.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/**
 * A process that runs a file of bench/ from compiled JavaScript, as users of the package run it: with TypeScript's compiler beside
 * it in the process, as in `typescript(…)`, its memory would not be its own.
 */
export async function compiled(file: string, ...args: string[]): Promise<Command> {
  const folder = join(root, "node_modules/.cache/kfacet-bench");
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "package.json"), JSON.stringify({ type: "module" }));
  const sources = (await readdir(join(root, "src"), { recursive: true })).map((name) => join("src", name));
  const benches = (await readdir(join(root, "bench"))).map((name) => join("bench", name));
  const needed = [...sources, ...benches, "bench/peers/protocol.ts"].filter((name) => name.endsWith(".ts") && !name.includes("assembly"));
  const compilerOptions = {
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    verbatimModuleSyntax: true,
    rewriteRelativeImportExtensions: true,
  };
  for (const name of needed) {
    const { outputText } = ts.transpileModule(await readFile(join(root, name), "utf8"), { fileName: name, compilerOptions });
    const target = join(folder, name.replace(/\.ts$/, ".js"));
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, outputText);
  }
  const flags = process.execArgv.filter((flag) => flag.startsWith("--experimental"));
  return { program: process.execPath, args: [...flags, join(folder, "bench", file.replace(/\.ts$/, ".js")), ...args] };
}

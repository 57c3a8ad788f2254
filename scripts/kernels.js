/**
 * Compiles the engine's AssemblyScript (src/tensor/backends/wasm/assembly) and its worker into one generated module,
 * src/tensor/backends/wasm/generated.ts: text that every bundler, test runner and browser can load, with no file to find at run
 * time. Does nothing if the sources have not changed since.
 */
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = join(root, "src/tensor/backends/wasm");
const target = join(folder, "generated.ts");

/** Everything that the result depends on. */
async function fingerprint() {
  const hash = createHash("sha256");
  const sources = (await readdir(join(folder, "assembly"))).filter((name) => name.endsWith(".ts")).sort();
  const files = [...sources.map((name) => join(folder, "assembly", name)), join(folder, "worker.ts"), fileURLToPath(import.meta.url)];
  for (const file of files) hash.update(file.slice(root.length)).update(await readFile(file));
  const lock = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
  return hash.update(lock.devDependencies.assemblyscript).digest("hex").slice(0, 16);
}

/**
 * A source with the exports that it asks for: `// export add_T = zip<T, T, Add<T>> for T of f32, f64` becomes one exported function
 * for each type, with the parameters of the generic `zip` of that file. WebAssembly has no generic functions, and AssemblyScript no
 * shorter way to export instances of one.
 */
function withExports(text, file) {
  const made = [];
  for (const [line, name, callee, types, of = "T"] of text.matchAll(/^\/\/ export (\w+) = (\w+)<(.*)>(?: for T of (.*))?$/gm)) {
    const found = new RegExp(`^(?:export )?function ${callee}<([^>]*)>\\(([^)]*)\\): (\\w+) {`, "m").exec(text);
    if (!found) throw new Error(`${file}: there is no generic function for "${line}"`);
    const [, generics, parameters, result] = found;
    const names = parameters.split(",").flatMap((parameter) => parameter.split(":", 1)[0].trim() || []);
    for (const type of of.split(", ")) {
      const given = splitTypes(types.replaceAll(/\bT\b/g, type));
      const inTypes = (code) =>
        generics.split(", ").reduce((code, own, i) => code.replaceAll(new RegExp(`\\b${own}\\b`, "g"), given[i]), code);
      const head = `export function ${name.replace(/_T$/, `_${type}`)}(${inTypes(parameters)}): ${inTypes(result)}`;
      made.push(`${head} {\n  ${result === "void" ? "" : "return "}${callee}<${given.join(", ")}>(${names.join(", ")});\n}\n`);
    }
  }
  return text + made.join("");
}

/** `f32, Add<f32>` → its parts; commas within angle brackets do not count. */
function splitTypes(types) {
  return types.match(/(?:[^,<\s]|<[^>]*>)+/g) ?? [];
}

/** Compiles to a module that imports its memory, declared as shared; the engine clears that flag where memory cannot be shared. */
async function compile(features) {
  const { default: asc } = await import("assemblyscript/asc");
  const out = await mkdtemp(join(tmpdir(), "kfacet-kernels-"));
  try {
    const options = [
      ...["--outFile", join(out, "kernels.wasm"), "-O3", "--converge", "--noAssert", "--runtime", "stub"],
      ...["--enable", features, "--importMemory", "--sharedMemory", "--initialMemory", "16", "--maximumMemory", "65536"],
      // The first page belongs to the threads: see threads.ts.
      ...["--memoryBase", "65536"],
    ];
    const { error, stderr } = await asc.main([join(folder, "assembly/index.ts"), ...options], { readFile: readSource });
    if (error) throw new Error(`AssemblyScript: ${stderr.toString()}`, { cause: error });
    return await readFile(join(out, "kernels.wasm"));
  } finally {
    await rm(out, { recursive: true, force: true });
  }
}

/** How AssemblyScript's compiler looks for sources: it tries several names, and null means that there is none. */
async function readSource(name, base) {
  const file = resolve(base, name);
  try {
    return withExports(await readFile(file, "utf8"), file);
  } catch (error) {
    if (error.code === "ENOENT") return null;
    throw error;
  }
}

/** The worker's program as JavaScript. */
async function translateWorker() {
  const { default: ts } = await import("typescript");
  const fileName = join(folder, "worker.ts");
  const compilerOptions = {
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    verbatimModuleSyntax: true,
    removeComments: true,
  };
  return ts.transpileModule(await readFile(fileName, "utf8"), { fileName, compilerOptions }).outputText.replace("export {};\n", "");
}

const head = `// Made by scripts/kernels.js from ${await fingerprint()}. Not to be edited.\n`;
if ((await readFile(target, "utf8").catch(() => "")).startsWith(head)) process.exit(0);
const [simd, relaxed, worker] = [await compile("simd,threads"), await compile("simd,threads,relaxed-simd"), await translateWorker()];
const functions = WebAssembly.Module.exports(await WebAssembly.compile(simd)).filter(({ kind }) => kind === "function");
await writeFile(
  target,
  `${head}
export type ExportName =
${functions.map(({ name }) => `  | ${JSON.stringify(name)}`).join("\n")};

/** The kernels for 128-bit SIMD, and the same with fused multiply-add (relaxed SIMD); base64. */
export const binaries: { readonly simd: string; readonly relaxedSimd: string } = {
  simd: "${simd.toString("base64")}",
  relaxedSimd: "${relaxed.toString("base64")}",
};

/** The program of a worker thread. */
export const workerProgram: string = ${JSON.stringify(worker)};
`,
);
console.log(`kernels: ${functions.length} functions, ${(simd.length / 1024).toFixed(0)} KiB`);

/**
 * Packs the built package, and looks at the tarball as its users will: publint, are-the-types-wrong, then an installation with
 * nothing but the runtime dependencies, which is imported, run as a command, and compiled against.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";

const manifest = JSON.parse(readFileSync("package.json", "utf8"));
const bin = (name) => resolve("node_modules/.bin", name);
const place = mkdtempSync(join(tmpdir(), "kfacet-pack-"));
let failed = false;

/** Runs one step, and prints what it said if it failed. */
function step(title, command, args, options = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: "utf8", ...options });
  const passed = status === 0;
  console.log(`${passed ? "✓" : "✗"} ${title}`);
  if (passed) return;
  failed = true;
  console.log([stdout, stderr, error?.message].filter(Boolean).join("\n"));
}

try {
  const packed = execFileSync("npm", ["pack", "--ignore-scripts", "--json", "--pack-destination", place], { encoding: "utf8" });
  const [{ filename, files, size }] = Object.values(JSON.parse(packed));
  const tarball = join(place, filename);
  console.log(`${filename}: ${files.length} files, ${(size / 1024).toFixed(0)} KiB`);

  step("publint --strict", bin("publint"), [tarball, "--strict"]);
  step("attw --profile esm-only", bin("attw"), [tarball, "--profile", "esm-only", "--no-emoji", "--no-color"]);

  const installed = join(place, "node_modules", manifest.name);
  mkdirSync(installed, { recursive: true });
  execFileSync("tar", ["-xzf", tarball, "-C", installed, "--strip-components=1"]);
  for (const dependency of Object.keys(manifest.dependencies)) {
    const link = join(place, "node_modules", dependency);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(resolve("node_modules", dependency), link, "junction");
  }
  writeFileSync(join(place, "consumer.mts"), `import * as everything from "${manifest.name}";\nexport default everything;\n`);
  const user = { cwd: place };
  step("import", process.execPath, ["--input-type=module", "-e", `await import("${manifest.name}")`], user);
  const thread = `const { LinalgWorker, Tensor } = await import("${manifest.name}"); await new LinalgWorker().routines.eigh(Tensor.ones([1, 1]))`;
  step("a worker thread", process.execPath, ["--input-type=module", "-e", thread], user);
  for (const path of Object.values(manifest.bin)) step(`${path} --version`, process.execPath, [join(installed, path), "--version"], user);
  const compilerOptions = { strict: true, noEmit: true, module: "nodenext", target: "es2022", lib: ["es2022", "dom", "esnext.disposable"] };
  writeFileSync(
    join(place, "tsconfig.json"),
    JSON.stringify({ compilerOptions: { ...compilerOptions, types: [] }, files: ["consumer.mts"] }),
  );
  step("compile against the types", bin("tsc"), ["-p", place], user);
} finally {
  rmSync(place, { recursive: true, force: true });
}
process.exitCode = failed ? 1 : 0;

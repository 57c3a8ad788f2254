import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Child, typescript, type Command } from "./children.ts";
import { messageOf } from "./peers/protocol.ts";
import type { Absence } from "./report.ts";

export type PeerName = "tfjs-cpu" | "tfjs-wasm" | "jax-js" | "pytorch" | "numpy" | "ml-matrix";

/** The processes of peers, each started when it is first wanted. Why one is missing is kept for the table. */
export class Peers {
  readonly absences: Absence[] = [];
  readonly #children = new Map<string, Child | null>();
  readonly #versions = new Set<string>();

  /** @returns null if the peer cannot be had. */
  child(name: PeerName, threads = 1): Child | null {
    const key = `${name} ${threads}`;
    const known = this.#children.get(key);
    if (known !== undefined) return known;
    let child: Child | null = null;
    try {
      child = new Child(commandOf(name, threads));
      this.#versions.add(versionOf(name));
    } catch (error) {
      if (!this.absences.some(({ peer, where }) => peer === name && where === undefined)) this.missing(name, messageOf(error));
    }
    this.#children.set(key, child);
    return child;
  }

  /** For a process that ended: it is not asked again. */
  drop(name: PeerName, threads: number, reason: string): void {
    this.#children.set(`${name} ${threads}`, null);
    this.missing(name, reason, threads > 1 ? `${threads} threads` : undefined);
  }

  missing(peer: string, reason: string, where?: string): void {
    this.absences.push({ peer, reason, ...(where !== undefined && { where }) });
  }

  /** What was started, for the record. */
  versions(): string {
    return [...this.#versions].join(", ") || "none";
  }

  close(): void {
    for (const child of this.#children.values()) child?.close();
    this.#children.clear();
  }
}

function commandOf(name: PeerName, threads: number): Command {
  if (name === "pytorch") return torch(threads);
  if (name === "numpy") return lapack(threads);
  install();
  if (name === "jax-js") return typescript("./peers/jax.ts");
  if (name === "ml-matrix") return typescript("./peers/mlMatrix.ts");
  return typescript("./peers/tfjs.ts", name === "tfjs-cpu" ? "cpu" : "wasm");
}

function versionOf(name: PeerName): string {
  if (name === "pytorch" || name === "numpy") return pythons.get(scripts[name])?.version ?? name;
  const main = name === "jax-js" ? "@jax-js/jax" : name === "ml-matrix" ? name : `@tensorflow/${name.replace("-", "-backend-")}`;
  return `${main} ${dependencies()[main] ?? "?"}`;
}

const folder = fileURLToPath(new URL("./peers/", import.meta.url));
let installed: boolean | null = null;

/** Installs the peers' packages unless exactly these versions are there. @throws Error if that fails. */
function install(): void {
  installed ??= isInstalled() || runNpm();
  if (!installed) throw new Error("its packages could not be installed: `npm ci` failed in bench/peers");
}

function dependencies(): Record<string, string> {
  return (readJson(`${folder}package.json`) as { dependencies: Record<string, string> }).dependencies;
}

function isInstalled(): boolean {
  return Object.entries(dependencies()).every(([name, version]) => {
    const file = `${folder}node_modules/${name}/package.json`;
    return existsSync(file) && (readJson(file) as { version: string }).version === version;
  });
}

function runNpm(): boolean {
  console.log("bench: installing the peers once: npm ci in bench/peers");
  const { status } = spawnSync("npm ci --ignore-scripts --no-audit --no-fund", { cwd: folder, shell: true, stdio: "inherit" });
  return status === 0;
}

function readJson(file: string): unknown {
  return JSON.parse(readFileSync(file, "utf8"));
}

interface Python {
  readonly program: string;
  readonly version: string;
}

const scripts = { pytorch: "pytorch.py", numpy: "lapack.py" } as const;
/** The Python that can run a script, found once. */
const pythons = new Map<string, Python>();

/**
 * PyTorch as its user would set it up for speed: the OpenBLAS kernels that fit the processor, and an allocator that keeps what it
 * has, which halves its step time on virtual machines.
 */
export function torch(threads: number, { tuned = true }: { readonly tuned?: boolean } = {}): Command {
  const kept = { MALLOC_MMAP_MAX_: "0", MALLOC_TRIM_THRESHOLD_: "20000000000", MALLOC_TOP_PAD_: "268435456" };
  return script(scripts.pytorch, threads, tuned ? kept : {});
}

/** LAPACK by numpy; OpenBLAS takes its threads from the environment. */
function lapack(threads: number): Command {
  return script(scripts.numpy, threads, { OPENBLAS_NUM_THREADS: String(threads), OMP_NUM_THREADS: String(threads) });
}

function script(name: string, threads: number, more: NodeJS.ProcessEnv): Command {
  const env: NodeJS.ProcessEnv = { ...process.env, ...more };
  delete env["OPENBLAS_CORETYPE"];
  delete env["OPENBLAS_L2_SIZE"];
  const { program } = pythonFor(name);
  return { program, args: [`${folder}${name}`, String(threads)], env };
}

/** @throws Error if there is no Python that can import what the script needs. */
function pythonFor(name: string): Python {
  const known = pythons.get(name);
  if (known) return known;
  const wanted = process.env["KFACET_PYTHON"];
  const candidates = wanted ? [wanted] : ["python3", "/usr/bin/python3"];
  for (const candidate of candidates) {
    const { status, stdout } = spawnSync(candidate, [`${folder}${name}`, "version"], { encoding: "utf8" });
    if (status !== 0) continue;
    const found = { program: candidate, version: stdout.trim() };
    pythons.set(name, found);
    return found;
  }
  const module = name === scripts.pytorch ? "torch" : "numpy";
  throw new Error(`${candidates.join(" and ")} cannot import ${module}; KFACET_PYTHON may name a Python that can`);
}

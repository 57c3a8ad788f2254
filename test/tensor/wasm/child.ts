import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../..", import.meta.url));

/** What a module of TypeScript-free text prints when a process of its own runs it in the package's folder. */
export async function runScript(
  program: string,
  environment: Readonly<Record<string, string>>,
  flags: readonly string[] = [],
  timeout = 50_000,
): Promise<{ readonly code: number | string | null; readonly stdout: string; readonly stderr: string }> {
  const words = ["--import", "./scripts/typescript/register.js", ...flags, "--input-type=module", "--eval", program];
  const child = spawn(process.execPath, words, {
    cwd: root,
    env: { ...process.env, NODE_OPTIONS: "", ...environment },
    stdio: ["ignore", "pipe", "pipe"],
    timeout,
    killSignal: "SIGKILL",
  });
  const output = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const) child[stream].on("data", (chunk: Buffer) => (output[stream] += chunk.toString()));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code: signal ?? code, ...output }));
  });
}

import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { MARK, type Memory, type Reply, type Request } from "./peers/protocol.ts";

export interface Command {
  readonly program: string;
  readonly args: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
}

/** Longest that a process may take for one request; the longest of the benches takes seconds. */
const PATIENCE_MS = 300_000;

const root = fileURLToPath(new URL("..", import.meta.url));

/** A process of this version of Node that runs a TypeScript file of the repository. */
export function typescript(file: string, ...args: string[]): Command {
  const register = new URL("../scripts/typescript/register.js", import.meta.url).href;
  return {
    program: process.execPath,
    args: [...process.execArgv, "--import", register, fileURLToPath(new URL(file, import.meta.url)), ...args],
  };
}

/** A process that is timed: see peers/protocol.ts. */
export class Child {
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #replies: AsyncIterator<string>;
  #errors = "";
  #failure: string | null = null;

  constructor({ program, args, env = process.env }: Command) {
    this.#process = spawn(program, args, { cwd: root, env, stdio: "pipe" });
    this.#process.on("error", ({ message }) => (this.#failure ??= message));
    this.#process.on("exit", (code, signal) => (this.#failure ??= `it ended (${signal ?? `exit code ${code ?? "unknown"}`})`));
    this.#process.stdin.on("error", ({ message }) => (this.#failure ??= message)); // a pipe that nobody reads any more
    this.#process.stderr.on("data", (text: Buffer) => (this.#errors = (this.#errors + text.toString()).slice(-2000)));
    this.#replies = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  /** @throws Error with what the process says, or how it ended. */
  async ask(request: Request): Promise<Reply> {
    this.#process.stdin.write(`${JSON.stringify(request)}\n`);
    const timer = setTimeout(() => {
      this.#failure ??= `it gave no answer for ${PATIENCE_MS / 1000} s`;
      this.#process.kill();
    }, PATIENCE_MS);
    try {
      return await this.#reply();
    } finally {
      clearTimeout(timer);
    }
  }

  async #reply(): Promise<Reply> {
    for (;;) {
      const next = await this.#replies.next();
      if (next.done) throw new Error(await this.#end());
      if (!next.value.startsWith(MARK)) continue;
      const reply = JSON.parse(next.value.slice(MARK.length)) as Reply;
      if (reply.error !== undefined) throw new Error(reply.error);
      return reply;
    }
  }

  /** Milliseconds of one call of something prepared. */
  async sample(key: string): Promise<number> {
    return (await this.ask({ do: "sample", key })).ms as number;
  }

  async memory(): Promise<Memory> {
    return (await this.ask({ do: "memory" })).memory as Memory;
  }

  /** Whether the process is gone, or never came up. */
  get ended(): boolean {
    return this.#failure !== null;
  }

  close(): void {
    this.#process.stdin.end();
    this.#process.kill();
  }

  async #end(): Promise<string> {
    if (this.#failure === null) await once(this.#process, "exit").catch(() => undefined);
    const [lastError = ""] = this.#errors.trim().split("\n").slice(-1);
    return [this.#failure ?? "it closed its output", lastError].filter(Boolean).join(": ");
  }
}

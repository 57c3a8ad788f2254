/** What Node's `process` offers; nothing in a browser, and parts of it where a bundle brings something of that name. */
export function runtime(): Partial<Pick<NodeJS.Process, "env" | "execArgv" | "getBuiltinModule">> {
  return (globalThis as { process?: Partial<NodeJS.Process> }).process ?? {};
}

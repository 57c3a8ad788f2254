import { afterAll, beforeAll, describe } from "vitest";
import { defaultBackend, openBackend, setDefaultBackend, type Backend } from "../src/tensor/index.ts";

/** Backends that run everywhere. All of them compute the same. */
const names = ["reference", "wasm"] as const;
export type BackendName = (typeof names)[number];

/** What is opened is the default backend while the tests around it run: not yet where they are collected. */
export function whileDefault(open: () => Promise<Backend>): void {
  let before: Backend;
  beforeAll(async () => {
    const backend = await open();
    before = defaultBackend();
    setDefaultBackend(backend);
  });
  afterAll(() => {
    setDefaultBackend(before);
  });
}

/** The same tests once on each of them, which is the default one while they run. */
export function eachBackend(statements: (name: BackendName) => void): void {
  describe.each(names)("on %s:", (name) => {
    whileDefault(() => openBackend(name));
    statements(name);
  });
}

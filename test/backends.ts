import { afterAll, beforeAll, describe } from "vitest";
import { defaultBackend, openBackend, setDefaultBackend, type Backend } from "../src/tensor/index.ts";

/** Backends that run everywhere. All of them compute the same. */
const names = ["reference", "wasm"] as const;
export type BackendName = (typeof names)[number];

/** The same tests once on each backend, which is the default one while they run: not yet where they are collected. */
export function eachBackend(statements: (name: BackendName) => void): void {
  describe.each(names)("on %s:", (name) => {
    let before: Backend;
    beforeAll(async () => {
      const backend = await openBackend(name);
      before = defaultBackend();
      setDefaultBackend(backend);
    });
    afterAll(() => {
      setDefaultBackend(before);
    });
    statements(name);
  });
}

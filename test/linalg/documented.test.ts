import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import * as linalg from "../../src/linalg/index.ts";

/* test/docs.test.ts runs the snippets; here is that none is missing. */
it.each(Object.keys(linalg))("docs/linalg.md has a snippet that calls %s", (name) => {
  const document = readFileSync(new URL("../../docs/linalg.md", import.meta.url), "utf8");
  const snippets = [...document.matchAll(/^```ts.*?\n(.*?)^```/gms)].map(([, code]) => code).join("\n");
  expect(snippets).toMatch(new RegExp(`\\b${name}[(.]`)); // a call, or one of a table of routines
});

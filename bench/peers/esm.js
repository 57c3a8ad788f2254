/** Loads the files of TensorFlow.js that are ES modules without saying so: bare relative imports, and `.js` in a CommonJS package. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";

const ours = (url) => /\/tfjs-core\/dist\/(?!.*\.node\.js$)/.test(url ?? "");

/** @type {import("node:module").ResolveHook} */
export async function resolve(specifier, context, nextResolve) {
  if (!ours(context.parentURL) || !specifier.startsWith(".")) return nextResolve(specifier, context);
  const url = new URL(specifier, context.parentURL).href;
  const found = [url, `${url}.js`, `${url}/index.js`].find((candidate) => candidate.endsWith(".js") && existsSync(new URL(candidate)));
  return nextResolve(found ?? specifier, context);
}

/** @type {import("node:module").LoadHook} */
export async function load(url, context, nextLoad) {
  if (!ours(url) || !url.endsWith(".js")) return nextLoad(url, context);
  return { format: "module", source: await readFile(new URL(url), "utf8"), shortCircuit: true };
}

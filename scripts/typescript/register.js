/**
 * Lets Node 20 run TypeScript: `node --import ./scripts/typescript/register.js bench/run.ts`. The code that runs is what `tsc`
 * would emit. Newer versions of Node strip types by themselves, but Node 22 does not know `using`.
 */
import { register } from "node:module";

register("./hooks.js", import.meta.url);

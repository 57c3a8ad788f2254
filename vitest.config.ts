import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { alias: { kfacet: fileURLToPath(new URL("src/index.ts", import.meta.url)) } },
  test: {
    include: ["test/**/*.test.ts"],
    setupFiles: ["test/setup.ts"],
    env: { NODE_ENV: "test" },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // A process a file: the default backend and the stacks of scopes and recorders are process-wide.
    pool: "forks",
    maxWorkers: "100%",
    // The snippets of the documentation (test/docs.test.ts) are written there.
    server: { deps: { inline: [/kfacet-docs/] } },
  },
});

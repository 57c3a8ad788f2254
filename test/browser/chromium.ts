import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium, type Browser, type Page as Tab } from "playwright-core";
import { build, preview, type PreviewServer } from "vite";
import { afterAll, beforeAll, describe, test } from "vitest";
import type { Page } from "./page.ts";

/** Where Debian, Ubuntu, Fedora and macOS keep it; CHROMIUM names another place. */
const places = [
  process.env["CHROMIUM"],
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
].filter((place) => place !== undefined);
const executablePath = places.find((place) => existsSync(place));

/** What KFACET_REQUIRE names must be there: then its absence is a failure, not a reason to skip. */
const required = (process.env["KFACET_REQUIRE"] ?? "").split(",").includes("browser");

/** Without a window, without the sandbox (which root may not have), and with the software driver where there is no GPU. */
const FLAGS = ["--no-sandbox", "--enable-unsafe-webgpu", "--enable-unsafe-swiftshader", "--disable-gpu-watchdog"];

/** Calls a function of the page with arguments and gives its result. */
export type Call = <Name extends keyof Page>(name: Name, ...values: Parameters<Page[Name]>) => ReturnType<Page[Name]>;

/**
 * Tests in a browser that shows the page of this folder, bundled for it and served by a local server: skipped by name where there is no
 * Chromium, unless one is required.
 */
export function describeInBrowser(name: string, statements: (call: Call) => void): void {
  if (executablePath === undefined && required) {
    test(`${name}: KFACET_REQUIRE names a browser`, () => {
      throw new Error(`there is no Chromium at ${places.join(", ")}; install it (Debian: apt-get install chromium), or set CHROMIUM`);
    });
    return;
  }
  describe.skipIf(executablePath === undefined)(executablePath === undefined ? `${name} (skipped: no Chromium)` : name, () => {
    const root = fileURLToPath(new URL(".", import.meta.url));
    let outDir: string;
    let server: PreviewServer;
    let browser: Browser;
    let tab: Tab;
    const errors: string[] = [];
    beforeAll(async () => {
      outDir = mkdtempSync(join(tmpdir(), "kfacet-page-"));
      await build({
        root,
        configFile: false,
        logLevel: "warn",
        build: { outDir, emptyOutDir: true, target: "es2022", chunkSizeWarningLimit: 4096 },
      });
      server = await preview({ root, configFile: false, logLevel: "warn", build: { outDir }, preview: { port: 0 } });
      browser = await chromium.launch({ executablePath: executablePath as string, args: FLAGS });
      tab = await browser.newPage();
      tab.on("pageerror", (error) => errors.push(String(error)));
      await tab.goto(server.resolvedUrls?.local[0] as string);
      await tab.waitForFunction("globalThis.page !== undefined");
    }, 120_000);
    afterAll(async () => {
      await browser.close();
      await server.close();
      rmSync(outDir, { recursive: true });
    });
    const call = async (what: string, ...values: unknown[]): Promise<unknown> => {
      const result: unknown = await tab.evaluate(`page[${JSON.stringify(what)}](...${JSON.stringify(values)})`);
      if (errors.length > 0) throw new Error(errors.splice(0).join("\n"));
      return result;
    };
    statements(call as Call);
  });
}

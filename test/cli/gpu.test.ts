import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { describeOnGpu } from "../tensor/gpu/gpu.ts";
import { makeCommand, type Command } from "./command.ts";

/* The command on a GPU, where there is a driver for one. */

describeOnGpu("the command on a GPU", (open) => {
  const folder = mkdtempSync(join(tmpdir(), "kfacet-gpu-"));
  let kfacet: Command;
  beforeAll(() => {
    kfacet = makeCommand();
  });
  afterAll(() => {
    kfacet.dispose();
    rmSync(folder, { recursive: true, force: true });
  });

  // The last one inverts beside the training, on a device of its own.
  test.each(["sgd", "kfac", "rs-kfac", "sre-kfac", "seng", "rs-kfac --inversion-every 5 --inversion-lag 3"])(
    "trains by %s",
    async (method) => {
      const [optimizer, ...more] = method.split(" ") as [string, ...string[]];
      const words = ["--optimizer", optimizer, ...more, "--epochs", "1", "--batch-size", "20", "--out", join(folder, method)];
      const { code, stdout } = await kfacet.run(
        "train",
        "--device",
        "gpu",
        "--data",
        "synthetic",
        "--model",
        "vgg_tiny_bn",
        ...words,
        "--json",
      );
      expect(code).toBe(0);
      const summary = JSON.parse(stdout) as { readonly testAccuracy: readonly number[] };
      expect(summary).toMatchObject({ device: "gpu", optimizer, epochs: 1 });
      // Of 200 images in ten classes, guesses get 0.1 ± 0.02.
      expect(summary.testAccuracy.at(-1)).toBeGreaterThan(0.2);
    },
  );

  test("doctor names adapter and driver, says whether a CPU does the work, and what limits a tensor", async () => {
    const { device } = await open();
    const { adapterInfo: info, limits } = device;
    const [text, line] = await Promise.all([kfacet.run("doctor"), kfacet.run("doctor", "--json")]);
    const { backends } = JSON.parse(line.stdout) as { backends: { name: string; detail: string; device?: unknown }[] };
    const found = backends.find(({ name }) => name === "gpu");
    const adapter = info.device.replace(/-+$/, "");
    expect(adapter).not.toBe("");
    expect(found).toMatchObject({
      works: true,
      detail: expect.stringContaining(adapter) as unknown,
      device: {
        adapter,
        driver: info.description,
        software: info.isFallbackAdapter,
        limits: {
          maxBufferSize: limits.maxBufferSize,
          maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
          maxComputeWorkgroupsPerDimension: 65535,
        },
      },
    });
    expect(text.stdout).toMatch(new RegExp(`gpu +│ yes   │ ${adapter}`));
    expect(text.stdout).toContain(info.isFallbackAdapter ? "software, of which a CPU does the work" : "│ hardware");
    expect(text.stdout).toContain(`driver: ${info.description}`);
    const mebibytes = (bytes: number): string => `${Math.floor(bytes / 2 ** 20)} MiB`;
    expect(text.stdout).toContain(
      `limits: buffer ${mebibytes(limits.maxBufferSize)}, binding (a tensor) ${mebibytes(limits.maxStorageBufferBindingSize)}, 65535 workgroups`,
    );
  });
});

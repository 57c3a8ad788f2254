import { readFileSync } from "node:fs";
import gpuJs from "gpu.js";
import { describe, expect, test } from "vitest";
import { toGlsl, toWgsl, type GpuJs } from "../../../src/tensor/backends/gpu/compiler.ts";
import { openGpu } from "../../../src/tensor/backends/gpu/index.ts";
import { portable } from "../../../src/tensor/backends/gpu/kernel.ts";
import { BackendError } from "../../../src/tensor/index.ts";

/* What the compiler needs of gpu.js that gpu.js does not promise. This needs no device. */

const translator = gpuJs as unknown as GpuJs;
const kernel = portable(
  "a bit of everything",
  { x: "array", n: "integer", scale: "float" },
  `let total = 0;
  for (let i = 0; i < n; i++) { total += scale * x[quotient(this.thread.y, n) * n + i]; }
  return Math.pow(total, 2) + x[whole(x[remainder(this.thread.z, n)])];`,
);

test("gpu.js is the version that its undescribed classes were read in", () => {
  const { dependencies } = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")) as {
    dependencies: Record<string, string>;
  };
  const { version } = JSON.parse(readFileSync(new URL("../../../node_modules/gpu.js/package.json", import.meta.url), "utf8")) as {
    version: string;
  };
  expect(dependencies["gpu.js"]).toBe(version);
});

test("WebGL2 is for browsers, and says so elsewhere", async () => {
  await expect(openGpu({ api: "webgl2" })).rejects.toThrow(BackendError);
  await expect(openGpu({ api: "webgl2" })).rejects.toThrow(/gpu: there is no WebGL2 here.*"wasm"/);
});

test("gpu.js exports the translators", () => {
  expect(typeof translator.FunctionBuilder.fromKernel).toBe("function");
  expect(typeof translator.WGSLFunctionNode).toBe("function");
  expect(typeof translator.WebGL2FunctionNode).toBe("function");
});

describe.each([
  ["WGSL", toWgsl, "fn fn_quotient(a : i32, b : i32) -> i32 { return a / b; }", "i32(user_x)"],
  ["GLSL", toGlsl, "int quotient(int a, int b) { return a / b; }", "int(user_x)"],
] as const)("a kernel in %s", (_, compile, division, whole) => {
  const text = compile(translator, kernel);

  test("divides integers as such, and makes integers of what it read", () => {
    expect(text).toContain(division);
    expect(text).toContain(whole);
  });

  test("has no loop that ends by itself after 1000 rounds", () => {
    expect(text).toMatch(/LOOP_MAX( : i32)? = 2147483647/);
    expect(text).not.toContain("1000");
  });

  test("is the same text each time, and has each argument once", () => {
    expect(compile(translator, kernel)).toBe(text);
    expect(text.match(/user_scale *[:;]/g)).toHaveLength(1);
  });

  test("that gpu.js cannot translate is an error with its name and text", () => {
    const broken = portable("half a kernel", { x: "array" }, "return x[;");
    expect(() => compile(translator, broken)).toThrow(BackendError);
    expect(() => compile(translator, broken)).toThrow(
      /gpu: gpu\.js cannot translate the kernel "half a kernel" .*: function \(x\) \{return x\[;\}/s,
    );
  });
});

import fc from "fast-check";
import gpuJs from "gpu.js";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { toWgsl, type GpuJs } from "../../../src/tensor/backends/gpu/compiler.ts";
import type { DeviceArray, PortableKernel } from "../../../src/tensor/backends/gpu/kernel.ts";
import type { WgslKernel } from "../../../src/tensor/backends/gpu/queue.ts";
import { foldByGroups, wgslFold } from "../../../src/tensor/backends/gpu/wgsl/reduce.ts";
import { Tensor } from "../../../src/tensor/index.ts";
import { kernelNames, larger, writtenOut, type LargerSample } from "../../larger.ts";
import { samples, type Sample } from "../../samples.ts";
import { resultsOf } from "./checks.ts";
import { describeOnGpu } from "./gpu.ts";

/* Traps that lie in the text of kernels: what gpu.js and drivers make of some words, the numbers of one driver do not show. */

const translator = gpuJs as unknown as GpuJs;

/** What stands in the brackets of a text, the outermost ones. */
function indexesIn(text: string): string[] {
  const found: string[] = [];
  let [depth, from] = [0, 0];
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "[" && depth++ === 0) from = i + 1;
    if (text[i] === "]" && --depth === 0) found.push(text.slice(from, i));
  }
  return found;
}

/** A text without its calls of `whole`, in which anything may stand. */
function withoutWhole(text: string): string {
  const start = text.indexOf("whole(");
  if (start < 0) return text;
  let [depth, end] = [0, start + "whole".length];
  do {
    if (text[end] === "(") depth++;
    if (text[end] === ")") depth--;
    end++;
  } while (depth > 0);
  return withoutWhole(text.slice(0, start) + "0" + text.slice(end));
}

describeOnGpu("the text of the kernels of a GPU", (open) => {
  const kernels = new Set<PortableKernel>();
  const written = new Set<WgslKernel>();
  beforeAll(async () => {
    // All that the primitives issue.
    for (const overrides of [true, false]) {
      const backend = await open({ overrides });
      const run = vi.spyOn(backend.queue, "run");
      const runWgsl = vi.spyOn(backend.queue, "runWgsl");
      for (const name of kernelNames) {
        const issued = async (sample: Sample<typeof name>): Promise<void> => {
          await resultsOf(name, sample, backend);
        };
        await fc.assert(fc.asyncProperty(samples[name], issued), { numRuns: 6 });
        const issuedLarger = (sample: LargerSample<typeof name>): Promise<void> => issued(writtenOut(sample));
        await fc.assert(fc.asyncProperty(larger[name], issuedLarger), { numRuns: 3 });
      }
      for (const [kernel] of run.mock.calls) kernels.add(kernel);
      for (const [kernel] of runWgsl.mock.calls) written.add(kernel);
    }
  });

  test("is that of kernels for all primitives, in both languages", () => {
    expect(kernels.size).toBeGreaterThan(kernelNames.length);
    expect(written.size).toBeGreaterThan(10);
  });

  test("has places that are expressions of integers alone", () => {
    const faults: string[] = [];
    for (const { name, takes, body } of kernels) {
      const counters = [...body.matchAll(/for \(let (\w+) = (\d+);/g)].map(([, counter]) => counter);
      const integers = Object.entries(takes).flatMap(([argument, kind]) => (kind === "integer" ? [argument] : []));
      const known = new Set([...counters, ...integers, "quotient", "remainder", "placeOf"]);
      for (const index of indexesIn(body)) {
        const rest = withoutWhole(index).replace(/this\.thread\.[xyz]/g, "0");
        const others = (rest.match(/[A-Za-z_]\w*/g) ?? []).filter((word) => !known.has(word));
        // An array that is read inside of another's brackets is a float to WebGL2, whatever is made of it.
        if (others.length > 0 || /[/%.]/.test(rest) || index.includes("[")) faults.push(`${name}: [${index}]`);
      }
    }
    expect(faults).toEqual([]);
  });

  test("has none of the words that some driver, or gpu.js, makes something else of", () => {
    const words = {
      "a remainder of floats": /%/,
      "a conditional expression, which WebGL2 refuses for an integer and a float": /\?/,
      "an array of its own, which gpu.js has up to four elements": /= *\[|\[ *\]/,
      "a power by an operator": /\*\*/,
      "a product of 32 bits, which goes through float32": /Math\.imul/,
      "random numbers of the driver's": /Math\.random/,
      "a sine, cosine or tanh of the driver's": /Math\.(sin|cos|tanh)\b/,
      "a comparison with itself": /\b(\w+) [!=]==? \1\b/,
      "a loop whose counter starts at what is no literal": /for \(let \w+ = (?!\d+;)/,
    };
    const faults = [...kernels].flatMap(({ name, body }) =>
      Object.entries(words).flatMap(([what, word]) => (word.test(body) ? [`${name} has ${what}`] : [])),
    );
    expect(faults).toEqual([]);
    // traps.ts has what these make of their own operands.
    const users = (word: string): string[] =>
      [...kernels].flatMap(({ name, body }) => (body.includes(word) ? [name.split(",")[0] as string] : []));
    expect(new Set(users("Math.pow"))).toEqual(new Set(["power"]));
  });

  test("reads no more arrays than every device binds", () => {
    const arrays = (takes: PortableKernel["takes"]): number => Object.values(takes).filter((kind) => kind === "array").length;
    for (const { name, takes } of kernels) expect([name, arrays(takes)]).toEqual([name, Math.min(7, arrays(takes))]);
    for (const { name, reads, writes } of written) expect([name, reads + writes]).toEqual([name, Math.min(8, reads + writes)]);
  });

  test("has no variable without a value, which a driver let keep that of the round before", () => {
    const codes = [
      ...[...written].map(({ name, code }) => [name, code] as const),
      ...[...kernels].map((kernel) => [kernel.name, toWgsl(translator, kernel)] as const),
    ];
    // Those of a workgroup and of a thread are declared outside of functions.
    const faults = codes.flatMap(([name, code]) => (/\bvar \w+( *: *[^=;]+)?;/.test(code) ? [name] : []));
    expect(faults).toEqual([]);
  });

  describe("in WGSL", () => {
    test("a term of a fold that is not set in a round is 0, not what it was before", async () => {
      const backend = await open();
      const large = wgslFold("large ones", { x: "array" }, "total += v;", 0, "if (x[at] > 500.0) { v = x[at]; }");
      const n = 4096;
      const data = Float32Array.from({ length: n }, (_, i) => (i * 7919) % 1021);
      using x = Tensor.from(data, { backend });
      using y = Tensor.zeros([1], { backend });
      const issued = foldByGroups<{ readonly x: "array" }>(
        backend.queue,
        large,
        [1, n, 1],
        { x: x.storage.buffer as DeviceArray },
        (parts, issue) => {
          expect(parts).toBe(1);
          issue(y.storage.buffer as DeviceArray);
        },
      );
      expect(issued).toBe(true);
      expect(await y.item()).toBe(data.reduce((total, v) => total + (v > 500 ? v : 0), 0));
    });
  });
});

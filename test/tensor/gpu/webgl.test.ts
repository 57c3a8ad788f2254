import { afterEach, describe, expect, test, vi } from "vitest";
import type { GpuJs } from "../../../src/tensor/backends/gpu/compiler.ts";
import { portable, type DeviceArray } from "../../../src/tensor/backends/gpu/kernel.ts";
import { findContext, WebGlQueue } from "../../../src/tensor/backends/gpu/webgl.ts";
import type { WebGl2 } from "../../../src/tensor/backends/gpu/webglTypes.ts";
import { BackendError } from "../../../src/tensor/index.ts";
import { errorOf, thrown } from "./refusals.ts";

/* What a WebGL2 context refuses, told by contexts that do nothing else: real ones are those of test/browser. */

const [OUT_OF_MEMORY, INVALID_OPERATION, INVALID_FRAMEBUFFER_OPERATION, CONTEXT_LOST_WEBGL] = [0x505, 0x502, 0x506, 0x9242] as const;
const constants: Readonly<Record<string, number>> = { NO_ERROR: 0, MAX_TEXTURE_SIZE: 1, LINK_STATUS: 2, OUT_OF_MEMORY, CONTEXT_LOST_WEBGL };

interface Behaviour {
  readonly textureSize?: number;
  /** Whether programs can be linked. */
  readonly links?: boolean;
  readonly lost?: boolean;
}

/** A context, and what it answers from now on to the question for errors: one after the other. */
function contextOf({ textureSize = 8192, links = true, lost = false }: Behaviour = {}): { gl: WebGl2; errors: number[] } {
  const errors: number[] = [];
  const methods: Readonly<Record<string, unknown>> = {
    canvas: { addEventListener: () => undefined },
    getParameter: (name: number) => (name === constants["MAX_TEXTURE_SIZE"] ? textureSize : null),
    getProgramParameter: () => links,
    getError: () => errors.shift() ?? 0,
    isContextLost: () => lost,
    getExtension: () => ({ loseContext: () => undefined }),
    clientWaitSync: () => 0,
  };
  const gl = new Proxy(methods, {
    get: (_, name: string) => methods[name] ?? constants[name] ?? (/^[A-Z0-9_]+$/.test(name) ? -1 : () => ({})),
  });
  return { gl: gl as unknown as WebGl2, errors };
}

const { default: gpuJs } = (await import("gpu.js")) as unknown as { default: GpuJs };

function queueOn(gl: WebGl2): { queue: WebGlQueue; array: DeviceArray } {
  const queue = new WebGlQueue(gl, gpuJs);
  return { queue, array: { block: queue.memory.take(16, "a test"), size: 4, dtype: "float32" } };
}

const none = portable("none", {}, "return 0;");

describe("WebGL2", () => {
  const refusals: [what: string, codes: number[], says: RegExp][] = [
    ["a command", [INVALID_OPERATION], /^gpu: the device refused a command: WebGL error 0x502; nothing more is computed/],
    [
      "a command, for want of memory",
      [INVALID_FRAMEBUFFER_OPERATION, OUT_OF_MEMORY],
      /^gpu: a command needs memory, and the device has none left \(0\.0 MiB in 1 buffers.*\): WebGL error 0x506, 0x505, OUT_OF_MEMORY; nothing more.*use a smaller batch/,
    ],
    ["everything, being lost", [CONTEXT_LOST_WEBGL], /^gpu: the device is lost \(the browser took its WebGL context\)/],
  ];

  test.each(refusals)("that refuses %s says so from then on", async (_, codes, says) => {
    const { gl, errors } = contextOf();
    const { queue, array } = queueOn(gl);
    queue.run(none, [4], array, {});
    expect(await queue.read(array)).toHaveLength(4);
    errors.push(...codes);
    const error = await errorOf(queue.read(array));
    expect(error).toBeInstanceOf(BackendError);
    expect(error.message).toMatch(says);
    expect(error.message).toMatch(/openBackend\("gpu"\).*"wasm".*the last checkpoint/);
    expect(queue.ended).toBe(true);
    for (const later of [
      await errorOf(queue.read(array)),
      await thrown(() => queue.run(none, [4], array, {})),
      await thrown(() => queue.write(array, new Float32Array(4))),
      await thrown(() => queue.memory.take(2 ** 20, "a test")),
    ]) {
      expect(later.message).toBe(error.message);
    }
    queue.memory.give(array.block as Parameters<typeof queue.memory.give>[0]);
  });

  test("that is lost is not taken for one that cannot compile a kernel", async () => {
    const lost = queueOn(contextOf({ links: false, lost: true }).gl);
    expect((await thrown(() => lost.queue.run(none, [4], lost.array, {}))).message).toMatch(/^gpu: the device is lost/);
    const well = queueOn(contextOf({ links: false }).gl);
    expect((await thrown(() => well.queue.run(none, [4], well.array, {}))).message).toMatch(/^gpu: the kernel "none" does not compile/);
    expect(well.queue.ended).toBe(false); // nothing was drawn
  });

  describe("is opened", () => {
    afterEach(() => {
      vi.unstubAllGlobals();
    });
    const offer = (gl: WebGl2 | null): void => {
      vi.stubGlobal("OffscreenCanvas", function (this: { getContext: () => WebGl2 | null }) {
        this.getContext = () => gl;
      });
    };

    test("unless its textures are too small for a row, which is told by name", async () => {
      offer(contextOf({ textureSize: 2048 }).gl);
      const error = await thrown(findContext);
      expect(error).toBeInstanceOf(BackendError);
      expect(error.message).toMatch(/^gpu: .* 2048 numbers a row \(MAX_TEXTURE_SIZE\), and 4096 are needed; .*"wasm"/);
      const { gl } = contextOf({ textureSize: 4096 });
      offer(gl);
      expect(findContext()).toBe(gl);
    });
  });
});

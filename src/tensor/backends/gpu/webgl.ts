import { BackendError } from "../../errors.ts";
import { TEXTURE_ROW, toGlsl, type GpuJs } from "./compiler.ts";
import type { ArgumentKind, ArgumentsOf, DeviceArray, PortableKernel, Takes, Threads } from "./kernel.ts";
import { Memory } from "./memory.ts";
import { Queue } from "./queue.ts";
import type { Canvas, Handle, WebGl2 } from "./webglTypes.ts";

/** A texture of float32, and the framebuffer through which kernels write to it. */
interface Target {
  readonly texture: Handle;
  readonly framebuffer: Handle;
}

interface Program {
  readonly program: Handle;
  readonly extents: Handle | null;
  readonly takes: readonly { readonly name: string; readonly kind: ArgumentKind; readonly location: Handle | null }[];
}

/** A triangle that covers the whole target. */
const VERTICES = `#version 300 es
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0); }
`;

/** Why a context is lost that nobody closed. */
const TAKEN = "the browser took its WebGL context";

/** Extents of the texture, or of the part of it, that holds so many numbers. */
const rectangle = (size: number): [width: number, height: number] => [Math.min(size, TEXTURE_ROW), Math.ceil(size / TEXTURE_ROW)];

/** A queue meets only arrays of its own memory. */
const targetOf = ({ block }: DeviceArray): Target => block.resource as Target;

/**
 * The commands of a WebGL2 context, for browsers without WebGPU: a kernel is a fragment shader that draws its result into a texture. The
 * browser puts commands together by itself.
 */
export class WebGlQueue extends Queue<Target> {
  readonly memory: Memory<Target>;
  readonly wgsl = null;
  readonly #gl: WebGl2;
  readonly #gpuJs: GpuJs;
  readonly #programs = new Map<object, Program>();

  constructor(gl: WebGl2, gpuJs: GpuJs) {
    super();
    this.#gl = gl;
    this.#gpuJs = gpuJs;
    const rows = gl.getParameter(gl.MAX_TEXTURE_SIZE) as number;
    this.memory = new Memory({
      limit: 4 * TEXTURE_ROW * rows,
      limitedBy: `MAX_TEXTURE_SIZE rows of ${TEXTURE_ROW} numbers`,
      make: (bytes) => this.#makeTarget(bytes / 4),
      destroy: ({ texture, framebuffer }) => {
        gl.deleteFramebuffer(framebuffer);
        gl.deleteTexture(texture);
      },
      beforeDestroying: () => undefined, // what was issued keeps what it needs
    });
    gl.canvas.addEventListener("webglcontextlost", () => this.lose(TAKEN));
  }

  #makeTarget(size: number): Target {
    this.check();
    const gl = this.#gl;
    const [texture, framebuffer] = [gl.createTexture(), gl.createFramebuffer()];
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.R32F, ...rectangle(size));
    gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    return { texture, framebuffer };
  }

  run<T extends Takes>(kernel: PortableKernel<T>, threads: Threads, result: DeviceArray, values: ArgumentsOf<T>): void {
    const [x, y = 1, z = 1] = threads;
    const total = x * y * z;
    if (total === 0) return;
    this.check();
    const gl = this.#gl;
    const { program, extents, takes } = this.#programs.get(kernel) ?? this.#prepare(kernel);
    gl.useProgram(program);
    gl.uniform3i(extents, x, y, z);
    let unit = 0;
    for (const { name, kind, location } of takes) {
      const value = values[name as keyof T];
      if (kind === "array") {
        gl.activeTexture(gl.TEXTURE0 + unit++);
        gl.bindTexture(gl.TEXTURE_2D, targetOf(value as DeviceArray).texture);
      } else if (kind === "integer") gl.uniform1i(location, value as number);
      else gl.uniform1f(location, value as number);
    }
    gl.bindFramebuffer(gl.FRAMEBUFFER, targetOf(result).framebuffer);
    gl.viewport(0, 0, ...rectangle(total));
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  #prepare(kernel: PortableKernel): Program {
    const gl = this.#gl;
    const program = gl.createProgram();
    const code = toGlsl(this.#gpuJs, kernel);
    const shaders = ([["VERTEX_SHADER", VERTICES], ["FRAGMENT_SHADER", code]] as const).map(([type, source]) => {
      const shader = gl.createShader(gl[type]);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
      return shader;
    }); // prettier-ignore
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
      if (gl.isContextLost()) this.lose(TAKEN); // the event comes later
      this.check();
      const why = [...shaders.map((shader) => gl.getShaderInfoLog(shader)), gl.getProgramInfoLog(program)].filter(Boolean).join("\n");
      for (const shader of shaders) gl.deleteShader(shader);
      gl.deleteProgram(program);
      throw new BackendError(`gpu: the kernel "${kernel.name}" does not compile: ${why}; compute on the device "wasm"\n${code}`);
    }
    for (const shader of shaders) gl.deleteShader(shader);
    const takes = Object.entries(kernel.takes).map(([name, kind]) => ({
      name,
      kind,
      location: gl.getUniformLocation(program, `user_${name}`),
    }));
    gl.useProgram(program);
    takes.filter(({ kind }) => kind === "array").forEach(({ location }, unit) => gl.uniform1i(location, unit));
    const made = { program, extents: gl.getUniformLocation(program, "extents"), takes };
    this.#programs.set(kernel, made);
    return made;
  }

  write(array: DeviceArray, data: Float32Array): void {
    this.check();
    const gl = this.#gl;
    gl.bindTexture(gl.TEXTURE_2D, targetOf(array).texture);
    const rows = Math.floor(data.length / TEXTURE_ROW);
    const whole = rows * TEXTURE_ROW;
    const put = (row: number, width: number, height: number, from: number): void => {
      if (width * height > 0) gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, row, width, height, gl.RED, gl.FLOAT, data, from);
    };
    put(0, TEXTURE_ROW, rows, 0);
    put(rows, data.length - whole, 1, whole);
  }

  async read(array: DeviceArray): Promise<Float32Array> {
    this.check();
    if (array.size === 0) return new Float32Array(0);
    const gl = this.#gl;
    const [width, height] = rectangle(array.size);
    gl.bindFramebuffer(gl.FRAMEBUFFER, targetOf(array).framebuffer);
    // Every context reads four channels; some read one.
    const format = gl.getParameter(gl.IMPLEMENTATION_COLOR_READ_FORMAT) === gl.RED ? gl.RED : gl.RGBA;
    const channels = format === gl.RED ? 1 : 4;
    const data = new Float32Array(channels * width * height);
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, buffer);
    gl.bufferData(gl.PIXEL_PACK_BUFFER, data.byteLength, gl.STREAM_READ);
    gl.readPixels(0, 0, width, height, format, gl.FLOAT, 0);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
    await this.#done();
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, buffer);
    gl.getBufferSubData(gl.PIXEL_PACK_BUFFER, 0, data);
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
    gl.deleteBuffer(buffer);
    this.#findErrors();
    this.check();
    return (channels === 1 ? data : data.filter((_, i) => i % channels === 0)).subarray(0, array.size);
  }

  /** Once all that was issued before is done. */
  async #done(): Promise<void> {
    const gl = this.#gl;
    const fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    if (!fence) return; // the context is lost: the caller tells
    while (gl.clientWaitSync(fence, 0, 0) === gl.TIMEOUT_EXPIRED) await new Promise((resolve) => setTimeout(resolve, 0));
    gl.deleteSync(fence);
  }

  /** Since the last time. What does not fit into memory makes other commands fail, too, and so does the loss of the context. */
  #findErrors(): void {
    const gl = this.#gl;
    const errors: number[] = [];
    for (let error = gl.getError(); error !== gl.NO_ERROR; error = gl.getError()) errors.push(error);
    const codes = errors.map((error) => `0x${error.toString(16)}`).join(", ");
    if (errors.includes(gl.CONTEXT_LOST_WEBGL)) this.lose(TAKEN);
    else if (errors.includes(gl.OUT_OF_MEMORY)) this.failForMemory("a command needs memory", `WebGL error ${codes}, OUT_OF_MEMORY`);
    else if (errors.length > 0) this.fail(`the device refused a command: WebGL error ${codes}`);
  }

  close(): void {
    this.lose("it was closed");
    this.#gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

/** @throws BackendError where there is no WebGL2 that can compute in float32. */
export function findContext(): WebGl2 {
  const { OffscreenCanvas } = globalThis as { OffscreenCanvas?: new (width: number, height: number) => Canvas };
  const gl =
    OffscreenCanvas &&
    new OffscreenCanvas(1, 1).getContext("webgl2", { antialias: false, depth: false, powerPreference: "high-performance" });
  if (!gl) throw new BackendError(`gpu: there is no WebGL2 here; it is for browsers without WebGPU. Compute on the device "wasm"`);
  if (!gl.getExtension("EXT_color_buffer_float")) {
    throw new BackendError(
      `gpu: this browser's WebGL2 cannot draw float32 numbers (EXT_color_buffer_float is missing); compute on the device "wasm"`,
    );
  }
  const side = gl.getParameter(gl.MAX_TEXTURE_SIZE) as number;
  if (side < TEXTURE_ROW) {
    throw new BackendError(
      `gpu: this browser's WebGL2 has textures of ${side} numbers a row (MAX_TEXTURE_SIZE), and ${TEXTURE_ROW} are needed; compute on the device "wasm"`,
    );
  }
  return gl;
}

export function nameOfContext(gl: WebGl2): string {
  const info = gl.getExtension("WEBGL_debug_renderer_info");
  return String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
}

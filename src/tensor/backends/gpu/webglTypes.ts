/** A texture, a buffer, a program, …, of which only the context knows more. */
export interface Handle {
  readonly opaque?: never;
}

/** What is used of a browser's WebGL2RenderingContext: TypeScript's own description would bring the names of all of the DOM. */
export interface WebGl2 extends Readonly<Record<Constant, number>> {
  readonly canvas: { addEventListener(type: "webglcontextlost", listener: () => void): void };
  getExtension(name: "EXT_color_buffer_float"): object | null;
  getExtension(name: "WEBGL_debug_renderer_info"): { readonly UNMASKED_RENDERER_WEBGL: number } | null;
  getExtension(name: "WEBGL_lose_context"): { loseContext(): void } | null;
  getParameter(name: number): unknown;
  getError(): number;
  isContextLost(): boolean;
  flush(): void;

  createTexture(): Handle;
  bindTexture(target: number, texture: Handle): void;
  activeTexture(unit: number): void;
  texParameteri(target: number, name: number, value: number): void;
  texStorage2D(target: number, levels: number, format: number, width: number, height: number): void;
  // prettier-ignore
  texSubImage2D(
    target: number, level: number, x: number, y: number, width: number, height: number,
    format: number, type: number, data: Float32Array, from: number,
  ): void;
  deleteTexture(texture: Handle): void;

  createFramebuffer(): Handle;
  bindFramebuffer(target: number, framebuffer: Handle): void;
  framebufferTexture2D(target: number, attachment: number, textureTarget: number, texture: Handle, level: number): void;
  deleteFramebuffer(framebuffer: Handle): void;
  viewport(x: number, y: number, width: number, height: number): void;
  drawArrays(mode: number, first: number, count: number): void;

  createBuffer(): Handle;
  bindBuffer(target: number, buffer: Handle | null): void;
  bufferData(target: number, bytes: number, usage: number): void;
  getBufferSubData(target: number, offset: number, to: Float32Array): void;
  deleteBuffer(buffer: Handle): void;
  readPixels(x: number, y: number, width: number, height: number, format: number, type: number, offset: number): void;

  createShader(type: number): Handle;
  shaderSource(shader: Handle, source: string): void;
  compileShader(shader: Handle): void;
  getShaderInfoLog(shader: Handle): string | null;
  deleteShader(shader: Handle): void;
  deleteProgram(program: Handle): void;
  createProgram(): Handle;
  attachShader(program: Handle, shader: Handle): void;
  linkProgram(program: Handle): void;
  getProgramParameter(program: Handle, name: number): unknown;
  getProgramInfoLog(program: Handle): string | null;
  useProgram(program: Handle): void;
  getUniformLocation(program: Handle, name: string): Handle | null;
  uniform1i(location: Handle | null, x: number): void;
  uniform1f(location: Handle | null, x: number): void;
  uniform3i(location: Handle | null, x: number, y: number, z: number): void;

  fenceSync(condition: number, flags: number): Handle | null;
  clientWaitSync(sync: Handle, flags: number, timeout: number): number;
  deleteSync(sync: Handle): void;
}

type Constant =
  | "COLOR_ATTACHMENT0"
  | "CONTEXT_LOST_WEBGL"
  | "FLOAT"
  | "FRAGMENT_SHADER"
  | "FRAMEBUFFER"
  | "IMPLEMENTATION_COLOR_READ_FORMAT"
  | "LINK_STATUS"
  | "MAX_TEXTURE_SIZE"
  | "NEAREST"
  | "NO_ERROR"
  | "OUT_OF_MEMORY"
  | "PIXEL_PACK_BUFFER"
  | "R32F"
  | "RED"
  | "RENDERER"
  | "RGBA"
  | "STREAM_READ"
  | "SYNC_GPU_COMMANDS_COMPLETE"
  | "TEXTURE0"
  | "TEXTURE_2D"
  | "TEXTURE_MAG_FILTER"
  | "TEXTURE_MIN_FILTER"
  | "TIMEOUT_EXPIRED"
  | "TRIANGLES"
  | "VERTEX_SHADER";

export interface Canvas {
  getContext(kind: "webgl2", attributes: object): WebGl2 | null;
}

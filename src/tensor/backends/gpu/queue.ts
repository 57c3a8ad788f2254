import { BackendError } from "../../errors.ts";
import { GROUP, toWgsl, type GpuJs } from "./compiler.ts";
import type { ArgumentKind, ArgumentsOf, DeviceArray, PortableKernel, Takes, Threads } from "./kernel.ts";
import { Memory, type Block } from "./memory.ts";

/** Parameters of one dispatch: the device wants each set to begin at a multiple of this many bytes. */
const SLOT = 256;
/** Dispatches that are submitted together. */
const BATCH = 256;
/** Bind groups that are kept. */
const KEPT = 8192;
/** The most workgroups along an axis. */
export const MOST_GROUPS = 65535;
/** GPUBufferUsage and GPUMapMode, of which the names are there only where WebGPU is. */
const [MAP_READ, COPY_DST, UNIFORM, READ] = [0x1, 0x8, 0x40, 0x1];
/** GPUShaderStage.COMPUTE. */
const COMPUTE = 0x4;

/** A kernel written in WGSL, for what gpu.js has no words for: memory that threads share, several results, in place. */
export interface WgslKernel {
  readonly name: string;
  /** A module whose entry is `main`. Bindings: 0 the parameters as a uniform, then what it reads, then what it writes. */
  readonly code: string;
  readonly reads: number;
  readonly writes: number;
}

/** A number for a kernel's parameters: u32, i32 and f32 take four bytes each. */
export type Parameter = { readonly u: number } | { readonly i: number } | { readonly f: number };

interface Pipeline {
  readonly id: number;
  readonly name: string;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  /** A portable kernel's arguments. */
  readonly takes: readonly (readonly [name: string, kind: ArgumentKind])[];
}

interface Dispatch {
  readonly pipeline: GPUComputePipeline;
  readonly bindings: GPUBindGroup;
  readonly groups: readonly [number, number, number];
}

/**
 * The commands of one device in the order in which they were issued, put together and submitted when something is read, or when they are
 * many. Issuing never waits; what went wrong on the device is told by the next read.
 */
export class Queue {
  readonly memory: Memory;
  /** Whether kernels in WGSL take the place of portable ones. */
  readonly overrides: boolean;
  readonly #device: GPUDevice;
  readonly #gpuJs: GpuJs;
  readonly #uniforms: GPUBuffer;
  /** What goes to `#uniforms` with the present batch, by type. */
  readonly #u32 = new Uint32Array((SLOT * BATCH) / 4);
  readonly #i32 = new Int32Array(this.#u32.buffer);
  readonly #f32 = new Float32Array(this.#u32.buffer);
  readonly #pipelines = new Map<object, Pipeline>();
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  readonly #staging: GPUBuffer[] = [];
  #pending: Dispatch[] = [];
  #batch = 0;
  #failure: BackendError | null = null;
  /** Why the device can compute no more. */
  #lost: string | null = null;
  /** Validations whose outcome is not known yet. */
  readonly #checks = new Set<Promise<unknown>>();

  constructor(device: GPUDevice, gpuJs: GpuJs, overrides: boolean) {
    this.#device = device;
    this.#gpuJs = gpuJs;
    this.overrides = overrides;
    this.memory = new Memory(device, () => {
      this.flush();
      this.#bindGroups.clear();
    });
    this.#uniforms = device.createBuffer({ size: SLOT * BATCH, usage: UNIFORM | COPY_DST });
    device.addEventListener("uncapturederror", ({ error }) => this.#fail(error.message));
    void device.lost.then(({ message, reason }) => {
      this.#lost ??= message || reason;
    });
  }

  /** Why the device can compute no more; null while it can. */
  get lost(): string | null {
    return this.#lost;
  }

  #fail(message: string): void {
    this.#failure ??= new BackendError(`gpu: the device refused a command: ${message}`);
  }

  /** @throws BackendError if the device is lost. */
  #check(): void {
    if (this.#lost === null) return;
    const remedy = `open another with openBackend("gpu"), or go on with the device "wasm"; what the host holds is not lost`;
    throw new BackendError(`gpu: the device is lost (${this.#lost}); ${remedy}`);
  }

  // ── kernels ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Issues a portable kernel for every element of `result`. */
  run<T extends Takes>(kernel: PortableKernel<T>, threads: Threads, result: DeviceArray, values: ArgumentsOf<T>): void {
    const [x, y = 1, z = 1] = threads;
    const total = x * y * z;
    if (total === 0) return;
    const rows = Math.ceil(Math.ceil(total / GROUP) / MOST_GROUPS);
    const across = Math.ceil(Math.ceil(total / GROUP) / rows);
    const pipeline = this.#pipelines.get(kernel) ?? this.#prepare(kernel);
    let at = this.#slot;
    for (const extent of [x, y, z, across * GROUP]) this.#u32[at++] = extent;
    const arrays: DeviceArray[] = [];
    for (const [name, kind] of pipeline.takes) {
      const value = values[name as keyof T];
      if (kind === "array") arrays.push(value as DeviceArray);
      else if (kind === "integer") this.#i32[at++] = value as number;
      else this.#f32[at++] = value as number;
    }
    arrays.push(result);
    this.#issue(pipeline, arrays, [across, rows, 1]);
  }

  /** Where the parameters of the next dispatch go, in words. */
  get #slot(): number {
    return (this.#pending.length * SLOT) / 4;
  }

  #prepare(kernel: PortableKernel): Pipeline {
    const takes = Object.entries(kernel.takes);
    if (takes.length + 4 > SLOT / 4)
      throw new BackendError(`gpu: the kernel "${kernel.name}" takes ${takes.length} arguments, and may take ${SLOT / 4 - 4}`);
    const reads = takes.filter(([, kind]) => kind === "array").length;
    const code = { name: kernel.name, code: toWgsl(this.#gpuJs, kernel), reads, writes: 1 };
    return this.#compile(kernel, code, takes);
  }

  /** Issues a kernel in WGSL. @param groups workgroups along each axis. */
  runWgsl(
    kernel: WgslKernel,
    groups: readonly [number, number, number],
    reads: readonly DeviceArray[],
    writes: readonly DeviceArray[],
    parameters: readonly Parameter[],
  ): void {
    if (groups.includes(0)) return;
    const most = Math.max(...groups);
    if (most > MOST_GROUPS)
      throw new BackendError(`gpu: ${kernel.name} would take ${most} workgroups along an axis; there are ${MOST_GROUPS}`);
    const pipeline = this.#pipelines.get(kernel) ?? this.#compile(kernel, kernel, []);
    let at = this.#slot;
    for (const parameter of parameters) {
      if ("f" in parameter) this.#f32[at++] = parameter.f;
      else if ("i" in parameter) this.#i32[at++] = parameter.i;
      else this.#u32[at++] = parameter.u;
    }
    this.#issue(pipeline, [...reads, ...writes], groups);
  }

  #compile(key: object, { name, code, reads, writes }: WgslKernel, takes: Pipeline["takes"]): Pipeline {
    this.#check();
    const device = this.#device;
    const storage = (type: GPUBufferBindingType, i: number): GPUBindGroupLayoutEntry => ({
      binding: i,
      visibility: COMPUTE,
      buffer: { type },
    });
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ code, label: name });
    const layout = device.createBindGroupLayout({
      entries: [
        { binding: 0, visibility: COMPUTE, buffer: { type: "uniform", hasDynamicOffset: true, minBindingSize: SLOT } },
        ...Array.from({ length: reads }, (_, i) => storage("read-only-storage", i + 1)),
        ...Array.from({ length: writes }, (_, i) => storage("storage", reads + i + 1)),
      ],
    });
    const pipeline = device.createComputePipeline({
      label: name,
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: "main" },
    });
    this.#later(
      device.popErrorScope().then((error) => {
        // What follows from it is less telling, and may have come first.
        if (error) this.#failure = new BackendError(`gpu: the kernel "${name}" does not compile: ${error.message}\n${code}`);
      }),
    );
    const made = { id: this.#pipelines.size, name, pipeline, layout, takes };
    this.#pipelines.set(key, made);
    return made;
  }

  /** Reads wait for this, so that they can tell of it. */
  #later(check: Promise<unknown>): void {
    const settled = check.catch(() => undefined).finally(() => this.#checks.delete(settled)); // a lost device says so itself
    this.#checks.add(settled);
  }

  /** The parameters are in their place. */
  #issue({ id, pipeline, layout }: Pipeline, arrays: readonly DeviceArray[], groups: readonly [number, number, number]): void {
    this.#check();
    let key = `${id}`;
    for (const { block } of arrays) {
      block.batch = this.#batch;
      key += ` ${block.id}`;
    }
    let bindings = this.#bindGroups.get(key);
    if (!bindings) {
      if (this.#bindGroups.size >= KEPT) this.#bindGroups.clear();
      bindings = this.#device.createBindGroup({
        layout,
        entries: [
          { binding: 0, resource: { buffer: this.#uniforms, size: SLOT } },
          ...arrays.map(({ block }, i) => ({ binding: i + 1, resource: { buffer: block.gpu } })),
        ],
      });
      this.#bindGroups.set(key, bindings);
    }
    this.#pending.push({ pipeline, bindings, groups });
    if (this.#pending.length === BATCH) this.flush();
  }

  /** Submits what was issued. */
  flush(): void {
    const pending = this.#pending;
    if (pending.length === 0) return;
    [this.#pending, this.#batch] = [[], this.#batch + 1];
    this.#device.queue.writeBuffer(this.#uniforms, 0, this.#u32, 0, (pending.length * SLOT) / 4);
    const encoder = this.#device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pending.forEach(({ pipeline, bindings, groups }, i) => {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, bindings, [i * SLOT]);
      pass.dispatchWorkgroups(...groups);
    });
    pass.end();
    this.#device.queue.submit([encoder.finish()]);
  }

  // ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** An array of the device for the duration of `f`. */
  temporary<Result>(size: number, origin: string, f: (array: DeviceArray) => Result): Result {
    const array: DeviceArray = { block: this.memory.take(4 * size, origin), size, dtype: "float32" };
    try {
      return f(array);
    } finally {
      this.memory.give(array.block);
    }
  }

  write(array: DeviceArray, data: Float32Array): void {
    this.#check();
    if (data.length === 0) return;
    // Commands that were issued and not submitted would come after the write, and may read what the block held before.
    if (array.block.batch === this.#batch) array.block = this.memory.exchange(array.block);
    this.#device.queue.writeBuffer(array.block.gpu, 0, data);
  }

  /**
   * A copy of the first `size` numbers as they are once all that was issued before is done.
   * @throws BackendError if the device was lost, or refused a command since the last read.
   */
  async read(block: Block, size: number): Promise<Float32Array> {
    this.#check();
    this.flush();
    const bytes = Math.max(4, 4 * size);
    const device = this.#device;
    const index = this.#staging.findIndex((buffer) => buffer.size >= bytes && buffer.size <= 4 * bytes + 4096);
    const staging =
      index >= 0 ? (this.#staging.splice(index, 1)[0] as GPUBuffer) : device.createBuffer({ size: bytes, usage: MAP_READ | COPY_DST });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(block.gpu, 0, staging, 0, bytes);
    device.queue.submit([encoder.finish()]);
    try {
      await staging.mapAsync(READ, 0, bytes);
    } catch (cause) {
      await Promise.race([device.lost, new Promise((resolve) => setTimeout(resolve, 0))]);
      await Promise.all(this.#checks);
      this.#check();
      this.#raise();
      throw new BackendError(`gpu: reading ${bytes} bytes failed (${String(cause)})`, { cause });
    }
    const data = new Float32Array(staging.getMappedRange(0, bytes).slice(0)).subarray(0, size);
    staging.unmap();
    if (this.#staging.length < 8) this.#staging.push(staging);
    else staging.destroy();
    await Promise.all(this.#checks);
    this.#raise();
    return data;
  }

  #raise(): void {
    const failure = this.#failure;
    this.#failure = null;
    if (failure) throw failure;
  }

  close(): void {
    this.#lost ??= "it was closed";
    this.#pending = [];
    this.#device.destroy();
  }
}

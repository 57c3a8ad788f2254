import { BackendError } from "../../errors.ts";
import { GROUP, toWgsl, type GpuJs } from "./compiler.ts";
import type { ArgumentKind, ArgumentsOf, DeviceArray, PortableKernel, Takes, Threads } from "./kernel.ts";
import { Memory, type Block } from "./memory.ts";
import { MOST_GROUPS, Queue, type Parameter, type WgslKernel, type WgslQueue } from "./queue.ts";
import { Staging } from "./staging.ts";

/** Parameters of one dispatch: the device wants each set to begin at a multiple of this many bytes. */
const SLOT = 256;
/** Dispatches that are submitted together. */
const BATCH = 256;
/**
 * Or fewer, once their results have so many bytes, so that a device does not stand idle until all 256 are issued. The fastest ones take a
 * tenth of a millisecond to write as much, beside which a submission, some hundredth of one, is little.
 */
const BATCH_BYTES = 256 * 2 ** 20;
/** Bind groups that are kept. */
const KEPT = 8192;
/** GPUBufferUsage and GPUMapMode, of which the names are there only where WebGPU is. */
const [COPY_SRC, COPY_DST, UNIFORM, STORAGE, READ] = [0x4, 0x8, 0x40, 0x80, 0x1];
/** GPUShaderStage.COMPUTE. */
const COMPUTE = 0x4;
/** What a device refuses: what is against the rules, what it has no memory for, and what its driver cannot do. The last is told first. */
const ERRORS: readonly GPUErrorFilter[] = ["validation", "out-of-memory", "internal"];

/** What helps where a kernel in WGSL does not. */
const WITHOUT = `do without kernels in WGSL by openBackend("gpu", { overrides: false })`;

/** A queue meets only arrays of its own memory. */
const bufferOf = ({ block }: DeviceArray): GPUBuffer => block.resource as GPUBuffer;

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

/** The commands of a WebGPU device, put together and submitted when something is read, or when they are many. */
export class WebGpuQueue extends Queue<GPUBuffer> implements WgslQueue {
  readonly memory: Memory<GPUBuffer>;
  readonly wgsl: WgslQueue | null;
  readonly subgroupsOfEight: boolean;
  readonly #device: GPUDevice;
  readonly #gpuJs: GpuJs;
  readonly #uniforms: GPUBuffer;
  readonly #slotLayout: GPUBindGroupLayout;
  /** The parameters of each dispatch of a batch, as a group of their own: a group with an offset that changes is copied anew by drivers. */
  readonly #slots: readonly GPUBindGroup[];
  /** What goes to `#uniforms` with the present batch, by type. */
  readonly #u32 = new Uint32Array((SLOT * BATCH) / 4);
  readonly #i32 = new Int32Array(this.#u32.buffer);
  readonly #f32 = new Float32Array(this.#u32.buffer);
  readonly #pipelines = new Map<object, Pipeline>();
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  readonly #staging: Staging;
  #pending: Dispatch[] = [];
  /** Of the results of what is pending. */
  #pendingBytes = 0;
  #batch = 0;
  /** Error scopes that were closed and whose outcome is not known yet. */
  readonly #checks = new Set<Promise<unknown>>();

  /** @param info of the adapter, which tells the sizes of subgroups where there are any. */
  constructor(
    device: GPUDevice,
    gpuJs: GpuJs,
    overrides: boolean,
    { subgroupMinSize, subgroupMaxSize }: Pick<GPUAdapterInfo, "subgroupMinSize" | "subgroupMaxSize"> = {},
  ) {
    super();
    this.#device = device;
    this.#gpuJs = gpuJs;
    this.wgsl = overrides ? this : null;
    this.subgroupsOfEight = subgroupMinSize === 8 && subgroupMaxSize === 8 && device.features.has("subgroups");
    this.#staging = new Staging(device);
    const { maxStorageBufferBindingSize, maxBufferSize } = device.limits;
    this.memory = new Memory({
      // Some drivers say 2³² − 1, and a binding is a multiple of 4 bytes.
      limit: 4 * Math.floor(Math.min(maxStorageBufferBindingSize, maxBufferSize) / 4),
      limitedBy: maxBufferSize < maxStorageBufferBindingSize ? "maxBufferSize" : "maxStorageBufferBindingSize",
      make: (size, origin) => this.#makeBuffer(size, origin),
      destroy: (buffer) => {
        buffer.destroy();
      },
      beforeDestroying: () => {
        this.flush();
        this.#bindGroups.clear();
      },
    });
    this.#openScopes(ERRORS);
    const uniforms = device.createBuffer({ size: SLOT * BATCH, usage: UNIFORM | COPY_DST });
    this.#uniforms = uniforms;
    const layout = device.createBindGroupLayout({
      entries: [{ binding: 0, visibility: COMPUTE, buffer: { type: "uniform", minBindingSize: SLOT } }],
    });
    this.#slotLayout = layout;
    this.#slots = Array.from({ length: BATCH }, (_, i) =>
      device.createBindGroup({ layout, entries: [{ binding: 0, resource: { buffer: uniforms, offset: i * SLOT, size: SLOT } }] }),
    );
    void device.lost.then(({ message, reason }) => this.lose(message || reason));
  }

  // ── what the device refuses ───────────────────────────────────────────────────────────────────────────────────────────

  /*
   * All that the device is told lies in error scopes, which a read closes behind its own commands and opens anew: so it knows before it
   * gives numbers out whether all that they may have come from was done. Memory and kernels have scopes of their own inside of these.
   */

  #openScopes(kinds: readonly GPUErrorFilter[]): void {
    for (const kind of kinds) this.#device.pushErrorScope(kind);
  }

  /** Closes what was opened last. @param tell is told later what was refused meanwhile, if anything was; reads wait for that. */
  #closeScopes(kinds: readonly GPUErrorFilter[], tell: (message: string, kind: GPUErrorFilter) => void): void {
    for (const kind of kinds.toReversed()) {
      const outcome = this.#device.popErrorScope().then((error) => {
        if (error) tell(error.message, kind);
      });
      const settled = outcome.catch(() => undefined).finally(() => this.#checks.delete(settled)); // a lost device says so itself
      this.#checks.add(settled);
    }
  }

  /** Of all that the device was told since the last time. */
  #closeAll(): void {
    this.#closeScopes(ERRORS, (message, kind) => {
      if (kind === "out-of-memory") this.failForMemory("a command needs memory", message);
      else this.fail(`the device refused a command: ${message}`);
    });
    this.#openScopes(ERRORS);
  }

  // ── kernels ───────────────────────────────────────────────────────────────────────────────────────────────────────────

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
    this.#issue(pipeline, arrays, result.size, [across, rows, 1]);
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
    return this.#compile(kernel, code, takes, `go on with the device "wasm"`);
  }

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
      throw new BackendError(
        `gpu: ${kernel.name} would take ${most} workgroups along an axis, and a device has ${MOST_GROUPS}; use a smaller batch, or ${WITHOUT}`,
      );
    const pipeline = this.#pipelines.get(kernel) ?? this.#compile(kernel, kernel, [], `${WITHOUT}, or go on with the device "wasm"`);
    let at = this.#slot;
    for (const parameter of parameters) {
      if ("f" in parameter) this.#f32[at++] = parameter.f;
      else if ("i" in parameter) this.#i32[at++] = parameter.i;
      else this.#u32[at++] = parameter.u;
    }
    const written = writes.reduce((sum, { size }) => sum + size, 0);
    this.#issue(pipeline, [...reads, ...writes], written, groups);
  }

  /** @param remedy helps if the driver cannot compile it. */
  #compile(key: object, { name, code, reads, writes }: WgslKernel, takes: Pipeline["takes"], remedy: string): Pipeline {
    this.check();
    const device = this.#device;
    const storage = (type: GPUBufferBindingType, i: number): GPUBindGroupLayoutEntry => ({
      binding: i,
      visibility: COMPUTE,
      buffer: { type },
    });
    this.#openScopes(ERRORS);
    const module = device.createShaderModule({ code, label: name });
    const layout = device.createBindGroupLayout({
      entries: [
        ...Array.from({ length: reads }, (_, i) => storage("read-only-storage", i)),
        ...Array.from({ length: writes }, (_, i) => storage("storage", reads + i)),
      ],
    });
    const pipeline = device.createComputePipeline({
      label: name,
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout, this.#slotLayout] }),
      compute: { module, entryPoint: "main" },
    });
    this.#closeScopes(ERRORS, (message) => this.fail(`the kernel "${name}" does not compile: ${message}`, { remedy, text: code }));
    const made = { id: this.#pipelines.size, name, pipeline, layout, takes };
    this.#pipelines.set(key, made);
    return made;
  }

  /** The parameters are in their place. @param written how many numbers. */
  #issue(
    { id, pipeline, layout }: Pipeline,
    arrays: readonly DeviceArray[],
    written: number,
    groups: readonly [number, number, number],
  ): void {
    this.check();
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
        entries: arrays.map((array, i) => ({ binding: i, resource: { buffer: bufferOf(array) } })),
      });
      this.#bindGroups.set(key, bindings);
    }
    this.#pending.push({ pipeline, bindings, groups });
    this.#pendingBytes += 4 * written;
    if (this.#pending.length === BATCH || this.#pendingBytes >= BATCH_BYTES) this.flush();
  }

  /** Submits what was issued. */
  flush(): void {
    const pending = this.#pending;
    if (pending.length === 0) return;
    [this.#pending, this.#pendingBytes, this.#batch] = [[], 0, this.#batch + 1];
    this.#device.queue.writeBuffer(this.#uniforms, 0, this.#u32, 0, (pending.length * SLOT) / 4);
    const encoder = this.#device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pending.forEach(({ pipeline, bindings, groups }, i) => {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, bindings);
      pass.setBindGroup(1, this.#slots[i]);
      pass.dispatchWorkgroups(...groups);
    });
    pass.end();
    this.#device.queue.submit([encoder.finish()]);
  }

  // ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #makeBuffer(size: number, origin: string): GPUBuffer {
    this.check();
    const inUse = this.memory.describe();
    this.#openScopes(["out-of-memory"]);
    const buffer = this.#device.createBuffer({ size, usage: STORAGE | COPY_SRC | COPY_DST });
    this.#closeScopes(["out-of-memory"], (message) => this.failForMemory(`${origin} needs ${size} bytes of memory`, message, inUse));
    return buffer;
  }

  write(array: DeviceArray, data: Float32Array): void {
    this.check();
    if (data.length === 0) return;
    // Commands that were issued and not submitted would come after the write, and may read what the block held before.
    if (array.block.batch === this.#batch) array.block = this.memory.exchange(array.block as Block<GPUBuffer>);
    this.#device.queue.writeBuffer(bufferOf(array), 0, data);
  }

  async read(array: DeviceArray): Promise<Float32Array> {
    this.check();
    this.flush();
    const bytes = Math.max(4, 4 * array.size);
    const device = this.#device;
    const staging = this.#staging.take(bytes);
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(bufferOf(array), 0, staging, 0, bytes);
    device.queue.submit([encoder.finish()]);
    this.#closeAll();
    let data: Float32Array;
    try {
      await staging.mapAsync(READ, 0, bytes);
      data = new Float32Array(staging.getMappedRange(0, bytes).slice(0)).subarray(0, array.size);
      staging.unmap();
    } catch (cause) {
      staging.destroy();
      await Promise.race([device.lost, new Promise((resolve) => setTimeout(resolve, 0))]);
      await Promise.all(this.#checks);
      this.check();
      throw new BackendError(`gpu: reading ${bytes} bytes failed (${String(cause)})`, { cause });
    }
    this.#staging.give(staging);
    await Promise.all(this.#checks);
    this.check();
    return data;
  }

  close(): void {
    this.lose("it was closed");
    this.#pending = [];
    this.#device.destroy();
  }
}

import { availableParallelism } from "node:os";
import { apply, BackendError, openBackend, Tensor, type Backend, type Conv2dParams, type Optimizer, type Parameter } from "../src/index.ts";
import { openWebGpu, type WebGpuBackend } from "../src/tensor/backends/gpu/index.ts";
import type { WgslKernel } from "../src/tensor/backends/gpu/queue.ts";
import { makeOptimizer, parseConfig } from "../src/train/index.ts";
import { openEngine } from "./engines.ts";
import { distance, interleaved, median, sampler, type Task } from "./measure.ts";
import { half, tiny, trainee } from "./networks.ts";
import { pattern } from "./peers/protocol.ts";
import type { Absence, BenchOptions, Row, Suite } from "./report.ts";

/** A backend, and how to wait for what was issued to it. */
interface Device {
  readonly name: string;
  readonly backend: Backend;
  readonly done: () => Promise<void>;
}

/** What runs beside each other: kfacet on the device, its portable kernels on a device of the same driver, its engine, and gpu.js. */
interface Field {
  readonly gpu: WebGpuBackend;
  /** kfacet first. */
  readonly devices: readonly [Device, ...Device[]];
  readonly gpuJs: GpuJs;
  readonly absent: Absence[];
}

/** Operations of a chain; rounds of it, and of them those before the clock runs. */
const [CHAIN, CHAIN_ROUNDS, CHAIN_WARMUP] = [400, 41, 8];
/** The portable product of larger matrices would take most of the suite's time. */
const PORTABLE_SIZE = 512;
/** Numbers of an upload: 16 MiB. */
const UPLOAD = 2 ** 22;
/** K-FAC's cadence, over which its events are spread. */
const [UPDATE_EVERY, INVERT_EVERY] = [10, 30];

/** The GPU backend beside its own portable kernels, the engine in WebAssembly, and gpu.js on the same device. */
export async function gpu(options: BenchOptions): Promise<Suite> {
  const { small } = options;
  const host = await openBackend("wasm");
  let own: WebGpuBackend;
  try {
    own = await openWebGpu({}, host);
  } catch (error) {
    if (!(error instanceof BackendError)) throw error;
    return { rows: [], notes: ["There is nothing to time."], absent: [{ peer: "kfacet", reason: error.message }] };
  }
  const portable = await openWebGpu({ overrides: false }, host);
  const engine = await openEngine(options, { threads: Math.min(2, availableParallelism()) });
  const field: Field = {
    gpu: own,
    devices: [
      { name: "kfacet", backend: own, done: () => settled(own) },
      { name: "portable", backend: portable, done: () => settled(portable) },
      { name: options.backend, backend: engine.backend, done: () => Promise.resolve() },
    ],
    gpuJs: await openGpuJs(own),
    absent: [],
  };
  const software = isSoftware(own);
  const rows: Row[] = [];
  const notes: string[] = [];
  try {
    for (const n of small ? [64] : [512, 1024]) rows.push(await gemmRow(field, n));
    for (const layer of small ? [SMALL_LAYER] : LAYERS) rows.push(...(await convRows(field, layer)));
    const chains = await chainRows(field, small);
    rows.push(...chains.rows);
    notes.push(`Fastest rounds of the chains, issue and done: ${chains.fastest.join("; ")}.`);
    rows.push(...(await transferRows(field, small)));
    rows.push(...(await stepRows(field, small)));
    if (!software || small) {
      const rates = await rateRows(field.gpu, software);
      rows.push(...rates.rows);
      notes.push(...rates.notes);
    }
  } finally {
    for (const backend of [own, portable]) backend.close?.();
    engine.close();
  }
  return {
    rows,
    absent: field.absent,
    notes: [
      `On ${own.describe()}; ${options.backend}: ${engine.label}. ${software ? "A software driver: the ratios say what this driver does with both, and nothing of a GPU." : ""}`,
      "Medians of 3 to 7 interleaved rounds, the clock stopping when the device is done, after runs whose results were compared.",
      "portable: kfacet without its kernels in WGSL, of products up to 512. gpu.js: a kernel as its user writes one, run by gpu.js on kfacet's own device, with operands that lie there.",
      `chain: ${small ? 40 : CHAIN} operations on 4 numbers, each on the result of the one before, microseconds an operation until the loop is over (issue) and until the result is read (done); medians of ${small ? 5 : CHAIN_ROUNDS} rounds. gpu.js makes a new result in each (immutable, with delete), ping-pong none: two kernels take turns.`,
      "upload: from a Float32Array on the host to a result of which one number was computed and read. gpu.js: by an identity kernel, the only way it has.",
      `step: until the device is done. rs-kfac: the mean of steps with factor updates every ${UPDATE_EVERY} and inversions every ${INVERT_EVERY}, preset paper.`,
      ...notes,
    ],
  };
}

async function settled({ queue, device }: WebGpuBackend): Promise<void> {
  queue.flush();
  await device.queue.onSubmittedWorkDone();
}

function isSoftware(backend: WebGpuBackend): boolean {
  return backend.device.adapterInfo.isFallbackAdapter || /llvmpipe|swiftshader/i.test(backend.describe());
}

/** Samples of a call, in milliseconds until the device is done: the mean of as many as take a while, which are waited for together. */
function untilDone(f: () => void | Promise<void>, done: () => Promise<void>, least = 50): () => Promise<number> {
  let calls = 1;
  return async () => {
    for (;;) {
      const start = performance.now();
      for (let i = 0; i < calls; i++) await f();
      await done();
      const took = performance.now() - start;
      if (took >= least) return took / calls;
      calls = Math.ceil((calls * 1.2 * least) / Math.max(took, least / 10));
    }
  };
}

/** Whether somebody found what kfacet found, up to rounding; if not, the table says so. */
function agrees({ absent }: Field, peer: string, where: string, values: ArrayLike<number>, truth: ArrayLike<number>): boolean {
  const far = distance(values, truth);
  if (far <= 1e-4) return true;
  absent.push({ peer, where, reason: `its result is ${far.toPrecision(2)} away from kfacet's, relative to it` });
  return false;
}

/** A row of the table from tasks of which the one named kfacet is ours. */
function rowOf(name: string, metric: string, times: ReadonlyMap<string, number>, flop?: number): Row {
  const { kfacet = NaN, ...peers } = Object.fromEntries(times);
  return { case: name, metric, kfacet, peers, ...(flop !== undefined && { flop }) };
}

// ── gpu.js ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Numbers on the device as gpu.js holds them: flat, or rows of a matrix. */
interface Handle {
  toArray(): Promise<Float32Array | Float32Array[]>;
  delete(): void;
}
type GpuJsKernel = (...values: readonly unknown[]) => Promise<Handle>;

interface GpuJs {
  readonly kernel: (source: string, output: readonly number[], settings?: object) => GpuJsKernel;
  /** A typed array with extents, the innermost first. */
  readonly input: (data: Float32Array, extents: readonly number[]) => unknown;
}

interface GpuJsModule {
  readonly GPU: new (settings: { readonly mode: "webgpu" }) => { createKernel(source: string, settings: object): GpuJsKernel };
  readonly WebGPUContext: { acquire(): Promise<object> };
  readonly input: GpuJs["input"];
}

/** gpu.js on kfacet's device: it looks for one on `navigator`, which Node lacks, unless its class of contexts says otherwise. */
async function openGpuJs({ device }: WebGpuBackend): Promise<GpuJs> {
  const { default: gpuJs } = (await import("gpu.js")) as unknown as { default: GpuJsModule };
  const context = { device, isLost: false };
  Object.defineProperty(gpuJs.WebGPUContext, "isSupported", { value: true });
  gpuJs.WebGPUContext.acquire = () => Promise.resolve(context);
  const maker = new gpuJs.GPU({ mode: "webgpu" });
  return {
    kernel: (source, output, settings) => maker.createKernel(source, { output, pipeline: true, ...settings }),
    input: gpuJs.input,
  };
}

const IDENTITY_2D = "function (a) { return a[this.thread.y][this.thread.x]; }";
const IDENTITY = "function (a) { return a[this.thread.x]; }";
const ADD = "function (a, b) { return a[this.thread.x] + b[this.thread.x]; }";
const PRODUCT = `function (a, b, n) {
  let sum = 0;
  for (let i = 0; i < n; i++) { sum += a[this.thread.y][i] * b[i][this.thread.x]; }
  return sum;
}`;

async function numbersOf(handle: Handle): Promise<Float32Array> {
  const data = await handle.toArray();
  return data instanceof Float32Array ? data : Float32Array.from(data.flatMap((row) => Array.from(row)));
}

// ── products ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

async function gemmRow(field: Field, n: number): Promise<Row> {
  const name = `matmul float32 ${n}`;
  const [a, b] = [pattern(n * n, 1), pattern(n * n, 2)];
  const tasks: Task[] = [];
  const inputs: Tensor[] = [];
  let truth: ArrayLike<number> | undefined;
  for (const { name: peer, backend, done } of field.devices) {
    if (peer === "portable" && n > PORTABLE_SIZE) continue;
    const [x, y] = [a, b].map((data) => Tensor.from(data, { shape: [n, n], backend })) as [Tensor, Tensor];
    inputs.push(x, y);
    using product = x.matmul(y);
    const found = await product.data();
    truth ??= found;
    if (agrees(field, peer, name, found, truth)) tasks.push({ name: peer, f: untilDone(() => x.matmul(y).dispose(), done) });
  }
  const { gpuJs } = field;
  const [place, multiply] = [
    gpuJs.kernel(IDENTITY_2D, [n, n], { immutable: true }),
    gpuJs.kernel(PRODUCT, [n, n], { loopMaxIterations: n }),
  ];
  const [left, right] = [await place(gpuJs.input(a, [n, n])), await place(gpuJs.input(b, [n, n]))];
  const run = async (): Promise<void> => {
    await multiply(left, right, n);
  };
  if (agrees(field, "gpu.js", name, await numbersOf(await multiply(left, right, n)), truth ?? [])) {
    tasks.push({ name: "gpu.js", f: untilDone(run, field.devices[0].done) });
  }
  const times = await interleaved(tasks, n > 512 ? 3 : 5, 0);
  for (const input of inputs) input.dispose();
  for (const handle of [left, right]) handle.delete();
  return rowOf(name, "ms", times, 2 * n ** 3);
}

// ── convolutions ──────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Layer {
  readonly batch: number;
  readonly channels: number;
  readonly size: number;
}

const LAYERS: readonly Layer[] = [
  { batch: 128, channels: 16, size: 28 },
  { batch: 8, channels: 256, size: 8 },
];
const SMALL_LAYER: Layer = { batch: 2, channels: 8, size: 6 };
const geometry: Conv2dParams = { stride: [1, 1], padding: { top: 1, bottom: 1, left: 1, right: 1 }, dilation: [1, 1], groups: 1 };

/** 3 × 3 with padding 1: forward and both gradients. */
async function convRows(field: Field, { batch, channels, size }: Layer): Promise<Row[]> {
  const sides = field.devices.map(({ name, backend, done }) => {
    const tensor = (seed: number, shape: readonly [number, number, number, number]): Tensor =>
      Tensor.from(pattern(shape[0] * shape[1] * shape[2] * shape[3], seed), { shape, backend });
    const [x, gradient] = [1, 3].map((seed) => tensor(seed, [batch, size, size, channels])) as [Tensor, Tensor];
    const weight = tensor(2, [channels, 3, 3, channels]);
    const passes: Readonly<Record<string, () => Tensor>> = {
      forward: () => apply("conv2d", [x, weight], geometry)[0],
      "input gradient": () => apply("conv2dInputGradient", [gradient, weight], { ...geometry, inputSize: [size, size] })[0],
      "weight gradient": () => apply("conv2dWeightGradient", [x, gradient], { ...geometry, kernel: [3, 3] })[0],
    };
    return { name, done, passes, tensors: [x, weight, gradient] };
  });
  const rows: Row[] = [];
  for (const pass of Object.keys(sides[0]?.passes ?? {})) {
    const name = `${pass} ${channels}@${size} float32 batch ${batch}`;
    const tasks: Task[] = [];
    let truth: ArrayLike<number> | undefined;
    for (const { name: peer, done, passes } of sides) {
      const run = passes[pass] as () => Tensor;
      using result = run();
      const found = await result.data();
      truth ??= found;
      if (agrees(field, peer, name, found, truth)) tasks.push({ name: peer, f: untilDone(() => run().dispose(), done) });
    }
    const times = await interleaved(tasks, 3, 0);
    rows.push(rowOf(name, "ms", times, 2 * batch * size ** 2 * 9 * channels ** 2));
  }
  for (const { tensors } of sides) for (const tensor of tensors) tensor.dispose();
  return rows;
}

// ── what a call costs ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** Milliseconds of a chain: until the loop is over, and until its result is read. */
interface ChainTimes {
  readonly issue: number;
  readonly done: number;
  readonly result: ArrayLike<number>;
}
interface Chain {
  readonly name: string;
  readonly run: () => Promise<ChainTimes>;
}

const START = Float32Array.of(0, 1, 2, 3);
const STEP = Float32Array.of(1, 0.5, 0.25, 2);

/** Besides medians the fastest rounds: on few cores a round is as long as whatever else runs makes it. */
async function chainRows(field: Field, small: boolean): Promise<{ rows: Row[]; fastest: string[] }> {
  const length = small ? 40 : CHAIN;
  const [first, , engine] = field.devices as readonly [Device, Device, Device];
  const operations: Readonly<Record<string, (x: Tensor, y: Tensor, one: Tensor) => Tensor>> = {
    add: (x, y) => x.add(y),
    relu: (x) => x.relu(),
    "linear combination": (x, y) => apply("linearCombination", [x, y], { a: 0.5, b: 1 })[0],
    "broadcasting add": (x, _, one) => x.add(one),
  };
  const rows: Row[] = [];
  const fastest: string[] = [];
  for (const [operation, f] of Object.entries(operations)) {
    const what = `${operation} float32 4 chain ${length}`;
    const chains = [first, engine].map(({ name, backend }) => ownChain(name, backend, length, f));
    if (operation === "add") chains.push(...(await gpuJsChains(field.gpuJs, length)));
    const samples = new Map<string, ChainTimes[]>(chains.map(({ name }) => [name, []]));
    const [rounds, warmup] = small ? [5, 1] : [CHAIN_ROUNDS, CHAIN_WARMUP];
    for (let round = -warmup; round < rounds; round++) {
      for (const { name, run } of chains) {
        const times = await run();
        if (round >= 0) samples.get(name)?.push(times);
      }
    }
    const truth = samples.get("kfacet")?.[0]?.result ?? [];
    const right = [...samples].filter(([name, [one]]) => agrees(field, name, what, one?.result ?? [], truth));
    for (const [name, times] of right) {
      if (name === engine.name) continue;
      const [issue, done] = (["issue", "done"] as const).map((part) => (1000 * Math.min(...times.map((one) => one[part]))) / length);
      fastest.push(`${operation} ${name} ${issue?.toFixed(1)} and ${done?.toFixed(1)} µs`);
    }
    for (const part of ["issue", "done"] as const) {
      const each = right.map(([name, times]) => [name, (1000 * median(times.map((one) => one[part]))) / length] as const);
      rows.push(rowOf(`${what} ${part}`, "µs", new Map(each)));
    }
  }
  return { rows, fastest };
}

function ownChain(name: string, backend: Backend, length: number, f: (x: Tensor, y: Tensor, one: Tensor) => Tensor): Chain {
  const [start, y, one] = [START, STEP, [1]].map((data) => Tensor.from(data, { backend })) as [Tensor, Tensor, Tensor];
  const run = async (): Promise<ChainTimes> => {
    let x = start.keep();
    const began = performance.now();
    for (let i = 0; i < length; i++) {
      const next = f(x, y, one);
      x.dispose();
      x = next;
    }
    const issued = performance.now();
    const result = await x.data();
    const done = performance.now();
    x.dispose();
    return { issue: issued - began, done: done - began, result };
  };
  return { name, run };
}

async function gpuJsChains({ kernel, input }: GpuJs, length: number): Promise<Chain[]> {
  const place = kernel(IDENTITY, [4], { immutable: true });
  const [start, y] = [await place(input(START, [4])), await place(input(STEP, [4]))];
  const fresh = kernel(ADD, [4], { immutable: true });
  const turns = [kernel(ADD, [4]), kernel(ADD, [4])];
  const timed = async (loop: () => Promise<Handle>): Promise<ChainTimes & { readonly last: Handle }> => {
    const began = performance.now();
    const last = await loop();
    const issued = performance.now();
    const result = await numbersOf(last);
    return { issue: issued - began, done: performance.now() - began, result, last };
  };
  const immutable = async (): Promise<ChainTimes> => {
    const times = await timed(async () => {
      let x = start;
      for (let i = 0; i < length; i++) {
        const next = await fresh(x, y);
        if (x !== start) x.delete();
        x = next;
      }
      return x;
    });
    times.last.delete();
    return times;
  };
  const pingPong = (): Promise<ChainTimes> =>
    timed(async () => {
      let x = start;
      for (let i = 0; i < length; i++) x = await (turns[i % 2] as GpuJsKernel)(x, y);
      return x;
    });
  return [
    { name: "gpu.js", run: immutable },
    { name: "gpu.js ping-pong", run: pingPong },
  ];
}

// ── to the device and back ────────────────────────────────────────────────────────────────────────────────────────────────

async function transferRows({ gpu: backend, gpuJs }: Field, small: boolean): Promise<Row[]> {
  const size = small ? 2 ** 14 : UPLOAD;
  const data = pattern(size, 1);
  const place = gpuJs.kernel(IDENTITY, [size], { immutable: true });
  const first = gpuJs.kernel("function (a) { return a[0]; }", [1]);
  const upload = async (): Promise<void> => {
    data[0] = 1 + (data[0] as number); // what lies there from before is not what is read
    using all = Tensor.from(data, { backend });
    using one = all.slice([0], [1]);
    if ((await one.item()) !== data[0]) throw new Error("kfacet: the upload is not what was sent");
  };
  const uploadByKernel = async (): Promise<void> => {
    data[0] = 1 + (data[0] as number);
    const all = await place(gpuJs.input(data, [size]));
    const [one] = await numbersOf(await first(all));
    if (one !== data[0]) throw new Error("gpu.js: the upload is not what was sent");
    all.delete();
  };
  const reading = (f: () => Promise<ArrayLike<unknown>>) => async (): Promise<void> => {
    await f();
  };
  using all = Tensor.from(data, { backend });
  using one = Tensor.from([1], { backend });
  const [handle, single] = [await place(gpuJs.input(data, [size])), await first(gpuJs.input(data, [size]))];
  const pairs: Readonly<Record<string, readonly [own: () => Promise<void>, theirs: () => Promise<void>]>> = {
    [`upload float32 ${4 * size} bytes`]: [upload, uploadByKernel],
    [`read back float32 ${4 * size} bytes`]: [reading(() => all.data()), reading(() => handle.toArray())],
    "read back float32 4 bytes": [reading(() => one.data()), reading(() => single.toArray())],
  };
  const rows: Row[] = [];
  for (const [name, [own, theirs]] of Object.entries(pairs)) {
    const tasks = [
      { name: "kfacet", f: sampler(own) },
      { name: "gpu.js", f: sampler(theirs) },
    ];
    rows.push(rowOf(name, "ms", await interleaved(tasks, small ? 3 : 7, 2)));
  }
  handle.delete();
  return rows;
}

// ── training ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Steps of SGD, and of RS-KFAC at the mean of its cadence, from steps without events, with a factor update, and with an inversion too. */
async function stepRows({ devices }: Field, small: boolean): Promise<Row[]> {
  const network = small ? tiny : half;
  const what = `${small ? "tiny" : "half"} float32 batch ${network.batch}`;
  const rounds = small ? 1 : 2;
  const contestants = devices.filter(({ name }) => name !== "portable");
  const make =
    (config: object) =>
    (parameters: readonly Parameter[]): Optimizer =>
      makeOptimizer(parameters, parseConfig({ learningRate: 1e-4, ...config }), 1000);
  const rows: Row[] = [];

  const bySgd = contestants.map(({ backend, ...device }) => ({ ...device, network: trainee(network, backend) }));
  const tasks = bySgd.map(({ name, done, network: { step } }) => ({ name, f: untilDone(step, done, 0) }));
  rows.push(rowOf(`sgd step ${what}`, "ms", await interleaved(tasks, rounds + 1, 1)));
  for (const { network: { dispose } } of bySgd) dispose(); // prettier-ignore

  // Both events, none, a factor update, none; and again.
  const config = { optimizer: "rs-kfac", preset: "paper", factorUpdateEvery: 2, inversionEvery: 4 };
  const times = new Map<string, number>();
  const byCurvature = contestants.map(({ backend, ...device }) => ({ ...device, network: trainee(network, backend, make(config)) }));
  const samples = new Map(byCurvature.map(({ name }) => [name, [0, 1, 2, 3].map((): number[] => [])]));
  for (let round = -1; round < rounds; round++) {
    for (const {
      name,
      done,
      network: { step },
    } of byCurvature) {
      // prettier-ignore
      for (const kind of samples.get(name) ?? []) {
        const took = await untilDone(step, done, 0)();
        if (round >= 0) kind.push(took);
      }
    }
  }
  for (const [name, kinds] of samples) {
    const [both, , update, plain] = kinds.map((values) => median(values)) as [number, number, number, number];
    times.set(name, plain + (update - plain) / UPDATE_EVERY + (both - update) / INVERT_EVERY);
  }
  rows.push(rowOf(`rs-kfac step mean ${what}`, "ms", times));
  for (const { network: { dispose } } of byCurvature) dispose(); // prettier-ignore
  return rows;
}

// ── shares of what the device can do ──────────────────────────────────────────────────────────────────────────────────────

const ACCUMULATORS = Array.from({ length: 8 }, (_, i) => `c${i}`);
/** c ← c · x + y for vectors of four in registers, with no memory touched but for the result. */
const multiplyAdd = (name: string, step: (c: string) => string): WgslKernel => ({
  name,
  code: `
struct Params { rounds : u32, x : f32, y : f32 }
@group(1) @binding(0) var<uniform> p : Params;
@group(0) @binding(0) var<storage, read_write> result : array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id : vec3<u32>) {
  let x = vec4<f32>(p.x);
  let y = vec4<f32>(p.y);
  ${ACCUMULATORS.map((c, i) => `var ${c} = vec4<f32>(f32(id.x + ${i}u));`).join("\n  ")}
  for (var i = 0u; i < p.rounds; i++) {
    ${ACCUMULATORS.map((c) => `${c} = ${step(c)};`).join("\n    ")}
  }
  result[id.x] = dot(${ACCUMULATORS.join(" + ")}, vec4<f32>(1.0));
}`,
  reads: 0,
  writes: 1,
});
const registerOnly = [multiplyAdd("fused", (c) => `fma(${c}, x, y)`), multiplyAdd("multiply, add", (c) => `${c} * x + y`)];

const copy: WgslKernel = {
  name: "copy",
  code: `
struct Params { size : u32 }
@group(1) @binding(0) var<uniform> p : Params;
@group(0) @binding(0) var<storage, read> a : array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> b : array<vec4<f32>>;
@compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id : vec3<u32>) {
  if (id.x < p.size) { b[id.x] = a[id.x]; }
}`,
  reads: 1,
  writes: 1,
};

/** Products beside multiply-adds in registers, and operations that only move memory beside a copy: what is left is the device's share. */
async function rateRows(gpu: WebGpuBackend, software: boolean): Promise<{ rows: Row[]; notes: string[] }> {
  const { queue } = gpu;
  const done = (): Promise<void> => settled(gpu);
  const [sizes, elements] = software ? [[64, 128], 2 ** 16] : [[1024, 2048, 4096], 2 ** 24];
  const [groups, rounds] = software ? [32, 64] : [16384, 2048];
  const flopOfBound = groups * 64 * rounds * ACCUMULATORS.length * 4 * 2;
  const least = software ? 5 : 50;
  const rows: Row[] = [];
  const notes: string[] = [];

  const target = queue.memory.take(4 * groups * 64, "register-only");
  const array = { block: target, size: groups * 64, dtype: "float32" } as const;
  const bounds = registerOnly.map((kernel) => ({
    name: kernel.name,
    f: untilDone(() => queue.runWgsl(kernel, [groups, 1, 1], [], [array], [{ u: rounds }, { f: 0.5 }, { f: 1 }]), done, least),
  }));
  for (const n of sizes) {
    const [x, y] = [1, 2].map((seed) => Tensor.from(pattern(n * n, seed), { shape: [n, n], backend: gpu })) as [Tensor, Tensor];
    const flop = 2 * n ** 3;
    const times = await interleaved([{ name: "kfacet", f: untilDone(() => x.matmul(y).dispose(), done, least) }, ...bounds], 5, 1);
    const bound = (Math.min(...bounds.map(({ name }) => times.get(name) ?? NaN)) * flop) / flopOfBound;
    const time = times.get("kfacet") ?? NaN;
    rows.push({ case: `matmul rate float32 ${n}`, metric: "ms", kfacet: time, peers: { "register-only": bound }, flop });
    notes.push(
      `matmul ${n}: ${(flop / time / 1e9).toPrecision(3)} TFLOP/s, ${percent(bound / time)} of the ${(flop / bound / 1e9).toPrecision(3)} TFLOP/s of multiply-adds in registers.`,
    );
    for (const tensor of [x, y]) tensor.dispose();
  }
  queue.memory.give(target);

  const [x, y] = [1, 2].map((seed) => Tensor.from(pattern(elements, seed), { backend: gpu })) as [Tensor, Tensor];
  const [from, to] = [x, y].map(() => queue.memory.take(4 * elements, "copy")).map((block) => ({ block, size: elements, dtype: "float32" }) as const) as [typeof array, typeof array]; // prettier-ignore
  /** By name: the operation, and the arrays that it reads or writes. */
  const operations: Readonly<Record<string, readonly [() => Tensor, number]>> = {
    add: [() => x.add(y), 3],
    relu: [() => x.relu(), 2],
    sum: [() => x.sum(), 1],
  };
  const copying = untilDone(() => queue.runWgsl(copy, [elements / 4 / 256, 1, 1], [from], [to], [{ u: elements / 4 }]), done, least);
  const tasks = Object.entries(operations).map(([name, [f]]) => ({ name, f: untilDone(() => f().dispose(), done, least) }));
  const times = await interleaved([...tasks, { name: "copy", f: copying }], 5, 1);
  for (const [name, [, arrays]] of Object.entries(operations)) {
    const [time, bound] = [times.get(name) ?? NaN, ((times.get("copy") ?? NaN) * arrays) / 2];
    rows.push({ case: `${name} rate float32 ${elements}`, metric: "ms", kfacet: time, peers: { copy: bound } });
    const rate = (arrays * 4 * elements) / time / 1e6;
    notes.push(`${name} of ${elements}: ${rate.toPrecision(3)} GB/s, ${percent(bound / time)} of what a copy moves in the same time.`);
  }
  for (const tensor of [x, y]) tensor.dispose();
  for (const { block } of [from, to]) queue.memory.give(block);
  return { rows, notes };
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}

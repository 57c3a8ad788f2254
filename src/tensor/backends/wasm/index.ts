/**
 * The WebAssembly engine: every primitive as SIMD kernels (assembly/, in AssemblyScript) over one memory, on all cores. A file
 * here prepares the calls of the kernels in the file of the same name there. The reference backend says what each computes.
 */
import type { Backend, KernelName, View } from "../../backend.ts";
import { bytesPerElement, type DType } from "../../dtype.ts";
import { BackendError } from "../../errors.ts";
import type { Inputs, Outputs, Params } from "../../primitives.ts";
import type { Block } from "./arena.ts";
import { Engine } from "./engine.ts";
import { convolution } from "./convolution.ts";
import { covariance } from "./covariance.ts";
import { creation } from "./creation.ts";
import { elementwise } from "./elementwise.ts";
import type { Kernels, Operand } from "./kernel.ts";
import { loss } from "./loss.ts";
import { workspace } from "./matrices.ts";
import { movement } from "./movement.ts";
import { normalization } from "./normalization.ts";
import { planEngine, type WasmOptions } from "./plan.ts";
import { pooling } from "./pooling.ts";
import { product } from "./product.ts";
import { reduction } from "./reduction.ts";
import { update } from "./update.ts";

export type { WasmOptions } from "./plan.ts";

const kernels: Kernels<KernelName> = {
  ...creation,
  ...movement,
  ...elementwise,
  ...reduction,
  ...product,
  ...convolution,
  ...covariance,
  ...pooling,
  ...normalization,
  ...loss,
  ...update,
};

interface WasmBuffer {
  readonly block: Block;
  readonly dtype: DType;
  readonly size: number;
}

const operand = ({ buffer, shape, dtype }: View<WasmBuffer>): Operand => ({
  pointer: buffer.block.start,
  shape,
  dtype,
  size: buffer.size,
});

export interface WasmBackend extends Backend<WasmBuffer> {
  readonly engine: Engine;
}

/**
 * Compiles while others run, as a browser's main thread demands.
 * @throws BackendError if the engine cannot run here: the message says what is missing. UsageError for impossible options.
 */
export async function openWasmAsync(options: WasmOptions = {}): Promise<WasmBackend> {
  const plan = planEngine(options);
  return backendOf(new Engine(plan, await WebAssembly.compile(plan.binary).catch(notCompiled)));
}

/** The same without waiting, where that is allowed. */
export function openWasm(options: WasmOptions = {}): WasmBackend {
  const plan = planEngine(options);
  return backendOf(new Engine(plan, compile(plan.binary)));
}

function compile(binary: Uint8Array<ArrayBuffer>): WebAssembly.Module {
  try {
    return new WebAssembly.Module(binary);
  } catch (cause) {
    return notCompiled(cause);
  }
}

function notCompiled(cause: unknown): never {
  const remedy = `a page's content security policy must allow 'wasm-unsafe-eval'; the "reference" backend needs no WebAssembly`;
  throw new BackendError(`wasm: the kernels cannot be compiled (${String(cause)}); ${remedy}`, { cause });
}

/** What the engine found and uses, for people. */
function describe({ threads, features, fusedMultiplyAdd }: Engine): string {
  const parts = [threads === 1 ? "one thread" : `${threads} threads`, "SIMD", fusedMultiplyAdd ? "fused multiply-add" : "no relaxed SIMD"];
  if (!features.sharedMemory) parts.push("no shared memory, hence no threads");
  return `WebAssembly: ${parts.join(", ")}; float32 and float64`;
}

function backendOf(engine: Engine): WasmBackend {
  const { arena } = engine;
  const ownBlocks = arena.blocks;
  const ownBytes = arena.bytes;
  return {
    name: "wasm",
    options: { relaxedSimd: engine.fusedMultiplyAdd, precision: engine.precision } satisfies WasmOptions,
    engine,
    alloc(dtype, size, origin) {
      return { block: arena.alloc(size * bytesPerElement[dtype], origin ?? "tensors"), dtype, size };
    },
    free({ block }) {
      arena.free(block);
    },
    upload({ block, dtype, size }, data) {
      engine.view(dtype, block.start, size).set(data);
    },
    download({ block, dtype, size }) {
      return Promise.resolve(engine.view(dtype, block.start, size).slice());
    },
    downloadSync({ block, dtype, size }) {
      return engine.view(dtype, block.start, size).slice();
    },
    run<K extends KernelName>(name: K, inputs: Inputs<K, View<WasmBuffer>>, params: Params<K>, outputs: Outputs<K, View<WasmBuffer>>) {
      // The tuple types depend on K and are opaque here; mapping keeps length and order.
      const toOperands = (views: readonly View<WasmBuffer>[]): unknown => views.map(operand);
      kernels[name](engine, toOperands(inputs) as Inputs<K, Operand>, params, toOperands(outputs) as Outputs<K, Operand>);
    },
    workspace: (size, f) => workspace(engine, size, f),
    memory() {
      return {
        buffers: arena.blocks - ownBlocks,
        bytes: arena.bytes - ownBytes,
        peakBuffers: arena.peakBlocks - ownBlocks,
        peakBytes: arena.peakBytes - ownBytes,
        pooledBytes: arena.idleBytes,
        bySize: arena.bySize("scratch"),
      };
    },
    resetPeak() {
      arena.resetPeak();
    },
    describe: () => describe(engine),
    close: () => engine.close(),
    get closed() {
      return engine.closed;
    },
  };
}

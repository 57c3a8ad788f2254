import type { DType, TypedArray } from "./dtype.ts";
import type { MatrixArithmetic } from "./matrices.ts";
import type { Inputs, Outputs, Params, PrimitiveName } from "./primitives.ts";
import type { Shape } from "./shape.ts";

/**
 * A backend is a set of kernels over buffers of its own. It computes one primitive at a time into outputs that were allocated
 * for it. It never sees a tape, a layer, a reference count or a scope, and it never hands work to another backend.
 */
export interface Backend<Buffer = unknown> {
  readonly name: string;
  /** What `openBackend(name, …)` takes for another one that computes the same bits, on another thread. Default: nothing. */
  readonly options?: object;
  /** @param origin the operation that needs the buffer, for reports on who holds memory. */
  alloc(dtype: DType, size: number, origin?: string): Buffer;
  free(buffer: Buffer): void;
  upload(buffer: Buffer, data: TypedArray): void;
  /** A copy of the buffer's contents on the host. */
  download(buffer: Buffer): Promise<TypedArray>;
  /** The same without waiting, where the device shares the host's memory. */
  downloadSync?(buffer: Buffer): TypedArray;
  /** Runs the kernel of one primitive. @throws BackendError naming primitive and dtype where there is none. */
  run<K extends KernelName>(name: K, inputs: Inputs<K, View<Buffer>>, params: Params<K>, outputs: Outputs<K, View<Buffer>>): void;
  /**
   * Memory for `size` numbers, and fast arithmetic on it, for linear algebra in place while `f` runs. What the memory holds at first
   * is not defined. Absent where the host's plain loops must do.
   */
  workspace?<T>(size: number, f: (memory: Float64Array, arithmetic: MatrixArithmetic) => T): T;
  /**
   * Where linear algebra computes in float64 what this device cannot: panels and factorizations of its tensors, never a primitive. Absent
   * where float64 is one of its own types.
   */
  readonly host?: Backend;
  /** The number types that it computes with. Default: all. */
  readonly dtypes?: readonly DType[];
  memory(): MemoryStatistics;
  /** Starts the peak figures of `memory()` anew from what is in use now. */
  resetPeak(): void;
  /** What it found on this machine and uses, in a few words. */
  describe(): string;
  /** Ends what it has running, such as threads. Its tensors can no longer be computed with. */
  close?(): void;
  /** Whether it can compute no more, since it was closed or a thread of it died. Absent where that cannot be. */
  readonly closed?: boolean;
}

/** Every primitive but `reshape`, which only renames a buffer's shape. */
export type KernelName = Exclude<PrimitiveName, "reshape">;

/** What a kernel gets to see of a tensor. */
export interface View<Buffer> {
  readonly buffer: Buffer;
  readonly shape: Shape;
  readonly dtype: DType;
}

export interface MemoryStatistics {
  /** Buffers handed out and not yet freed. */
  readonly buffers: number;
  readonly bytes: number;
  readonly peakBuffers: number;
  readonly peakBytes: number;
  /** Bytes kept for reuse. */
  readonly pooledBytes: number;
  /** The buffers in use by their size in bytes, the largest first; where the backend has an allocator of its own. */
  readonly bySize?: readonly { readonly size: number; readonly count: number }[];
}

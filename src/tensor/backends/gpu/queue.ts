import { BackendError } from "../../errors.ts";
import type { ArgumentsOf, DeviceArray, PortableKernel, Takes, Threads } from "./kernel.ts";
import type { Memory } from "./memory.ts";

/**
 * Where kernels are issued: they run one after the other, in the order in which they were issued, and issuing never waits. What went wrong
 * on the device is told by the next read.
 */
export abstract class Queue<Resource = unknown> {
  abstract readonly memory: Memory<Resource>;
  /** Itself, where kernels in WGSL take the place of portable ones. */
  abstract readonly wgsl: WgslQueue | null;
  #failure: BackendError | null = null;
  #lost: string | null = null;

  /** Issues a portable kernel for every element of `result`. */
  abstract run<T extends Takes>(kernel: PortableKernel<T>, threads: Threads, result: DeviceArray, values: ArgumentsOf<T>): void;

  /** The array's block may be exchanged for another one. */
  abstract write(array: DeviceArray, data: Float32Array): void;

  /**
   * A copy of the numbers as they are once all that was issued before is done.
   * @throws BackendError if the device was lost, or refused a command since the last read.
   */
  abstract read(array: DeviceArray): Promise<Float32Array>;

  abstract close(): void;

  /** An array of the device for the duration of `f`. */
  temporary<Result>(size: number, origin: string, f: (array: DeviceArray) => Result): Result {
    const block = this.memory.take(4 * size, origin);
    const array: DeviceArray = { block, size, dtype: "float32" };
    try {
      return f(array);
    } finally {
      this.memory.give(block);
    }
  }

  /** Why the device can compute no more; null while it can. */
  get lost(): string | null {
    return this.#lost;
  }

  protected lose(why: string): void {
    this.#lost ??= why;
  }

  /** @throws BackendError if the device is lost. */
  protected check(): void {
    if (this.#lost === null) return;
    const remedy = `open another with openBackend("gpu"), or go on with the device "wasm"; what the host holds is not lost`;
    throw new BackendError(`gpu: the device is lost (${this.#lost}); ${remedy}`);
  }

  /** Remembers what went wrong for the next read. @param instead of what went wrong before: that may have followed from this. */
  protected fail(message: string, { instead = false } = {}): void {
    if (instead || !this.#failure) this.#failure = new BackendError(`gpu: ${message}`);
  }

  /** @throws BackendError for what went wrong since the last time. */
  protected raise(): void {
    const failure = this.#failure;
    this.#failure = null;
    if (failure) throw failure;
  }
}

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

/** A queue that takes kernels in WGSL, too. */
export interface WgslQueue extends Queue {
  /** Issues a kernel in WGSL. @param groups workgroups along each axis. */
  runWgsl(
    kernel: WgslKernel,
    groups: readonly [number, number, number],
    reads: readonly DeviceArray[],
    writes: readonly DeviceArray[],
    parameters: readonly Parameter[],
  ): void;
}

/** The most workgroups along an axis. */
export const MOST_GROUPS = 65535;

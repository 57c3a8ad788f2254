import { BackendError } from "../../errors.ts";
import type { ArgumentsOf, DeviceArray, PortableKernel, Takes, Threads } from "./kernel.ts";
import type { Block, Memory } from "./memory.ts";

/** What helps when a device can do no more. */
const ANOTHER = `open another with openBackend("gpu"), or go on with the device "wasm"`;
const FROM = "from the last checkpoint: what the host holds is not lost";

/**
 * Where kernels are issued: they run one after the other, in the order in which they were issued, and issuing never waits. What goes wrong
 * on the device is known only later, and is the queue's end: a command that is refused takes with it all that was submitted together with
 * it, and the numbers that these would have written are whatever was there before.
 */
export abstract class Queue<Resource = unknown> {
  abstract readonly memory: Memory<Resource>;
  /** Itself, where kernels in WGSL take the place of portable ones. */
  abstract readonly wgsl: WgslQueue | null;
  /** What every operation and read says from then on. */
  #end: string | null = null;

  /** Issues a portable kernel for every element of `result`. */
  abstract run<T extends Takes>(kernel: PortableKernel<T>, threads: Threads, result: DeviceArray, values: ArgumentsOf<T>): void;

  /** The array's block may be exchanged for another one. */
  abstract write(array: DeviceArray, data: Float32Array): void;

  /**
   * A copy of the numbers as they are once all that was issued before is done.
   * @throws BackendError if the device was lost, or ever refused a command.
   */
  abstract read(array: DeviceArray): Promise<Float32Array>;

  abstract close(): void;

  /** An array of the device for the duration of `f`. */
  temporary<Result>(size: number, origin: string, f: (array: DeviceArray) => Result): Result {
    const array: DeviceArray = { block: this.memory.take(4 * size, origin), size, dtype: "float32" };
    try {
      return f(array);
    } finally {
      this.memory.give(array.block as Block<Resource>); // it may be another one by now
    }
  }

  /** Whether kernels can see arrays of so many numbers: what a fast way takes beside its operands may be more than they do. */
  holds(...sizes: readonly number[]): boolean {
    return sizes.every((size) => 4 * size <= this.memory.limit);
  }

  /** Whether it can compute no more. */
  get ended(): boolean {
    return this.#end !== null;
  }

  protected lose(why: string): void {
    this.#end ??= `the device is lost (${why}); ${ANOTHER}, ${FROM}`;
  }

  /**
   * Ends the queue for what went wrong, and gives back all that it has of the device.
   * @param text that of a kernel.
   */
  protected fail(what: string, { remedy = ANOTHER, text = "" }: { readonly remedy?: string; readonly text?: string } = {}): void {
    if (this.ended) return;
    const why = "nothing more is computed on this device, whose tensors may hold wrong numbers";
    this.#end = `${what}; ${why}: ${remedy}, ${FROM}${text && `\n${text}`}`;
    this.close();
  }

  /** The same for memory that there is no more of. @param inUse what was said of it then. */
  protected failForMemory(what: string, message: string, inUse = this.memory.describe()): void {
    const remedy = `use a smaller batch on another that openBackend("gpu") opens, or go on with the device "wasm"`;
    this.fail(`${what}, and the device has none left (${inUse}): ${message}`, { remedy });
  }

  /** @throws BackendError once the queue has ended. */
  protected check(): void {
    if (this.#end !== null) throw new BackendError(`gpu: ${this.#end}`);
  }
}

/** A kernel written in WGSL, for what gpu.js has no words for: memory that threads share, several results, in place. */
export interface WgslKernel {
  readonly name: string;
  /** A module whose entry is `main`. Group 0: what it reads, then what it writes. Group 1: the parameters as a uniform. */
  readonly code: string;
  readonly reads: number;
  readonly writes: number;
}

/** A number for a kernel's parameters: u32, i32 and f32 take four bytes each. */
export type Parameter = { readonly u: number } | { readonly i: number } | { readonly f: number };

/** A queue that takes kernels in WGSL, too. */
export interface WgslQueue extends Queue {
  /** Whether kernels may use subgroups, and these are of eight threads. */
  readonly subgroupsOfEight: boolean;
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

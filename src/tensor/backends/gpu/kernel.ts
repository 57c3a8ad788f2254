import type { DType } from "../../dtype.ts";
import type { Inputs, Outputs, Params, PrimitiveName } from "../../primitives.ts";
import type { Shape } from "../../shape.ts";
import type { Block } from "./memory.ts";
import type { Queue } from "./queue.ts";

/** An array of float32 numbers on the device, or a number. Integers are exact in index arithmetic; `/` and `%` are not: use `quotient`. */
export type ArgumentKind = "array" | "integer" | "float";
export type Takes = Readonly<Record<string, ArgumentKind>>;

/**
 * A kernel in the JavaScript of gpu.js, which runs on WebGPU and on WebGL2. Its body computes one element of the result, that of
 * `this.thread.x`, `.y` and `.z`: element x + X · (y + Y · z) of the result for threads of extents [X, Y, Z]. Arrays are flat. It is text,
 * since build tools change functions; and the rules for it are in docs/gpu.md.
 */
export interface PortableKernel<T extends Takes = Takes> {
  readonly name: string;
  /** Its arguments, by name and in their order: arrays first. */
  readonly takes: T;
  readonly body: string;
}

export function portable<const T extends Takes>(name: string, takes: T, body: string): PortableKernel<T> {
  return { name, takes, body };
}

export type ArgumentsOf<T extends Takes> = { readonly [Name in keyof T]: T[Name] extends "array" ? DeviceArray : number };

/** Numbers on the device: what a tensor's storage holds. The block may be exchanged for another one with the same numbers to come. */
export interface DeviceArray {
  block: Block;
  readonly size: number;
  readonly dtype: DType;
  /** The operation that it was made for, where an error is to name it. */
  readonly origin?: string;
}

/** Extents of the threads of a kernel. */
export type Threads = readonly [x: number, y?: number, z?: number];

/** What a kernel sees of a tensor. */
export interface Operand {
  readonly array: DeviceArray;
  readonly shape: Shape;
  readonly dtype: DType;
}

/** Issues the kernels that compute one primitive. No output is an input, too. */
export type Kernel<K extends PrimitiveName> = (
  queue: Queue,
  inputs: Inputs<K, Operand>,
  params: Params<K>,
  outputs: Outputs<K, Operand>,
) => void;

export type Kernels<K extends PrimitiveName> = { readonly [Name in K]: Kernel<Name> };

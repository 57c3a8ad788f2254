import {
  BackendError,
  CheckpointError,
  DataError,
  DTypeError,
  Generator,
  NumericalError,
  ShapeError,
  Tensor,
  UsageError,
  type Backend,
  type GeneratorState,
  type Shape,
  type TypedArray,
} from "../tensor/index.ts";

/*
 * Operands, results and errors as they cross to another thread, which clones data but no classes.
 */

/** A value to be cloned. What is `plain` is cloned as it is. */
export type Packed =
  | { readonly kind: "tensor"; readonly data: TypedArray; readonly shape: Shape }
  | { readonly kind: "generator"; readonly state: GeneratorState }
  | { readonly kind: "object"; readonly entries: readonly (readonly [key: string, value: Packed])[] }
  | { readonly kind: "plain"; readonly value: unknown };

/** Tensors are read at once, so that the caller may dispose them while this waits. */
export async function pack(value: unknown): Promise<Packed> {
  if (value instanceof Tensor) return { kind: "tensor", shape: value.shape, data: await value.data() };
  if (value instanceof Generator) return { kind: "generator", state: value.state() };
  if (!isPlainObject(value)) return { kind: "plain", value };
  const entries = Object.entries(value).map(async ([key, part]) => [key, await pack(part)] as const);
  return { kind: "object", entries: await Promise.all(entries) };
}

/** The value again, its tensors on `backend`, owned by the caller. */
export function unpack(packed: Packed, backend: Backend): unknown {
  switch (packed.kind) {
    case "tensor":
      return Tensor.from(packed.data, { shape: packed.shape, backend });
    case "generator": {
      const generator = new Generator(packed.state.key);
      generator.load(packed.state);
      return generator;
    }
    case "object":
      return Object.fromEntries(packed.entries.map(([key, value]) => [key, unpack(value, backend)]));
    case "plain":
      return packed.value;
    default:
      return packed satisfies never;
  }
}

/** The memory of a packed value's tensors, which may be handed over instead of being copied. */
export function buffersOf(packed: Packed): ArrayBuffer[] {
  if (packed.kind === "tensor") return [packed.data.buffer as ArrayBuffer];
  return packed.kind === "object" ? packed.entries.flatMap(([, value]) => buffersOf(value)) : [];
}

/** The tensors of a value that `pack` takes. */
export function tensorsIn(value: unknown): Tensor[] {
  if (value instanceof Tensor) return [value];
  return isPlainObject(value) ? Object.values(value).flatMap(tensorsIn) : [];
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** Classes by names that no minifier changes. */
const faults = { BackendError, CheckpointError, DataError, DTypeError, NumericalError, ShapeError, UsageError } as const;

export interface PackedError {
  /** Null for an error that is not one of kfacet's: a fault of the program. */
  readonly fault: keyof typeof faults | null;
  readonly message: string;
}

export function packError(error: unknown): PackedError {
  const names = Object.keys(faults) as (keyof typeof faults)[];
  const fault = names.find((name) => error instanceof faults[name]) ?? null;
  return {
    fault,
    message: fault !== null ? (error as Error).message : error instanceof Error ? (error.stack ?? error.message) : String(error),
  };
}

/** An error of the same class with the same message. */
export function unpackError({ fault, message }: PackedError): Error {
  return fault === null ? new Error(message) : new faults[fault](message);
}
